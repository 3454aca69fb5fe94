"""A trained LeRobot policy as an agent of Tandem's evaluation, with its own processors and its own queue of actions.

Runs in .venv-peers. The policy is called at every step, as in LeRobot's own rollout. It computes a chunk when its queue
is empty. Images are rendered only for the steps whose images it uses. Those are the steps at which it computes. For
policies that observe more than one step, the steps just before are rendered too.
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
    """A policy of LeRobot with the interface of `policy.act.agents.Agent`."""

    def __init__(self, folder: Path) -> None:
        """Loads the policy and its processors. folder: `pretrained_model` of a LeRobot checkpoint."""
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
        """Checks that the environment has the policy's inputs. ValueError where one is missing."""
        missing = self.config.input_features.keys() - {CODE} - task_of(env).observation_space.spaces.keys()
        if missing:
            raise ValueError(f"the policy was trained on {sorted(missing)}, which {env} does not show")

    def reset(self, instruction: str, seed: int) -> None:
        """Begins an episode. instruction: unused, `act` reads it from the observation. seed: of torch's noise."""
        self.policy.reset()
        torch.manual_seed(seed)  # the policy's noise comes from torch's global generator
        self.trace = []
        self.images: dict[str, np.ndarray] = {}  # the last rendered image of each camera

    @property
    def computes(self) -> bool:
        """True at control steps at which the policy computes a new chunk."""
        return len(self.trace) % self.config.n_action_steps == 0

    @property
    def looks(self) -> bool:
        """True at control steps whose images the policy uses, so that they must be rendered."""
        ahead = -len(self.trace) % self.config.n_action_steps  # steps until it computes
        return ahead < self.config.n_obs_steps

    def act(self, obs: dict[str, Any]) -> np.ndarray:
        """The action of this control step, float32 (A,) in [-1, 1], from the observation."""
        begin, computes = time.perf_counter(), self.computes
        with torch.inference_mode():
            action = self.after(self.policy.select_action(self.before(self._batch(obs))))
        spent = {"controller_ms": 1e3 * (time.perf_counter() - begin)} if computes else {}
        self.trace.append(entry("", replanned=computes) | spent)
        return np.clip(action.squeeze(0).numpy(), -1.0, 1.0).astype(np.float32)

    def _batch(self, obs: dict[str, Any]) -> dict[str, Any]:
        """The policy's input from the observation.

        Without rendered images the last ones are used. They leave the policy's queue before it computes again.
        """
        from lerobot.policies.utils import prepare_observation_for_inference

        self.images |= {key: obs[key] for key in self.config.image_features if key in obs}
        seen = {"observation.state": obs["observation.state"]} | self.images
        if CODE in self.config.input_features:
            seen[CODE] = task_code(self.tasks, obs["task"])
        return prepare_observation_for_inference(seen, torch.device("cpu"), task=obs["task"])


@lru_cache(maxsize=1)
def load(folder: str) -> LeRobotAgent:
    """Loads a policy of LeRobot from its folder, once for each process."""
    keep_pages()
    return LeRobotAgent(Path(folder))


def run_job(job: tuple[str, Episode]) -> Outcome:
    """Runs one episode of a LeRobot policy: the `work` of `policy.evaluate.evaluation.evaluate`.

    job: folder of the checkpoint, and the episode.
    """
    folder, episode = job
    torch.set_num_threads(1)
    agent = load(folder)
    return run_episode(environment(episode.task, agent.image_size), agent, episode)
