"""What an environment gives and takes, as plain data: `data.contract.Contract.from_fields` reads it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Vector:
    """Meaning of a state or an action: n entries."""

    names: tuple[str, ...]
    units: tuple[str, ...]  # one per entry
    low: tuple[float, ...] | None = None  # smallest values; None: no limit is known
    high: tuple[float, ...] | None = None

    def feature(self, role: str) -> dict[str, Any]:
        """The vector as a feature of the contract."""
        return {
            "dtype": "float32", "shape": [len(self.names)], "names": list(self.names), "unit": list(self.units),
            "low": None if self.low is None else list(self.low), "high": None if self.high is None else list(self.high),
            "role": role,
        }  # fmt: skip


def build_contract(
    robot: str,
    fps: int,
    cameras: Mapping[str, str],
    image_size: int,
    state: Vector,
    action: Vector,
    entities: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Robot, rate [Hz] and features with dtype, shape, names, unit, range and role.

    cameras: name -> what its image shows, in words (the image's unit): a policy must not meet another view than it knew
    entities: named things whose places the simulator knows, in the order of the privileged columns: M of them give
        observation.environment_state (M * 4,)       x, y, z [m] and present, per entity
        observation.keypoints.<camera> (M * 3,)      u right, v down in [-1, 1] and visible (inside the image), likewise
        referents (2,)                               entity that the instruction handles, and where to; -1: none
    """
    image = {"dtype": "uint8", "shape": [image_size, image_size, 3], "role": "image"}
    features: dict[str, Any] = {f"observation.images.{name}": image | {"unit": view} for name, view in cameras.items()}
    features |= {"observation.state": state.feature("state"), "action": action.feature("action")}
    features |= {name: {"dtype": "string", "shape": [], "role": "text"} for name in ("task", "subtask")}
    if entities:
        features |= _privileged(tuple(cameras), entities)
    features["perturbed"] = {"dtype": "bool", "shape": [1], "role": "label"}
    features["next.reward"] = {"dtype": "float32", "shape": [1], "role": "label"}
    features |= {name: {"dtype": "bool", "shape": [1], "role": "label"} for name in ("next.success", "next.done")}
    return {"robot": robot, "fps": fps, "cameras": list(cameras), "features": features}


def _privileged(cameras: tuple[str, ...], entities: tuple[str, ...]) -> dict[str, Any]:
    def columns(parts: tuple[str, ...]) -> dict[str, Any]:
        names = [f"{entity}_{part}" for entity in entities for part in parts]
        return {"dtype": "float32", "shape": [len(names)], "names": names, "role": "privileged"}

    referents = {"dtype": "int64", "shape": [2], "names": ["object", "destination"], "role": "privileged"}
    return (
        {"observation.environment_state": columns(("x", "y", "z", "present"))}
        | {f"observation.keypoints.{camera}": columns(("u", "v", "visible")) for camera in cameras}
        | {"referents": referents}
    )
