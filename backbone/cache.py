"""What a layer remembers between calls, with one interface for every kind of layer.

`StackCache` holds one `LayerCache` per layer. Calling a stack with a cache appends (prefill and step are the same call,
with many tokens or one); `snapshot` marks a point and `roll_back` returns to it, which speculative decoding needs.
A recurrent layer would snapshot its state; attention only has to remember a length.
"""

from typing import Protocol

import torch
from torch import Tensor


class LayerCache(Protocol):
    def snapshot(self) -> object: ...
    def roll_back(self, mark: object) -> None: ...


class KeyValueCache:
    """Keys and values of all tokens so far, (B, heads, N, d) each."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if self.keys is not None and self.values is not None:
            keys, values = torch.cat([self.keys, keys], 2), torch.cat([self.values, values], 2)
        self.keys, self.values = keys, values
        return keys, values

    def snapshot(self) -> int:
        return 0 if self.keys is None else self.keys.shape[2]

    def roll_back(self, mark: object) -> None:
        assert isinstance(mark, int)
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[:, :, :mark], self.values[:, :, :mark]


class StackCache:
    def __init__(self, layers: list[LayerCache]):
        self.layers = layers
        self.length = 0  # tokens so far

    def snapshot(self) -> tuple[int, list[object]]:
        return self.length, [layer.snapshot() for layer in self.layers]

    def roll_back(self, mark: tuple[int, list[object]]) -> None:
        self.length = mark[0]
        for layer, own in zip(self.layers, mark[1], strict=True):
            layer.roll_back(own)
