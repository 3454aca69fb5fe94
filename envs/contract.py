"""What the tabletop environments give and take, as plain data: `data.contract.Contract.from_fields` reads it."""

from typing import Any

from envs.entities import ENTITIES
from envs.simulation import CONTROL_HZ
from envs.tabletop import CAMERAS, STATE_HIGH, STATE_LOW, STATE_NAMES

ACTION_NAMES = ("delta_x", "delta_y", "delta_z", "delta_rx", "delta_ry", "delta_rz", "gripper")


def contract_fields(image_size: int = 96) -> dict[str, Any]:
    """Robot, rate and features with dtype, shape, names, unit, range and role."""
    features: dict[str, Any] = {
        f"observation.images.{camera}": {"dtype": "uint8", "shape": [image_size, image_size, 3], "role": "image"}
        for camera in CAMERAS
    }
    features["observation.state"] = _vector(
        STATE_NAMES, _state_units(), STATE_LOW.tolist(), STATE_HIGH.tolist(), "state"
    )
    units = ["0.05 m, world"] * 3 + ["0.25 rad, world"] * 3 + ["-1 open, 1 close"]
    features["action"] = _vector(ACTION_NAMES, units, [-1.0] * 7, [1.0] * 7, "action")
    features |= {name: {"dtype": "string", "shape": [], "role": "text"} for name in ("task", "subtask")}
    features["observation.environment_state"] = _privileged(("x", "y", "z", "present"))
    for camera in CAMERAS:
        features[f"observation.keypoints.{camera}"] = _privileged(("u", "v", "visible"))
    features["referents"] = {"dtype": "int64", "shape": [2], "names": ["object", "destination"], "role": "privileged"}
    features["perturbed"] = {"dtype": "bool", "shape": [1], "role": "label"}
    features["next.reward"] = {"dtype": "float32", "shape": [1], "role": "label"}
    features |= {name: {"dtype": "bool", "shape": [1], "role": "label"} for name in ("next.success", "next.done")}
    return {"robot": "panda_primitives", "fps": CONTROL_HZ, "cameras": list(CAMERAS), "features": features}


def _vector(names: tuple[str, ...], units: list[str], low: list[float], high: list[float], role: str) -> dict[str, Any]:
    return {
        "dtype": "float32", "shape": [len(names)], "names": list(names),
        "unit": units, "low": low, "high": high, "role": role,
    }  # fmt: skip


def _state_units() -> list[str]:
    return ["m, world"] * 3 + ["1"] * 6 + ["0 closed, 1 open"] + ["rad"] * 7


def _privileged(parts: tuple[str, ...]) -> dict[str, Any]:
    names = [f"{entity}_{part}" for entity in ENTITIES for part in parts]
    return {"dtype": "float32", "shape": [len(names)], "names": names, "role": "privileged"}
