"""What a look is judged against, for policy gradients: how much better than expected was it?

Value   a value function of the task's dense reward and of success, by generalised advantage estimation (PPO,
        arXiv 1707.06347, 1506.02438)
Group   other episodes of the same layout, of success alone (GRPO, arXiv 2402.03300)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from ...checkpoint import store
from ...checkpoint.bundle import Bundle
from ..shared.episodes import Trajectory
from ..shared.experience import Experience
from .advantages import estimate, group_advantages, rewards
from .critic import Critic, fit_critic, seen

CRITIC = "critic.safetensors"  # in a checkpoint's training state


class Baseline(Protocol):
    """What an inference's outcome is compared with."""

    def gains(self, rollouts: list[Trajectory], episode: Tensor) -> Tensor:
        """episode (F,): of `rollouts`, that of every look -> advantages (F,). 0: nothing is to be learned from it."""

    def learn(self, experience: Experience, now: int) -> dict[str, float]:
        """After a round of `now` episodes, which are the newest. Returns what it measured."""

    def state(self) -> dict[str, object]:
        """What a checkpoint needs."""


@dataclass(frozen=True)
class Group:
    """Settings, and the baseline, for it learns nothing."""

    draws: int = 8  # episodes of a layout

    def start(self, bundle: Bundle, newest: Path | None) -> Baseline:
        """The baseline at work, from the newest checkpoint where there is one."""
        return self

    def gains(self, rollouts: list[Trajectory], episode: Tensor) -> Tensor:
        """Advantages (F,) of every inference of these episodes."""
        return group_advantages(rollouts)[episode]

    def learn(self, experience: Experience, now: int) -> dict[str, float]:
        """Learns from the newest `now` episodes and returns what it measured."""
        return {}

    def state(self) -> dict[str, object]:
        """What a checkpoint keeps of the baseline."""
        return {}


@dataclass(frozen=True)
class Value:
    """Settings."""

    draws: ClassVar[int] = 1
    discount: float = 0.99  # per look
    trace: float = 0.9  # lambda of generalised advantage estimation
    largest: float = 3.0  # advantage, in deviations
    updates: int = 300  # of the value function per round
    rounds: int = 8  # that it learns from

    def start(self, bundle: Bundle, newest: Path | None) -> "Valued":
        """The baseline at work, from the newest checkpoint where there is one."""
        critic = Critic(bundle.feature_sizes.features, bundle.feature_sizes.plain)
        if newest is not None:
            critic.load_state_dict(store.read_tensors(newest, f"{store.TRAINING}/{CRITIC}"))
        return Valued(self, critic.eval())


@dataclass(frozen=True)
class Valued:
    """It judges a round before it has learned from it: what it has seen it knows by heart. The first one teaches it
    alone."""

    settings: Value
    critic: Critic

    @torch.no_grad()
    def gains(self, rollouts: list[Trajectory], episode: Tensor) -> Tensor:
        """Advantages (F,) of every inference of these episodes."""
        if not self.critic.known:
            return torch.zeros(len(episode))
        value = self.critic(torch.from_numpy(np.concatenate([seen(r) for r in rollouts])))
        reward = torch.from_numpy(np.concatenate([rewards(r) for r in rollouts]))
        gain = estimate(reward, value, episode, self.settings.discount, self.settings.trace)
        return ((gain - gain.mean()) / (gain.std() + 1e-6)).clamp(-self.settings.largest, self.settings.largest)

    def learn(self, experience: Experience, now: int) -> dict[str, float]:
        """Learns from the newest `now` episodes and returns what it measured."""
        rounds = experience.last(self.settings.rounds * now)
        return fit_critic(self.critic, rounds, now, self.settings.discount, self.settings.updates)

    def state(self) -> dict[str, object]:
        """What a checkpoint keeps of the baseline."""
        return {CRITIC: dict(self.critic.state_dict())}
