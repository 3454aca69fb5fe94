"""Greedy decoding, and the same tokens in fewer calls: multi-token prediction drafts, the trunk verifies (DeepSeek-V3).

    round    the drafter guesses d1 .. dD behind the newest token t; the trunk reads [t, d1 .. dD] in one call;
             the longest prefix of drafts that equals its own choices is accepted, and its choice behind that is free

Rejected drafts must leave the caches. Attention could cut its cache anywhere, but a recurrent state only returns to a
snapshot: so the snapshot is taken before the verification, a rejection rolls back to it, and the accepted tokens are
simply read again in front of the next round's. That costs a few rows instead of a call. Should rejections follow one
another, `REPLAY` bounds what is read again: then the tokens are read for good, in a call of their own.

Written against `Decoder` and `Drafter`: a language model, or a planner that speaks over a cached prefix. One sequence,
B = 1. Left out: sampling (accept d with probability min(1, p/q)).
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

REPLAY = 6  # tokens that are read again at most


class Drafter(Protocol):
    def draft(self, hidden: Tensor, following: Tensor) -> Tensor:
        """States (1, M, D) of the tokens that were accepted since the last call, and the token behind each, (1, M) ->
        guesses (1, depth) of what follows the newest of them."""
        ...


class Decoder(Protocol):
    """What can be decoded speculatively."""

    def new_cache(self) -> Any:
        """An empty cache, for decoding step by step."""
        ...  # with snapshot() and roll_back(mark)

    def step(self, ids: Tensor, cache: Any) -> tuple[Tensor, Tensor]:
        """ids (1, N), appended to the cache -> states (1, N, D) and logits (1, N, vocabulary)."""
        ...

    def drafter(self) -> Drafter:
        """What proposes the next tokens for speculative decoding, or None."""


@dataclass
class Statistics:
    """How many drafted tokens were kept."""

    drafted: int = 0  # tokens guessed
    accepted: int = 0  # of them confirmed by the trunk
    trunk_calls: int = 0  # the prompt's is one of them

    def count(self, drafted: int, accepted: int) -> None:
        """A verification."""
        self.drafted += drafted
        self.accepted += accepted
        self.trunk_calls += 1


@torch.no_grad()
def greedy(model: Decoder, ids: Tensor, count: int, cache: Any = None, end: int | None = None) -> Tensor:
    """ids (1, N), read behind what is in `cache` -> the next tokens (1, count), or fewer, up to `end` included."""
    cache = model.new_cache() if cache is None else cache
    tokens = newest = model.step(ids, cache)[1][:, -1:].argmax(-1)
    while tokens.shape[1] < count and int(newest) != end:
        newest = model.step(newest, cache)[1].argmax(-1)
        tokens = torch.cat([tokens, newest], dim=1)
    return tokens


@torch.no_grad()
def speculative(
    model: Decoder, ids: Tensor, count: int, cache: Any = None, end: int | None = None
) -> tuple[Tensor, Statistics]:
    """As `greedy`, token for token, and what it took."""
    cache, drafter = model.new_cache() if cache is None else cache, model.drafter()
    states, logits = model.step(ids, cache)
    tokens = pending = logits[:, -1:].argmax(-1)  # pending: known, but not in the cache for good
    new, taken = torch.cat([ids[:, 1:], pending], dim=1), Statistics(trunk_calls=1)
    while tokens.shape[1] < count and end not in tokens[0].tolist():
        if pending.shape[1] > REPLAY:
            model.step(pending[:, :-1], cache)
            pending = pending[:, -1:]
            taken.trunk_calls += 1
        drafts = drafter.draft(states, new)
        states, new, pending = _verify(model, cache, pending, drafts)
        tokens = torch.cat([tokens, new], dim=1)
        taken.count(drafts.shape[1], new.shape[1] - 1)
    return _cut(tokens[:, :count], end), taken


def _verify(model: Decoder, cache: Any, pending: Tensor, drafts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """-> the newest tokens (1, M), the states that chose them (1, M, D), and what the cache still has to read."""
    mark, first, depth = cache.snapshot(), pending.shape[1] - 1, drafts.shape[1]
    hidden, logits = model.step(torch.cat([pending, drafts], dim=1), cache)
    choices = logits[:, first:].argmax(-1)  # (1, depth + 1), the trunk's own
    accepted = int((drafts == choices[:, :-1]).cumprod(1).sum())
    new, states = choices[:, : accepted + 1], hidden[:, first : first + accepted + 1]
    if accepted == depth:
        return states, new, new[:, -1:]
    cache.roll_back(mark)
    return states, new, torch.cat([pending, new], dim=1)


def _cut(tokens: Tensor, end: int | None) -> Tensor:
    """Up to the first `end`, included."""
    row = tokens[0].tolist()
    return tokens[:, : row.index(end) + 1] if end in row else tokens
