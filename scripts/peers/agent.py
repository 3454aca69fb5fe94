"""A trained LeRobot policy as one of our agents: its own processors around it, its own queue of actions inside.

Runs in .venv-peers. The policy is asked at every step, as in LeRobot's own rollout. It computes a chunk when its queue
is empty. Images are rendered only for the steps whose images it uses: those at which it computes, and the steps just
before, for policies that see more than one.
"""

import json
import time
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from ...envs import task_of
from ...policy.act.agents import entry
from ...policy.evaluate.episode import environment, run_episode
from ...policy.evaluate.outcome import Episode, Outcome
from ..machine.malloc import keep_pages
from .dataset import CODE, task_code, task_words


class LeRobotAgent:
    """A policy of LeRobot as an `Agent`."""

    def __init__(self, folder: Path) -> None:
        """folder: `pretrained_model` of one of LeRobot's checkpoints."""
        from lerobot.configs.policies import PreTrainedConfig
        from lerobot.policies.factory import get_policy_class, make_pre_post_processors

        config: Any = PreTrainedConfig.from_pretrained(folder)
        self.policy: Any = get_policy_class(config.type).from_pretrained(folder, config=config).eval()
        self.before, self.after = make_pre_post_processors(config, str(folder))
        self.config = config
        data = json.loads((folder / "train_config.json").read_text(encoding="utf-8"))["dataset"]["root"]
        self.tasks = task_words(Path(data))
        self.image_size: int | None = next(iter(config.image_features.values())).shape[-1]
        self.trace: list[dict[str, Any]] = []
        self.events: Counter[str] = Counter()
        self.reset("", 0)

    def bind(self, env: gymnasium.Env) -> None:
        """Checks that the environment fits the agent, before the first reset."""
        missing = self.config.input_features.keys() - {CODE} - task_of(env).observation_space.spaces.keys()
        if missing:
            raise ValueError(f"the policy was trained on {sorted(missing)}, which {env} does not show")

    def reset(self, instruction: str, seed: int) -> None:
        """Begins an episode with these words. seed: of the agent's random numbers."""
        self.policy.reset()
        torch.manual_seed(seed)  # its noise comes from torch's own generator
        self.trace = []
        self.images: dict[str, np.ndarray] = {}  # the last that were rendered

    @property
    def computes(self) -> bool:
        return len(self.trace) % self.config.n_action_steps == 0

    @property
    def looks(self) -> bool:
        ahead = -len(self.trace) % self.config.n_action_steps  # steps until it computes
        return ahead < self.config.n_obs_steps

    def act(self, obs: dict[str, Any]) -> np.ndarray:
        """The action of this control step, float32 (A,), from the observation."""
        begin, computes = time.perf_counter(), self.computes
        with torch.inference_mode():
            action = self.after(self.policy.select_action(self.before(self._batch(obs))))
        spent = {"controller_ms": 1e3 * (time.perf_counter() - begin)} if computes else {}
        self.trace.append(entry("", replanned=computes) | spent)
        return np.clip(action.squeeze(0).numpy(), -1.0, 1.0).astype(np.float32)

    def _batch(self, obs: dict[str, Any]) -> dict[str, Any]:
        """Where nothing was rendered the last images stand in: the policy pushes them out before it computes again."""
        from lerobot.policies.utils import prepare_observation_for_inference

        self.images |= {key: obs[key] for key in self.config.image_features if key in obs}
        seen = {"observation.state": obs["observation.state"]} | self.images
        if CODE in self.config.input_features:
            seen[CODE] = task_code(self.tasks, obs["task"])
        return prepare_observation_for_inference(seen, torch.device("cpu"), task=obs["task"])


@lru_cache(maxsize=1)
def load(folder: str) -> LeRobotAgent:
    """Loads a policy of LeRobot."""
    keep_pages()
    return LeRobotAgent(Path(folder))


def run_job(job: tuple[str, Episode]) -> Outcome:
    """For `policy.evaluate.evaluation.evaluate`, as `policy.evaluate.episode.run_job`: the spec is the checkpoint's
    folder."""
    folder, episode = job
    torch.set_num_threads(1)
    agent = load(folder)
    return run_episode(environment(episode.task, agent.image_size), agent, episode)
