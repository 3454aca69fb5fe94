"""Our blocks beside transformers' own modules with the same weights, for `tandem bench backbone`.

A pair is a function of (B, N, D) that returns a `Pair`. Every such function in these modules is measured.
"""

import importlib
from collections.abc import Callable

from .pair import Pair

MODULES = ("attention", "deltanet", "experts", "memory", "mtp", "residuals")


def all_pairs() -> dict[str, Callable[[int, int, int], Pair]]:
    """Name -> builder. transformers, the reference, is a dependency of development only."""
    modules = [importlib.import_module(f"tandem.scripts.benches.speed.pairs.{name}") for name in MODULES]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__annotations__", {}).get("return") is Pair
    }
