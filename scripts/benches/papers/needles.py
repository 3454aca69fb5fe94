"""Needles in a history: every token of it holds a key and its value. At the end many keys are asked for again.

    key      k3  k9  k1  k7  ...  k9  k3          (keys of a history are distinct)
    value    v7  v2  v1  v5  ...   ?   ?          (the answer is the key's own value)

A model must keep every pair, not knowing which will be asked for: a state of fixed size runs out, attention does not
(multi-query associative recall: Arora et al., arXiv 2312.04927, there a key and its value are two tokens, which first
asks for a layer that joins them, and for twenty times the training).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.optimization import get_scheduler
from torch import Tensor, nn

from ....backbone.dsa import Lesson
from ....backbone.dsa_training import lessons_of
from ....backbone.stack import Stack, StackConfig


@dataclass(frozen=True)
class Task:
    needles: int = 96  # pairs in a history
    queries: int = 32  # of them asked for
    keys: int = 256  # different keys
    values: int = 16  # different values

    @property
    def length(self) -> int:
        return self.needles + self.queries

    def sample(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """ids (B, length, 2), key and value of every token, a query's value being `values`. Answers (B, queries)."""
        keys = _choose(batch, self.keys, self.needles, generator)
        values = torch.randint(self.values, (batch, self.needles), generator=generator)
        asked = _choose(batch, self.needles, self.queries, generator)
        history = torch.stack([keys, values], dim=-1)
        questions = torch.stack([keys.gather(1, asked), torch.full_like(asked, self.values)], dim=-1)
        return torch.cat([history, questions], dim=1), values.gather(1, asked)


def _choose(batch: int, count: int, k: int, generator: torch.Generator) -> Tensor:
    """(batch, k) distinct numbers below `count`, in random order."""
    return torch.rand(batch, count, generator=generator).argsort(1)[:, :k]


class Recaller(nn.Module):
    """Embeddings of key and value, added. A stack. A head for the value."""

    def __init__(self, task: Task, cfg: StackConfig):
        super().__init__()
        self.key, self.value = nn.Embedding(task.keys, cfg.width), nn.Embedding(task.values + 1, cfg.width)
        self.stack, self.head = Stack(cfg), nn.Linear(cfg.width, task.values)
        self.queries = task.queries

    def forward(self, ids: Tensor) -> Tensor:
        """(B, N, 2) -> logits of the queries' values (B, queries, values)."""
        hidden = self.stack(self.key(ids[..., 0]) + self.value(ids[..., 1]))
        return self.head(hidden[:, -self.queries :])

    def loss(self, ids: Tensor, answers: Tensor) -> Tensor:
        return F.cross_entropy(self(ids).flatten(0, 1), answers.flatten())


Extra = Callable[[list[Lesson]], Tensor]  # a loss of the indexers


def learn(
    model: Recaller, task: Task, steps: int, seed: int, batch: int = 32, rate: float = 3e-3, extra: Extra | None = None
) -> None:
    """AdamW with warm-up and a cosine to zero."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], rate, weight_decay=0.01)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=steps // 20, num_training_steps=steps)
    for _ in range(steps):
        loss = _loss(model, task.sample(batch, generator), extra)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        model.stack.balance()


def _loss(model: Recaller, batch: tuple[Tensor, Tensor], extra: Extra | None) -> Tensor:
    if extra is None:
        return model.loss(*batch)
    with lessons_of(model) as lessons:
        loss = model.loss(*batch)
    return loss + extra(lessons)


@torch.no_grad()
def accuracy(model: Recaller, task: Task, batches: int = 8, seed: int = 1_000_000) -> float:
    """Share of right answers on histories that training never saw."""
    generator, right = torch.Generator().manual_seed(seed), []
    model.eval()
    for _ in range(batches):
        ids, answers = task.sample(64, generator)
        right.append((model(ids).argmax(-1) == answers).float().mean())
    model.train()
    return float(torch.stack(right).mean())
