"""Laws that every mixer obeys, for the tests of each; a mixer is called as layer(x, scope, cache)."""

import torch
from tandem.backbone.scope import scope
from torch import Tensor, nn

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
WIDTH = 32  # D of the layers under test


def shaken(module: nn.Module) -> nn.Module:
    """Weights large enough that every path matters."""
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(std=0.2)
    return module


def prefix_mask(prefix: int, N: int) -> Tensor:
    """Causal, and all rows see the prefix."""
    row, column = torch.arange(N)[:, None], torch.arange(N)
    return (column <= row) | (column < prefix)


@torch.no_grad()
def cached_equals_full(layer: nn.Module, N: int, *prefills: int) -> object:
    """Prefill up to each of `prefills`, a mark, something else and back to it, then steps; returns the cache."""
    x = torch.randn(3, N, WIDTH)
    full, cache, past = layer(x, scope(N)), layer.new_cache(), 0
    for end in prefills:
        torch.testing.assert_close(layer(x[:, past:end], scope(end - past, past), cache), full[:, past:end], **CLOSE)
        past = end
    mark = cache.snapshot()
    layer(torch.randn(3, 4, WIDTH), scope(4, past), cache)
    cache.roll_back(mark)
    steps = [layer(x[:, i : i + 1], scope(1, i), cache) for i in range(past, N - 2)]
    rest = layer(x[:, N - 2 :], scope(2, N - 2), cache)
    torch.testing.assert_close(torch.cat([*steps, rest], 1), full[:, past:], **CLOSE)
    return cache


@torch.no_grad()
def mask_is_followed(layer: nn.Module, N: int, prefix: int) -> None:
    """In full and in steps, and it matters."""
    x, mask = torch.randn(2, N, WIDTH), prefix_mask(prefix, N)
    full, cache = layer(x, scope(N, 0, mask)), layer.new_cache()
    parts = [layer(x[:, :prefix], scope(prefix, 0, mask[:prefix, :prefix]), cache)]
    parts += [layer(x[:, i : i + 1], scope(1, i, mask[i : i + 1, : i + 1]), cache) for i in range(prefix, N)]
    torch.testing.assert_close(torch.cat(parts, 1), full, **CLOSE)
    assert not torch.allclose(full, layer(x, scope(N)), atol=1e-3)


@torch.no_grad()
def rows_reached(layer: nn.Module, N: int) -> list[list[int]]:
    """For each token, the rows whose output a change of it changes."""
    x, reached = torch.randn(1, N, WIDTH), []
    for i in range(N):
        other = x.clone()
        other[:, i] += 1
        changed = (layer(x, scope(N)) - layer(other, scope(N))).abs().amax((0, 2)) > 1e-6
        reached.append(changed.nonzero()[:, 0].tolist())
    return reached


def all_later(N: int) -> list[list[int]]:
    """What `rows_reached` finds where every row sees itself and all before it."""
    return [list(range(i, N)) for i in range(N)]
