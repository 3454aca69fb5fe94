"""What the agent makes of one look, and that in one vector for whoever learns from experience."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Situation:
    """All that deciding needs. Batch of one in an agent."""

    z: Tensor  # (B, N, D) scene tokens
    referents: Tensor  # (B, R, D) scene tokens that the instruction means
    state: Tensor  # (B, S) normalised proprioception
    goal: Tensor | None  # (B, K, D) the planner's subgoal; None: flat
    words: Tensor  # (B, D) mean of the instruction's words

    def pooled(self) -> Tensor:
        """(B, F), F = (R + 3) D + S: referents, means of the subgoal's, the scene's and the instruction's tokens,
        proprioception."""
        subgoal = torch.zeros_like(self.words) if self.goal is None else self.goal.mean(1)
        parts = [self.referents.flatten(1), subgoal, self.z.mean(1), self.words, self.state]
        return torch.cat(parts, dim=-1).float()
