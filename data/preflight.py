"""What training cannot use, said before anything is decoded: from meta/ alone, and from the columns.

Every message names the column and what to do. Data recorded elsewhere cannot be repaired here, only recorded, converted
or chosen otherwise.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .contract import Contract, Feature, entry_name, out_of_range
from .errors import DataError
from .layout import INDEX_COLUMNS
from .reader import NUMBERS, VECTORS, Dataset
from .rename import proposal


def refuse_unusable(dataset: Dataset, image_size: int | None = None) -> None:
    """DataError where the data set has no images, state or actions that can be trained on.

    image_size: side of the squares that the policy sees [pixels]. None: any size, but squares.
    """
    features, where = dataset.info["features"], f"{dataset.root}/meta/info.json"
    if missing := [key for key in VECTORS if key not in features]:
        raise DataError(f"{where}: there is no {' and no '.join(missing)}; {proposal(missing, features)}")
    for key in VECTORS:
        _refuse_vector(key, features[key], where)
    cameras = dataset.contract.keys("image")
    if not cameras:
        raise DataError(f"{where}: there are no images (features of dtype image or video); record some")
    for key in cameras:
        _refuse_image(key, dataset.contract.features[key], features[key], where, image_size)
    for index in (key for key in INDEX_COLUMNS if key not in features):
        raise DataError(f"{where}: there is no {index}, which every LeRobot v3.0 data set has; export it again")


def _refuse_vector(key: str, stored: dict[str, Any], where: str) -> None:
    if stored["dtype"] not in NUMBERS:
        raise DataError(f"{where}: {key} has dtype {stored['dtype']}; it must hold numbers ({', '.join(NUMBERS)})")
    if len(stored["shape"]) != 1:
        raise DataError(f"{where}: {key} has shape {list(stored['shape'])}; it must be one vector a frame; flatten it")


def _refuse_image(key: str, feature: Feature, stored: dict[str, Any], where: str, size: int | None) -> None:
    height, width, channels = feature.shape
    if channels != 3 or (stored.get("info") or {}).get("video.is_depth_map"):
        raise DataError(f"{where}: {key} has {channels} channels; only RGB is read; leave depth and masks out")
    if height != width or size not in (None, height):
        wanted = "squares" if size is None else f"squares of {size} pixels"
        raise DataError(
            f"{where}: {key} is {height}x{width} pixels; the policy sees {wanted}; scale or crop the images, or choose "
            "a preset of this size (Tandem does not resize)"
        )


def refuse_actions(contract: Contract, action: np.ndarray, where: str) -> None:
    """DataError where actions (F, A) leave the contract's range, or [-1, 1] where it states none: they would be cut.

    The worst entries are named with their extent, and the factor that would bring them into range.
    """
    feature = contract.features["action"]
    if not np.isfinite(action).all():
        i = int(np.flatnonzero(~np.isfinite(action).all(0))[0])
        raise DataError(f"{where}: {entry_name('action', feature, i)} is not finite in some frames; leave them out")
    ranged = feature if feature.low is not None else replace(feature, low=-1.0, high=1.0)
    outside = out_of_range(ranged, action).mean(0)
    if not outside.any():
        return
    worst = [int(i) for i in np.argsort(-outside)[:3] if outside[i]]
    extents = [
        f"{entry_name('action', feature, i)} {action[:, i].min():.4g} to {action[:, i].max():.4g}" for i in worst
    ]
    kind = "absolute targets" if "absolute" in (feature.kind or ()) else "values"
    share, factor = 100 * outside.max(), np.abs(action).max()
    found = f"actions leave their range in {share:.0f}% of the frames ({'; '.join(extents)})"
    todo = f"scale them into [-1, 1] (here by 1/{factor:.4g}) and back in the robot's driver, or record deltas"
    raise DataError(f"{where}: {found}: {kind} of this size are not supported yet; {todo}")
