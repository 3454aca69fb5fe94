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
from .layout import INDEX_COLUMNS, numeric_features, read_json, read_table, read_words
from .video import decode_video


class Dataset:
    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.info = read_json(self.root / "meta" / "info.json")
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
        stats = read_json(self.root / "meta" / "stats.json")
        for key, value in stats.items():
            if value["count"] != [len(self)]:
                where = f"{self.root}/meta/stats.json: {key}"
                raise DataError(f"{where} counts {value['count']} frames of {len(self)}; run `tandem data repair`")
        return stats

    def __len__(self) -> int:
        """Frames in all."""
        return sum(row["length"] for row in self.episodes)

    def columns(self, episode: int) -> dict[str, np.ndarray]:
        """The numeric columns: features of the contract, subtask_index, task_index, timestamp, index, ..."""
        keys = [*numeric_features(self.contract), "subtask_index", *INDEX_COLUMNS]
        keys = [key for key in keys if key in self.info["features"]]
        table = self.table(episode, keys)
        return {key: to_numpy(table[key]) for key in keys}

    def images(self, episode: int, key: str) -> np.ndarray:
        row = self.episodes[episode]
        if self.info["features"][key]["dtype"] == "video":
            fps, start = self.info["fps"], row[f"videos/{key}/from_timestamp"]
            images = decode_video(
                self._file("video_path", row, f"videos/{key}", key), round(start * fps), row["length"], fps
            )
        else:
            blobs = self.table(episode, [key])[key].combine_chunks().field("bytes").to_pylist()
            where = f"{self.root}: episode {episode}, {key}"
            images = np.stack([decode_image(blob, f"{where}, frame {t}") for t, blob in enumerate(blobs)])
        shape = self.contract.features[key].shape
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
            last = self._last[keys] = (path, read_table(path, list(keys)))
        missing = set(keys) - set(last[1].column_names)
        if missing:
            raise DataError(f"{path}: columns {sorted(missing)} are missing; run `tandem data repair`")
        table = last[1].filter(pc.equal(last[1]["episode_index"], episode))
        if table.num_rows != row["length"]:
            rows = f"{table.num_rows} rows of episode {episode}, expected {row['length']}"
            raise DataError(f"{path}: {rows}; run `tandem data repair`")
        return table

    def _row(self, episode: int) -> dict[str, Any]:
        if not 0 <= episode < len(self.episodes):
            raise DataError(f"{self.root}: no episode {episode}; there are {len(self.episodes)}")
        return self.episodes[episode]

    def _file(self, template: str, row: dict[str, Any], prefix: str, key: str = "") -> Path:
        place = {k: row[f"{prefix}/{k}"] for k in ("chunk_index", "file_index")}
        path = self.root / self.info[template].format(video_key=key, **place)
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise DataError(f"{self.root}: {template} {self.info[template]!r} leads outside the dataset; refused")
        return path

    def _read_episodes(self) -> list[dict[str, Any]]:
        paths = sorted((self.root / "meta" / "episodes").glob("chunk-*/file-*.parquet"))
        rows = [row for path in paths for row in read_table(path).to_pylist()]
        rows = rows[: self.info["total_episodes"]]  # one more may lie there after a crash: repair counts it in
        where = f"{self.root}: meta/episodes has"
        if len(rows) != self.info["total_episodes"]:
            raise DataError(f"{where} {len(rows)} of {self.info['total_episodes']} episodes; run `tandem data repair`")
        for i, row in enumerate(rows):
            if row["episode_index"] != i:
                raise DataError(f"{where} episode {row['episode_index']} at place {i}; run `tandem data repair`")
        return rows


def load_contract(root: Path, info: dict[str, Any]) -> Contract:
    path = root / "meta" / "contract.json"
    if not path.exists() and "contract_digest" not in info:
        return contract_from_info(info)
    contract = Contract.from_json(path.read_text()) if path.exists() else None
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
