"""How fast are batches? Frames/s of the loader alone."""

from __future__ import annotations

import time

from .cache import FrameCache
from .windows import Extras, Loader, Sampler


def loader_rate(
    cache: FrameCache, batch_size: int = 128, batches: int = 50, at: tuple[str, ...] = ()
) -> dict[str, float]:
    """Frames/s with nobody computing: the upper limit. `at`: more images per sample, as in Extras."""
    sampler = Sampler(cache, batch_size, seed=0)
    with Loader(sampler, cache, extras=Extras(at=at)) as loader:
        for _ in range(4):  # the prefetched ones, and first touch of the pages
            next(loader)
        begin = time.perf_counter()
        for _ in range(batches):
            next(loader)
        seconds = time.perf_counter() - begin
    return {
        "frames_per_s": batch_size * batches / seconds,
        "batches_per_s": batches / seconds,
        "cameras": float(len(cache.images)),
    }
