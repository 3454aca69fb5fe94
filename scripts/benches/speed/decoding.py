"""What a decoded token costs as the history grows: a hybrid stack beside stacks of dense attention of the same size.

A stack's cache is filled to a length with random content, then single tokens are decoded and timed. Random content
costs what real content costs: no layer here looks at values to save work. Feed-forward layers are dense and the same in
all stacks, for the mixers are what differs. The indexer of sparse attention still scores
every key of the history, with few channels: its own linear cost is reported apart.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from ....backbone.attention import AttentionConfig
from ....backbone.cache import StackCache
from ....backbone.indexer import Indexer, IndexerConfig
from ....backbone.rope import angles
from ....backbone.scope import scope
from ....backbone.stack import Stack, StackConfig

LENGTHS = (1024, 2048, 4096, 8192, 16384)
PATTERNS = {"hybrid": "gdn gdn gdn dsa", "dense": "attn attn attn attn", "latent": "mla mla mla mla"}


def growth(width: int = 256, repeats: int = 25) -> dict[str, Any]:
    """Milliseconds a token at every length, and the growth from the first to the last, for every stack."""
    torch.manual_seed(0)
    attention = AttentionConfig(heads=width // 32, kv_heads=width // 32, head_width=32)
    configs = {name: StackConfig(width, pattern, ffn="mlp", attn=attention) for name, pattern in PATTERNS.items()}
    stacks = {name: Stack(cfg).eval() for name, cfg in configs.items()}
    curves = {name: _curve(stack, width, repeats) for name, stack in stacks.items()}
    grown = {f"{name}_growth": curve[LENGTHS[-1]] / curve[LENGTHS[0]] for name, curve in curves.items()}
    table = {str(n): {f"{name}_ms": round(curve[n], 3) for name, curve in curves.items()} for n in LENGTHS}
    return {"tokens in the cache": table, **grown, "indexer_us_per_1000_tokens": _indexer_slope(width, repeats)}


@torch.no_grad()
def _curve(stack: Stack, width: int, repeats: int) -> dict[int, float]:
    cache, curve = stack.new_cache(), {}
    for length in LENGTHS:
        while cache.length < length:
            stack(torch.randn(1, min(512, length - cache.length), width), cache=cache)
        curve[length] = 1e3 * _median_seconds(lambda: _step_and_back(stack, cache, width), repeats)
    return curve


def _step_and_back(stack: Stack, cache: StackCache, width: int) -> None:
    mark = cache.snapshot()
    stack(torch.randn(1, 1, width), cache=cache)
    cache.roll_back(mark)


@torch.no_grad()
def _indexer_slope(width: int, repeats: int) -> float:
    """Microseconds that one layer's scores of one token take more for every thousand tokens of history."""
    rank, (short, long) = width // 2, (LENGTHS[0], LENGTHS[-1])
    indexer, seconds = Indexer(width, rank, IndexerConfig()), []
    for length in (short, long):
        x, latent, keys = torch.randn(1, 1, width), torch.randn(1, 1, rank), torch.randn(1, length, indexer.cfg.width)
        here = scope(1, past=length - 1)
        turn = angles(here.positions, 16)
        inputs = (x, latent, keys, turn, here)
        seconds.append(_median_seconds(lambda inputs=inputs: indexer.scores(*inputs), repeats))  # type: ignore[misc]
    return 1e6 * (seconds[1] - seconds[0]) / (long - short) * 1000


def _median_seconds(run: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats + 3):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return median(times[3:])  # the first ones warm memory up
