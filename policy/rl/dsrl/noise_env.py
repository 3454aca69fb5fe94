"""The tasks in turn, as one gymnasium environment whose action is the noise of a frozen policy. Fits any learner.

    observation  float32 (F + 1,)   features of the policy's state (policy/networks/policy_state.py), and the share of
                                    the episode's time that has passed
    action       float32 (A,) in [-1, 1], the noise of the next chunks (policy/networks/noise_actor.py)
    reward       -1 a step until success, 0 at success

The reward never makes surviving worth more than succeeding, whatever the entropy bonus adds.

One step of the environment is `hold` looks of the agent, all with the same noise. A look lasts the control steps of a
chunk that run before the next look. The last step of an episode has the episode's arrays in `info["episode_log"]`.

Seeds of layouts count up from `first_seed`. Each layout is repeated `repeats` times, so that its outcomes differ by
the noise alone. Critics overfit layouts that occur once, and then the noise has nothing left to explain.

One noise holds for a whole attempt. With noise for a single look, feedback undoes most of its effect. The effect of
one choice of thirty on success drowns in that of the others. Over 6,500 choices that held for three looks, no critic
predicted success better with the noise as input than without.
"""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ....envs import EnvError
from ...act.agent import TandemAgent
from ...act.agents import load_agent
from ...act.runtime import AgentSpec
from ...errors import PolicyError
from ...evaluate.episode import environment, noise_seed
from ...evaluate.faults import EVERYONES, described
from ...evaluate.worker import SLOW, beat, pace
from ...networks.noise_actor import spread
from ..shared.episodes import begin, finite
from ..shared.seeds import training_seed

HOLD = 10  # looks that one noise lasts, about a whole attempt
BREAKS = 10  # consecutive broken episodes at which training stops


