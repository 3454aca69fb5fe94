"""Where the files of a LeRobotDataset v3.0 lie, and their schemas.

Notable choices
- One data file, one meta/episodes file and one mp4 per camera and episode: episode e is file e % 1000 of chunk
  e // 1000 everywhere. A finished file is never opened for writing again.
- Parquet pages carry checksums: flipped bits are noticed. How a file is put down durably: data/files.py.
- A parquet file is compared with a limit of memory before and while it is read: a few kilobytes can mean gigabytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from . import files
from .contract import Contract, Feature
from .errors import DataError
from .files import check_text
from .info import check_info, remedy

CHUNK = 1000  # files per chunk folder
MAX_TABLE = 256 << 20  # bytes in memory that any parquet file may take
MAX_RATIO = 16  # and how many times its own size a larger one may
MAX_BATCH = 64  # rows that are read at a time where their size is not known
MAX_COLUMNS = 20_000  # of a parquet file
MAX_WORDS = 10_000_000  # instructions, subtasks
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
    """Chunk and file of an episode, by the names that path templates use."""
    return {"chunk_index": episode // CHUNK, "file_index": episode % CHUNK}


def data_file(root: Path, episode: int) -> Path:
    """Parquet file of an episode's columns."""
    return root / DATA_PATH.format(**place(episode))


def episode_file(root: Path, episode: int) -> Path:
    """Parquet file of an episode's row."""
    return root / EPISODES_PATH.format(**place(episode))


def video_file(root: Path, key: str, episode: int) -> Path:
    """Video file of an episode's camera."""
    return root / VIDEO_PATH.format(video_key=key, **place(episode))


def table_bytes(table: pa.Table) -> bytes:
    """A table as the bytes of a parquet file with checksums."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="snappy", row_group_size=max(1, table.num_rows), write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def read_table(path: Path, columns: list[str] | None = None, root: Path | None = None) -> pa.Table:
    """The columns of a parquet file that has them, within limits of memory. root: the folder that it must not leave."""
    try:
        files.check_regular(path, root)
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return _read_within(file, path, columns)
    except FileNotFoundError:
        raise DataError(f"{path}: file is missing; restore it, or {remedy(path)}") from None
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError, LookupError, OverflowError, MemoryError) as error:
        raise DataError(f"{path}: damaged ({_first_line(error)}); {remedy(path)}") from None


def read_rows(path: Path, root: Path | None = None) -> list[dict[str, Any]]:
    """The rows of a parquet file of meta/episodes, without columns that are neither numbers nor texts, nor lists."""
    table = read_table(path, root=root)
    plain = table.select([i for i, field in enumerate(table.schema) if _is_plain(field.type)])
    try:
        return list(plain.to_pylist())
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: damaged ({_first_line(error)}); {remedy(path)}") from None


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _is_plain(kind.value_type)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return text or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _read_within(file: pq.ParquetFile, path: Path, columns: list[str] | None) -> pa.Table:
    """What the footer says is compared with the limit first. It can lie, and texts that are stored once can be meant a
    thousand times: columns of texts and pictures are read in parts, each of which fits, until the limit is met."""
    schema, about = file.schema_arrow, file.metadata
    if len(set(schema.names)) != len(schema.names) or about.num_columns > MAX_COLUMNS:
        raise DataError(f"{path}: has too many columns, or two of one name; {remedy(path)}")
    limit = max(MAX_TABLE, MAX_RATIO * path.stat().st_size)
    groups = [about.row_group(i).total_byte_size for i in range(about.num_row_groups)]
    kinds = [field.type for field in schema if columns is None or field.name in columns]
    widths = [_width(kind) for kind in kinds]
    rows, fixed = about.num_rows, sum(width or 0 for width in widths)
    if rows < 0 or min(groups, default=0) < 0 or max(sum(groups), rows * fixed // 8) > limit:
        raise DataError(f"{path}: would take more than {limit >> 20} MiB of memory; refused")
    if not rows or None not in widths:
        return file.read(columns)
    batches, taken = [], 0
    for batch in file.iter_batches(min(MAX_BATCH, max(1, limit // max(1, *groups))), columns=columns):
        batch = _spelled_out(batch)
        batches.append(batch)
        taken += batch.nbytes
        if taken > limit:
            raise DataError(f"{path}: takes more than {limit >> 20} MiB of memory; refused")
    return pa.Table.from_batches(batches)


def _spelled_out(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Its texts one by one where they are stored as places in a dictionary, so that their size can be seen."""
    for i, field in enumerate(batch.schema):
        if pa.types.is_dictionary(field.type):
            batch = batch.set_column(i, field.name, batch.column(i).dictionary_decode())
    return batch


