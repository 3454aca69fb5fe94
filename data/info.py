"""What meta/info.json, meta/episodes and meta/stats.json may say: types, ranges, names, paths. Checked before use.

They may come from a stranger or be damaged. What passes here can be used without another look: counts are whole
numbers of a sensible size, features have names that are no paths, pictures have sizes that fit into memory, templates
of paths stay in the folder. What a data set *means*, and whether it can be used, is decided elsewhere (reader, check).
Everything else is a DataError of one line that names the file, the key, and what to do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import DataError
from .files import check_name, check_text

MAX_FEATURES = 1000
MAX_EPISODES = 10_000_000
MAX_FRAMES = 1 << 40
MAX_FPS = 10_000
MAX_PIXELS = 64 << 20  # height x width of one picture
MAX_ENTRIES = 16 << 20  # numbers of one feature in one frame
MAX_DIMENSIONS = 6
MAX_INDEX = 999_999_999  # of a file or a chunk
PICTURES = ("image", "video")
FIELD = re.compile(r"\{(?:(video_key)|(chunk_index|file_index)(?::(0?[0-9]{1,2})?d?)?)\}")
MAX_WIDTH = 12  # digits that a template may ask for


def remedy(path: Path) -> str:
    """What helps against damage of the data set which `path` is, or is a file of."""
    ours = any((folder / "meta" / "contract.json").exists() for folder in (path, *path.parents[:5]))
    return "run `tandem data repair`" if ours else "copy the data set again from where it came"


def check_info(info: object, root: Path) -> dict[str, Any]:
    """The content of meta/info.json, if it can be what it says."""
    where = f"{root}/meta/info.json"
    if not isinstance(info, dict):
        raise DataError(f"{where}: holds no object; {remedy(root)}")
    needed = ("codebase_version", "total_episodes", "fps", "features", "data_path")
    if missing := [key for key in needed if key not in info]:
        raise DataError(f"{where}: {', '.join(missing)} missing; {remedy(root)}")
    try:
        _check_values(info)
    except DataError as error:
        raise DataError(f"{where}: {error}; {remedy(root)}") from None
    return info


def _check_values(info: dict[str, Any]) -> None:
    check_text(info["codebase_version"], "codebase_version")
    _whole("total_episodes", info["total_episodes"], 0, MAX_EPISODES)
    _whole("total_frames", info.get("total_frames", 0), 0, MAX_FRAMES)
    fps = info["fps"]
    if not _is_number(fps) or not 0 < fps <= MAX_FPS:
        raise DataError(f"fps is {_short(fps)}; it must be a number above 0 and at most {MAX_FPS}")
    for key in ("robot_type", "contract_digest"):
        if info.get(key) is not None:
            check_text(info[key], key)
    features = info["features"]
    if not isinstance(features, dict) or not 0 < len(features) <= MAX_FEATURES:
        raise DataError(f"features must be an object of 1 to {MAX_FEATURES} features")
    for key, feature in features.items():
        check_name(key, "features")
        _check_feature(key, feature)
    check_template(info["data_path"], "data_path")
    if info.get("video_path") is not None or any(f["dtype"] == "video" for f in features.values()):
        check_template(info.get("video_path"), "video_path")


def _check_feature(key: str, feature: object) -> None:
    what = f"feature {key}"
    if not isinstance(feature, dict) or not isinstance(feature.get("dtype"), str):
        raise DataError(f"{what} must be an object with dtype and shape")
    shape = feature.get("shape")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise DataError(f"{what}: shape is {_short(shape)}; it must be a list of at most {MAX_DIMENSIONS} sizes")
    for size in shape:
        _whole(f"{what}: a size of its shape", size, 1, MAX_ENTRIES)
    picture = feature["dtype"] in PICTURES
    if picture and (len(shape) != 3 or math.prod(shape) > 4 * MAX_PIXELS):
        raise DataError(f"{what}: shape {shape} is not that of a picture of at most {MAX_PIXELS >> 20} Mpixel")
    if math.prod(shape) > (4 * MAX_PIXELS if picture else MAX_ENTRIES):
        raise DataError(f"{what}: shape {shape} is too large; at most {MAX_ENTRIES:,} numbers a frame are read")
    for name in ("names", "info"):
        if not isinstance(feature.get(name), (list, dict, type(None))):
            raise DataError(f"{what}: {name} is {_short(feature[name])}; it must be a list, an object or null")


def check_template(template: object, what: str) -> str:
    """A path below the data set's folder, with the fields {chunk_index:03d}, {file_index:03d} and {video_key}.

    It is parsed by hand: `str.format` would follow attributes and fill memory with a width of a stranger's choice.
    """
    if not isinstance(template, str) or not 0 < len(template) <= 1000:
        raise DataError(f"{what} is {_short(template)}; it must be a path of at most 1000 characters")
    widths = [int(match[3] or 0) for match in FIELD.finditer(template)]
    rest = FIELD.sub("0", template)
    if "{" in rest or "}" in rest or max(widths, default=0) > MAX_WIDTH:
        fields = f"{{chunk_index:03d}}, {{file_index:03d}} and {{video_key}}, of at most {MAX_WIDTH} digits"
        raise DataError(f"{what} {_short(template)} has other fields than {fields}")
    if "\\" in rest or not rest.isprintable() or any(part in ("", ".", "..") for part in rest.split("/")):
        raise DataError(f"{what} {_short(template)} leads outside the dataset; refused")
    return template


def fill_template(template: str, chunk_index: int, file_index: int, video_key: str = "") -> str:
    """The path that a template which passed `check_template` means."""
    values = {"chunk_index": chunk_index, "file_index": file_index}

    def fill(match: re.Match[str]) -> str:
        if match[1]:
            return video_key
        width = match[3] or ""
        return str(values[match[2]]).rjust(int(width or 0), "0" if width.startswith("0") else " ")

    return FIELD.sub(fill, template)


def check_rows(rows: Sequence[Mapping[str, Any]], info: Mapping[str, Any], root: Path) -> None:
    """Rows of meta/episodes of these episodes, in order: every value that a reader uses. `info` has been checked."""
    videos = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    for i, row in enumerate(rows):
        try:
            check_row(row, i, videos)
        except DataError as error:
            raise DataError(f"{root}: meta/episodes has {error} for episode {i}; {remedy(root)}") from None
    frames, told = sum(row["length"] for row in rows), info.get("total_frames")
    if told is not None and frames != told:
        raise DataError(f"{root}: meta/episodes has {frames} frames, info.json {told}; {remedy(root)}")


def check_row(row: Mapping[str, Any], episode: int, videos: Sequence[str]) -> None:
    """One row of meta/episodes. The DataError names the column and its value alone."""
    if row.get("episode_index") != episode or isinstance(row["episode_index"], bool):
        raise DataError(f"episode_index {_short(row.get('episode_index'))}")
    _column(row, "length", 1, MAX_FRAMES)
    for key in ("dataset_from_index", "dataset_to_index"):
        _column(row, key, 0, MAX_FRAMES)
    for prefix in ("data", *(f"videos/{key}" for key in videos)):
        for key in (f"{prefix}/chunk_index", f"{prefix}/file_index"):
            _column(row, key, 0, MAX_INDEX)
    for key in videos:
        start: Any = row.get(f"videos/{key}/from_timestamp")
        if not _is_number(start) or not 0 <= start < MAX_FRAMES:
            raise DataError(f"videos/{key}/from_timestamp {_short(start)}")
    for key in ("sim/seed", "sim/task", "sim/success", "source"):
        if isinstance(row.get(key), list):
            raise DataError(f"{key} {_short(row[key])}")
    for name in ("tasks", "subtasks"):
        words = row.get(name)
        if words is not None and not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
            raise DataError(f"{name} {_short(words)}")


def _column(row: Mapping[str, Any], key: str, low: int, high: int) -> None:
    value = row.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise DataError(f"{key} {_short(value)}")


def check_stats(stats: object, root: Path) -> dict[str, dict[str, Any]]:
    """The content of meta/stats.json: an object of objects of (nested lists of) numbers, NaN and infinity included."""
    where = f"{root}/meta/stats.json"
    if not isinstance(stats, dict):
        raise DataError(f"{where}: holds no object; {remedy(root)}")
    for key, value in stats.items():
        if not isinstance(value, dict) or "count" not in value:
            raise DataError(f"{where}: {key} has no count; {remedy(root)}")
        for name, numbers in value.items():
            if not _are_numbers(numbers):
                raise DataError(f"{where}: {name} of {key} is {_short(numbers)}, not numbers; {remedy(root)}")
    return stats


def _are_numbers(value: object) -> bool:
    if isinstance(value, list):
        return all(map(_are_numbers, value))
    return isinstance(value, float) or isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 1000


def _whole(what: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise DataError(f"{what} is {_short(value)}; it must be a whole number from {low} to {high:,}")


def _is_number(value: object) -> bool:
    """A finite one, also as a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return isinstance(value, int) and abs(value) < 1 << 63 or isinstance(value, float) and math.isfinite(value)


def _short(value: object) -> str:
    """As an error shows it: a number of 4000 digits or a list of a million would hide the rest."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 1 << 63 else "a number of too many digits"
    return text if len(text) <= 80 else text[:77] + "..."
