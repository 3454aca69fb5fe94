"""Every block beside transformers' own module with the same weights, INT4 experts, and the cost of decoding.

Medians of one run, both sides in turns. A ratio above 1 means that ours is faster.
"""

from dataclasses import dataclass
from typing import Any

from ...shared.errors import UserError

RESULT = "backbone_speed"


@dataclass(frozen=True)
class Args:
    """Flags of `tandem bench backbone`."""

    batch: int = 8
    length: int = 512
    width: int = 256
    repeats: int = 7
    threads: int = 1
    only: str = ""  # one pair by name; empty: all of them, INT4 and decoding
    publish: bool = False  # write docs/results/bench_backbone.json and its headline to backbone_speed.json
    dry_run: bool = False


def measure(args: Args) -> dict[str, Any]:
    """Runs the measurement and returns its figures by name."""
    import torch

    from .decoding import growth
    from .pairs import all_pairs
    from .pairs.int4 import int4

    torch.set_num_threads(args.threads)
    builders = all_pairs()
    if args.only and args.only not in builders:
        raise UserError(f"no pair {args.only!r}; known: {', '.join(builders)}")
    chosen = {args.only: builders[args.only]} if args.only else builders
    speed = {name: _compare(build, args) for name, build in chosen.items()}
    if args.only:
        return {"blocks": speed}
    return {"blocks": speed, "int4": int4(), "decode": growth(args.width)}


def headline(metrics: dict[str, Any]) -> dict[str, float]:
    """The figures of this topic in the table that the topics of papers share."""
    if "decode" not in metrics:
        raise UserError("bench backbone: --publish wants the whole run; leave out --only")
    blocks, decode, int4 = metrics["blocks"], metrics["decode"], metrics["int4"]
    return {
        "min_ratio": min(min(block["forward_ratio"], block["both_ratio"]) for block in blocks.values()),
        "moe_ratio": blocks["moe_eager"]["both_ratio"],
        "decode_growth_hybrid": decode["hybrid_growth"],
        "decode_growth_dense": decode["dense_growth"],
        "int4_speedup": int4["int4_speedup_batch1"],
        "int4_shrink": int4["int4_size_ratio"],
    }


def _compare(build: Any, args: Args) -> dict[str, float]:
    import torch

    from .pairs.pair import TOLERANCE, difference, times

    torch.manual_seed(0)
    pair = build(args.batch, args.length, args.width)
    off = difference(pair)
    if off > TOLERANCE:
        raise UserError(f"bench backbone: {pair.name} differs from the reference by {off:.1e}: no use timing it")
    ours, theirs = times(pair, args.repeats, backward=False)
    ours_both, theirs_both = times(pair, args.repeats, backward=True)
    return {
        "forward_ms": 1e3 * ours,
        "forward_ratio": theirs / ours,
        "both_ms": 1e3 * ours_both,
        "both_ratio": theirs_both / ours_both,
        "difference": off,
    }
