"""The privileged columns of a data set (see `envs.contract.build_contract`) from where things are."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

Projection = Callable[[np.ndarray], np.ndarray]  # points (M, 3) [m] -> (M, 3): u, v in [-1, 1] and visible


def privileged_columns(
    entities: Sequence[str],
    found: Mapping[str, np.ndarray],
    cameras: Mapping[str, Projection],
    referents: Sequence[str | None],
) -> dict[str, np.ndarray]:
    """found: entity -> position (3,) [m], of those that are present.
    referents: what the instruction handles, and where
    to, by name."""
    state = np.zeros((len(entities), 4), np.float32)
    for i, entity in enumerate(entities):
        if entity in found:
            state[i] = (*found[entity], 1.0)
    columns = {"observation.environment_state": state.reshape(-1)}
    for camera, project in cameras.items():
        points = project(state[:, :3])
        points[state[:, 3] == 0] = 0.0
        columns[f"observation.keypoints.{camera}"] = points.reshape(-1)
    columns["referents"] = np.array([-1 if name is None else entities.index(name) for name in referents], np.int64)
    return columns
