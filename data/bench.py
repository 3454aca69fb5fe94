"""How fast are batches? Frames/s of the loader alone, and what a trainer of a given speed would wait."""

from __future__ import annotations

import time

from data.cache import FrameCache
from data.windows import Extras, Loader, Sampler


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


def data_wait(cache: FrameCache, step_s: float, batch_size: int = 128, batches: int = 20) -> float:
    """Share of the time that a trainer whose step takes `step_s` would spend waiting for data."""
    with Loader(Sampler(cache, batch_size, seed=0), cache) as loader:
        next(loader)
        loader.wait_s, begin = 0.0, time.perf_counter()
        for _ in range(batches):
            time.sleep(step_s)
            next(loader)
        return loader.wait_s / (time.perf_counter() - begin)
