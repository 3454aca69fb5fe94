"""The contract: what every array of an observation, action or label means, and a digest of it.

Notable choices
- One `Feature` per key: dtype, shape, a name per entry, units, range, role. Nothing is bound by position.
- The digest is the SHA-256 of canonical JSON (sorted keys), so key order and tuple/list spelling do not matter.
- Ranges of actions are exact. Other ranges are physical limits which a soft simulator overshoots a little: `SLACK`
  of the span is let through here, and `data check` reports the exact share outside.
- A feature of shape (1,) also takes a plain scalar (rewards, flags), as LeRobot stores it. Arrays are never cast:
  float64 where float32 is due, or 0..1 floats where uint8 is due, is an error naming the key.
Left out: arrays of two or more dimensions that are not images. Optional features.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import Any

import numpy as np

from .errors import DataError
from .files import check_name, check_text, parse_json
from .info import MAX_ENTRIES, MAX_FEATURES, MAX_FPS, MAX_PIXELS

ROLES = ("image", "state", "action", "privileged", "label", "text")
DTYPES = ("uint8", "float32", "float64", "int64", "bool", "string")
IMAGES = "observation.images."  # how the keys of cameras begin
SLACK = 0.02  # share of the span by which a value that is not an action may leave its range
Bound = float | tuple[float, ...] | None


@dataclass(frozen=True)
class Feature:
    """One entry of an observation or an action: shape, dtype, names, units, range, role."""

    dtype: str  # one of DTYPES
    shape: tuple[int, ...]  # (H, W, 3) for images, (n,) for vectors, () for text
    names: tuple[str, ...] | None = None  # one per entry of a vector
    unit: str | tuple[str, ...] | None = None  # one for all entries, or one per entry
    low: Bound = None  # smallest allowed value, for all entries or per entry
    high: Bound = None
    role: str = "label"  # one of ROLES
    kind: tuple[str, ...] | None = None  # of an action's entries, see data/kinds.py; None: as its names say

    @staticmethod
    def from_json(key: str, raw: Mapping[str, Any]) -> Feature:
        """From JSON. An error of one line where it is damaged."""
        _known(f"feature {key}", raw, {f.name for f in fields(Feature)}, {"dtype", "shape", "role"})
        feature = Feature(**{name: _frozen(value) for name, value in raw.items()})
        _check_types(key, feature)
        _check_feature(key, feature)
        return feature


@dataclass(frozen=True)
class Contract:
    """Features, robot and rate, which data set, checkpoint and environment must share."""

    robot: str
    fps: float  # frames a second; a whole number is an int
    features: dict[str, Feature]

    @staticmethod
    def from_fields(raw: Mapping[str, Any]) -> Contract:
        """From a plain dict {"robot", "fps", "features": {key: {...}}}. "cameras", if given, must agree with them."""
        _known("contract", raw, {"robot", "fps", "features", "cameras"}, {"robot", "fps", "features"})
        if not isinstance(raw["features"], Mapping) or len(raw["features"]) > MAX_FEATURES:
            raise DataError(f"contract: features must be a mapping of at most {MAX_FEATURES} features")
        check_text(raw["robot"], "contract: robot")
        features = {k: Feature.from_json(k, f) for k, f in raw["features"].items()}
        contract = Contract(raw["robot"], checked_fps(raw["fps"], "contract"), features)
        cameras, named = [*contract.cameras()], raw.get("cameras", [*contract.cameras()])
        if not isinstance(named, (list, tuple)) or sorted(map(str, named)) != sorted(cameras):
            raise DataError(f"contract: cameras {str(named)[:200]} but image features for {cameras}; make them agree")
        return contract

    @staticmethod
    def from_json(text: str) -> Contract:
        """From JSON. An error of one line where it is damaged."""
        return Contract.from_fields(parse_json(text, "contract"))

    def to_json(self) -> str:
        """Canonical: equal contracts give equal text."""
        raw = asdict(self)
        for feature in raw["features"].values():
            feature |= {bound: _floats(feature[bound]) for bound in ("low", "high")}  # -1 and -1.0 are the same range
            if feature["kind"] is None:
                del feature["kind"]  # digests of contracts from before there were kinds stay what they were
        return json.dumps(raw, sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """sha256 of the contract: equal digests mean equal contracts."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def keys(self, *roles: str) -> list[str]:
        """Sorted keys of the features with one of these roles (of all features where no role is given)."""
        return sorted(key for key, f in self.features.items() if not roles or f.role in roles)

    def only(self, *roles: str) -> Contract:
        """The part of the contract with these roles, e.g. what a policy needs at run time."""
        return Contract(self.robot, self.fps, {key: self.features[key] for key in self.keys(*roles)})

    def cameras(self) -> dict[str, str]:
        """camera name -> key. The name is what follows "observation.images." in the key, else the whole key."""
        return {key.removeprefix(IMAGES): key for key in self.keys("image")}

    def check(self, other: Contract, what: str = "contract") -> None:
        """Raise a DataError naming the first key and field in which `other` differs."""
        for field in ("robot", "fps"):
            _same(what, field, getattr(self, field), getattr(other, field))
        for key in sorted(self.features.keys() | other.features.keys()):
            if key not in other.features or key not in self.features:
                here, there = (("missing", "present")[key in c.features] for c in (self, other))
                raise DataError(f"{what}: {key} is {here} here and {there} there; use data and model of one contract")
            for f in fields(Feature):
                _same(what, f"{key}.{f.name}", *(getattr(c.features[key], f.name) for c in (self, other)))

    def check_value(self, key: str, frame: Mapping[str, Any], where: str) -> Any:
        """The value of `key` in `frame`, an array of the contract's shape and dtype (text stays str), or DataError."""
        if key not in frame:
            raise DataError(f"{where}: {key} is missing; the contract needs {self.keys()}")
        feature, value = self.features[key], frame[key]
        if feature.role == "text":
            if not isinstance(value, str):
                raise DataError(f"{where}: {key} is {type(value).__name__}; it must be a str")
            return value
        return _checked(f"{where}: {key}", feature, value)


