"""Dataset: reads a LeRobotDataset v3.0, ours or one recorded elsewhere.

Notable choices
- Every way a dataset can be broken is a DataError that names the file. Nothing is fetched from anywhere.
- Datasets without meta/contract.json (not ours) get a contract from info.json: shapes and names, no units or ranges.
  Their files may hold many episodes. Rows are selected by episode, video frames by their place (data/video.py).
- Names of others become ours by `rename` (data/rename.py). Files are still read by the names that they have.
- Words are looked up by their index: tables of others have holes, and need not begin with 0.
- Other columns come back as (T,) or (T, n). State and action always as float32 (T, n), also where they hold one number,
  float64 or integers.
- LeRobot 0.6 keeps subtasks in a column `language_persistent`: rows with a style and a time, the same in every frame of
  an episode. The subtask of a frame is the last row of style "subtask" that is not later than the frame.
Left out: 2-D and higher numeric features, depth, streaming.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .contract import Contract, Feature, checked_fps
from .encode import decode_image
from .errors import DataError
from .files import check_memory, is_inside
from .info import check_rows, check_stats, fill_template, remedy
from .layout import (
    INDEX_COLUMNS,
    image_cells,
    numeric_features,
    read_contract,
    read_info,
    read_json,
    read_rows,
    read_table,
    read_words,
)
from .rename import renamed_features
from .video import decode_video, place_by_count, place_by_time

LANGUAGE = "language_persistent"  # LeRobot 0.6's column of subtasks and the like
VECTORS = ("observation.state", "action")


class Dataset:
    """A data set on disk, recorded by Tandem or elsewhere, read episode by episode."""

    def __init__(self, root: Path | str, rename: Mapping[str, str] | None = None) -> None:
        """rename: {the files' name: our name}, e.g. {"actions": "action"}."""
        self.root = Path(root)
        self.info = read_info(self.root)
        if not str(self.info.get("codebase_version", "")).startswith("v3."):
            raise DataError(f"{self.root}: format {self.info.get('codebase_version')}; only LeRobot v3.0 can be read")
        self.info["features"], self._stored = renamed_features(self.info["features"], rename or {}, str(self.root))
        self.info["fps"] = checked_fps(self.info.get("fps"), f"{self.root}/meta/info.json")
        self.contract = load_contract(self.root, self.info)
        self.mode = "video" if any(f["dtype"] == "video" for f in self.info["features"].values()) else "image"
        self.episodes = self._read_episodes()
        self._shared: dict[str, dict[tuple[Any, ...], list[int]]] = {}
        self._last: dict[
            tuple[str, ...], tuple[Path, pa.Table]
        ] = {}  # the last file read, as others' hold many episodes

    @property
    def foreign(self) -> bool:
        """Recorded by another program: `tandem data repair` cannot help."""
        return "contract_digest" not in self.info

    @cached_property
    def tasks(self) -> dict[int, str]:
        """Instruction by task_index."""
        return read_words(self.root / "meta" / "tasks.parquet", "task") if self.episodes else {}

    @cached_property
    def subtasks(self) -> dict[int, str]:
        """What is being done, by subtask_index. {} where the data does not say."""
        if "subtask_index" in self.info["features"]:
            path = self.root / "meta" / "subtasks.parquet"
            return read_words(path, "subtask") if self.episodes else {}
        texts = dict.fromkeys(text for e in self._said for text in self._said[e])
        return dict(enumerate(texts)) if any(texts) else {}

    @cached_property
    def _said(self) -> dict[int, list[str]]:
        """Subtask of every frame of every episode, from the language column. {} where there is none."""
        if LANGUAGE not in self.info["features"]:
            return {}
        return {e: self._spoken(e) for e in range(len(self.episodes))}

    def _spoken(self, episode: int) -> list[str]:
        table, where = self.table(episode, [LANGUAGE, "timestamp"]), f"{self.root}: episode {episode}, {LANGUAGE}"
        times, cells = table["timestamp"].to_pylist(), table[LANGUAGE].to_pylist()
        return [subtask_at(rows, time, where) for rows, time in zip(cells, times, strict=True)]

    @cached_property
    def stats(self) -> dict[str, Any]:
        """The statistics of meta/stats.json, checked."""
        stats = check_stats(read_json(self.root / "meta" / "stats.json"), self.root)
        for key, value in stats.items():
            if value["count"] != [len(self)]:
                where = f"{self.root}/meta/stats.json: {key}"
                raise DataError(f"{where} counts {value['count']} frames of {len(self)}; {remedy(self.root)}")
        return stats

    def __len__(self) -> int:
        """Frames in all."""
        return sum(row["length"] for row in self.episodes)

    def columns(self, episode: int) -> dict[str, np.ndarray]:
        """The numeric columns: features of the contract, subtask_index, task_index, timestamp, index, ..."""
        keys = [*numeric_features(self.contract), "subtask_index", *INDEX_COLUMNS]
        keys = [key for key in keys if key in self.info["features"]]
        table = self.table(episode, keys)
        found = {key: self._numbers(table[key], key, episode) for key in keys}
        if self._said and self.subtasks:
            index = {text: i for i, text in self.subtasks.items()}
            found["subtask_index"] = np.array([index[text] for text in self._said[episode]], np.int64)
        return found

    def _numbers(self, column: pa.ChunkedArray, key: str, episode: int) -> np.ndarray:
        """As the contract has them. DataError, which names column and episode, where they are not such numbers."""
        where = f"{self.root}: episode {episode}, {key}"
        values, feature = to_numpy(column, where), self.contract.features.get(key)
        if feature is None:
            if values.dtype.kind not in "iuf" or values.ndim != 1:
                raise DataError(
                    f"{where} holds {values.dtype} of shape {values.shape}; it must hold one number a frame"
                )
            return values
        width = feature.shape[0]
        if values.ndim == 2 and values.shape[1] == 1 and feature.role not in ("state", "action"):
            values = values[:, 0]
        if (values.shape[1] if values.ndim == 2 else 1) != width:
            raise DataError(f"{where} has {values.shape[1:] or 1} numbers a frame; info.json says {width}")
        if feature.role in ("state", "action"):
            values = values.reshape(len(values), width)
        return values if values.dtype == feature.dtype else self._cast(values, feature, where)

    def _cast(self, values: np.ndarray, feature: Feature, where: str) -> np.ndarray:
        if not self.foreign:
            raise DataError(f"{where} has dtype {values.dtype}; the contract says {feature.dtype}; it was changed")
        if values.dtype.kind not in "biuf":
            raise DataError(f"{where} holds {values.dtype}; only numbers can be used; leave the column out")
        return values.astype(feature.dtype)

    def images(self, episode: int, key: str) -> np.ndarray:
        """uint8 (T, H, W, 3), decoded. DataError where one does not decode, or all would not fit into the memory."""
        row, shape = self._row(episode), self.contract.features[key].shape
        check_memory(row["length"] * int(np.prod(shape)), f"{self.root}: episode {episode}, {key}")
        try:
            return self._decoded(episode, key, row, shape)
        except MemoryError:
            raise DataError(f"{self.root}: episode {episode}, {key} does not fit into the memory") from None

    def _decoded(self, episode: int, key: str, row: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
        if self.info["features"][key]["dtype"] == "video":
            path = self._file("video_path", row, f"videos/{self._stored[key]}", self._stored[key])
            return decode_video(path, self._place(episode, key, path), shape)
        where, help = f"{self.root}: episode {episode}, {key}", remedy(self.root)
        images = np.empty((row["length"], *shape), np.uint8)
        for t, blob in enumerate(image_cells(self.table(episode, [key])[key], where)):
            images[t] = decode_image(blob, f"{where}, frame {t}", shape, help)
        return images

    def _place(self, episode: int, key: str, path: Path) -> slice | np.ndarray:
        """Where the frames of the episode are in its video."""
        name = f"videos/{self._stored[key]}"
        shared = self._sharing(name)[_video_of(self.episodes[episode], name)]
        lengths = [self.episodes[e]["length"] for e in shared]
        at = shared.index(episode)
        counted = place_by_count(path, sum(lengths[:at]), lengths[at], sum(lengths))
        if counted is not None:
            return counted
        begin = float(self.episodes[episode][f"{name}/from_timestamp"])
        return place_by_time(path, begin, lengths[at], self.info["fps"])

    def _sharing(self, name: str) -> dict[tuple[Any, ...], list[int]]:
        """The episodes of every video of a camera, in the order in which they are in it."""
        if name not in self._shared:
            found: dict[tuple[Any, ...], list[int]] = {}
            for e in sorted(range(len(self.episodes)), key=lambda e: (self.episodes[e][f"{name}/from_timestamp"], e)):
                found.setdefault(_video_of(self.episodes[e], name), []).append(e)
            self._shared[name] = found
        return self._shared[name]

    def table(self, episode: int, keys: Sequence[str] | None = None) -> pa.Table:
        """The episode's rows as stored, under our names. Only the columns `keys` are read from the disk."""
        row = self._row(episode)
        path = self._file("data_path", row, "data")
        stored = [key for key, f in self.info["features"].items() if f["dtype"] != "video"]
        keys = tuple(dict.fromkeys([*(stored if keys is None else keys), "episode_index"]))
        last = self._last.get(keys)  # read once: decoding threads share this object
        if last is None or last[0] != path:
            last = self._last[keys] = (path, self._read(path, keys))
        if not pa.types.is_integer(last[1]["episode_index"].type):
            raise DataError(f"{path}: episode_index holds {last[1]['episode_index'].type}; {remedy(self.root)}")
        table = last[1].filter(pc.equal(last[1]["episode_index"], episode))
        if table.num_rows != row["length"]:
            rows = f"{table.num_rows} rows of episode {episode}, expected {row['length']}"
            raise DataError(f"{path}: {rows}; {remedy(self.root)}")
        return table

    def _read(self, path: Path, keys: tuple[str, ...]) -> pa.Table:
        names = [self._stored.get(key, key) for key in keys]
        table = read_table(path, names, self.root)
        missing = [name for name in names if name not in table.column_names]
        if missing:
            raise DataError(f"{path}: columns {missing} are missing; {remedy(self.root)}")
        return table.select(names).rename_columns(list(keys))

    def _row(self, episode: int) -> dict[str, Any]:
        if not 0 <= episode < len(self.episodes):
            raise DataError(f"{self.root}: no episode {episode}; there are {len(self.episodes)}")
        return self.episodes[episode]

    def _file(self, template: str, row: dict[str, Any], prefix: str, key: str = "") -> Path:
        place = {k: row[f"{prefix}/{k}"] for k in ("chunk_index", "file_index")}
        path = self.root / fill_template(self.info[template], video_key=key, **place)
        if not is_inside(path, self.root):
            raise DataError(f"{self.root}: {template} {self.info[template]!r} leads outside the dataset; refused")
        return path

    def _read_episodes(self) -> list[dict[str, Any]]:
        paths = sorted((self.root / "meta" / "episodes").glob("chunk-*/file-*.parquet"))
        rows = [row for path in paths for row in read_rows(path, self.root)]
        rows = rows[: self.info["total_episodes"]]  # one more may lie there after a crash: repair counts it in
        where = f"{self.root}: meta/episodes has"
        if len(rows) != self.info["total_episodes"]:
            count = f"{len(rows)} of {self.info['total_episodes']} episodes"
            raise DataError(f"{where} {count}; {remedy(self.root)}")
        for i, row in enumerate(rows):
            if row.get("episode_index") != i:
                raise DataError(f"{where} episode {row.get('episode_index')} at place {i}; {remedy(self.root)}")
        check_rows(
            rows, self.info | {"features": {self._stored[k]: f for k, f in self.info["features"].items()}}, self.root
        )
        return rows


def load_contract(root: Path, info: dict[str, Any]) -> Contract:
    path = root / "meta" / "contract.json"
    if not path.exists() and "contract_digest" not in info:
        return contract_from_info(info)
    contract = read_contract(root) if path.exists() else None
    if contract is None or contract.digest() != info.get("contract_digest"):
        what = "changed" if contract else "missing"
        raise DataError(f"{path}: {what}; info.json has digest {info.get('contract_digest')}; restore it")
    stored = [key for key, f in contract.features.items() if f.role != "text"]
    if missing := [key for key in stored if key not in info["features"]]:
        raise DataError(f"{root}/meta/info.json: features {missing} of the contract are missing; {remedy(root)}")
    return contract


def contract_from_info(info: dict[str, Any]) -> Contract:
    """For datasets recorded elsewhere."""
    features: dict[str, dict[str, Any]] = {"task": {"dtype": "string", "shape": (), "role": "text"}}
    for key, f in info["features"].items():
        dtype, shape = f["dtype"], tuple(f["shape"])
        if key in ("subtask_index", LANGUAGE):
            features["subtask"] = {"dtype": "string", "shape": (), "role": "text"}
        elif dtype in ("image", "video"):
            features[key] = {"dtype": "uint8", "shape": _last_channels(shape), "role": "image"}
        elif key not in INDEX_COLUMNS and dtype in NUMBERS and (len(shape) == 1 or key in VECTORS):
            role = {"observation.state": "state", "action": "action"}.get(key, "label")
            stored = "float32" if role != "label" else NUMBERS[dtype]
            features[key] = {
                "dtype": stored,
                "shape": shape,
                "names": _entry_names(f.get("names"), shape),
                "role": role,
            }
    return Contract.from_fields({"robot": str(info.get("robot_type")), "fps": info["fps"], "features": features})


NUMBERS = {  # dtype of a column -> the contract's
    "float16": "float32", "float32": "float32", "float64": "float64", "bool": "bool",
    **{f"{sign}int{bits}": "int64" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip


def _last_channels(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(C, H, W) -> (H, W, C), where the last size cannot be channels."""
    return (*shape[1:], shape[0]) if len(shape) == 3 and shape[-1] not in (1, 3, 4) and shape[0] in (1, 3, 4) else shape


def _entry_names(names: Any, shape: tuple[int, ...]) -> tuple[str, ...] | None:
    """Names of a vector's entries: a list of them, also within a mapping ({"motors": [...]}). None where there are not
    as many as entries."""
    if isinstance(names, Mapping):
        names = [name for part in names.values() for name in (part if isinstance(part, list) else [part])]
    fits = isinstance(names, list) and (len(names),) == shape and all(isinstance(name, str) for name in names)
    return tuple(names) if fits else None


def subtask_at(rows: Any, time: float, where: str) -> str:
    """The subtask at `time` [s of the episode] among the rows of a language column. "" where there is none yet."""
    found, latest = "", -np.inf
    for row in rows or ():
        if not isinstance(row, Mapping) or row.get("style") != "subtask":
            continue
        text, since = row.get("content"), row.get("timestamp")
        if not isinstance(text, str) or not isinstance(since, (int, float)):
            raise DataError(f"{where}: a subtask has no text or no time; annotate the data set again")
        if latest <= since <= time + 1e-4:
            found, latest = text, since
    return found


def _video_of(row: dict[str, Any], name: str) -> tuple[Any, ...]:
    return row[f"{name}/chunk_index"], row[f"{name}/file_index"]


def to_numpy(column: pa.ChunkedArray, where: str) -> np.ndarray:
    """(T,) or (T, n). DataError where rows are missing, of different lengths, or no numbers."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    width = None
    if pa.types.is_fixed_size_list(array.type) or pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        lengths = pc.list_value_length(array).to_pylist()
        if None in lengths:
            raise DataError(f"{where}: {lengths.count(None)} rows are missing; mend the data, or leave them out")
        if len(set(lengths)) > 1:
            raise DataError(
                f"{where}: has rows of different lengths ({sorted(map(str, set(lengths)))[:4]}); mend the data"
            )
        width, array = (lengths or [0])[0], array.flatten()
    kind = array.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DataError(f"{where}: holds {str(kind)[:80]}; only vectors of numbers can be used")
    if array.null_count:
        raise DataError(f"{where}: {array.null_count} values are missing; mend the data, or leave these episodes out")
    values = array.to_numpy(zero_copy_only=False)
    return values if width is None else values.reshape(-1, width) if width else values.reshape(len(column), 0)
