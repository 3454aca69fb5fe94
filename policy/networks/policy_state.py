"""What the agent makes of one look, and that in one vector for whoever learns from experience."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .controller import ControllerConfig

DECIMETRES = 10.0  # ways in a unit in which they are about 1


@dataclass(frozen=True)
class Situation:
    """All that deciding needs. Batch of one in an agent."""

    z: Tensor  # (B, N, D) scene tokens
    referents: Tensor  # (B, R C, D) scene tokens that the instruction means
    way: Tensor  # (B, R, 3) from the hand to what it means [m], as it is seen or recalled
    state: Tensor  # (B, S) normalised proprioception
    goal: Tensor | None  # (B, K, D) the planner's subgoal; None: flat
    words: Tensor  # (B, D) mean of the instruction's words

    def features(self) -> Tensor:
        """(B, F): ways and proprioception, which are the plain ones. Then referents, subgoal's mean, words."""
        subgoal = torch.zeros_like(self.words) if self.goal is None else self.goal.mean(1)
        plain = [DECIMETRES * self.way.flatten(1), self.state]
        return torch.cat([*plain, self.referents.flatten(1), subgoal, self.words], dim=-1).float()


@dataclass(frozen=True)
class FeatureSizes:
    """Sizes of the features that learners of reinforcement learning read."""

    features: int  # F
    plain: int  # the first of them, which say most

    @classmethod
    def of(cls, controller: ControllerConfig, state_dim: int, meant: int) -> "FeatureSizes":
        """meant: R, things that an instruction means."""
        plain = 3 * meant + state_dim
        return cls(plain + (controller.referents + 2) * controller.width, plain)