def entry_name(key: str, feature: Feature, i: int) -> str:
    """`observation.state[gripper_opening]`: how errors and findings call one entry."""
    return f"{key}[{feature.names[i] if feature.names else i}]"


def _checked(where: str, feature: Feature, value: Any) -> np.ndarray:
    array = _as_array(feature, value)
    if array.shape != feature.shape:
        raise DataError(f"{where} has shape {array.shape}; the contract says {feature.shape}")
    if array.dtype != np.dtype(feature.dtype):
        raise DataError(f"{where} has dtype {array.dtype}; the contract says {feature.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        i = int(np.flatnonzero(~np.isfinite(array))[0])
        raise DataError(f"{where} is {array.flat[i]} at entry {entry_name('', feature, i)}; values must be finite")
    outside = out_of_range(feature, array, slack=0.0 if feature.role == "action" else SLACK)
    if outside.any():
        i = int(np.flatnonzero(outside)[0])
        raise DataError(
            f"{where} is {array.flat[i]:.6g} at entry {entry_name('', feature, i)}; "
            f"the contract's range is [{_at(feature.low, i)}, {_at(feature.high, i)}]"
        )
    return array


def out_of_range(feature: Feature, array: np.ndarray, slack: float = 0.0) -> np.ndarray:
    """bool array like `array` (..., n): outside [low, high], give or take slack * (high - low) and float32 rounding."""
    if feature.low is None and feature.high is None:
        return np.zeros(array.shape, bool)
    low = np.asarray(-np.inf if feature.low is None else feature.low, np.float32)
    high = np.asarray(np.inf if feature.high is None else feature.high, np.float32)
    span = np.where(np.isfinite(high - low), high - low, 0.0)
    margin = slack * span + 1e-6
    return (array < low - margin) | (array > high + margin)


def _as_array(feature: Feature, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.shape == () and feature.shape == (1,):
        array = array.reshape(1)
        if np.can_cast(array.dtype, np.dtype(feature.dtype), "same_kind"):
            array = array.astype(feature.dtype)
    return array


def _at(bound: Bound, i: int) -> float | None:
    return bound[i] if isinstance(bound, tuple) else bound


def _floats(bound: Bound) -> Bound:
    return tuple(map(float, bound)) if isinstance(bound, tuple) else None if bound is None else float(bound)


def _frozen(value: Any) -> Any:
    value = value.tolist() if isinstance(value, np.ndarray) else value
    return tuple(_frozen(v) for v in value) if isinstance(value, (list, tuple)) else value


def _known(what: str, raw: Any, allowed: set[str], needed: set[str]) -> None:
    if not isinstance(raw, Mapping):
        raise DataError(f"{what}: is {type(raw).__name__}; it must be a mapping")
    if raw.keys() - allowed:
        raise DataError(f"{what}: unknown keys {sorted(raw.keys() - allowed)}; known are {sorted(allowed)}")
    if needed - raw.keys():
        raise DataError(f"{what}: missing keys {sorted(needed - raw.keys())}")


def _same(what: str, field: str, here: Any, there: Any) -> None:
    if here != there:
        raise DataError(f"{what}: {field} is {here!r} here and {there!r} there; use data and model of one contract")


def checked_fps(fps: object, where: str) -> float:
    """A rate in frames a second, above 0. 30.0 is the int 30."""
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps <= MAX_FPS:
        raise DataError(f"{where}: fps is {fps!r}; it must be a number above 0 and at most {MAX_FPS}")
    return int(fps) if fps == int(fps) else fps


def _check_types(key: str, f: Feature) -> None:
    """What a file may hold instead: it is compared before anything is computed with it."""
    sizes = f.shape if isinstance(f.shape, tuple) else (None,)
    if not all(isinstance(n, Integral) and not isinstance(n, bool) and 0 < n <= MAX_ENTRIES for n in sizes):
        raise DataError(f"feature {str(key)[:60]}: shape is {str(f.shape)[:60]}; it must be a list of sizes above 0")
    if math.prod(f.shape) > (3 * MAX_PIXELS if len(f.shape) == 3 else MAX_ENTRIES):
        raise DataError(f"feature {str(key)[:60]}: shape {f.shape} is too large")
    units = f.unit if isinstance(f.unit, tuple) else () if f.unit is None else (f.unit,)
    for field, texts in (
        ("dtype", (f.dtype,)),
        ("role", (f.role,)),
        ("unit", units),
        ("names", f.names or ()),
        ("kind", f.kind or ()),
    ):
        for text in texts if isinstance(texts, tuple) else (texts,):
            check_text(text, f"feature {str(key)[:60]}: {field}")
    if isinstance(f.names, str):
        raise DataError(f"feature {str(key)[:60]}: names is a text; it must be a list of them, or null")
    for field in ("low", "high"):
        value = getattr(f, field)
        for bound in value if isinstance(value, tuple) else (0.0 if value is None else value,):
            is_number = isinstance(bound, Real)
            if not is_number or bound != bound or 1e300 < abs(bound) < math.inf:
                raise DataError(f"feature {str(key)[:60]}: {field} is {str(value)[:60]}; it must be numbers or null")


def _check_feature(key: str, f: Feature) -> None:
    check_name(key, "feature")
    if f.role not in ROLES or f.dtype not in DTYPES:
        raise DataError(f"feature {key}: role {f.role!r}, dtype {f.dtype!r}; roles are {ROLES}, dtypes are {DTYPES}")
    if (f.role == "text") != (f.dtype == "string") or (f.role == "image") != (f.dtype == "uint8" and len(f.shape) == 3):
        raise DataError(f"feature {key}: role {f.role} does not go with dtype {f.dtype} and shape {f.shape}")
    if len(f.shape) != {"text": 0, "image": 3}.get(f.role, 1):
        raise DataError(f"feature {key}: shape {f.shape}; text is (), images are (H, W, 3), all else is (n,)")
    if f.role in ("text", "image"):
        return
    for field in ("names", "unit", "low", "high", "kind"):
        value = getattr(f, field)
        if isinstance(value, tuple) and len(value) != f.shape[0]:
            raise DataError(f"feature {key}: {len(value)} values in {field} for shape {f.shape}")
