"""Balancing experts by a bias alone (DeepSeek-V3): how busy the busiest expert is, and what it costs in loss.

Two language models of the same seed learn the standard library's source, whose tokens are as skewed as language's: one
moves its routing bias after every step, the other never does. Neither has an auxiliary loss. A load is that of one
layer in one step of a thousand tokens, a step counts with its worst layer: a mean over steps is never below the load of
those steps taken together. The first steps are left out: the router learns faster than the bias follows.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ....backbone.language_model import LanguageModel, LanguageModelConfig
    from .corpus import Corpus

RESULT = "backbone_papers"
WINDOW = 25  # steps


@dataclass(frozen=True)
class Args:
    """Flags of `tandem bench balance`."""

    rate: float = 1e-2  # step of the routing bias
    experts: int = 16
    top_k: int = 2
    layers: int = 3
    width: int = 96
    steps: int = 300
    batch: int = 16
    length: int = 64
    settled: float = 1 / 3  # share of the steps after which the load is to be even
    seeds: int = 5
    threads: int = 1
    publish: bool = False  # write docs/results/bench_balance.json and its headline to backbone_papers.json
    dry_run: bool = False


def measure(args: Args) -> dict[str, Any]:
    """Runs the measurement and returns its figures by name."""
    import torch

    from ..intervals import summary
    from .corpus import load

    torch.set_num_threads(args.threads)
    corpus = load(vocabulary=1024, characters=1_000_000)
    runs = {
        name: [_run(args, rate, corpus, seed) for seed in range(args.seeds)]
        for name, rate in (("bias", args.rate), ("none", 0.0))
    }
    worse = [ours["loss"] - other["loss"] for ours, other in zip(runs["bias"], runs["none"], strict=True)]
    figures = {name: {key: summary([run[key] for run in each]) for key in each[0]} for name, each in runs.items()}
    return {**figures, "loss_difference": summary(worse)}


def headline(metrics: dict[str, Any]) -> dict[str, Any]:
    """The figures of this topic in the table that the topics of papers share."""
    return {
        "busiest_expert_ratio": metrics["bias"]["busiest"]["mean"],
    }


def config(args: Args, rate: float, vocabulary: int) -> "LanguageModelConfig":
    from ....backbone.gated_attention import GatedAttentionConfig
    from ....backbone.language_model import LanguageModelConfig
    from ....backbone.moe import MoEConfig
    from ....backbone.stack import StackConfig

    moe = MoEConfig(args.experts, args.top_k, expert_width=48, balance_rate=rate)
    gated = GatedAttentionConfig(args.width // 24, args.width // 48, head_width=24)
    return LanguageModelConfig(
        vocabulary, StackConfig(args.width, "gated", args.layers, gated=gated, moe=moe), mtp_depth=0
    )


def _run(args: Args, rate: float, corpus: "Corpus", seed: int) -> dict[str, float]:
    """Busiest load over the mean once settled: over all steps, in the worst window and step. And held-out loss."""
    import torch

    from ....backbone.language_model import LanguageModel

    torch.manual_seed(seed)
    model = LanguageModel(config(args, rate, len(corpus.words)))
    loads = _learn(model, corpus, args, seed)[int(args.settled * args.steps) :]
    result = {
        "busiest": sum(loads) / len(loads),
        "busiest_window": max(sum(loads[i : i + WINDOW]) / WINDOW for i in range(max(1, len(loads) - WINDOW + 1))),
        "busiest_step": max(loads),
        "steps_below_2": sum(load < 2 for load in loads) / len(loads),
        "loss": _held_out_loss(model.eval(), corpus, args),
    }
    print(f"rate {rate:g}, seed {seed}: " + ", ".join(f"{key} {value:.3f}" for key, value in result.items()))
    return result


def _learn(model: "LanguageModel", corpus: "Corpus", args: Args, seed: int, rate: float = 3e-3) -> list[float]:
    """The worst layer's busiest-to-mean load of every step."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=args.steps, pct_start=0.1)
    loads = []
    for _ in range(args.steps):
        loss = model.loss(corpus.batch(corpus.train, args.batch, args.length, generator))["total"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        loads.append(model.balance())
    return loads


def _held_out_loss(model: "LanguageModel", corpus: "Corpus", args: Args, batches: int = 20) -> float:
    """Nats a token, on the same windows for every model."""
    import torch

    generator = torch.Generator().manual_seed(1_000_000)
    with torch.no_grad():
        parts = [corpus.batch(corpus.held_out, args.batch, args.length, generator) for _ in range(batches)]
        return float(torch.stack([model.loss(part)["lm"] for part in parts]).mean())
