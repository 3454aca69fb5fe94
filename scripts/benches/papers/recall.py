"""Needles in a history: a hybrid stack, three linear layers to one of attention, beside linear layers alone.

The linear layers' state is of fixed size and must hold every pair. One attention layer can look back. Both stacks have
the same width, depth and state, and train alike. Few needles fit
into the state. Many do not.
"""

from dataclasses import dataclass
from typing import Any

RESULT = "backbone_papers"
PATTERNS = {"hybrid": "gdn gdn gdn gated", "linear": "gdn gdn gdn gdn"}


@dataclass(frozen=True)
class Args:
    """Flags of `tandem bench recall`."""

    needles: tuple[int, ...] = (8, 96)  # pairs in a history; the headline is the last
    seeds: int = 3
    steps: int = 600
    threads: int = 1
    publish: bool = False  # write docs/results/bench_recall.json and its headline to backbone_papers.json
    dry_run: bool = False


def measure(args: Args) -> dict[str, Any]:
    """Runs the measurement and returns its figures by name."""
    import torch

    from ..intervals import summary

    torch.set_num_threads(args.threads)
    found: dict[str, Any] = {}
    for needles in args.needles:
        for name, pattern in PATTERNS.items():
            rates = [_recall(args, needles, pattern, seed) for seed in range(args.seeds)]
            found[f"{name}_{needles}_needles"] = summary(rates)
            print(f"{name}, {needles} needles: {', '.join(f'{rate:.3f}' for rate in rates)}", flush=True)
    last = args.needles[-1]
    return {f"{name}_recall": found[f"{name}_{last}_needles"]["mean"] for name in PATTERNS} | found


def headline(metrics: dict[str, Any]) -> dict[str, float]:
    """The figures of this topic in the table that the topics of papers share."""
    return {name: metrics[name] for name in ("hybrid_recall", "linear_recall")}


def _recall(args: Args, needles: int, pattern: str, seed: int) -> float:
    import torch

    from ....backbone.gated_attention import GatedAttentionConfig
    from ....backbone.gated_deltanet import GatedDeltaNetConfig
    from ....backbone.stack import StackConfig
    from .needles import Recaller, Task, accuracy, learn

    task = Task(needles, queries=min(needles, 32))
    gated = GatedAttentionConfig(heads=4, kv_heads=2, head_width=16)
    torch.manual_seed(seed)
    linear = GatedDeltaNetConfig(key_heads=2, value_heads=2, key_width=8, value_width=16)
    model = Recaller(task, StackConfig(64, pattern, ffn="mlp", ffn_width=128, gated=gated, gdn=linear))
    learn(model, task, args.steps, seed, rate=5e-3)
    return accuracy(model, task)
