"""Normalizer: checked scaling of vectors, from exact statistics. It lives in the checkpoint as JSON.

Notable choices
- A missing feature, a wrong dimension, a NaN or a (nearly) constant entry is an error naming the feature and the entry,
  when the normaliser is made: there is no pass-through and no hidden epsilon.
- An entry that really is constant needs an explicit `floor` for its feature: the smallest scale, in its own unit.
- z = (x - mean) / std, of every entry.
The same two functions serve numpy arrays and torch tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from .contract import Contract, entry_name
from .errors import DataError
from .stats import NEARLY

Array = TypeVar("Array", np.ndarray, Tensor)


@dataclass(frozen=True)
class Normalizer:
    """Centre and scale of every numeric feature. Constant or missing statistics are an error."""

    mode: str  # what centre and scale are: "mean_std"
    center: dict[str, tuple[float, ...]]  # per feature, one value per entry
    scale: dict[str, tuple[float, ...]]

    @staticmethod
    def fit(
        stats: Mapping[str, Any],
        contract: Contract,
        keys: Sequence[str] = ("observation.state", "action"),
        floor: Mapping[str, float] | None = None,
    ) -> Normalizer:
        """`stats` as in meta/stats.json. `floor` {feature: smallest scale} for features with constant entries."""
        center, scale = {}, {}
        for key in keys:
            center[key], scale[key] = _fit(stats, contract, key, (floor or {}).get(key))
        return Normalizer("mean_std", center, scale)

    def normalize(self, key: str, x: Array) -> Array:
        """(..., n) in the feature's units -> about unit size"""
        center, scale = self._of(key, x)
        return (x - center) / scale

    def denormalize(self, key: str, x: Array) -> Array:
        """(..., n) of about unit size -> the feature's units."""
        center, scale = self._of(key, x)
        return x * scale + center

    def to_json(self) -> str:
        """As JSON text, which `from_json` reads."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Normalizer:
        """From JSON. An error of one line where it is damaged."""
        try:
            raw = json.loads(text)
            parts = [{key: tuple(map(float, v)) for key, v in raw[name].items()} for name in ("center", "scale")]
            result = Normalizer(raw["mode"], *parts)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise DataError(f"normalizer: damaged ({error!r}); the checkpoint cannot be used") from None
        for key, scale in result.scale.items():
            values = (*scale, *result.center.get(key, ()))
            if len(values) != 2 * len(scale) or not np.isfinite(values).all() or min(scale, default=0) <= 0:
                raise DataError(f"normalizer: {key} has a bad scale or centre; the checkpoint cannot be used")
        return result

    def _of(self, key: str, x: Array) -> tuple[Array, Array]:
        if key not in self.scale:
            raise DataError(f"normalizer: no statistics for {key}; it has {sorted(self.scale)}")
        if x.shape[-1:] != (len(self.scale[key]),):
            raise DataError(
                f"normalizer: {key} has shape {tuple(x.shape)}; its last size must be {len(self.scale[key])}"
            )
        pair = (self.center[key], self.scale[key])
        if isinstance(x, Tensor):
            return tuple(_constant(v, x.dtype, x.device) for v in pair)  # type: ignore[return-value]
        return tuple(np.asarray(v, x.dtype) for v in pair)  # type: ignore[return-value]


@lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Made once: to make one on a GPU is to wait for it."""
    return torch.tensor(values, dtype=dtype, device=device)


def _fit(
    stats: Mapping[str, Any], contract: Contract, key: str, floor: float | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if key not in stats or key not in contract.features:
        raise DataError(
            f"normalizer: {key} is in {'no statistics' if key not in stats else 'no contract'}; recompute them"
        )
    feature = contract.features[key]
    center, scale = (_vector(stats, key, name, feature.shape) for name in ("mean", "std"))
    constant = ~(scale > NEARLY * np.maximum(1.0, np.abs(center)))  # NaN counts
    bad = constant if floor is None else ~np.isfinite(scale + center)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"normalizer: {entry_name(key, feature, i)} is constant or not finite "
            f"(centre {center[i]:.4g}, scale {scale[i]:.4g}); check the data, or give a floor for this feature"
        )
    scale = scale if floor is None else np.maximum(scale, floor)
    if not (scale > 0).all():
        raise DataError(f"normalizer: floor {floor} for {key} leaves a scale of 0; give a floor above 0")
    return tuple(center.tolist()), tuple(scale.tolist())


def _vector(stats: Mapping[str, Any], key: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name not in stats[key]:
        raise DataError(f"normalizer: {key} has no {name}; recompute the statistics")
    value = np.asarray(stats[key][name], np.float64)
    if value.shape != shape:
        raise DataError(f"normalizer: {name} of {key} has shape {value.shape}; the contract says {shape}")
    return value
