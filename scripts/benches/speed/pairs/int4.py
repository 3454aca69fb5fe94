"""INT4 experts beside fp32 ones, one token at a time, as a decoding robot reads them.

Every token visits other experts, so weights come from main memory where they do not fit the cache. "layer" includes
router and shared expert, fp32 on both sides: with two routed experts and a shared one, at most three times can be won.
"""

import time
from collections.abc import Callable
from itertools import cycle
from statistics import median

import torch
from torch import Tensor

from .....backbone.experts import mix
from .....backbone.int4 import Int4Experts, pack, quantise_aware
from .....backbone.moe import MixtureOfExperts, MoEConfig

EXPERTS, TOP_K = 16, 2
Sides = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]  # fp32, packed


def int4(repeats: int = 60) -> dict[str, float]:
    """Ratios above 1 mean that INT4 is faster or smaller. Width 1024, and where it says so 256, a small planner's."""
    wide, narrow = _both(1024), _both(256)
    return {
        "int4_size_ratio": _expert_bytes(wide[0]) / _expert_bytes(wide[1]),
        "int4_speedup_batch1": _speedup(_routed(*wide), 1024, repeats),
        "int4_speedup_batch1_layer": _speedup(wide, 1024, repeats),
        "int4_speedup_batch1_256": _speedup(_routed(*narrow), 256, repeats),
        "int4_speedup_batch1_layer_256": _speedup(narrow, 256, repeats),
        "int4_difference": _difference(*wide, 1024),
    }


def _both(width: int) -> tuple[MixtureOfExperts, Int4Experts]:
    torch.manual_seed(0)
    moe = MixtureOfExperts(width, MoEConfig(experts=EXPERTS, top_k=TOP_K, expert_width=width)).eval()
    for p in moe.parameters():
        torch.nn.init.normal_(p, std=width**-0.5)
    return moe, pack(moe)


def _routed(moe: MixtureOfExperts, packed: Int4Experts) -> Sides:
    """Both sides without router and shared expert, with the same random choices."""
    choices, gates = [torch.randperm(EXPERTS)[None, :TOP_K] for _ in range(64)], torch.full((1, TOP_K), 1 / TOP_K)
    left, right = cycle(choices), cycle(choices)
    return (
        lambda x: mix(x, moe.gate_up, moe.down, next(left), gates),
        lambda x: packed.mix(x, next(right), gates),
    )


@torch.no_grad()
def _speedup(sides: Sides, width: int, repeats: int) -> float:
    seconds: tuple[list[float], list[float]] = ([], [])
    for x in torch.randn(repeats, 1, width):
        for side, run in zip(seconds, sides, strict=True):
            begin = time.perf_counter()
            run(x)
            side.append(time.perf_counter() - begin)
    return median(seconds[0]) / median(seconds[1])


def _expert_bytes(layer: MixtureOfExperts | Int4Experts) -> int:
    tensors = [*layer.named_parameters(), *layer.named_buffers()]
    return sum(tensor.nbytes for name, tensor in tensors if name.startswith(("gate_up", "down")))


@torch.no_grad()
def _difference(moe: MixtureOfExperts, packed: Int4Experts, width: int) -> float:
    """Of packed from fake-quantised outputs, relative root mean square: what bf16 activations cost."""
    quantise_aware(moe)
    x = torch.randn(32, width)
    expected, got = moe(x), packed(x)
    quantise_aware(moe, on=False)
    return float((got - expected).norm() / expected.norm())
