"""FrameCache: all frames of one or more datasets, decoded once into memory-mapped arrays.

Notable choices
- uint8 images as .npy memory maps (F, H, W, 3) per camera, columns as one .npz. The operating system's page cache is
  the only cache above them. Datasets of one contract are concatenated. Texts and indices are merged.
- Files are numbered (camera-0.npy): a feature's name, which may come from a stranger, never becomes a file's name.
- What cannot be used is refused before an image is decoded: first what meta/ says, then what the columns say.
- The folder's name is a digest of the contract and of every file's name, size, inode and times of change: a changed
  dataset gets a new cache. The digest of the *contents*, for manifests and for resuming, is computed once while
  building.
- Sizes, times and checksums of the cache's own files are in cache.json. A file whose size or time differs is read and
  compared once. To read twelve gigabytes at every start, where nothing differs, would cost a minute.
- Built in a temporary folder that is renamed at the end: a cache that exists is complete.
- Decoding runs on threads: Pillow and FFmpeg release the GIL.
Left out: removing old caches (delete the folder), datasets larger than the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .contract import Contract
from .errors import DataError
from .files import check_inside, check_name, json_bytes, read_json
from .kinds import action_kinds
from .layout import numeric_features
from .preflight import refuse_actions, refuse_unusable
from .progress import progress_bar
from .reader import Dataset
from .segments import Segments, find_segments

DAMAGE = (
    OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError, MemoryError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
VERSION = 2  # of the cache's own layout
MAX_META = 1 << 30  # bytes of cache.json, which has a row for every episode
Roots = Path | str | Sequence[Path | str]


@dataclass(frozen=True)
class FrameCache:
    """Decoded frames of one or several data sets, as arrays that are mapped into memory."""

    contract: Contract
    digest: str  # SHA-256 over the contents of the datasets' files
    images: dict[str, np.ndarray]  # camera -> uint8 (F, H, W, 3), memory-mapped
    columns: dict[str, np.ndarray]  # key -> (F,) or (F, n)
    episode_start: np.ndarray  # (E,) first frame
    episode_end: np.ndarray  # (E,) one past the last frame
    episode_of: np.ndarray  # (F,)
    instructions: list[str]
    instruction_of_frame: np.ndarray  # (F,) into instructions; an episode may have several
    subtasks: list[str]
    episodes: list[dict[str, Any]]  # the rows of meta/episodes, e.g. sim/seed, sim/success
    folder: Path  # where the arrays lie

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process maps the same files. Nothing is copied."""
        return FrameCache.open, (self.folder,)

    def __len__(self) -> int:
        return len(self.episode_of)

    @cached_property
    def segments(self) -> Segments:
        """Start, end and progress of every frame's subtask."""
        words = self.columns.get("subtask_index", np.zeros(len(self), np.int64))
        return find_segments(words, self.episode_start, self.episode_end)

    @property
    def instruction_of_episode(self) -> np.ndarray:
        """(E,) that of its first frame."""
        return self.instruction_of_frame[self.episode_start]

    def gather(self, camera: str, index: np.ndarray) -> np.ndarray:
        """uint8 (*index.shape, H, W, 3), a fresh contiguous array."""
        return np.take(self.images[camera], index, axis=0)

    @staticmethod
    def build(
        roots: Roots,
        cache_dir: Path | str,
        progress: bool = True,
        rename: Mapping[str, str] | None = None,
        image_size: int | None = None,
    ) -> FrameCache:
        """Open the cache of these datasets, decoding them first where that has not been done.

        rename: {the files' name: our name}.
        image_size: side of the images that are wanted [pixels]. DataError where
        they cannot be trained on, before an image is decoded (data/preflight.py).
        """
        paths = [Path(r) for r in ([roots] if isinstance(roots, (str, Path)) else roots)]
        datasets = [Dataset(path, rename) for path in paths]
        for dataset in datasets:
            refuse_unusable(dataset, image_size)
        for dataset in datasets[1:]:
            datasets[0].contract.check(dataset.contract, f"{dataset.root}: contract")
        if not sum(map(len, datasets)):
            raise DataError(f"{', '.join(map(str, paths))}: no episodes; record some first")
        folder = Path(cache_dir) / _key(datasets, rename or {})
        if not folder.exists():
            _build(datasets, folder, progress)
        return FrameCache.open(folder)

    @staticmethod
    def open(folder: Path | str) -> FrameCache:
        """Maps a cache that was built. DataError where it is damaged."""
        folder = Path(folder)
        try:
            meta = read_json(folder / "cache.json", limit=MAX_META)
            contract = Contract.from_fields(meta["contract"])
            _refuse_changed(folder, meta["files"])
            images = {
                camera: np.load(folder / f"camera-{i}.npy", mmap_mode="r")
                for i, camera in enumerate(contract.cameras())
            }
            with np.load(folder / "columns.npz") as file:
                columns = dict(file)
            start, end, instruction = (columns.pop(f"/{name}") for name in ("start", "end", "instruction"))
            frames = int(end[-1])
            for camera, key in contract.cameras().items():
                if images[camera].shape != (frames, *contract.features[key].shape) or images[camera].dtype != np.uint8:
                    raise DataError(f"images of {camera} have shape {images[camera].shape}")
            if any(len(values) != frames for values in (instruction, *columns.values())) or meta["version"] != VERSION:
                raise DataError("its columns are not of one length, or of another version")
            texts = (*meta["instructions"], *meta["subtasks"], meta["digest"])
            if not all(isinstance(text, str) for text in texts):
                raise DataError("its texts are none")
            words = columns.get("subtask_index", np.zeros(1, np.int64))
            if words.max() >= max(1, len(meta["subtasks"])) or instruction.max() >= len(meta["instructions"]):
                raise DataError("it has fewer texts than its frames say")
            if len(meta["episodes"]) != len(start) or not all(isinstance(row, dict) for row in meta["episodes"]):
                raise DataError("its episodes are none")
        except DAMAGE as error:
            raise DataError(
                f"{folder}: cache is damaged ({error}); delete the folder, it is rebuilt from the dataset"
            ) from None
        return FrameCache(
            contract=contract,
            digest=meta["digest"],
            images=images,
            columns=columns,
            episode_start=start,
            episode_end=end,
            episode_of=np.repeat(np.arange(len(start)), end - start),
            instructions=meta["instructions"],
            instruction_of_frame=instruction,
            subtasks=meta["subtasks"],
            episodes=meta["episodes"],
            folder=folder,
        )


