"""Goal read-out G: scene tokens z -> K goal tokens g, the form in which a scene can be a goal.

Real and imagined scenes pass through the same G. Goals are compared, predicted and decoded in this space, so g is kept
informative by `StateProbe`: entity positions and proprioception must be readable from it (training only).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ReadOutConfig:
    """Sizes of `ReadOut`."""

    width: int = 192  # D
    goal_tokens: int = 4  # K
    heads: int = 6


class GoalReadOut(nn.Module):
    """z (B, N, D) -> g (B, K, D): learned queries attend to the scene. One feed-forward layer. Unit-variance tokens."""

    def __init__(self, cfg: ReadOutConfig):
        super().__init__()
        D = cfg.width
        self.heads = cfg.heads
        self.queries = nn.Parameter(torch.randn(cfg.goal_tokens, D) * 0.02)
        self.query, self.key_value, self.out = nn.Linear(D, D), nn.Linear(D, 2 * D), nn.Linear(D, D)
        self.ffn = nn.Sequential(nn.LayerNorm(D), nn.Linear(D, 2 * D), nn.SiLU(), nn.Linear(2 * D, D))
        self.norm = nn.LayerNorm(D, elementwise_affine=False)  # a goal's scale must not be a way to cheat distances

    def forward(self, z: Tensor) -> Tensor:
        """Scene tokens z (B, N, D) -> goal tokens (B, K, D)."""
        B, N, D = z.shape
        q = self.query(self.queries).expand(B, -1, -1)
        k, v = self.key_value(z).chunk(2, dim=-1)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        g = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.norm(g + self.ffn(g))


class StateProbe(nn.Module):
    """g -> entity positions (B, M, 3) in metres and normalised proprioception (B, S). A teacher, absent at test."""

    def __init__(self, width: int, goal_tokens: int, entities: int, state_dim: int):
        super().__init__()
        self.entities, self.state_dim = entities, state_dim
        hidden = 2 * width
        self.mlp = nn.Sequential(
            nn.Linear(width * goal_tokens, hidden), nn.SiLU(), nn.Linear(hidden, 3 * entities + state_dim)
        )

    def loss(self, g: Tensor, entity_state: Tensor, state: Tensor) -> dict[str, Tensor]:
        """entity_state (B, M, 4): x, y, z [m] and present. state (B, S) normalised."""
        positions, proprioception = self.mlp(g.flatten(1)).split([3 * self.entities, self.state_dim], dim=-1)
        present = entity_state[..., 3]
        error = (positions.unflatten(-1, (self.entities, 3)) - entity_state[..., :3]).abs().sum(-1)  # metres
        return {
            "probe_entities": (error * present).sum() / present.sum().clamp(min=1.0),
            "probe_state": F.smooth_l1_loss(proprioception, state),
        }
