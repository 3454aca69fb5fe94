"""Engram's allocation law, small: at equal total parameters, held-out loss against the share of an n-gram memory.

The parameters beyond attention, embedding and one shared expert are divided: a share goes to the memory's tables, the
rest to routed experts. 0 is a plain mixture of experts, 1 has no routed experts. The text is the standard library's
source. arXiv 2601.07372 reports a U with its minimum at 20 to 25% memory.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ....backbone.language_model import LanguageModel, LanguageModelConfig
    from .corpus import Corpus

RESULT = "backbone_papers"


@dataclass(frozen=True)
class Args:
    """Flags of `tandem bench engram`."""

    shares: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    seeds: int = 3
    steps: int = 600
    experts: int = 24  # a layer, where the memory's share is 0
    layers: int = 3
    width: int = 96
    threads: int = 1
    publish: bool = False  # write docs/results/bench_engram.json and its headline to backbone_papers.json
    dry_run: bool = False


def measure(args: Args) -> dict[str, Any]:
    """Runs the measurement and returns its figures by name."""
    import torch

    from ..intervals import summary
    from .corpus import load

    torch.set_num_threads(args.threads)
    corpus = load()
    losses: dict[str, Any] = {}
    parameters = {}
    for share in args.shares:
        cfg = at_share(args, share, len(corpus.words))
        runs = [_held_out_loss(cfg, corpus, args.steps, seed) for seed in range(args.seeds)]
        losses[f"{share:g}"] = summary([loss for loss, _ in runs])
        parameters[f"{share:g}"] = runs[0][1]
        print(f"memory {share:4.0%}: held-out loss {losses[f'{share:g}']['mean']:.4f}, {runs[0][1]:,} parameters")
    best = min(losses, key=lambda share: losses[share]["mean"])
    return {"engram_best_share": float(best), "loss": losses, "parameters": parameters}


def headline(metrics: dict[str, Any]) -> dict[str, Any]:
    """The figures of this topic in the table that the topics of papers share."""
    return {"engram_best_share": metrics["engram_best_share"]}


def at_share(args: Args, share: float, vocabulary: int) -> "LanguageModelConfig":
    """The language model whose memory has that share. All shares have the same number of parameters, to 1%."""
    from dataclasses import replace

    from ....backbone.engram import EngramConfig
    from ....backbone.gated_attention import GatedAttentionConfig
    from ....backbone.language_model import LanguageModel, LanguageModelConfig
    from ....backbone.moe import MoEConfig
    from ....backbone.stack import StackConfig

    def sized(experts: int, rows: int) -> LanguageModelConfig:
        stack = StackConfig(
            width=args.width,
            pattern="gated",
            repeats=args.layers,
            ffn="moe" if experts else "mlp",
            ffn_width=64,
            gated=GatedAttentionConfig(heads=4, kv_heads=2, head_width=24),
            moe=MoEConfig(experts=max(experts, 2), top_k=2, expert_width=64),
            engram=(1,) if rows else (),
            memory=EngramConfig(vocabulary=vocabulary, heads=4, rows=max(rows, 16), head_width=16),
        )
        return LanguageModelConfig(vocabulary, stack, mtp_depth=0)

    def size(cfg: LanguageModelConfig) -> int:
        return sum(p.numel() for p in LanguageModel(cfg).parameters())

    full = sized(args.experts, 0)
    if share == 0:
        return full
    left = sized(round(args.experts * (1 - share)), 16)
    memory = left.stack.memory
    per_row = (memory.order - 1) * memory.heads * memory.head_width
    rows = 16 + (size(full) - size(left)) // per_row
    return replace(left, stack=replace(left.stack, memory=replace(memory, rows=rows)))


def _held_out_loss(cfg: "LanguageModelConfig", corpus: "Corpus", steps: int, seed: int) -> tuple[float, int]:
    """Nats a token on text that training never saw, and the number of parameters."""
    import torch

    from ....backbone.language_model import LanguageModel

    torch.manual_seed(seed)
    model, generator = LanguageModel(cfg), torch.Generator().manual_seed(seed)
    for memory in model.stack.memories.values():
        memory.read_vocabulary(corpus.words)  # type: ignore[operator]
    _learn(model, corpus, steps, generator)
    model.eval()
    generator.manual_seed(1_000_000)  # the same held-out windows for every model
    with torch.no_grad():
        losses = [model.loss(corpus.batch(corpus.held_out, 32, 128, generator))["lm"] for _ in range(12)]
    return float(torch.stack(losses).mean()), sum(p.numel() for p in model.parameters())


def _learn(model: "LanguageModel", corpus: "Corpus", steps: int, generator: Any, rate: float = 3e-3) -> None:
    """AdamW. The memory's tables at five times the rate and without decay, as the paper has them."""
    import torch
    from diffusers.optimization import get_scheduler

    from ....backbone.engram import memory_parameters

    tables = memory_parameters(model)
    rest = [p for p in model.parameters() if not any(p is table for table in tables)]
    groups = [{"params": rest, "lr": rate}, {"params": tables, "lr": 5 * rate, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.02)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=steps // 10, num_training_steps=steps)
    for _ in range(steps):
        loss = model.loss(corpus.batch(corpus.train, 16, 128, generator))["total"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        optimizer.step()
        schedule.step()
        model.balance()
