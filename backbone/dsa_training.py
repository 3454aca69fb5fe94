"""How sparse attention is trained: a dense trunk first, then its indexers alone, then both at once (arXiv 2512.02556).

    1. dense(model)           the trunk trains with dense attention, indexers rest: a random trunk has nothing to teach
    2. dense_warm_up(model)   indexers alone train, attention stays dense:     loss = warm_up_loss(lessons)
    3. sparse(model, recall)  everything trains, attention is sparse:          loss = task + sparse_loss(lessons)

    p[t] = attention of t, summed over heads, normalised to sum 1;  loss = mean over t of KL(p[t] || softmax(I[t])),
    over all visible columns (2) or over the chosen ones, p normalised there (3). Summed over layers

Lessons are collected during the forward pass that the task needs anyway:

    with lessons_of(model) as lessons:
        task = model.loss(batch)
    (task + sparse_loss(lessons)).backward()

p and the indexer's inputs carry no gradient: the trunk learns from the task, the indexer from p. The switch to (3) asks
for the recall of (2): the share of p on the columns that will be kept. The published rates are 1e-3 for (2) and 7.3e-6
for (3). Indexers deserve a parameter group of their own. A checkpoint holds no stage: call its function again.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .dsa import Lesson, SparseAttention

READY = 0.95  # recall from which attention may become sparse


def sparse_layers(model: nn.Module) -> list[SparseAttention]:
    return [module for module in model.modules() if isinstance(module, SparseAttention)]


def dense(model: nn.Module) -> None:
    """Stage 1: the trunk learns with dense attention."""
    _set_stage(model, dense=True, trunk=True, indexers=False)


def dense_warm_up(model: nn.Module) -> None:
    """Stage 2: all but the indexers is frozen."""
    _set_stage(model, dense=True, trunk=False, indexers=True)


def sparse(model: nn.Module, recall: float) -> None:
    """Stage 3: everything learns, with sparse attention. recall: `attention_recall` of stage 2."""
    if not ready(recall):
        raise ValueError(f"dsa: indexers recall {recall:.3f} of the attention, below {READY}: warm up for longer")
    _set_stage(model, dense=False, trunk=True, indexers=True)


def ready(recall: float) -> bool:
    return recall >= READY


def _set_stage(model: nn.Module, dense: bool, trunk: bool, indexers: bool) -> None:
    model.requires_grad_(trunk)
    for layer in sparse_layers(model):
        layer.dense = dense
        layer.indexer.requires_grad_(indexers)


@contextmanager
def lessons_of(model: nn.Module) -> Iterator[list[Lesson]]:
    """Every call of a sparse layer inside leaves a lesson in the list."""
    lessons: list[Lesson] = []
    layers = sparse_layers(model)
    for layer in layers:
        layer.lessons = lessons
    try:
        yield lessons
    finally:
        for layer in layers:
            layer.lessons = None


def warm_up_loss(lessons: list[Lesson]) -> Tensor:
    """Over all visible columns. Summed over layers."""
    kls = [_mean(index_kl(one.scores, one.mass, one.scores > -torch.inf), one.real) for one in lessons]
    return torch.stack(kls).sum()


def sparse_loss(lessons: list[Lesson]) -> Tensor:
    """Over the chosen columns. Summed over layers."""
    kls = [_mean(index_kl(one.scores, one.mass, one.chosen), one.real) for one in lessons]
    return torch.stack(kls).sum()


def index_kl(scores: Tensor, mass: Tensor, among: Tensor) -> Tensor:
    """KL(p || softmax(scores)) over the columns `among`, (B, N, N_total) each -> (B, N). Its slope is softmax - p."""
    p = mass.detach().masked_fill(~among, 0)
    p = p / p.sum(-1, keepdim=True).clamp_min(1e-20)
    log_q = scores.masked_fill(~among, -torch.inf).log_softmax(-1).masked_fill(~among, 0)
    return (torch.xlogy(p, p) - p * log_q).sum(-1)


@torch.no_grad()
def attention_recall(lessons: list[Lesson], rows: Tensor | None = None) -> float:
    """Share of dense attention on the chosen columns, the mean over rows that leave some out. 1 if none does.

    rows (N,) bool: which count. None: all. A row whose output nobody reads attends to anything: no choice recalls that.
    """
    if not all(one.dense for one in lessons):
        raise ValueError("dsa: recall is of dense attention, these lessons are of sparse attention")
    shares = []
    for one in lessons:
        share = (one.mass * one.chosen).sum(-1) / one.mass.sum(-1)
        partial = one.chosen.sum(-1) < (one.scores > -torch.inf).sum(-1)
        counted = partial if rows is None else partial & rows
        shares.append(share[counted if one.real is None else counted & one.real])
    found = torch.cat(shares)
    return float(found.mean()) if len(found) else 1.0


def _mean(rows: Tensor, real: Tensor | None) -> Tensor:
    """rows (B, N) -> their mean, padding aside."""
    return rows.mean() if real is None else (rows * real).sum() / real.sum().clamp_min(1)