class NoiseEnv(gymnasium.Env):
    """Gymnasium environment of a frozen policy in its tasks. The action is the noise of the flow."""

    def __init__(
        self,
        spec: AgentSpec,
        tasks: tuple[str, ...],
        first_seed: int = training_seed(0),
        stride: int = 1,
        hold: int = HOLD,
        repeats: int = 1,
    ):
        """Loads the policy and begins the first episode.

        spec: a checkpoint without steering.
        tasks: names of the tasks, which take turns.
        first_seed: seed of the first layout.
        stride: step between the seeds of two layouts, equal to the number of environments that share the seeds.
        hold: looks that one noise lasts.
        repeats: episodes on every layout.
        """
        torch.set_num_threads(1)
        agent = load_agent(spec, tasks)
        assert isinstance(agent, TandemAgent)
        self.tasks, self.agent = tasks, agent
        self.seed, self.stride, self.hold, self.repeats = first_seed, stride, hold, repeats
        self.left = repeats  # episodes that this layout still gets
        self.breaks = 0  # consecutive broken episodes
        self.broken = ""  # why the current episode broke, empty where it did not
        self.left_out: list[tuple[str, str]] = []  # broken episodes and their reasons, not yet reported to the learner
        controller = agent.model.controller.cfg
        self.chunk = controller.chunk
        self.action_space = spaces.Box(-1.0, 1.0, (controller.action_dim,), np.float32)
        features, _ = self.reset()
        self.left = repeats
        self.observation_space = spaces.Box(-np.inf, np.inf, features.shape, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins the next layout and returns its observation (F + 1,) and an empty dictionary.

        `seed` seeds gymnasium's random numbers, which nothing here uses.
        PolicyError where BREAKS episodes in a row broke.
        """
        super().reset(seed=seed)
        while True:
            self._next()
            try:
                return self._begin(), {}
            except (PolicyError, *EVERYONES):
                raise
            except Exception as error:  # code of environments may raise anything
                self._raised(error)
                if self.breaks >= BREAKS:
                    raise PolicyError(self._hopeless()) from error

    def _next(self) -> None:
        if self.left == 0:
            self.seed, self.left = self.seed + self.stride, self.repeats
        self.left -= 1
        self.task = self.tasks[self.seed // self.stride % len(self.tasks)]

    def _begin(self) -> np.ndarray:
        self.env = environment(self.task, self.agent.image_size)
        self.env.unwrapped.looking = True
        pace(self.env.metadata.get("render_fps", 20))
        beat(SLOW)
        self.obs, _ = self.env.reset(seed=self.seed)
        beat(SLOW)
        begin(self.env, self.agent, self.obs["task"], noise_seed(self.task, self.seed))
        self.kept: dict[str, list[np.ndarray]] = {"features": [], "noise": []}
        return self._look()

    def _raised(self, error: Exception) -> None:
        """Notes the error, and drops the layout and the environment, which may be in a broken state."""
        self._broke(described(error))
        environment.cache_clear()
        self.left = 0

    def _broke(self, what: str) -> None:
        self.breaks, self.broken = self.breaks + 1, what
        self.left_out.append((f"{self.task} seed {self.seed}", what))

    def _hopeless(self) -> str:
        return f"{BREAKS} episodes in a row broke, the last one by {self.broken}; run `tandem doctor`, then --resume"

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Runs `hold` looks with the noise `action` (A,) in [-1, 1].

        Returns observation (F + 1,), reward, success, truncated and info as gymnasium does.
        A PolicyError is returned as `info["error"]`. Broken episodes are listed in `info["left_out"]`.
        """
        noise = np.asarray(action, np.float32)
        if not np.isfinite(noise).all():
            return self._failed("the learner chose noise that is not finite; lower its learning rate, then --resume")
        self.kept["features"].append(self.features)
        self.kept["noise"].append(noise)
        self.broken = ""
        try:
            success, truncated = self._act(spread(torch.from_numpy(noise)[None], self.chunk))
            if not (success or truncated):
                self._look()
        except PolicyError as error:
            return self._failed(str(error))
        except EVERYONES:
            raise
        except Exception as error:  # code of environments may raise anything
            success, truncated = False, True
            self._raised(error)
        info: dict[str, Any] = {"is_success": success, "left_out": self.left_out}
        self.left_out = []
        if self.broken:  # neither a success nor the policy's failure, so that it is not stored
            if self.breaks >= BREAKS:
                info["error"] = self._hopeless()
            return self.features, -1.0, False, True, info
        self.breaks = 0
        if success or truncated:
            log = {key: np.stack(rows) for key, rows in self.kept.items()} | {"seed": np.array(self.seed)}
            info |= {"steps": self.agent.step, "episode_log": log}
        return self.features, float(success) - 1.0, success, truncated, info

    def _failed(self, why: str) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Returns the error in `info`. An exception would end the worker without a report to the learner."""
        return self.features, -1.0, False, True, {"error": why}

    def _look(self) -> np.ndarray:
        self.situation = self.agent.look(self.obs)
        passed = np.float32(self.agent.step / self.env.unwrapped.horizon)
        self.features: np.ndarray = np.append(self.situation.features()[0].numpy(), passed)
        return self.features

    def _act(self, noise: Tensor) -> tuple[bool, bool]:
        """Runs `hold` looks with noise (1, 1, H, A). Returns success, truncated."""
        for left in reversed(range(self.hold)):
            self.agent.decide(self.situation, noise)
            success, truncated = self._run()
            if success or truncated:
                break
            if left:
                self.situation = self.agent.look(self.obs)
        return success, truncated

    def _run(self) -> tuple[bool, bool]:
        """Runs control steps until the agent looks again or the episode ends. Returns success, truncated."""
        while True:
            action = finite(self.agent, self.obs, self.task, self.seed)
            self.env.unwrapped.looking = self.agent.looks
            self.obs, _, success, truncated, info = self.env.step(action)
            beat()
            if info["sim_error"] and not self.broken:
                self._broke("the simulation broke")
            if not (success or truncated) and self.agent.step >= self.env.unwrapped.horizon:
                raise EnvError(f"task {self.task} did not end at its horizon of {self.agent.step} steps")
            if success or truncated or self.agent.looks:
                return success, truncated and not success

    def close(self) -> None:
        """Does nothing: policy/evaluate/episode.py keeps the environment for the next use of its task."""
