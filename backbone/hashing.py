"""Which rows of a memory an n-gram of tokens belongs to: compressed ids, then one hash for each length and head.

    mix_2 = x_t m_0 ^ x_{t-1} m_1,   mix_n = mix_{n-1} ^ x_{t-n+1} m_{n-1}           x: compressed ids, m: odd int64
    row of head h for length n = mix_n mod p_{n,h} + offset_{n,h}                    p: distinct primes

Source: Engram (arXiv 2601.07372, engram_demo_v1.py of deepseek-ai/Engram) and `Qwen4ExpTextNGramEmbedding` of
transformers, whose rows these are. Notable choices: multipliers come from splitmix64, which is the same everywhere, and
are small enough that no product overflows. The token that stands for "nothing here" is an id of its own. An n-gram ends
at that token: what lies behind it counts as nothing too. Left out: tables on disk, fetched ahead of the forward pass.
"""

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import count, islice

import torch
from torch import Tensor, nn


def surface(piece: str) -> str:
    """What a piece of text looks like at a glance: ' Café\\n' and 'cafe' share one surface."""
    letters = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", piece))
    plain = "".join(letter for letter in letters if unicodedata.category(letter)[0] != "M").lower()
    spaced = re.sub(r"\s+", " ", plain)
    return spaced.strip() or spaced or piece


def compress(pieces: Sequence[str]) -> Tensor:
    """The vocabulary's pieces -> id map (V,) int64: pieces of one surface share an id, counted up from 0.

    A piece that is no text by itself (it holds the replacement character) keeps an id of its own.
    """
    known: dict[str | int, int] = {}
    keys = (i if "\N{REPLACEMENT CHARACTER}" in piece else surface(piece) for i, piece in enumerate(pieces))
    return torch.tensor([known.setdefault(key, len(known)) for key in keys], dtype=torch.int64)


def ngrams(ids: Tensor, order: int, nothing: int) -> list[Tensor]:
    """ids (B, order - 1 + N), the first order - 1 being history -> tokens at distance 0 .. order - 1, (B, N) each.

    Example, order 3, nothing = 9:  9 9 | 4 5 9 6 7  ->  4 5 9 6 7,  9 4 9 9 6,  9 9 9 9 9: 7 sees 6, not past the 9.
    """
    N = ids.shape[1] - order + 1
    tokens = [ids[:, order - 1 :]]
    for distance in range(1, order):
        start = order - 1 - distance
        tokens.append(ids[:, start : start + N].masked_fill(tokens[-1] == nothing, nothing))
    return tokens


class NGramHash(nn.Module):
    """Rows for every length 2 .. order and every head. `layer` counts the memories of a model: no two share a prime."""

    multipliers: Tensor
    sizes: Tensor
    offsets: Tensor

    def __init__(self, ids: int, order: int, heads: int, rows: int, layer: int, seed: int):
        """ids: how many there are, nothing included.
        rows: of one head, at least."""
        super().__init__()
        self.order, self.nothing = order, ids - 1
        total = (order - 1) * heads
        sizes = list(islice(primes(rows), layer * total, (layer + 1) * total))
        self.rows = sum(sizes)
        offsets = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        self.register_buffer("multipliers", multipliers(ids, order, seed + 10_007 * layer), persistent=False)
        self.register_buffer("sizes", torch.tensor(sizes).view(order - 1, heads), persistent=False)
        self.register_buffer("offsets", offsets.view(order - 1, heads), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, order - 1 + N) -> rows (B, N, (order - 1) * heads)."""
        tokens = ngrams(ids, self.order, self.nothing)
        mixed, rows = tokens[0] * self.multipliers[0], []
        for n in range(1, self.order):
            mixed = mixed ^ (tokens[n] * self.multipliers[n])
            rows.append(mixed[..., None].remainder(self.sizes[n - 1]) + self.offsets[n - 1])
        return torch.cat(rows, dim=-1)


def multipliers(ids: int, order: int, seed: int) -> Tensor:
    """Odd, (order,) int64, and at most 2^63 / ids: no id's product leaves the positive numbers."""
    half = max(1, (2**63 - 1) // ids // 2)
    numbers = (2 * (splitmix64(seed + _GAMMA * (i + 1)) % half) + 1 for i in range(order))
    return torch.tensor(list(numbers), dtype=torch.int64)


_GAMMA = 0x9E3779B97F4A7C15


def splitmix64(state: int) -> int:
    """One output of Vigna's generator for this state, modulo 2^64."""
    word = 2**64 - 1
    z = (state + _GAMMA) & word
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & word
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
    return z ^ (z >> 31)


def primes(start: int) -> Iterator[int]:
    """start or above, ascending, without end."""
    return (n for n in count(max(2, start)) if all(n % d for d in range(2, math.isqrt(n) + 1)))
