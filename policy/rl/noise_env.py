"""Tasks, in turn, as one environment whose actions are the noise of a frozen policy, for any learner of gymnasium.

    observation  float32 (F + 1,)   what the agent sees at a look (policy/situation.py), and the share of time passed
    action       float32 (A,) in [-1, 1], the noise of the next chunks (policy/steering.py)
    reward       -1 a step until success, 0 then: to be alive is never worth more than to succeed, whatever entropy adds

A step is `hold` looks of the agent, which all get the noise; a look lasts the control steps of a chunk that run before
the next. The finished episode's arrays are in `info["episode_log"]` of its last step. Seeds of layouts count up from
`first_seed`; each is met `repeats` times, so that what came of one layout differs by the noise alone: met once, it can
be learned by heart, which leaves nothing for the noise to explain.

A whole attempt gets one noise: feedback takes back most of what the noise of a single look moved, and what one choice
of thirty did for success drowns in the others. Over 6,500 choices that held for three looks, no critic predicted
success better for knowing the noise.
"""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ..agent import TandemAgent
from ..agents import AgentSpec, load_agent
from ..errors import PolicyError
from ..rollout import environment, noise_seed
from ..steering import spread
from .layouts import training_seed
from .rollouts import finite

HOLD = 10  # looks that one noise lasts: a whole attempt
BREAKS = 10  # simulations that break one after the other before learning stops


class NoiseEnv(gymnasium.Env):
    def __init__(
        self,
        spec: AgentSpec,
        tasks: tuple[str, ...],
        first_seed: int = training_seed(0),
        stride: int = 1,
        hold: int = HOLD,
        repeats: int = 1,
    ):
        """spec: of a checkpoint without steering; stride: how many environments share the seeds."""
        torch.set_num_threads(1)
        agent = load_agent(spec, tasks)
        assert isinstance(agent, TandemAgent)
        self.tasks, self.agent = tasks, agent
        self.seed, self.stride, self.hold, self.repeats = first_seed, stride, hold, repeats
        self.left = repeats  # times that this layout is to be met
        self.breaks = 0  # simulations that broke, one after the other
        controller = agent.model.controller.cfg
        self.chunk = controller.chunk
        self.action_space = spaces.Box(-1.0, 1.0, (controller.action_dim,), np.float32)
        features, _ = self.reset()
        self.left = repeats
        self.observation_space = spaces.Box(-np.inf, np.inf, features.shape, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The next layout. `seed` seeds gymnasium's random numbers, which nothing here uses."""
        super().reset(seed=seed)
        if self.left == 0:
            self.seed, self.left = self.seed + self.stride, self.repeats
        self.left -= 1
        self.task = self.tasks[self.seed // self.stride % len(self.tasks)]
        self.env = environment(self.task, self.agent.image_size)
        self.env.unwrapped.looking = True
        self.obs, _ = self.env.reset(seed=self.seed)
        self.agent.bind(self.env)
        self.agent.reset(self.obs["task"], noise_seed(self.task, self.seed))
        self.kept: dict[str, list[np.ndarray]] = {"features": [], "noise": []}
        return self._look(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        noise = np.asarray(action, np.float32)
        if not np.isfinite(noise).all():
            return self._failed("the learner chose noise that is not finite; lower its learning rate, then --resume")
        self.kept["features"].append(self.features)
        self.kept["noise"].append(noise)
        try:
            success, truncated = self._act(spread(torch.from_numpy(noise)[None], self.chunk))
        except PolicyError as error:
            return self._failed(str(error))
        info: dict[str, Any] = {"is_success": success}
        self.breaks = self.breaks + 1 if self.broken else 0
        if self.broken:  # neither a success nor the policy's fault: nothing is learned from it
            if self.breaks == BREAKS:
                info["error"] = f"{self.task}: {BREAKS} simulations in a row broke; run `tandem doctor`, then --resume"
            return self.features, -1.0, False, True, info
        if success or truncated:
            log = {key: np.stack(rows) for key, rows in self.kept.items()} | {"seed": np.array(self.seed)}
            info |= {"steps": self.agent.step, "episode_log": log}
        else:
            self._look()
        return self.features, float(success) - 1.0, success, truncated, info

    def _failed(self, why: str) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """An exception would end the worker, and say nothing to the learner."""
        return self.features, -1.0, False, True, {"error": why}

    def _look(self) -> np.ndarray:
        self.situation = self.agent.look(self.obs)
        passed = np.float32(self.agent.step / self.env.unwrapped.horizon)
        self.features: np.ndarray = np.append(self.situation.features()[0].numpy(), passed)
        return self.features

    def _act(self, noise: Tensor) -> tuple[bool, bool]:
        """`hold` looks with that noise -> success, truncated."""
        for left in reversed(range(self.hold)):
            self.agent.decide(self.situation, noise)
            success, truncated = self._run()
            if success or truncated:
                break
            if left:
                self.situation = self.agent.look(self.obs)
        return success, truncated

    def _run(self) -> tuple[bool, bool]:
        """Control steps until the agent looks again, or the episode ends -> success, truncated."""
        while True:
            action = finite(self.agent, self.obs, self.task, self.seed)
            self.env.unwrapped.looking = self.agent.looks
            self.obs, _, success, truncated, info = self.env.step(action)
            self.broken = bool(info["sim_error"])
            if success or truncated or self.agent.looks:
                return success, truncated and not success

    def close(self) -> None:
        """The environment is kept for the next one of the same task (policy/rollout.py)."""
