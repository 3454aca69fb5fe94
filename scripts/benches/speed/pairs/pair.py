"""Two modules that compute the same thing, and how to time them fairly."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

TOLERANCE = 1e-4  # largest relative difference of the outputs; a faster wrong answer is no answer


@dataclass(frozen=True)
class Pair:
    """Both sides map x (B, N, D) to a tensor of one shape. modules are listed so that gradients reach their weights."""

    name: str
    x: Tensor
    ours: Callable[[Tensor], Tensor]
    theirs: Callable[[Tensor], Tensor]
    modules: tuple[nn.Module, ...]


def difference(pair: Pair) -> float:
    """Largest difference of the outputs, relative to the largest output."""
    with torch.no_grad():
        ours, theirs = pair.ours(pair.x), pair.theirs(pair.x)
    return float((ours - theirs).abs().max() / theirs.abs().max())


def times(pair: Pair, repeats: int, backward: bool) -> tuple[float, float]:
    """Median seconds of (ours, theirs), measured in turns so that a noisy machine disturbs both alike."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for i in range(repeats + 2):
        for side, run in zip(seconds, (pair.ours, pair.theirs), strict=True):
            took = _once(pair, run, backward)
            if i >= 2:  # the first two warm memory up
                side.append(took)
    return median(seconds[0]), median(seconds[1])


def _once(pair: Pair, run: Callable[[Tensor], Tensor], backward: bool) -> float:
    for module in pair.modules:
        module.zero_grad(set_to_none=False)
    x = pair.x.clone().requires_grad_(backward)
    begin = time.perf_counter()
    if backward:
        run(x).square().sum().backward()
    else:
        with torch.no_grad():
            run(x)
    return time.perf_counter() - begin
