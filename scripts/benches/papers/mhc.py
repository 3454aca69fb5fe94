"""Signal gain of a deep stack: residual streams mixed freely (HC) beside doubly stochastic mixing (mHC), small.

The gain is mHC's "Amax gain magnitude" (arXiv 2512.24880, section 3.1): of the product of all residual mappings of a
stack, the largest absolute row sum (what forward signals can grow by) or column sum (gradients), a mean over tokens.
A layer is one residual connection: attention and feed-forward count apart, as in the paper. There, at 27B parameters
and 4 streams, HC reaches about 3000 and mHC 1.6.

Two forms. Trained: language models on the standard library's source, mixing matrices of held-out text. HC's gain
depends on how far training goes, hence two learning rates. Drawn: no training, noise of a stated size on the static
mixing parameters of fresh connections.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from ....backbone.language_model import LanguageModel
    from .corpus import Corpus

RESULT = "backbone_papers"


@dataclass(frozen=True)
class Args:
    """Flags of `tandem bench mhc`."""

    layers: int = 64  # residual connections: half around attention, half around feed-forward layers
    width: int = 32
    streams: int = 4
    seeds: int = 5
    steps: int = 100
    rates: tuple[float, ...] = (3e-3, 1e-3)  # of AdamW; the headline is at the first
    noise: tuple[float, ...] = (0.1, 0.2)  # standard deviations of the drawn form
    threads: int = 1
    publish: bool = False  # write docs/results/bench_mhc.json and its headline to backbone_papers.json
    dry_run: bool = False


def measure(args: Args) -> dict[str, Any]:
    """Runs the measurement and returns its figures by name."""
    import torch

    from ..intervals import summary
    from .corpus import load

    torch.set_num_threads(args.threads)
    seeds, corpus = range(args.seeds), load(512, 300_000)
    trained: dict[str, Any] = {}
    for kind in ("hc", "mhc"):
        for rate in args.rates:
            runs = [_trained(args, kind, rate, corpus, seed) for seed in seeds]
            name = f"{kind}_rate_{rate:g}"
            trained[name] = {key: summary([run[key] for run in runs]) for key in runs[0]}
            print(f"{name}: gain {trained[name]['gain']['mean']:.3g}, loss {trained[name]['loss']['mean']:.3f}")
    drawn = {
        f"{kind}_noise_{std:g}": summary([_drawn(args, kind, std, seed) for seed in seeds])
        for kind in ("hc", "mhc", "mhc-sinkhorn")
        for std in args.noise
    }
    first = {f"{kind}_gain": trained[f"{kind}_rate_{args.rates[0]:g}"]["gain"] for kind in ("hc", "mhc")}
    return {**first, "trained": trained, "drawn": drawn}


def headline(metrics: dict[str, Any]) -> dict[str, Any]:
    """The figures of this topic in the table that the topics of papers share."""
    return {f"{kind}_gain": metrics[f"{kind}_gain"]["mean"] for kind in ("hc", "mhc")}


def gains(mixes: "list[Tensor]") -> dict[str, float]:
    """mixes (T, n, n), X' = mix X, first layer first -> forward and backward gain, and the larger of the two."""
    import torch

    product = torch.eye(mixes[0].shape[-1])
    for mix in mixes:
        product = mix @ product
    forward, backward = (float(product.abs().sum(axis).amax(-1).mean()) for axis in (-1, -2))
    return {"forward": forward, "backward": backward, "gain": max(forward, backward)}


def _drawn(args: Args, kind: str, std: float, seed: int) -> float:
    import torch

    from ....backbone.hyper_connections import RESIDUALS, HyperConfig

    torch.manual_seed(seed)
    mixes = []
    with torch.no_grad():
        for layer in range(args.layers):
            connection: Any = RESIDUALS[kind](args.width, args.streams, HyperConfig(), layer)
            connection.base += std * torch.randn_like(connection.base)
            mixes.append(connection.weights(torch.randn(64, args.streams, args.width)).mix)
    return gains(mixes)["gain"]


def _trained(args: Args, kind: str, rate: float, corpus: "Corpus", seed: int) -> dict[str, float]:
    import torch

    torch.manual_seed(seed)
    model, generator = _model(args, kind, len(corpus.words)), torch.Generator().manual_seed(seed)
    _learn(model, corpus, args.steps, rate, generator)
    held_out = corpus.batch(corpus.held_out, 32, 32, generator.manual_seed(1_000_000))  # the same text for every model
    mixes = _record_mixes(model)
    with torch.no_grad():
        loss = float(model.loss(held_out)["total"])
    return {**gains(mixes), "loss": loss}


def _model(args: Args, kind: str, vocabulary: int) -> "LanguageModel":
    from ....backbone.gated_attention import GatedAttentionConfig
    from ....backbone.language_model import LanguageModel, LanguageModelConfig
    from ....backbone.stack import StackConfig

    stack = StackConfig(
        width=args.width,
        pattern="gated",
        repeats=args.layers // 2,
        ffn="mlp",
        ffn_width=2 * args.width,
        gated=GatedAttentionConfig(heads=2, kv_heads=1, head_width=16),
        streams=args.streams,
        residual=kind,
    )
    return LanguageModel(LanguageModelConfig(vocabulary, stack, mtp_depth=0))


def _learn(model: "LanguageModel", corpus: "Corpus", steps: int, rate: float, generator: Any) -> None:
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=max(0.1, 2 / steps))
    for _ in range(steps):
        loss = model.loss(corpus.batch(corpus.train, 8, 32, generator))["total"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _record_mixes(model: "LanguageModel") -> "list[Tensor]":
    """Filled by the next forward pass, in the order of the layers."""
    from ....backbone.hyper_connections import HyperConnection, ManifoldHyperConnection

    mixes: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, ManifoldHyperConnection | HyperConnection):
            module.register_forward_pre_hook(
                lambda connection, inputs: mixes.append(connection.weights(inputs[0].flatten(0, 1)).mix)
            )
    return mixes
