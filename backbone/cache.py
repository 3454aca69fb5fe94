"""What a layer remembers between calls, with one interface for every kind of layer.

Calling a layer with its cache appends: prefill and step are the same call, with many tokens or one. `snapshot` marks a
point and `roll_back` returns to it, which speculative decoding needs. Attention only has to remember a length. A
recurrent layer keeps the state itself. `StackCache` holds one `LayerCache` for every part of a stack that remembers.
Caches are for inference: no gradient flows through what they hold.
"""

from typing import Protocol

from torch import Tensor


class LayerCache(Protocol):
    """What a layer keeps of earlier tokens."""

    def snapshot(self) -> object:
        """What `roll_back` needs to return to this point."""

    def roll_back(self, mark: object) -> None:
        """Returns to the point at which the snapshot was made."""


class Growing:
    """A tensor that grows along one dimension. Room doubles, so that a step copies no history."""

    def __init__(self, dim: int):
        self.dim, self.length = dim, 0
        self.room: Tensor | None = None

    def append(self, new: Tensor) -> Tensor:
        """Returns everything so far."""
        end = self.length + new.shape[self.dim]
        if self.room is None or self.room.shape[self.dim] < end:
            self._make_room(new, end)
        assert self.room is not None
        self.room.narrow(self.dim, self.length, new.shape[self.dim]).copy_(new.detach())
        self.length = end
        return self.room.narrow(self.dim, 0, end)

    def _make_room(self, new: Tensor, end: int) -> None:
        shape = list(new.shape)
        shape[self.dim] = end if self.room is None else max(end, 2 * self.room.shape[self.dim])
        room = new.new_empty(shape)
        if self.room is not None:
            room.narrow(self.dim, 0, self.length).copy_(self.room.narrow(self.dim, 0, self.length))
        self.room = room


class TokenCache:
    """Per token tensors of one layer, each growing along its own dimension (keys and values, latents, index keys)."""

    def __init__(self, *dims: int):
        self.parts = [Growing(dim) for dim in dims]

    def append(self, *new: Tensor) -> tuple[Tensor, ...]:
        """Adds the newest tokens and returns all of them."""
        return tuple(part.append(tensor) for part, tensor in zip(self.parts, new, strict=True))

    def snapshot(self) -> int:
        """What `roll_back` needs to return to this point."""
        return self.parts[0].length

    def roll_back(self, mark: object) -> None:
        """Returns to the point at which the snapshot was made."""
        assert isinstance(mark, int)
        for part in self.parts:
            part.length = min(mark, part.length)


class KeyValueCache(TokenCache):
    """Keys and values of all tokens so far, (B, heads, N, d) each."""

    def __init__(self) -> None:
        super().__init__(2, 2)


class StackCache:
    """`layers`: every mixer's cache, in order. `memories`: those of the layers that have an n-gram memory, by index."""

    def __init__(self, layers: list[LayerCache], memories: dict[int, LayerCache] | None = None):
        self.layers, self.memories = layers, memories or {}
        self.length = 0  # tokens so far

    def snapshot(self) -> tuple[int, list[object]]:
        """What `roll_back` needs to return to this point."""
        return self.length, [part.snapshot() for part in self._parts()]

    def roll_back(self, mark: tuple[int, list[object]]) -> None:
        """Returns to the point at which the snapshot was made."""
        self.length = mark[0]
        for part, own in zip(self._parts(), mark[1], strict=True):
            part.roll_back(own)

    def _parts(self) -> list[LayerCache]:
        return [*self.layers, *self.memories.values()]
