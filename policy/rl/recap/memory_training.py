"""Trains the memory (policy/networks/object_memory.py) on own episodes, with the simulator's positions as targets.

    loss = | way* - (thing - hand) |_1 [dm]

The simulator's positions are used in training only. The encoder and the critic of `policy/rl/ppo/critic.py` are trained
with the simulator's knowledge likewise.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ....planner.grounding import REFERENTS
from ...checkpoint.bundle import Bundle
from ...errors import PolicyError
from ...networks.object_memory import Memory, MemoryConfig, Past
from ...networks.policy_state import DECIMETRES
from ..shared.episodes import FAR, Trajectory

ROWS = 2048  # looks in one batch of inference


@dataclass(frozen=True)
class Recalling:
    """Settings of the memory's training."""

    steps: int = 1500  # Updates of the memory in every round.
    batch: int = 256  # Looks in the batch of one update.
    learning_rate: float = 2e-3  # Largest learning rate of the memory, which rises and falls within a round.


class Looks:
    """The F looks of own episodes, each with the looks before it (M in all), and the true positions of R objects."""

    def __init__(self, bundle: Bundle, ran: list[Trajectory], looks: int):
        """ran: the episodes. looks: M, number of looks that the memory uses, with the present one."""

        def column(name: str) -> Tensor:
            return torch.from_numpy(np.concatenate([t.arrays[name] for t in ran]))

        self.way, self.looked = column("way"), column("looked")
        self.state, self.step = column("state"), column("look")
        self.hand = bundle.hand_at(self.state)
        self.things = column("places")[:, : 3 * REFERENTS].unflatten(1, (REFERENTS, 3))
        near = (self.things - self.hand.unsqueeze(1)).norm(dim=-1) < FAR
        self.placed = self.things.any(-1) & near  # (F, R) bool: the simulator has a usable position
        counts = torch.tensor([len(t.arrays["look"]) for t in ran])
        first = (counts.cumsum(0) - counts).repeat_interleave(counts)
        index = torch.arange(len(first)).unsqueeze(1) - torch.arange(looks)
        self.known = index >= first.unsqueeze(1)  # (F, M) bool: there was such a look
        self.index = index.maximum(first.unsqueeze(1))

    def __len__(self) -> int:
        return len(self.step)

    def past(self, rows: Tensor) -> Past:
        """The memory's input at the looks `rows` (B,)."""
        at = self.index[rows]
        age = (self.step[rows].unsqueeze(1) - self.step[at]).float()
        return Past(self.way[at], self.hand[at], self.state[at], self.looked[at].float(), age, self.known[rows])

    def error(self, way: Tensor, rows: Tensor) -> Tensor:
        """Mean L1 error [dm] over objects with a known position, for `way` (B, R, 3) [m] at the looks `rows` (B,)."""
        wrong = (way - (self.things[rows] - self.hand[rows].unsqueeze(1))).abs().sum(-1) * self.placed[rows]
        return DECIMETRES * wrong.sum() / self.placed[rows].sum().clamp(min=1)


def recall(
    bundle: Bundle, ran: list[Trajectory], settings: Recalling, seed: int, tick: Callable[[], None]
) -> tuple[Memory | None, dict[str, float]]:
    """Trains a copy of the bundle's memory, or a new memory, on the episodes `ran`.

    tick: called after every update.
    Returns the memory, and the mean L1 errors [m] on its training episodes: "seen" from one look, "recalled" by it.
    Where no position is known, returns the bundle's memory (or None) and no errors.
    PolicyError where the loss is not finite.
    """
    torch.manual_seed(seed)
    memory = Memory(config_of(bundle)) if bundle.memory is None else deepcopy(bundle.memory)
    looks = Looks(bundle, ran, memory.cfg.looks)
    if not looks.placed.any():
        return bundle.memory, {}
    _fit(memory.requires_grad_(True), looks, settings, tick)
    memory.eval().requires_grad_(False)
    every = torch.arange(len(looks))
    recalled = torch.cat([memory(looks.past(rows)) for rows in every.split(ROWS)])
    ways = {"seen": looks.way, "recalled": recalled}
    return memory, {name: float(looks.error(way, every)) / DECIMETRES for name, way in ways.items()}


def config_of(bundle: Bundle) -> MemoryConfig:
    """Sizes of a memory for this policy: its state, its cameras' tokens, and REFERENTS objects."""
    looked = len(bundle.cameras) * bundle.sizes.width
    return MemoryConfig(state_dim=bundle.config.state_dim, looked=looked, things=REFERENTS)


def _fit(memory: Memory, looks: Looks, settings: Recalling, tick: Callable[[], None]) -> None:
    optimizer = torch.optim.AdamW(memory.parameters(), settings.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, settings.steps)
    for _ in range(settings.steps):
        rows = torch.randint(len(looks), (settings.batch,))
        loss = looks.error(memory(looks.past(rows)), rows)
        if not torch.isfinite(loss):
            raise PolicyError("recap: what is recalled is not finite; --resume goes on from the last round")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(memory.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        tick()
