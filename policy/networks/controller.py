"""System 1, F: a flow-matching action head that turns scene, goal and proprioception into a chunk of H actions.

Time runs from 0 (noise) to 1 (clean actions). x_t = (1 - t) * noise + t * actions and the network predicts the
velocity noise - actions, which Euler's method integrates with sigma = 1 - t from 1 to 0
(Lipman et al., arXiv 2210.02747, sampling of t after pi0, arXiv 2410.24164).

Notable choices
- One stream of tokens [instruction, goal, scene, noisy actions] through `backbone.dit`. Context tokens do not see the
  actions, so several noise draws share one encoding in training, as all Euler steps do at inference.
- Training-time real-time chunking (arXiv 2512.05964): a random prefix of the chunk is given clean (t = 1) and
  carries no loss. At inference the committed steps of the chunk in flight go there.
- The tokens that decide most (referents, goal, proprioception, words) also reach every action token directly, through
  a small MLP: attention alone took thousands of steps to find them among fifty.
- Rows without a goal (`has_goal`) are the flat policy's: one checkpoint runs hierarchical or flat.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...backbone.dit import DiT, DiTConfig, KeyValue
from ...backbone.norms import RMSNorm


@dataclass(frozen=True)
class ControllerConfig:
    """Sizes of `Controller`."""

    width: int = 192  # D
    action_dim: int = 7  # A
    chunk: int = 16  # H
    goal_tokens: int = 4  # K
    referents: int = 4  # R, referent tokens (planner.grounding)
    words: int = 48  # size of the vocabulary of instructions
    instruction_length: int = 16  # longest instruction, in words
    heads: int = 6
    layers: int = 4
    draws: int = 4  # noise draws per encoded observation in training
    max_prefix: int = 4  # longest committed prefix seen in training, in steps
    prefix_share: float = 0.3  # share of draws that have a prefix
    euler_steps: int = 4  # 4 to 10


@dataclass
class Context:
    """An encoded observation."""

    cache: list[KeyValue]  # keys and values of every layer, (B, heads, N, d) each
    summary: Tensor  # (B, D), added to every action token


class Controller(nn.Module):
    """F of policy/networks/tandem.py."""

    def __init__(self, cfg: ControllerConfig):
        super().__init__()
        self.cfg = cfg
        D = cfg.width
        self.words = nn.Embedding(cfg.words, D)
        self.word_position = nn.Parameter(torch.randn(cfg.instruction_length, D) * 0.02)
        self.no_goal = nn.Parameter(torch.randn(cfg.goal_tokens, D) * 0.02)
        self.kind = nn.Parameter(torch.randn(3, D) * 0.02)  # instruction, goal, scene
        self.scene_in, self.goal_in = nn.Linear(D, D), nn.Linear(D, D)
        decisive = cfg.referents + cfg.goal_tokens + 2
        self.summary = nn.Sequential(nn.Linear(decisive * D, 2 * D), nn.SiLU(), nn.Linear(2 * D, D))
        self.action_in = nn.Linear(cfg.action_dim, D)
        self.action_position = nn.Parameter(torch.randn(cfg.chunk, D) * 0.02)
        self.time_in = nn.Linear(128, D)
        self.dit = DiT(DiTConfig(width=D, heads=cfg.heads, layers=cfg.layers, ffn_width=int(D * 8 / 3) // 16 * 16))
        self.out_norm = RMSNorm(D)
        self.action_out = nn.Linear(D, cfg.action_dim)
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.zeros_(self.action_out.weight)

    def context(
        self,
        instruction: Tensor,
        z: Tensor,
        referents: Tensor,
        goal: Tensor | None = None,
        has_goal: Tensor | None = None,
        told: Tensor | None = None,
    ) -> Context:
        """instruction (B, L) word ids, 0 = no word. z (B, N, D). referents (B, R, D), the scene tokens that the words
        mean (planner.grounding). goal (B, K, D) and has_goal (B,): which rows have one.
        told (B, D): what is to be said
        beside the words (policy.networks.advantage_token)."""
        words = self.words(instruction) + self.word_position[: instruction.shape[1]]
        if told is not None:
            words = words + told.unsqueeze(1)
        goals = self.no_goal.expand(len(z), -1, -1)
        if goal is not None:
            present = self.goal_in(goal)
            goals = present if has_goal is None else torch.where(has_goal[:, None, None], present, goals)
        tokens = [
            words + self.kind[0],
            goals + self.kind[1],
            self.scene_in(torch.cat([referents, z], dim=1)) + self.kind[2],
        ]
        decisive = [referents, goals, z[:, -1:], words.mean(dim=1, keepdim=True)]  # z ends with proprioception
        summary = self.summary(torch.cat([t.float() for t in decisive], dim=1).flatten(1))
        return Context(self.dit.context(torch.cat(tokens, dim=1)), summary)

    def velocity(self, context: Context, noisy: Tensor, t: Tensor) -> Tensor:
        """noisy (B, M, H, A) with time t (B, M, H) per step, or one for all (B, 1, 1) -> velocity (B, M, H, A). M draws
        do not see each other."""
        B, M, H, A = noisy.shape
        c = self.dit.time(t)
        x = self.action_in(noisy) + self.action_position[:H] + self.time_in(c)
        x = x + context.summary[:, None, None]
        mask = draw_mask(M, H, context.cache[0][0].shape[2], noisy.device)
        x = self.dit.actions(x.flatten(1, 2), c.flatten(1, 2), context.cache, mask)
        return self.action_out(self.out_norm(x)).view(B, M, H, A)

    def loss(
        self,
        batch: dict[str, Tensor],
        z: Tensor,
        referents: Tensor,
        goal: Tensor,
        has_goal: Tensor,
        told: Tensor | None = None,
    ) -> Tensor:
        """Flow-matching loss. batch: instruction (B, L), actions (B, H, A) normalised, action_mask (B, H)."""
        context = self.context(batch["instruction"], z, referents, goal, has_goal, told)
        actions = batch["actions"].unsqueeze(1).expand(-1, self.cfg.draws, -1, -1)  # (B, M, H, A)
        noise = torch.randn_like(actions)
        t, committed = self._sample_time(actions)
        mixed = torch.lerp(noise, actions, t.unsqueeze(-1))
        error = (self.velocity(context, mixed, t) - (noise - actions)).square().mean(-1)
        weight = batch["action_mask"].unsqueeze(1) * ~committed
        return (error * weight).sum() / weight.sum().clamp(min=1)

    def _sample_time(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """t (B, M, H), one time a draw but 1 on its committed prefix. And where the prefix is (B, M, H)."""
        B, M, H, _ = actions.shape
        noise_level = torch.rand(B, M, 1, device=actions.device) ** (1 / 1.5)  # Beta(1.5, 1): more mass near noise
        t = (1 - (0.999 * noise_level + 0.001)).expand(B, M, H)
        length = torch.randint(1, self.cfg.max_prefix + 1, (B, M, 1), device=actions.device)
        length = length * (torch.rand(B, M, 1, device=actions.device) < self.cfg.prefix_share)
        committed = torch.arange(H, device=actions.device) < length
        return torch.where(committed, 1.0, t), committed

    @torch.no_grad()
    def sample(
        self,
        context: Context,
        noise: Tensor,
        prefix: Tensor | None = None,
        untold: Context | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Integrates noise (B, M, H, A) to chunks (B, M, H, A). prefix (B, d, A): committed steps, kept as they are.
        untold: the context to be guided away from, v = v(untold) + guidance * (v(context) - v(untold))."""
        sigmas = euler_sigmas(self.cfg.euler_steps).to(noise.device)
        d = 0 if prefix is None else prefix.shape[1]
        x = noise if prefix is None else noise.clone()  # the prefix is written into it
        for sigma, after in itertools.pairwise(sigmas):
            if prefix is not None:
                x[:, :, :d] = prefix.unsqueeze(1)
            t = (1 - sigma).expand(x.shape[0], 1, 1)
            if d:
                t = t.expand(x.shape[:3]).clone()
                t[:, :, :d] = 1.0
            velocity = self.velocity(context, x, t)
            if untold is not None:
                velocity = torch.lerp(self.velocity(untold, x, t), velocity, guidance)
            x = x + (after - sigma) * velocity
        if prefix is not None:
            x[:, :, :d] = prefix.unsqueeze(1)
        return x


def euler_sigmas(steps: int) -> Tensor:
    """float32 (steps + 1,): 1 - t at the ends of Euler's steps, from 1 down to 0. As diffusers'
    FlowMatchEulerDiscreteScheduler has them, which a test compares with."""
    return torch.from_numpy(np.append(np.linspace(1.0, 1.0 / steps, steps), 0.0).astype(np.float32))


def draw_mask(draws: int, chunk: int, context: int, device: torch.device) -> Tensor | None:
    """True where an action token may look: all of the context, and the chunk of its own draw.

    For 2 draws of 2 steps over 1 context token:   c a0 a1 b0 b1
                                              a0   1  1  1  .  .
                                              a1   1  1  1  .  .
                                              b0   1  .  .  1  1
                                              b1   1  .  .  1  1
    """
    if draws == 1:
        return None
    own = torch.block_diag(*[torch.ones(chunk, chunk, device=device)] * draws).bool()
    return F.pad(own, (context, 0), value=True)