def _width(kind: pa.DataType) -> int | None:
    """Bits of one value. None where they differ from row to row."""
    if pa.types.is_fixed_size_list(kind):
        inner = _width(kind.value_type)
        return None if inner is None else inner * kind.list_size
    if pa.types.is_nested(kind) and any(pa.types.is_dictionary(kind.field(i).type) for i in range(kind.num_fields)):
        raise DataError("a dictionary within a column of lists cannot be read")
    if pa.types.is_dictionary(kind):
        return None
    try:
        return int(kind.bit_width)
    except ValueError:
        return None


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:120]


def read_json(path: Path) -> Any:
    """A JSON file of a data set. `path` is meta/<name>.json."""
    try:
        return files.read_json(path, path.parent.parent)
    except FileNotFoundError:
        raise DataError(f"{path}: file is missing; is {path.parent.parent} a LeRobot v3.0 dataset?") from None


def read_info(root: Path) -> dict[str, Any]:
    """meta/info.json, checked."""
    return check_info(read_json(root / "meta" / "info.json"), root)


def read_contract(root: Path) -> Contract:
    """meta/contract.json of a data set of ours."""
    path = root / "meta" / "contract.json"
    try:
        return Contract.from_fields(files.read_object(path, root))
    except FileNotFoundError:
        raise DataError(f"{path}: file is missing; restore it") from None


def image_cells(column: pa.ChunkedArray, where: str) -> list[bytes]:
    """The encoded images of a column of bytes, or of {bytes, path}."""
    kind = column.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        column = pc.struct_field(column, "bytes")
    elif not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise DataError(f"{where} holds {kind}; images are stored as bytes; export the data set with its images")
    cells = column.to_pylist()
    if any(not isinstance(cell, bytes) for cell in cells):
        raise DataError(f"{where} holds paths instead of images; export the data set with its images in it")
    return list(cells)


def check_column(column: pa.ChunkedArray, feature: Mapping[str, Any], where: str) -> None:
    """That a column of numbers has the kind and the size that info.json gives for its feature: no text, nothing
    missing, no row of another length. `where` names it, and the DataError ends with what is wrong."""
    kind, shape = column.type, feature["shape"]
    length = 1
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        if column.null_count:
            raise DataError(f"{where}: {column.null_count} of {len(column)} values are missing")
        counts = pc.unique(pc.list_value_length(column)).to_pylist()
        if len(counts) > 1:
            raise DataError(f"{where}: its rows have between {min(counts)} and {max(counts)} entries")
        length *= counts[0] if counts else 1
        column = pc.list_flatten(column)
        kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DataError(f"{where}: holds {kind} where numbers belong")
    if column.null_count:
        raise DataError(f"{where}: {column.null_count} of {len(column)} values are missing")
    if length != math.prod(shape):
        raise DataError(f"{where}: has {length} entries a row; info.json says {shape}")


def word_table(name: str, words: list[str]) -> pa.Table:
    """tasks.parquet / subtasks.parquet: the words are the pandas *index*. Without this metadata LeRobot silently
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
    table = read_table(path, root=path.parent.parent)
    text = next((c for c in (name, "__index_level_0__") if c in table.column_names), None)
    if text is None or f"{name}_index" not in table.column_names:
        raise DataError(f"{path}: has columns {table.column_names}; expected {name}_index and {name}; {remedy(path)}")
    try:
        indices, words = table[f"{name}_index"].to_pylist(), table[text].to_pylist()
    except (UnicodeDecodeError, OverflowError) as error:  # texts that are not UTF-8, dates of another millennium
        raise DataError(f"{path}: damaged ({_first_line(error)}); {remedy(path)}") from None
    if not all(isinstance(i, int) and 0 <= i <= MAX_WORDS for i in indices):
        raise DataError(f"{path}: {name}_index holds more than whole numbers from 0 to {MAX_WORDS:,}; {remedy(path)}")
    for i, word in zip(indices, words, strict=True):
        check_text(word, f"{path}: {name} {i}")
    if len(set(indices)) < len(indices):
        raise DataError(f"{path}: {name}_index holds a number twice; {remedy(path)}")
    return dict(sorted(zip(indices, words, strict=True)))


def numeric_features(contract: Contract) -> dict[str, Feature]:
    """Features of the contract that are stored as numbers."""
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
    """The content of meta/info.json."""
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


def _video_info(shape: tuple[int, ...], fps: float) -> dict[str, Any]:
    return {
        "video.height": shape[0], "video.width": shape[1], "video.codec": "h264", "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False, "video.fps": fps, "video.channels": 3, "has_audio": False,
    }  # fmt: skip
