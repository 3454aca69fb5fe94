"""Exact statistics over all frames: min, max, mean, std, count, q01, q10, q50, q90, q99 per entry, in meta/stats.json.

Notable choices
- Quantiles are those of the whole dataset (numpy's linear rule), not averages of per-episode quantiles.
- Images have 256 values per channel, so a histogram gives every statistic exactly. Reported in 0..1, nested [C][1][1].
- Computed from the files, in one pass. A recorder that kept PNG histograms hands them over and no image is decoded.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .encode import pixel_histogram
from .files import json_bytes, write_atomic
from .reader import Dataset

NEARLY = 1e-4  # a spread below this share of max(1, |centre|) counts as constant

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
Stats = dict[str, dict[str, Any]]


def write_stats(root: Path | str, histograms: dict[str, np.ndarray] | None = None) -> Stats:
    """Writes meta/stats.json of a data set."""
    stats = dataset_stats(Dataset(root), histograms)
    write_atomic(Path(root) / "meta" / "stats.json", json_bytes(stats), Path(root))
    return stats


def dataset_stats(dataset: Dataset, histograms: dict[str, np.ndarray] | None = None) -> Stats:
    """One pass over the columns. Over the images too unless their histograms are given."""
    if not dataset.episodes:
        return {}
    episodes = [dataset.columns(e) for e in range(len(dataset.episodes))]
    stats = {key: column_stats(np.concatenate([c[key] for c in episodes])) for key in episodes[0]}
    for key in dataset.contract.keys("image"):
        pixels = len(dataset) * math.prod(dataset.contract.features[key].shape[:2])
        counts = histograms[key] if histograms else None
        if counts is None or (counts.sum(1) != pixels).any():  # or of other episodes than these
            counts = count_pixels(dataset, key)
        stats[key] = histogram_stats(counts, len(dataset))
    return stats


def count_pixels(dataset: Dataset, key: str) -> np.ndarray:
    """(3, 256) by decoding every image."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        parts = pool.map(lambda e: pixel_histogram(dataset.images(e, key)), range(len(dataset.episodes)))
        return np.sum(list(parts), axis=0)


def column_stats(values: np.ndarray) -> dict[str, list[float]]:
    """values (F,) or (F, n). Sums in float64."""
    x = values.reshape(len(values), -1).astype(np.float64)
    quantiles = dict(zip(QUANTILES, np.quantile(x, list(QUANTILES.values()), axis=0).tolist(), strict=True))
    moments = {"min": x.min(0), "max": x.max(0), "mean": x.mean(0), "std": x.std(0)}
    return {name: value.tolist() for name, value in moments.items()} | {"count": [len(x)]} | quantiles


def histogram_stats(counts: np.ndarray, frames: int) -> dict[str, Any]:
    """counts (3, 256) of pixel values -> statistics of value / 255."""
    value = np.arange(256) / 255.0
    total = counts.sum(1)
    mean = counts @ value / total
    std = np.sqrt((counts * (value - mean[:, None]) ** 2).sum(1) / total)
    ends = [_histogram_quantile(counts, q) for q in (0.0, 1.0)]
    result = {"min": ends[0], "max": ends[1], "mean": mean, "std": std}
    result |= {name: _histogram_quantile(counts, q) for name, q in QUANTILES.items()}
    return {name: x.reshape(-1, 1, 1).tolist() for name, x in result.items()} | {"count": [frames]}


def _histogram_quantile(counts: np.ndarray, q: float) -> np.ndarray:
    """numpy's linear quantile of the pixels that the histogram counts, per channel, in 0..1."""
    total = counts.sum(1)
    place = (total - 1) * q
    low = np.floor(place)
    upto = counts.cumsum(1)
    ends = [(upto <= np.minimum(low + k, total - 1)[:, None]).sum(1) for k in (0, 1)]  # the low-th and next pixel
    return (ends[0] + (place - low) * (ends[1] - ends[0])) / 255.0
