"""The baselines of the policy gradients, with which the outcome of a look is compared.

Value   a value function of the task's dense reward and of success, by generalised advantage estimation (PPO,
        arXiv 1707.06347, 1506.02438)
Group   other episodes of the same layout, by success alone (GRPO, arXiv 2402.03300)
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

CRITIC = "critic.safetensors"  # file name of the critic in a checkpoint's training state


class Baseline(Protocol):
    """Gives the advantages of looks, by comparison of their outcome with the expected one."""

    def gains(self, rollouts: list[Trajectory], episode: Tensor) -> Tensor:
        """Advantages (F,) of all looks of `rollouts`. Looks with advantage 0 are left out of the update.

        episode: index (F,) into `rollouts` of every look's episode.
        """

    def learn(self, experience: Experience, now: int) -> dict[str, float]:
        """Trains on a round, the newest `now` episodes of the experience. Returns its measurements by name."""

    def state(self) -> dict[str, object]:
        """The baseline's files of a checkpoint's training state: name -> content."""


@dataclass(frozen=True)
class Group:
    """Baseline of GRPO, and its settings: other episodes of the same layout. It has no trained parameters."""

    # Episodes on every layout. More draws compare better, and show fewer layouts in a round.
    draws: int = 8

    def start(self, bundle: Bundle, newest: Path | None) -> Baseline:
        """Returns itself, because there is nothing to load."""
        return self

    def gains(self, rollouts: list[Trajectory], episode: Tensor) -> Tensor:
        """Advantages (F,) of all looks: that of their episode, see `group_advantages`."""
        return group_advantages(rollouts)[episode]

    def learn(self, experience: Experience, now: int) -> dict[str, float]:
        """Does nothing and returns no measurements."""
        return {}

    def state(self) -> dict[str, object]:
        """No files."""
        return {}


@dataclass(frozen=True)
class Value:
    """Settings of PPO's baseline, a value function."""

    draws: ClassVar[int] = 1  # episodes on every layout
    # Discount per look. A lower discount counts early rewards more.
    discount: float = 0.99
    # Lambda of generalised advantage estimation, in [0, 1]. At 0 an advantage spans one look, at 1 the whole episode.
    trace: float = 0.9
    # Bound of the normalised advantage, in standard deviations. Larger advantages are clipped.
    largest: float = 3.0
    # Updates of the value function in a round, at most. Small rounds get fewer.
    updates: int = 300
    # Newest rounds on which the value function is trained.
    rounds: int = 8

    def start(self, bundle: Bundle, newest: Path | None) -> "Valued":
        """The baseline with its critic, loaded from the checkpoint `newest` or untrained."""
        critic = Critic(bundle.feature_sizes.features, bundle.feature_sizes.plain)
        if newest is not None:
            critic.load_state_dict(store.read_tensors(newest, f"{store.TRAINING}/{CRITIC}"))
        return Valued(self, critic.eval())


@dataclass(frozen=True)
class Valued:
    """Baseline of PPO: advantages by a value function.

    It gives a round's advantages before it is trained on that round, because it overfits the episodes of its training.
    The first round trains the value function alone, and its advantages are 0.
    """

    settings: Value
    critic: Critic  # trained in place

    @torch.no_grad()
    def gains(self, rollouts: list[Trajectory], episode: Tensor) -> Tensor:
        """Normalised and clipped advantages (F,) of all looks. Zeros before the critic's first training."""
        if not self.critic.known:
            return torch.zeros(len(episode))
        value = self.critic(torch.from_numpy(np.concatenate([seen(r) for r in rollouts])))
        reward = torch.from_numpy(np.concatenate([rewards(r) for r in rollouts]))
        gain = estimate(reward, value, episode, self.settings.discount, self.settings.trace)
        return ((gain - gain.mean()) / (gain.std() + 1e-6)).clamp(-self.settings.largest, self.settings.largest)

    def learn(self, experience: Experience, now: int) -> dict[str, float]:
        """Trains the critic on the newest rounds of `now` episodes. Returns its errors, see `fit_critic`."""
        rounds = experience.last(self.settings.rounds * now)
        return fit_critic(self.critic, rounds, now, self.settings.discount, self.settings.updates)

    def state(self) -> dict[str, object]:
        """The critic's weights."""
        return {CRITIC: dict(self.critic.state_dict())}
