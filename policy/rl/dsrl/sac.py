"""Stable-baselines3's SAC, as `dsrl` needs it: networks, a check after every update, a replay of whole episodes.

Notable choices
- Transitions enter the replay when their episode is whole and on disk, so that memory and disk never differ.
- Hidden layers of the critics are normalised, as in DSRL's code.
- The actor is not told the time, which nobody says at test. Critics are.
"""

from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor, nn

from ...errors import PolicyError
from ...networks.noise_actor import COMPONENTS
from ...networks.pca_whitening import Standardise
from ..shared.experience import Episode


class Standardised(BaseFeaturesExtractor):
    """The actor's first layer. It is not told the time: at test nobody says when an episode will end."""

    def __init__(self, observations: spaces.Box, plain: int):
        standardise = Standardise(observations.shape[0] - 1, plain, COMPONENTS)
        super().__init__(observations, standardise.size)
        self.standardise = standardise

    def forward(self, observations: Tensor) -> Tensor:
        return self.standardise(observations[..., :-1])


class Timed(Standardised):
    """The critics': what the same sight is worth falls from all to nothing while time runs out."""

    def __init__(self, observations: spaces.Box, plain: int):
        super().__init__(observations, plain)
        self._features_dim += 1

    def forward(self, observations: Tensor) -> Tensor:
        return torch.cat([super().forward(observations), 2 * observations[..., -1:] - 1], dim=-1)


class NormalisedCritics(SACPolicy):
    """SAC's networks, and every hidden layer of the critics is normalised."""

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        timed = Timed(cast(spaces.Box, self.observation_space), **self.features_extractor_kwargs)
        critic = super().make_critic(timed)
        for number, network in enumerate(critic.q_networks):
            *hidden, last = network.children()
            parts = [p for part in hidden for p in ((part, _norm(part)) if isinstance(part, nn.Linear) else (part,))]
            critic.q_networks[number] = nn.Sequential(*parts, last)
            critic.add_module(f"qf{number}", critic.q_networks[number])
        return critic.to(self.device)


def _norm(layer: nn.Linear) -> nn.LayerNorm:
    return nn.LayerNorm(layer.out_features)


class CheckedSAC(SAC):
    """Stops where an update leaves numbers that are not finite, before they are saved or acted on."""

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """As torch's, but what is frozen stays in evaluation mode."""
        try:
            super().train(gradient_steps, batch_size)
        except ValueError:  # of a distribution, if it was given such numbers
            self._check()
            raise
        self._check()

    def _check(self) -> None:
        if not all(bool(weight.isfinite().all()) for weight in self.policy.parameters()):
            raise PolicyError(
                "sac: an update left weights that are not finite, which were not saved; go on from the last checkpoint "
                "with --resume, or begin again"
            )


class WholeEpisodes(ReplayBuffer):
    """SAC's replay, filled by `take` alone."""

    def __init__(self, size: int, observations: spaces.Space, actions: spaces.Space, **options: Any):
        super().__init__(size, observations, actions, **options | {"n_envs": 1})

    def add(self, *_: Any) -> None:
        """Steps of an episode that is not whole yet."""

    def take(self, episode: Episode, failure: float) -> None:
        """failure: the reward of a last choice that did not lead to success."""
        features, noise = episode["features"], episode["noise"]
        last = len(noise) - 1
        for i, action in enumerate(noise):
            reward = -1.0 if i < last else 0.0 if bool(episode["success"]) else failure
            following = features[min(i + 1, last)]
            super().add(features[i], following, action, np.array([reward]), np.array([i == last]), [{}])
