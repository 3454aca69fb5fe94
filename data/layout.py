"""Where the files of a LeRobotDataset v3.0 lie, and their schemas.

Notable choices
- One data file, one meta/episodes file and one mp4 per camera and episode: episode e is file e % 1000 of chunk
  e // 1000 everywhere. A finished file is never opened for writing again.
- Parquet pages carry checksums: flipped bits are noticed. How a file is put down durably: data/files.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from . import files
from .contract import Contract, Feature
from .errors import DataError

CHUNK = 1000  # files per chunk folder
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
INDEX_COLUMNS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
EPISODE_COLUMNS = ("episode_index", "tasks", "subtasks", "length", "dataset_from_index", "dataset_to_index")
EPISODE_PREFIXES = ("data/", "meta/", "videos/", "stats/")  # all other columns of meta/episodes are our users'
IMAGE_NAMES = ["height", "width", "channels"]


def place(episode: int) -> dict[str, int]:
    return {"chunk_index": episode // CHUNK, "file_index": episode % CHUNK}


def data_file(root: Path, episode: int) -> Path:
    return root / DATA_PATH.format(**place(episode))


def episode_file(root: Path, episode: int) -> Path:
    return root / EPISODES_PATH.format(**place(episode))


def video_file(root: Path, key: str, episode: int) -> Path:
    return root / VIDEO_PATH.format(video_key=key, **place(episode))


def table_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="snappy", row_group_size=max(1, table.num_rows), write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.ParquetFile(path, page_checksum_verification=True).read(columns=columns)
    except FileNotFoundError:
        raise DataError(f"{path}: file is missing; restore it or run `tandem data repair`") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{path}: damaged ({str(error).partition(chr(10))[0][:120]}); run `tandem data repair`"
        ) from None


def read_json(path: Path) -> Any:
    """A JSON file of a data set; `path` is meta/<name>.json."""
    try:
        return files.read_json(path, path.parent.parent)
    except FileNotFoundError:
        raise DataError(f"{path}: file is missing; is {path.parent.parent} a LeRobot v3.0 dataset?") from None


def word_table(name: str, words: list[str]) -> pa.Table:
    """tasks.parquet / subtasks.parquet: the words are the pandas *index*; without this metadata LeRobot silently
    hands out the number 0 instead of the text."""
    table = pa.table({f"{name}_index": pa.array(range(len(words)), pa.int64()), name: pa.array(words, pa.string())})

    def column(field: str, kind: str, numpy: str) -> dict[str, Any]:
        return {"name": field, "field_name": field, "pandas_type": kind, "numpy_type": numpy, "metadata": None}

    pandas = {
        "index_columns": [name],
        "column_indexes": [],
        "columns": [column(f"{name}_index", "int64", "int64"), column(name, "unicode", "object")],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def read_words(path: Path, name: str) -> dict[int, str]:
    """{index: text} of a table of instructions or subtasks. Tables of others may have holes."""
    table = read_table(path)
    text = next((c for c in (name, "__index_level_0__") if c in table.column_names), None)
    if text is None or f"{name}_index" not in table.column_names:
        raise DataError(f"{path}: has columns {table.column_names}; expected {name}_index and {name}")
    index, words = table[f"{name}_index"].to_pylist(), table[text].to_pylist()
    if not all(type(i) is int and i >= 0 for i in index) or not all(isinstance(word, str) for word in words):
        raise DataError(f"{path}: {name}_index must hold whole numbers and {name} texts; the file is damaged")
    if len(set(index)) < len(index):
        raise DataError(f"{path}: {name}_index holds a number twice; the file is damaged")
    return dict(sorted(zip(index, words, strict=True)))


def numeric_features(contract: Contract) -> dict[str, Feature]:
    return {key: f for key, f in sorted(contract.features.items()) if f.role not in ("image", "text")}


def arrow_type(feature: Feature) -> pa.DataType:
    scalar = pa.from_numpy_dtype(feature.dtype)
    return scalar if feature.shape == (1,) else pa.list_(scalar, feature.shape[0])


def data_schema(contract: Contract, mode: str) -> pa.Schema:
    schema = [pa.field(key, arrow_type(f)) for key, f in numeric_features(contract).items()]
    if "subtask" in contract.features:
        schema.append(pa.field("subtask_index", pa.int64()))
    if mode == "image":
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        schema += [pa.field(key, image) for key in contract.keys("image")]
    return pa.schema(schema + [pa.field(key, pa.from_numpy_dtype(dtype)) for key, dtype in INDEX_COLUMNS.items()])


def info_json(contract: Contract, mode: str, episodes: int, frames: int, tasks: int) -> dict[str, Any]:
    return {
        "codebase_version": "v3.0",
        "robot_type": contract.robot,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": contract.fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if mode == "video" else None,
        "features": _info_features(contract, mode),
        "contract_digest": contract.digest(),
    }


def _info_features(contract: Contract, mode: str) -> dict[str, Any]:
    def entry(dtype: str, shape: tuple[int, ...], names: Any = None) -> dict[str, Any]:
        return {"dtype": dtype, "shape": list(shape), "names": names}

    features = {
        key: entry(f.dtype, f.shape, f.names and list(f.names)) for key, f in numeric_features(contract).items()
    }
    if "subtask" in contract.features:
        features["subtask_index"] = entry("int64", (1,))
    for key in contract.keys("image"):
        shape = contract.features[key].shape
        features[key] = entry(mode, shape, IMAGE_NAMES)
        if mode == "video":
            features[key]["info"] = _video_info(shape, contract.fps)
    return features | {key: entry(dtype, (1,)) for key, dtype in INDEX_COLUMNS.items()}


def _video_info(shape: tuple[int, ...], fps: int) -> dict[str, Any]:
    return {
        "video.height": shape[0], "video.width": shape[1], "video.codec": "h264", "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False, "video.fps": fps, "video.channels": 3, "has_audio": False,
    }  # fmt: skip
