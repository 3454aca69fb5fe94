"""Engram: a memory of n-grams, looked up by hash and let in by the context (DeepSeek, arXiv 2601.07372).

    e_t  = rows of the tables for the n-grams that end at t                            hashing.py
    a_s  = <g * rms(Wk_s e), rms(h_s)> / sqrt(D)                                       for every residual stream s
    V_s  = sigmoid(sign(a_s) sqrt(max(|a_s|, 1e-6))) Wv e
    h_s += V_s + silu(conv(rms(V_s)))                                                  before the layer's attention

The convolution is causal, depthwise, dilated by the longest n-gram, and starts at zero. Source: deepseek-ai/Engram's
demo and transformers' `Qwen4ExpTextPLELayer`, whose outputs these are. Notable choices: the gains of the key's and the
query's norm meet only as a product, and that of the convolution's norm only times its taps, so one of each is kept
(g, conv). V_s is a number times v, so rms(V_s) is one too and costs no pass over D. A continuous token (id -1) has no
memory, and no n-gram reaches across it. Left out: prefetching, memory in fp8, biases.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .hashing import NGramHash, compress
from .scope import Scope
from .short_conv import Tail, real_first, short_conv, take


@dataclass(frozen=True)
class EngramConfig:
    """Sizes of `Engram`."""

    vocabulary: int = 1024  # token ids, words and discrete actions together
    order: int = 3  # tokens of the longest n-gram; the shortest has 2
    heads: int = 4  # hashes for n-grams of one length
    rows: int = 4096  # of one head's table, at least: the next unused prime is taken
    head_width: int = 16  # channels of a row
    kernel: int = 4  # taps of the convolution
    seed: int = 0  # of the hashes


class EngramCache:
    """The last tokens, from which the next n-grams are made."""

    def __init__(self, *tails: Tail):
        self.tails = tails

    def snapshot(self) -> list[Tensor | None]:
        """What `roll_back` needs to return to this point."""
        return [tail.kept for tail in self.tails]

    def roll_back(self, mark: object) -> None:
        """Returns to the point at which the snapshot was made."""
        assert isinstance(mark, list)
        for tail, kept in zip(self.tails, mark, strict=True):
            tail.kept = kept


class Engram(nn.Module):
    """A memory of n-grams, read by hashing and added to the residual stream."""

    compressed: Tensor

    def __init__(self, width: int, cfg: EngramConfig, layer: int = 0, streams: int = 1):
        """layer: how many memories the model has before this one. streams n: of the residual (hyper-connections)."""
        super().__init__()
        self.streams, self.dilation = streams, cfg.order
        self.hash = NGramHash(cfg.vocabulary + 1, cfg.order, cfg.heads, cfg.rows, layer, cfg.seed)
        self.table = nn.Embedding(self.hash.rows, cfg.head_width)
        memory = (cfg.order - 1) * cfg.heads * cfg.head_width  # E
        self.key_proj = nn.Linear(memory, streams * width, bias=False)
        self.value_proj = nn.Linear(memory, width, bias=False)
        self.gate_gain = nn.Parameter(torch.zeros(streams, width))  # g = 1 + gate_gain
        self.conv = nn.Parameter(torch.zeros(cfg.kernel, streams * width))
        self.register_buffer("compressed", torch.arange(cfg.vocabulary))
        nn.init.normal_(self.table.weight, std=0.02)

    def read_vocabulary(self, pieces: Sequence[str]) -> None:
        """Ids whose pieces look alike share their memory from now on. Ids beyond the pieces stay by themselves."""
        self.compressed[: len(pieces)] = compress(pieces)

    def new_cache(self) -> EngramCache:
        """An empty cache, for decoding step by step."""
        return EngramCache(
            Tail(self.dilation - 1, fill=self.hash.nothing), Tail((len(self.conv) - 1) * self.dilation, fill=0)
        )

    def forward(self, x: Tensor, scope: Scope, cache: EngramCache | None = None) -> Tensor:
        """x (B, N, D), or (B, N, n, D) where there are streams -> what is to be added to it."""
        if scope.ids is None:
            raise ValueError("Engram: the scope has no ids; a continuous token's id is -1")
        B, N = scope.ids.shape
        streams, ids = x.reshape(B, N, self.streams, -1).float(), self._compress(scope.ids)
        cache = cache or self.new_cache()
        if scope.real is None:
            return self._recall(streams, ids, None, cache).view_as(x)
        order = real_first(scope.real)
        ids = ids.masked_fill(~scope.real, self.hash.nothing)
        added = self._recall(take(streams, order), take(ids, order), scope.real.sum(1), cache)
        return take(added, order.argsort(dim=1)).view_as(x)

    def _compress(self, ids: Tensor) -> Tensor:
        return self.compressed[ids.clamp(min=0)].masked_fill(ids < 0, self.hash.nothing)

    def _recall(self, streams: Tensor, ids: Tensor, counts: Tensor | None, cache: EngramCache) -> Tensor:
        """streams (B, N, n, D), compressed ids (B, N) -> (B, N, n, D)."""
        history, tail = cache.tails
        memory = self.table(self.hash(history.join(ids, counts))).flatten(-2)  # (B, N, E)
        discrete = (ids != self.hash.nothing)[..., None]
        value = self.value_proj(memory).float() * discrete
        keys = self.key_proj(memory).float().view_as(streams)
        gate = squashed(agreement(keys, streams, 1 + self.gate_gain))  # (B, N, n, 1)
        power = value.square().mean(-1)[..., None, None]
        unit = gate * (gate.square() * power + 1e-6).rsqrt()  # rms(V_s) = unit v
        joined = tail.join((unit * value[:, :, None]).flatten(-2), counts)
        local = short_conv(joined, self.conv.t()[:, None], self.dilation).view_as(streams)
        return torch.addcmul(local * discrete[..., None], gate, value[:, :, None])


def agreement(k: Tensor, q: Tensor, gain: Tensor) -> Tensor:
    """k and q (B, N, n, D), gain (n, D) -> <gain rms(k), rms(q)> / sqrt(D), (B, N, n, 1)."""
    product = ((gain * k) * q).sum(-1, keepdim=True)
    return product * inverse_rms(k) * inverse_rms(q) * k.shape[-1] ** -0.5


def inverse_rms(x: Tensor) -> Tensor:
    """x (..., D) -> (..., 1)."""
    return (torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1] + 1e-6).rsqrt()


def squashed(a: Tensor) -> Tensor:
    """Agreement -> gate. The root's slope would be infinite at 0: below 1e-6 the gate stands still."""
    return (a.sign() * a.abs().clamp(min=1e-6).sqrt()).sigmoid()


def memory_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The tables of a model's memories: a recipe gives them 5 times the learning rate and no weight decay (Engram).

    A row that no n-gram asked for has no gradient of its own. Decay would only forget it.
    """
    memories = (module for module in model.modules() if isinstance(module, Engram))
    return [table for memory in memories for table in memory.table.parameters()]
