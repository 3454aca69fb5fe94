"""Stable-baselines3's SAC as `dsrl` needs it: its networks, a check after every update, a replay of whole episodes.

Notable choices
- Transitions enter the replay buffer when their episode is complete and on disk. Memory and disk never differ.
- Hidden layers of the critics have layer normalisation, as in DSRL's code.
- The actor has no input for the time, which is unknown at test. The critics have it.
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
    """The actor's feature extractor: standardises the observation without the time.

    The time is left out because the end of an episode is unknown at test.
    """

    def __init__(self, observations: spaces.Box, plain: int):
        standardise = Standardise(observations.shape[0] - 1, plain, COMPONENTS)
        super().__init__(observations, standardise.size)
        self.standardise = standardise

    def forward(self, observations: Tensor) -> Tensor:
        """Standardises observations (B, F + 1) without their last entry, the time -> (B, size)."""
        return self.standardise(observations[..., :-1])


class Timed(Standardised):
    """The critics' feature extractor, with the time: a state's value falls to that of failure as time runs out."""

    def __init__(self, observations: spaces.Box, plain: int):
        super().__init__(observations, plain)
        self._features_dim += 1

    def forward(self, observations: Tensor) -> Tensor:
        """Standardises observations (B, F + 1) and appends the time, scaled to [-1, 1] -> (B, size + 1)."""
        return torch.cat([super().forward(observations), 2 * observations[..., -1:] - 1], dim=-1)


class NormalisedCritics(SACPolicy):
    """SAC's networks, with layer normalisation after every hidden linear layer of the critics."""

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """Builds the critics with the time as input and layer normalisation. `features_extractor` is ignored."""
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
    """SAC that raises PolicyError where an update leaves weights that are not finite, before they are used or saved."""

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Runs SAC's updates, then checks the weights. PolicyError where one is not finite."""
        try:
            super().train(gradient_steps, batch_size)
        except ValueError:  # torch's distributions raise it for parameters that are not finite
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
    """SAC's replay buffer of whole episodes. Only `take` fills it."""

    def __init__(self, size: int, observations: spaces.Space, actions: spaces.Space, **options: Any):
        super().__init__(size, observations, actions, **options | {"n_envs": 1})

    def add(self, *_: Any) -> None:
        """Ignores the steps that SAC adds: their episode is not complete yet."""

    def take(self, episode: Episode, failure: float) -> None:
        """Adds the choices of one complete episode.

        episode: "features" (choices, F + 1), "noise" (choices, A) and "success" ().
        failure: reward of the last choice of an episode without success.
        """
        features, noise = episode["features"], episode["noise"]
        last = len(noise) - 1
        for i, action in enumerate(noise):
            reward = -1.0 if i < last else 0.0 if bool(episode["success"]) else failure
            following = features[min(i + 1, last)]
            super().add(features[i], following, action, np.array([reward]), np.array([i == last]), [{}])
