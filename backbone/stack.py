"""A transformer assembled from a pattern: pre-norm mixers and pre-norm feed-forward layers on residual streams.

    StackConfig(256, "gdn gdn gdn dsa", repeats=2, ffn="moe", streams=2, engram=(1,))

`MIXERS`, `FFNS` and `backbone.hyper_connections.RESIDUALS` are plain dictionaries from a name to a factory: a new layer
type is one file, one entry, and one field for its sizes. A mixer is called as mixer(x, scope, cache) and offers
`new_cache()`. With several streams the state between layers is (B, N, n, D): every sublayer reads a mix of the streams
and writes to all of them. One stream is the plain residual.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from .attention import Attention, AttentionConfig
from .cache import LayerCache, StackCache
from .dsa import DSAConfig, SparseAttention
from .engram import Engram, EngramConfig
from .feed_forward import SwiGLU
from .gated_attention import GatedAttention, GatedAttentionConfig
from .gated_deltanet import GatedDeltaNet, GatedDeltaNetConfig
from .hyper_connections import RESIDUALS, Collapse, HyperConfig, PlainResidual, expand
from .mla import LatentAttention, MLAConfig
from .moe import MixtureOfExperts, MoEConfig
from .norms import ZeroCentredRMSNorm
from .scope import Scope


@dataclass(frozen=True)
class StackConfig:
    """Layers of a stack and their sizes."""

    width: int = 192  # D
    pattern: str = "gated gated gated"  # one mixer a layer, by name (MIXERS)
    repeats: int = 1  # of the pattern
    ffn: str = "moe"  # feed-forward layer by name (FFNS): one for all layers, or one a layer
    ffn_width: int = 512  # hidden width of a dense feed-forward layer
    streams: int = 1  # n, of the residual
    residual: str = "mhc"  # how several streams mix, by name (RESIDUALS)
    engram: tuple[int, ...] = ()  # layers that begin with an n-gram memory
    attn: AttentionConfig = field(default_factory=AttentionConfig)
    gated: GatedAttentionConfig = field(default_factory=GatedAttentionConfig)
    gdn: GatedDeltaNetConfig = field(default_factory=GatedDeltaNetConfig)
    mla: MLAConfig = field(default_factory=MLAConfig)
    dsa: DSAConfig = field(default_factory=DSAConfig)
    moe: MoEConfig = field(default_factory=MoEConfig)
    memory: EngramConfig = field(default_factory=EngramConfig)
    hyper: HyperConfig = field(default_factory=HyperConfig)

    @property
    def mixers(self) -> list[str]:
        """The mixer of every layer, by name."""
        return self.pattern.split() * self.repeats

    @property
    def ffns(self) -> list[str]:
        """The feed-forward layer of every layer, by name."""
        names = self.ffn.split()
        return names * len(self.mixers) if len(names) == 1 else names


class Mixer(Protocol):
    """What a layer type must offer. It is an nn.Module too."""

    def new_cache(self) -> LayerCache:
        """An empty cache, for decoding step by step."""

    def __call__(self, x: Tensor, scope: Scope, cache: Any) -> Tensor: ...


MIXERS: dict[str, Callable[[StackConfig], nn.Module]] = {
    "attn": lambda cfg: Attention(cfg.width, cfg.attn),
    "gated": lambda cfg: GatedAttention(cfg.width, cfg.gated),
    "gdn": lambda cfg: GatedDeltaNet(cfg.width, cfg.gdn),
    "mla": lambda cfg: LatentAttention(cfg.width, cfg.mla),
    "dsa": lambda cfg: SparseAttention(cfg.width, cfg.dsa),
}
FFNS: dict[str, Callable[[StackConfig], nn.Module]] = {
    "moe": lambda cfg: MixtureOfExperts(cfg.width, cfg.moe),
    "mlp": lambda cfg: SwiGLU(cfg.width, cfg.ffn_width),
}


class Layer(nn.Module):
    """A mixer and a feed-forward layer, each in its residual."""

    def __init__(self, index: int, mixer: str, ffn: str, cfg: StackConfig):
        super().__init__()
        self.around_mixer, self.around_ffn = _residual(cfg, 2 * index), _residual(cfg, 2 * index + 1)
        self.mixer_norm, self.ffn_norm = ZeroCentredRMSNorm(cfg.width), ZeroCentredRMSNorm(cfg.width)
        self.mixer, self.ffn = MIXERS[mixer](cfg), FFNS[ffn](cfg)

    def forward(self, x: Tensor, scope: Scope, cache: LayerCache | None) -> Tensor:
        """x (B, N, D), or (B, N, n, D) with several streams."""
        x = self.around_mixer(x, lambda u: self.mixer(self.mixer_norm(u), scope, cache))
        return self.around_ffn(x, lambda u: self.ffn(self.ffn_norm(u)))


def _residual(cfg: StackConfig, sublayer: int) -> nn.Module:
    if cfg.streams == 1:
        return PlainResidual()
    return RESIDUALS[cfg.residual](cfg.width, cfg.streams, cfg.hyper, sublayer)


@runtime_checkable
class OwnWeights(Protocol):
    """A layer with initial values of its own: they are set after those below, and stay."""

    def init_weights(self) -> None:
        """Sets them."""


class Stack(nn.Module):
    """Layers by pattern, between which the state is (B, N, D) or (B, N, n, D)."""

    def __init__(self, cfg: StackConfig):
        super().__init__()
        _check(cfg)
        kinds = enumerate(zip(cfg.mixers, cfg.ffns, strict=True))
        self.layers = nn.ModuleList(Layer(i, mixer, ffn, cfg) for i, (mixer, ffn) in kinds)
        memories = {str(i): Engram(cfg.width, cfg.memory, k, cfg.streams) for k, i in enumerate(cfg.engram)}
        self.memories, self.streams = nn.ModuleDict(memories), cfg.streams
        self.collapse = Collapse(cfg.width, cfg.streams, cfg.hyper) if cfg.streams > 1 else nn.Identity()
        self.norm = ZeroCentredRMSNorm(cfg.width)
        init_weights(self)

    def new_cache(self) -> StackCache:
        """An empty cache, for decoding step by step."""
        mixers = [cast(Mixer, layer.mixer).new_cache() for layer in self.layers]
        return StackCache(mixers, {int(i): cast(Engram, memory).new_cache() for i, memory in self.memories.items()})

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        cache: StackCache | None = None,
        real: Tensor | None = None,
        ids: Tensor | None = None,
    ) -> Tensor:
        """x (B, N, D), the tokens after those in `cache` -> (B, N, D), after the last norm.

        mask bool, (N, N_total), (B, N, N_total) or broadcastable to (B, heads, N, N_total): True where a row may see a
        column. None: causal. Every row must see something. real, ids: see Scope.
        """
        N, past = x.shape[1], 0 if cache is None else cache.length
        if mask is not None and mask.dim() == 3:  # by broadcasting alone, B would be taken for the heads
            mask = mask[:, None]
        scope = Scope(torch.arange(past, past + N, device=x.device), past, mask, real, ids)
        if self.streams > 1:
            x = expand(x, self.streams)
        for i, layer in enumerate(self.layers):
            if str(i) in self.memories:
                x = x + self.memories[str(i)](x, scope, None if cache is None else cache.memories[i])
            x = layer(x, scope, None if cache is None else cache.layers[i])
        if cache is not None:
            cache.length += N
        return self.norm(self.collapse(x))

    def balance(self) -> float:
        """Balances every mixture of experts after an optimiser step. Returns the worst busiest-to-mean load."""
        loads = [layer.ffn.balance() for layer in self.layers if isinstance(layer.ffn, MixtureOfExperts)]
        return max(loads, default=1.0)


def _check(cfg: StackConfig) -> None:
    for names, known in ((cfg.mixers, MIXERS), (cfg.ffns, FFNS), ([cfg.residual], RESIDUALS)):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"stack: unknown layer {unknown[0]!r}; known: {', '.join(known)}")
    if len(cfg.ffns) != len(cfg.mixers):
        raise ValueError(
            f"stack: {len(cfg.ffns)} feed-forward layers for {len(cfg.mixers)} mixers; name one, or as many"
        )
    if any(not 0 <= i < len(cfg.mixers) for i in cfg.engram):
        raise ValueError(f"stack: engram names layers {cfg.engram}; there are {len(cfg.mixers)}")


def init_weights(model: nn.Module) -> None:
    """Every initial value of a stack. Blocks keep what is not named here.

    | parameter                              | value                                                              |
    |----------------------------------------|--------------------------------------------------------------------|
    | linear and expert weights              | N(0, 0.02)                                                         |
    | latent attention, from latent to heads | N(0, 1 / rank): at 0.02 a small rank's logits are flat, and stay   |
    | zero-centred norm weights              | 0                                                                  |
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, MixtureOfExperts):
            nn.init.normal_(module.gate_up, std=0.02)
            nn.init.normal_(module.down, std=0.02)
    for module in model.modules():
        if isinstance(module, LatentAttention):
            for projection in (module.q_b_proj, module.kv_b_proj):
                nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
    for module in model.modules():
        if isinstance(module, OwnWeights):
            module.init_weights()
