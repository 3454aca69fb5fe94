"""World model, W: what the scene will look like after a chunk of actions, in latent space.

z' = z + change(z, actions). From z': progress and success toward a goal. `ensemble` small output heads with different
initial weights predict the change. Their spread says where the model has seen too little to be trusted.
`metrics` always compare with the forecast "nothing changes": `explained` = 1 - error / error of copying z. A model that
does not beat the copy is worth nothing, and the number says so.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbone.gated_attention import GatedAttentionConfig
from ..backbone.stack import Stack, StackConfig


@dataclass(frozen=True)
class WorldModelConfig:
    """Sizes of `WorldModel`."""

    width: int = 192  # D
    action_dim: int = 7  # A
    chunk: int = 16  # H
    steps_per_token: int = 4  # actions that one action token holds
    scene_tokens: int = 27  # N
    goal_tokens: int = 4  # K
    pattern: str = "gated gated"
    ffn: str = "mlp"
    heads: int = 6
    ensemble: int = 3


@dataclass
class Forecast:
    """After the chunk, for B scenes."""

    z: Tensor  # (B, N, D) mean of the ensemble
    disagreement: Tensor  # (B,) standard deviation across the ensemble, averaged
    progress: Tensor  # (B,) in [0, 1], toward the goal
    success: Tensor  # (B,) probability that the episode has succeeded


class WorldModel(nn.Module):
    """W of policy/networks/tandem.py."""

    def __init__(self, cfg: WorldModelConfig):
        super().__init__()
        self.cfg = cfg
        D = cfg.width
        self.action_in = nn.Linear(cfg.action_dim * cfg.steps_per_token, D)
        self.position = nn.Parameter(torch.randn(cfg.scene_tokens + cfg.chunk // cfg.steps_per_token, D) * 0.02)
        self.stack = Stack(
            StackConfig(D, cfg.pattern, ffn=cfg.ffn, gated=GatedAttentionConfig(cfg.heads, max(1, cfg.heads // 3)))
        )
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(D, D), nn.SiLU(), nn.Linear(D, D)) for _ in range(cfg.ensemble)
        )
        self.judge = nn.Sequential(nn.Linear(D * (cfg.goal_tokens + 1), D), nn.SiLU(), nn.Linear(D, 2))
        for head in self.heads:
            nn.init.normal_(head[2].weight, std=0.002)  # type: ignore[union-attr, index, arg-type]

    def forward(self, z: Tensor, actions: Tensor, goal: Tensor) -> Forecast:
        """z (B, N, D), actions (B, H, A) normalised, goal (B, K, D)."""
        futures = self.futures(z, actions)
        mean = futures.mean(0)
        progress, success = self.judgement(mean, goal)
        return Forecast(mean, futures.std(0).mean((1, 2)), progress.sigmoid(), success.sigmoid())

    def futures(self, z: Tensor, actions: Tensor) -> Tensor:
        """(ensemble, B, N, D)."""
        N = z.shape[1]
        grouped = actions.unflatten(1, (-1, self.cfg.steps_per_token)).flatten(2)
        tokens = torch.cat([z, self.action_in(grouped).float()], 1)
        everything = torch.ones(1, 1, 1, tokens.shape[1], dtype=torch.bool, device=z.device)
        out = self.stack(tokens + self.position, everything.expand(-1, -1, tokens.shape[1], -1))[:, :N]
        return z + torch.stack([head(out).float() for head in self.heads])

    def judgement(self, z: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of progress and success, (B,) each."""
        progress, success = self.judge(torch.cat([z.mean(1, keepdim=True), goal], dim=1).flatten(1)).float().unbind(-1)
        return progress, success

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """batch: z, future (B, N, D), actions (B, H, A), goal (B, K, D), future_progress, future_success (B,)."""
        futures = self.futures(batch["z"], batch["actions"])
        error = F.smooth_l1_loss(futures, batch["future"].expand_as(futures))
        progress, success = self.judgement(futures.mean(0), batch["goal"])
        with torch.no_grad():
            copied = F.mse_loss(batch["z"], batch["future"])
            explained = 1 - F.mse_loss(futures.mean(0), batch["future"]) / copied.clamp(min=1e-6)
        return {
            "future": error,
            "future_progress": F.binary_cross_entropy_with_logits(progress, batch["future_progress"]),
            "future_success": F.binary_cross_entropy_with_logits(success, batch["future_success"]),
            "explained": explained,
        }
