"""Grounding: which of the scene's keypoints does the instruction speak of? Shared by planner and controller.

Two queries made from the words, for what is to be moved or touched and for where to, attend over the K keypoint slots.
Both cameras share the attention. What comes out are R * C referent tokens: the scene tokens that the words mean.

Why a module of its own: with a few hundred demonstrations a plain transformer memorises scenes before it learns that
"red" means the red slot. It reached for the wrong object in most held-out scenes although it saw every object to the
millimetre. The simulator can say which entities the instruction names (`referents`), which teaches the attention
directly. Training only: at test time there are words and pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .losses import cross_entropy

REFERENTS = 2  # R: the object, the destination


@dataclass(frozen=True)
class GroundingConfig:
    """Sizes of `Grounding`."""

    width: int = 192  # D
    words: int = 64  # size of the vocabulary
    instruction_length: int = 16  # L
    cameras: int = 2  # C
    keypoints: int = 12  # K, per camera
    key_width: int = 64


class Grounding(nn.Module):
    """Finds the scene tokens that the instruction means."""

    def __init__(self, cfg: GroundingConfig):
        super().__init__()
        self.cfg = cfg
        D, d = cfg.width, cfg.key_width
        self.words = nn.Embedding(cfg.words, D)
        self.order = nn.Parameter(torch.randn(cfg.instruction_length, D) * 0.1)
        self.reader = nn.Parameter(torch.randn(REFERENTS, D) * 0.1)
        self.read = nn.MultiheadAttention(D, 4, batch_first=True)
        self.query = nn.Sequential(nn.Linear(D, D), nn.SiLU(), nn.Linear(D, d))
        self.slots = nn.Parameter(torch.randn(cfg.keypoints, d) * 0.1)
        self.content = nn.Linear(D, d)
        self.kind = nn.Parameter(torch.randn(REFERENTS, cfg.cameras, D) * 0.02)
        nn.init.normal_(self.words.weight, std=0.5)
        nn.init.zeros_(self.content.weight)

    def forward(self, instruction: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """instruction (B, L) ids, z (B, N, D) -> referent tokens (B, R * C, D), logits over the slots (B, R, K)."""
        B, C, K = len(z), self.cfg.cameras, self.cfg.keypoints
        points = z[:, : C * K].unflatten(1, (C, K))  # the keypoint tokens come first, camera by camera
        words = self.words(instruction) + self.order[: instruction.shape[1]]
        heard, _ = self.read(self.reader.expand(B, -1, -1), words, words, need_weights=False)
        keys = self.slots + self.content(points.mean(1))
        logits = (self.query(heard) @ keys.transpose(1, 2)).float()  # (B, R, K)
        tokens = torch.einsum("brk,bckd->brcd", logits.softmax(-1), points.float()) + self.kind
        return tokens.flatten(1, 2), logits

    @property
    def tokens(self) -> int:
        return REFERENTS * self.cfg.cameras


def grounding_loss(logits: Tensor, referents: Tensor) -> Tensor:
    """logits (B, R, K), referents (B, R) entity index, -1 where the instruction names none. 0 where none names any."""
    return cross_entropy(logits.flatten(0, 1), referents.flatten(), ignored=-1)