def content_digest(root: Path | str) -> str:
    """SHA-256 over the names and contents of a dataset's files (statistics excluded: they follow from the rest)."""
    total = hashlib.sha256()
    for path in _files(Path(root)):
        with open(path, "rb") as file:
            total.update(f"{path.relative_to(root)}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def _files(root: Path) -> list[Path]:
    found = [p for part in ("data", "videos", "meta") for p in (root / part).rglob("*") if p.is_file()]
    for link in (p for p in found if p.is_symlink()):
        check_inside(link, root)
    return sorted(p for p in found if p.name != "stats.json" and not p.name.startswith("."))


def _refuse_changed(folder: Path, files: dict[str, Any]) -> None:
    """DataError where a file of the cache is not the one that was built. Read only where its size or time differs."""
    for name, (size, changed, checksum) in files.items():
        path = folder / check_name(name, "cache")
        status = path.stat()
        if status.st_size != size or (status.st_mtime_ns != changed and _checksum(path) != checksum):
            raise DataError(f"{name} was changed")


def _checksum(path: Path) -> int:
    total = 0
    with open(path, "rb") as file:
        while part := file.read(1 << 22):
            total = zlib.crc32(part, total)
    return total


def _key(datasets: list[Dataset], rename: Mapping[str, str]) -> str:
    lines = [f"{VERSION} {datasets[0].contract.digest()} {sorted(rename.items())}"]
    for dataset in datasets:
        for path in _files(dataset.root):
            stat = path.stat()
            times = f"{stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"
            lines.append(f"{path.relative_to(dataset.root)} {stat.st_size} {times}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _build(datasets: list[Dataset], folder: Path, progress: bool) -> None:
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    for half in folder.parent.glob(f".{folder.name}.*"):
        if not Path(f"/proc/{half.suffix[1:]}").exists() or half == temporary:  # its process was killed
            shutil.rmtree(half, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _check_space(datasets, temporary)
        starts, meta = _write_columns(datasets, temporary)
        _write_images(datasets, starts, temporary, progress)
        _write_meta(meta, temporary)
        temporary.rename(folder)
    except OSError as error:
        if not folder.exists():  # else another process built the same cache meanwhile
            raise DataError(
                f"{folder}: cannot build the cache ({error}); free space or choose another cache folder"
            ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_space(datasets: list[Dataset], folder: Path) -> None:
    contract = datasets[0].contract
    pixels = sum(int(np.prod(contract.features[key].shape)) for key in contract.keys("image"))
    need, free = int(1.02 * pixels * sum(map(len, datasets))) + (64 << 20), shutil.disk_usage(folder).free
    if free < need:
        raise OSError(f"disk full: {free >> 20} MiB free, {need >> 20} MiB needed")


def _write_columns(datasets: list[Dataset], folder: Path) -> tuple[list[int], dict[str, Any]]:
    """columns.npz. Returns the first frame of every episode, and what cache.json will say."""
    columns: dict[str, list[np.ndarray]] = {}
    words: dict[str, dict[str, int]] = {"task": {}, "subtask": {}}
    rows = [row for dataset in datasets for row in dataset.episodes]
    for dataset in datasets:
        for e in range(len(dataset.episodes)):
            values = dataset.columns(e)
            for name, texts in (("task", dataset.tasks), ("subtask", dataset.subtasks)):
                if f"{name}_index" in values:
                    where = f"{dataset.root}: episode {e}, {name}_index"
                    values[f"{name}_index"] = _merge(words[name], texts, values[f"{name}_index"], where)
            kept = {*numeric_features(dataset.contract), "subtask_index", "task_index"}
            for key in kept & values.keys():
                columns.setdefault(key, []).append(values[key])
    end = np.cumsum([row["length"] for row in rows])
    arrays = {key: np.concatenate(parts) for key, parts in columns.items()}
    start = end - [row["length"] for row in rows]
    contract = _with_kinds(datasets[0], arrays, end - 1)
    refuse_actions(contract, arrays["action"], ", ".join(str(dataset.root) for dataset in datasets))
    arrays |= {"/start": start, "/end": end, "/instruction": arrays.pop("task_index")}
    np.savez(folder / "columns.npz", allow_pickle=False, **arrays)  # "/" is in no feature's name
    return start.tolist(), _meta(datasets, contract, rows, words)


def _with_kinds(dataset: Dataset, arrays: dict[str, np.ndarray], last: np.ndarray) -> Contract:
    """The contract, with the kinds of an action that no names of ours tell.
    last (E,): the episodes' last frames."""
    contract, action = dataset.contract, dataset.contract.features["action"]
    if not dataset.foreign:
        return contract
    ends = np.zeros(len(arrays["action"]), bool)
    ends[last] = True
    kinds = action_kinds(contract, arrays["observation.state"], arrays["action"], ends)
    return replace(contract, features=contract.features | {"action": replace(action, kind=kinds)})


def _meta(
    datasets: list[Dataset], contract: Contract, rows: list[dict[str, Any]], words: dict[str, dict[str, int]]
) -> dict[str, Any]:
    digests = "\n".join(content_digest(dataset.root) for dataset in datasets)
    return {
        "version": VERSION,
        "contract": json.loads(contract.to_json()),
        "digest": hashlib.sha256(digests.encode()).hexdigest(),
        "roots": [str(dataset.root) for dataset in datasets],
        "instructions": list(words["task"]),
        "subtasks": list(words["subtask"]),
        "episodes": rows,
    }


def _write_meta(meta: dict[str, Any], folder: Path) -> None:
    files = {}
    for path in sorted(folder.iterdir()):
        status = path.stat()
        files[path.name] = (status.st_size, status.st_mtime_ns, _checksum(path))
    (folder / "cache.json").write_bytes(json_bytes(meta | {"files": files}))


def _merge(known: dict[str, int], texts: dict[int, str], index: np.ndarray, where: str) -> np.ndarray:
    """index (T,) into a data set's own table of words -> into the table of all."""
    used = np.unique(index).tolist()
    if unknown := [i for i in used if i not in texts]:
        raise DataError(f"{where} is {unknown[0]}, which the table of words does not have (it has {sorted(texts)[:8]})")
    table = {i: known.setdefault(texts[i], len(known)) for i in sorted(texts)}
    return np.array([table[i] for i in used], np.int64)[np.searchsorted(used, index)]


def _write_images(datasets: list[Dataset], starts: list[int], folder: Path, progress: bool) -> None:
    contract, frames = datasets[0].contract, sum(map(len, datasets))
    out = {
        key: np.lib.format.open_memmap(
            folder / f"camera-{i}.npy", mode="w+", dtype=np.uint8, shape=(frames, *contract.features[key].shape)
        )
        for i, key in enumerate(contract.cameras().values())
    }
    for path in folder.glob("camera-*.npy"):  # taken now: a disk that is full later would kill us where we write
        with open(path, "rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)

    def decode(job: tuple[Dataset, int, int]) -> int:
        dataset, episode, start = job
        length = dataset.episodes[episode]["length"]
        for key, array in out.items():
            array[start : start + length] = dataset.images(episode, key)
        return length

    places = [(d, e) for d in datasets for e in range(len(d.episodes))]
    jobs = [(d, e, start) for (d, e), start in zip(places, starts, strict=True)]
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        progress_bar(total=frames, desc="decode", unit="frame", disable=not progress) as bar,
    ):
        for length in pool.map(decode, jobs):
            bar.update(length)
    for array in out.values():
        array.flush()
