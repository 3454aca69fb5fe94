"""Dataset: reads a LeRobotDataset v3.0, ours or one recorded elsewhere.

Notable choices
- Every way a dataset can be broken is a DataError that names the file; nothing is fetched from anywhere.
- Datasets without meta/contract.json (not ours) get a contract from info.json: shapes and names, no units or ranges.
  Their files may hold many episodes; rows are selected by episode, video frames by from_timestamp.
- Scalar columns come back as (T,), vectors as (T, n), images decoded as uint8 (T, H, W, 3).
Left out: 2-D and higher numeric features, depth, streaming.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .contract import Contract, Feature
from .encode import decode_image
from .errors import DataError
from .files import check_memory, is_inside
from .info import check_rows, check_stats, fill_template, remedy
from .layout import (
    INDEX_COLUMNS,
    check_column,
    image_cells,
    numeric_features,
    read_contract,
    read_info,
    read_json,
    read_rows,
    read_table,
    read_words,
)
from .video import decode_video


class Dataset:
    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.info = read_info(self.root)
        if not str(self.info.get("codebase_version", "")).startswith("v3."):
            raise DataError(f"{self.root}: format {self.info.get('codebase_version')}; only LeRobot v3.0 can be read")
        self.contract = load_contract(self.root, self.info)
        self.mode = "video" if any(f["dtype"] == "video" for f in self.info["features"].values()) else "image"
        self.episodes = self._read_episodes()
        self._last: dict[
            tuple[str, ...], tuple[Path, pa.Table]
        ] = {}  # the last file read, as others' hold many episodes

    @cached_property
    def tasks(self) -> list[str]:
        return read_words(self.root / "meta" / "tasks.parquet", "task") if self.episodes else []

    @cached_property
    def subtasks(self) -> list[str]:
        path = self.root / "meta" / "subtasks.parquet"
        return read_words(path, "subtask") if "subtask_index" in self.info["features"] and self.episodes else []

    @cached_property
    def stats(self) -> dict[str, Any]:
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
        for key in keys:
            check_column(table[key], self.info["features"][key], f"{self.root}: episode {episode}, {key}")
        return {key: to_numpy(table[key]) for key in keys}

    def images(self, episode: int, key: str) -> np.ndarray:
        row, shape = self.episodes[episode], self.contract.features[key].shape
        check_memory(row["length"] * int(np.prod(shape)), f"{self.root}: episode {episode}, {key}")
        try:
            return self._decoded(episode, key, row, shape)
        except MemoryError:
            raise DataError(f"{self.root}: episode {episode}, {key} does not fit into the memory") from None

    def _decoded(self, episode: int, key: str, row: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
        if self.info["features"][key]["dtype"] == "video":
            fps, start = self.info["fps"], row[f"videos/{key}/from_timestamp"]
            images = decode_video(
                self._file("video_path", row, f"videos/{key}", key), round(start * fps), row["length"], fps
            )
        else:
            where = f"{self.root}: episode {episode}, {key}"
            blobs = image_cells(self.table(episode, [key])[key], where)
            help = remedy(self.root)
            images = np.stack([decode_image(blob, f"{where}, frame {t}", shape, help) for t, blob in enumerate(blobs)])
        if images.shape[1:] != shape:
            raise DataError(f"{self.root}: episode {episode}, {key} is {images.shape[1:]}; the contract says {shape}")
        return images

    def table(self, episode: int, keys: Sequence[str] | None = None) -> pa.Table:
        """The episode's rows as stored; only the columns `keys` are read from the disk."""
        row = self._row(episode)
        path = self._file("data_path", row, "data")
        stored = [key for key, f in self.info["features"].items() if f["dtype"] != "video"]
        keys = tuple(dict.fromkeys([*(stored if keys is None else keys), "episode_index"]))
        last = self._last.get(keys)  # read once: decoding threads share this object
        if last is None or last[0] != path:
            last = self._last[keys] = (path, read_table(path, list(keys), self.root))
        missing = set(keys) - set(last[1].column_names)
        if missing:
            raise DataError(f"{path}: columns {sorted(missing)} are missing; {remedy(self.root)}")
        if not pa.types.is_integer(last[1]["episode_index"].type):
            raise DataError(f"{path}: episode_index holds {last[1]['episode_index'].type}; {remedy(self.root)}")
        table = last[1].filter(pc.equal(last[1]["episode_index"], episode))
        if table.num_rows != row["length"]:
            rows = f"{table.num_rows} rows of episode {episode}, expected {row['length']}"
            raise DataError(f"{path}: {rows}; {remedy(self.root)}")
        return table

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
        check_rows(rows, self.info, self.root)
        return rows


def load_contract(root: Path, info: dict[str, Any]) -> Contract:
    path = root / "meta" / "contract.json"
    if not path.exists() and "contract_digest" not in info:
        return contract_from_info(info)
    contract = read_contract(root) if path.exists() else None
    if contract is None or contract.digest() != info.get("contract_digest"):
        what = "changed" if contract else "missing"
        raise DataError(f"{path}: {what}; info.json has digest {info.get('contract_digest')}; restore it")
    return contract


def contract_from_info(info: dict[str, Any]) -> Contract:
    """For datasets recorded elsewhere."""
    features = {"task": Feature("string", (), role="text")}
    for key, f in info["features"].items():
        if key == "subtask_index":
            features["subtask"] = Feature("string", (), role="text")
        elif f["dtype"] in ("image", "video"):
            shape = tuple(f["shape"]) if f["shape"][-1] == 3 else (*f["shape"][1:], f["shape"][0])
            features[key] = Feature("uint8", shape, role="image")
        elif key not in INDEX_COLUMNS and f["dtype"] != "string" and len(f["shape"]) == 1:
            flat = f.get("names") if isinstance(f.get("names"), list) and len(f["names"]) == f["shape"][0] else None
            role = {"observation.state": "state", "action": "action"}.get(key, "label")
            features[key] = Feature(f["dtype"], tuple(f["shape"]), flat and tuple(flat), role=role)
    return Contract(str(info.get("robot_type")), info["fps"], features)


def to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """(T,) or (T, n)"""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if pa.types.is_fixed_size_list(array.type) or pa.types.is_list(array.type):
        return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), -1)
    return array.to_numpy(zero_copy_only=False)
