"""What can drive an environment: a trained checkpoint, the scripted expert, or chance. All share `reset` and `act`."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np

from ... import envs
from ...data.contract import Contract
from ..checkpoint.bundle import Bundle, stored_config
from ..compute import resolve_device
from ..errors import PolicyError
from .agent import TandemAgent
from .runtime import AgentSpec


class Agent(Protocol):
    """What drives an environment."""

    image_size: int | None  # of the images that it sees [pixels]; None: whatever the task gives
    trace: list[dict[str, Any]]  # per step: subtask, progress, replanned, planner_ms, controller_ms, pictures
    events: Counter[str]

    @property
    def looks(self) -> bool:
        """Does the next `act` read images? Rendering costs more than a step of the simulation."""
        ...

    def bind(self, env: gymnasium.Env) -> None:
        """Checks that the environment fits the agent, before the first reset."""

    def reset(self, instruction: str, seed: int) -> None:
        """Begins an episode with these words. seed: of the agent's random numbers."""

    def act(self, obs: dict[str, Any]) -> np.ndarray:
        """The action of this control step, float32 (A,), from the observation."""


def load_agent(spec: AgentSpec, tasks: Sequence[str] = ()) -> Agent:
    """tasks: those that it will act in: their contract is compared before any weight is loaded. `bind` compares too."""
    if spec.kind == "checkpoint":
        size = stored_config(spec.checkpoint).sizes.image_size
        contract = Contract.from_fields(envs.contract_fields(tasks, size)) if tasks else None
        bundle = Bundle.load(spec.checkpoint, expect=contract).to(resolve_device(spec.runtime.device))
        return TandemAgent(bundle, spec.runtime)
    if spec.kind not in ("expert", "random"):
        raise PolicyError(f"unknown agent {spec.kind!r}; known: checkpoint, expert, random")
    return ExpertAgent() if spec.kind == "expert" else RandomAgent()


class _NoModel:
    image_size: int | None = None

    def __init__(self) -> None:
        self.trace: list[dict[str, Any]] = []
        self.events: Counter[str] = Counter()


class ExpertAgent(_NoModel):
    """The task's script, from simulator state: the upper end of every table."""

    looks = False

    def bind(self, env: gymnasium.Env) -> None:
        """Checks that the environment fits the agent, before the first reset."""
        self._env = env

    def reset(self, instruction: str, seed: int) -> None:
        """Begins an episode with these words. seed: of the agent's random numbers."""
        self._expert = envs.expert(self._env, seed)
        self.trace = []

    def act(self, obs: dict[str, Any]) -> np.ndarray:
        """The action of this control step, float32 (A,), from the observation."""
        action, subtask, _ = self._expert.act()
        new = not self.trace or self.trace[-1]["subtask"] != subtask
        self.trace.append(entry(subtask, replanned=new))
        return action


class RandomAgent(_NoModel):
    """Uniform actions: the lower end."""

    looks = False

    def bind(self, env: gymnasium.Env) -> None:
        """Checks that the environment fits the agent, before the first reset."""
        self._size = envs.task_of(env).action_space.shape[0]

    def reset(self, instruction: str, seed: int) -> None:
        """Begins an episode with these words. seed: of the agent's random numbers."""
        self._rng = np.random.default_rng(seed)
        self.trace = []

    def act(self, obs: dict[str, Any]) -> np.ndarray:
        """The action of this control step, float32 (A,), from the observation."""
        self.trace.append(entry("", replanned=False))
        return self._rng.uniform(-1, 1, self._size).astype(np.float32)


def entry(subtask: str, replanned: bool) -> dict[str, Any]:
    """A trace entry of an agent without a model."""
    return {
        "subtask": subtask, "progress": 0.0, "replanned": replanned, "planner_ms": None, "controller_ms": None,
        "goal_image": None, "future_image": None,
    }  # fmt: skip
