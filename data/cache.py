"""FrameCache: all frames of one or more datasets, decoded once into memory-mapped arrays.

Notable choices
- uint8 images as .npy memory maps (F, H, W, 3) per camera, columns as one .npz; the operating system's page cache is
  the only cache above them. Datasets of one contract are concatenated; texts and indices are merged.
- The folder's name is a digest of the contract and of every file's name, size and time of change: a changed dataset
  gets a new cache. The digest of the *contents*, for manifests and for resuming, is computed once while building.
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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .contract import Contract
from .errors import DataError
from .files import json_bytes
from .layout import numeric_features
from .progress import progress_bar
from .reader import Dataset
from .segments import Segments, find_segments

VERSION = 1  # of the cache's own layout
Roots = Path | str | Sequence[Path | str]


@dataclass(frozen=True)
class FrameCache:
    contract: Contract
    digest: str  # SHA-256 over the contents of the datasets' files
    images: dict[str, np.ndarray]  # camera -> uint8 (F, H, W, 3), memory-mapped
    columns: dict[str, np.ndarray]  # key -> (F,) or (F, n)
    episode_start: np.ndarray  # (E,) first frame
    episode_end: np.ndarray  # (E,) one past the last frame
    episode_of: np.ndarray  # (F,)
    instructions: list[str]
    instruction_of_episode: np.ndarray  # (E,)
    subtasks: list[str]
    episodes: list[dict[str, Any]]  # the rows of meta/episodes, e.g. sim/seed, sim/success
    folder: Path  # where the arrays lie

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process maps the same files; nothing is copied."""
        return FrameCache.open, (self.folder,)

    def __len__(self) -> int:
        return len(self.episode_of)

    @cached_property
    def segments(self) -> Segments:
        """Start, end and progress of every frame's subtask."""
        words = self.columns.get("subtask_index", np.zeros(len(self), np.int64))
        return find_segments(words, self.episode_start, self.episode_end)

    def gather(self, camera: str, index: np.ndarray) -> np.ndarray:
        """uint8 (*index.shape, H, W, 3), a fresh contiguous array."""
        return np.take(self.images[camera], index, axis=0)

    @staticmethod
    def build(roots: Roots, cache_dir: Path | str, progress: bool = True) -> FrameCache:
        """Open the cache of these datasets, decoding them first where that has not been done."""
        paths = [Path(r) for r in ([roots] if isinstance(roots, (str, Path)) else roots)]
        datasets = [Dataset(path) for path in paths]
        for dataset in datasets[1:]:
            datasets[0].contract.check(dataset.contract, f"{dataset.root}: contract")
        if not sum(map(len, datasets)):
            raise DataError(f"{', '.join(map(str, paths))}: no episodes; record some first")
        folder = Path(cache_dir) / _key(datasets)
        if not folder.exists():
            _build(datasets, folder, progress)
        return FrameCache.open(folder)

    @staticmethod
    def open(folder: Path | str) -> FrameCache:
        folder = Path(folder)
        try:
            meta = json.loads((folder / "cache.json").read_text())
            contract = Contract.from_fields(meta["contract"])
            images = {camera: np.load(folder / f"{camera}.npy", mmap_mode="r") for camera in contract.cameras()}
            with np.load(folder / "columns.npz") as file:
                columns = dict(file)
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{folder}: cache is damaged ({error}); delete the folder, it is rebuilt from the dataset"
            ) from None
        start, end, instruction = (columns.pop(f"/{name}") for name in ("start", "end", "instruction"))
        return FrameCache(
            contract=contract,
            digest=meta["digest"],
            images=images,
            columns=columns,
            episode_start=start,
            episode_end=end,
            episode_of=np.repeat(np.arange(len(start)), end - start),
            instructions=meta["instructions"],
            instruction_of_episode=instruction,
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
    return sorted(p for p in found if p.name != "stats.json" and not p.name.startswith("."))


def _key(datasets: list[Dataset]) -> str:
    lines = [f"{VERSION} {datasets[0].contract.digest()}"]
    for dataset in datasets:
        for path in _files(dataset.root):
            stat = path.stat()
            lines.append(f"{path.relative_to(dataset.root)} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _build(datasets: list[Dataset], folder: Path, progress: bool) -> None:
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    for half in folder.parent.glob(f".{folder.name}.*"):
        if not Path(f"/proc/{half.suffix[1:]}").exists() or half == temporary:  # its process was killed
            shutil.rmtree(half, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _check_space(datasets, temporary)
        starts = _write_columns(datasets, temporary)
        _write_images(datasets, starts, temporary, progress)
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


def _write_columns(datasets: list[Dataset], folder: Path) -> list[int]:
    """columns.npz and cache.json; returns the first frame of every episode."""
    columns: dict[str, list[np.ndarray]] = {}
    words: dict[str, dict[str, int]] = {"task": {}, "subtask": {}}
    rows = [row for dataset in datasets for row in dataset.episodes]
    for dataset in datasets:
        for e in range(len(dataset.episodes)):
            values = dataset.columns(e)
            for name, texts in (("task", dataset.tasks), ("subtask", dataset.subtasks)):
                if f"{name}_index" in values:
                    values[f"{name}_index"] = _merge(words[name], texts, values[f"{name}_index"])
            kept = {*numeric_features(dataset.contract), "subtask_index", "task_index"}
            for key in kept & values.keys():
                columns.setdefault(key, []).append(values[key])
    end = np.cumsum([row["length"] for row in rows])
    arrays = {key: np.concatenate(parts) for key, parts in columns.items()}
    start = end - [row["length"] for row in rows]
    arrays |= {"/start": start, "/end": end, "/instruction": arrays.pop("task_index")[start]}
    np.savez(folder / "columns.npz", allow_pickle=False, **arrays)  # "/" is in no feature's name
    _write_meta(datasets, rows, words, folder)
    return start.tolist()


def _write_meta(
    datasets: list[Dataset], rows: list[dict[str, Any]], words: dict[str, dict[str, int]], folder: Path
) -> None:
    digests = "\n".join(content_digest(dataset.root) for dataset in datasets)
    meta = {
        "contract": json.loads(datasets[0].contract.to_json()),
        "digest": hashlib.sha256(digests.encode()).hexdigest(),
        "roots": [str(dataset.root) for dataset in datasets],
        "instructions": list(words["task"]),
        "subtasks": list(words["subtask"]),
        "episodes": rows,
    }
    (folder / "cache.json").write_bytes(json_bytes(meta))


def _merge(known: dict[str, int], texts: list[str], index: np.ndarray) -> np.ndarray:
    table = np.array([known.setdefault(text, len(known)) for text in texts], np.int64)
    return table[index]


def _write_images(datasets: list[Dataset], starts: list[int], folder: Path, progress: bool) -> None:
    contract, frames = datasets[0].contract, sum(map(len, datasets))
    out = {
        key: np.lib.format.open_memmap(
            folder / f"{camera}.npy", mode="w+", dtype=np.uint8, shape=(frames, *contract.features[key].shape)
        )
        for camera, key in contract.cameras().items()
    }

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
