"""Recorder: writes a LeRobotDataset v3.0, one durable episode at a time.

Order of one save: tasks and subtasks tables (append-only, a superset does no harm) -> data file -> videos -> read back
and verify -> meta/episodes file -> info.json. Each is written to a temporary file, synced, renamed. A recorder killed
anywhere loses at most the episode in progress. `resume=True` counts in an episode that had everything but its line in
info.json, and moves leftovers of an unfinished save to quarantine/. When it refuses an episode (disk full, ...) the
episode stays in memory: free space and call save again.

    recorder = Recorder(root, contract)
    for ...: recorder.add_frame(obs | {"action": action, "subtask": word, ...})
    recorder.save_episode("pick up the red cube", {"sim/seed": 3, "sim/success": True})
    recorder.close()                                                     # writes meta/stats.json

Statistics are written by `close` (or `repair`), not at every save: exact ones cost a pass over all frames.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from . import layout
from .contract import Contract
from .encode import EncodedEpisode, EpisodeEncoder, Meta
from .errors import DataError
from .files import Lock, json_bytes, write_atomic
from .layout import place, read_info, table_bytes, word_table
from .repair import own_columns, settle, verify_data_file
from .stats import write_stats

SPARE_BYTES = 16 << 20  # kept free on the disk beside the episode itself


@dataclass(frozen=True)
class _Saved:
    """What a recorder knows of the episodes in its folder. Replaced at once, never half."""

    episodes: int = 0
    frames: int = 0
    meta_types: dict[str, type] | None = None  # of the columns that users gave; None before the first episode
    histograms: dict[str, np.ndarray] | None = None  # of all pictures; None where they are not known
    added: bool = False  # since the folder was opened

    def and_(self, episode: EncodedEpisode) -> _Saved:
        known, more = self.histograms, episode.histograms
        if known is not None:
            known = {key: known.get(key, 0) + counts for key, counts in more.items()} if more else None
        types = {key: type(value) for key, value in episode.meta.items()}
        return _Saved(self.episodes + 1, self.frames + episode.length, types, known, True)


class Recorder:
    """Records a data set, one durable episode after the other."""

    def __init__(
        self, root: Path | str, contract: Contract, mode: str = "image", resume: bool = False, image_format: str = "png"
    ) -> None:
        self.root, self.contract, self.mode = Path(root), contract, mode
        self.tasks: list[str] = []
        self.subtasks: list[str] = []
        self._saved = _Saved(histograms={} if image_format == "png" and mode == "image" else None)
        self._saving: EncodedEpisode | None = None
        self._new_encoder = lambda: EpisodeEncoder(contract, mode, image_format)
        self._encoder = self._new_encoder()
        existing = (self.root / "meta" / "contract.json").exists()  # the first file that a recorder writes
        if not existing and _holds_something(self.root):
            raise DataError(f"{self.root}: is not empty and not a dataset recorded by Tandem; choose another folder")
        if existing and not resume:
            raise DataError(
                f"{self.root}: exists and is not empty; choose another folder, or continue it with --resume"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(self.root)
        try:
            self._resume() if existing else self._create()
        except BaseException:
            self._lock.release()
            raise

    @property
    def episodes(self) -> int:
        """How many are durable."""
        return self._saved.episodes

    @property
    def frames(self) -> int:
        """Frames recorded so far."""
        return self._saved.frames

    def add_frame(self, frame: Mapping[str, Any]) -> None:
        """Observation, action, labels of one step, as the contract names them. A refused frame changes nothing."""
        try:
            self._encoder.add(frame)
        except DataError as error:
            raise DataError(f"{self.root}: episode {self.episodes}, {error}") from None

    def save_episode(self, task: str, meta: Meta) -> int:
        """Durable when it returns. Gives the episode's index."""
        index = self.save_encoded(self._encoder.finish(task, meta))
        self.discard_episode()
        return index

    def discard_episode(self) -> None:
        """Drops the frames of the present episode."""
        self._encoder = self._new_encoder()

    def save_encoded(self, episode: EncodedEpisode) -> int:
        """Write an episode that `EpisodeEncoder` made, perhaps in another process.

        Any exception may leave it anywhere (Ctrl-C): an episode that has become durable counts nevertheless, so that
        none is written over."""
        self._recall()
        self._check(episode)
        index, self._saving = self.episodes, episode
        try:
            self._write(episode, index)
        except OSError as error:
            self._saving = None  # the caller knows, and may save it again
            raise DataError(f"{self.root}: episode {index} not written ({error}); free space and save again") from None
        self._saved, self._saving = self._saved.and_(episode), None
        return index

    def close(self) -> None:
        """Write the statistics, where they are not those of these episodes already, and let the folder go."""
        try:
            if self._lock.held:
                self._recall()
                stored = (self.root / "meta" / "stats.json").exists()
                if self.episodes and (self._saved.added or not stored):
                    write_stats(self.root, self._saved.histograms)
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _create(self) -> None:
        write_atomic(self.root / "meta" / "contract.json", self.contract.to_json().encode(), self.root)
        self._write_info()

    def _resume(self) -> None:
        state = settle(self.root)
        state.contract.check(self.contract, f"{self.root}: contract")
        if state.mode != self.mode:
            raise DataError(f"{self.root}: was recorded in {state.mode} mode, not {self.mode}; use the same mode")
        self.tasks, self.subtasks = state.tasks, state.subtasks
        if state.rows:  # close() decodes them once: the histograms of the old episodes are gone
            types = {key: type(value) for key, value in own_columns(state.rows[0]).items()}
            self._saved = _Saved(len(state.rows), sum(row["length"] for row in state.rows), types)

    def _recall(self) -> None:
        """Counts in the episode whose save was left by an exception, if info.json counts it."""
        if self._saving is not None and read_info(self.root)["total_episodes"] > self.episodes:
            self._saved = self._saved.and_(self._saving)
        self._saving = None

    def _check(self, episode: EncodedEpisode) -> None:
        if episode.contract_digest != self.contract.digest() or episode.mode != self.mode:
            raise DataError(
                f"{self.root}: episode was encoded for another contract or mode; encode it with the recorder's"
            )
        types = {key: type(value) for key, value in episode.meta.items()}
        if self._saved.meta_types is not None and types != self._saved.meta_types:
            raise DataError(f"{self.root}: meta {types} differs from the first episode's {self._saved.meta_types}")
        need, free = episode.nbytes() + SPARE_BYTES, shutil.disk_usage(self.root).free
        if free < need:
            raise DataError(
                f"{self.root}: disk full ({free >> 20} MiB free, {need >> 20} needed); free space and save again"
            )

    def _write(self, episode: EncodedEpisode, index: int) -> None:
        self._write_words(episode)
        data, begin = layout.data_file(self.root, index), self.frames
        write_atomic(data, table_bytes(self._data_table(episode, index)), self.root)
        for key, content in episode.videos.items():
            write_atomic(layout.video_file(self.root, key, index), content, self.root)
        verify_data_file(data, index, begin, episode.length, self.root)
        row = table_bytes(self._episode_table(episode, index))
        write_atomic(layout.episode_file(self.root, index), row, self.root)
        self._write_info(index + 1, begin + episode.length)

    def _write_words(self, episode: EncodedEpisode) -> None:
        for name, words, new in (("task", self.tasks, [episode.task]), ("subtask", self.subtasks, episode.subtasks)):
            fresh = [word for word in dict.fromkeys(new) if word not in words]
            if fresh:
                table = table_bytes(word_table(name, words + fresh))
                write_atomic(self.root / "meta" / f"{name}s.parquet", table, self.root)
                words += fresh

    def _write_info(self, episodes: int = 0, frames: int = 0) -> None:
        info = layout.info_json(self.contract, self.mode, episodes, frames, len(self.tasks))
        write_atomic(self.root / "meta" / "info.json", json_bytes(info), self.root)

    def _data_table(self, episode: EncodedEpisode, index: int) -> pa.Table:
        schema, T = layout.data_schema(self.contract, self.mode), episode.length
        frame = np.arange(T)
        columns: dict[str, Any] = dict(episode.columns)
        columns |= {"frame_index": frame, "timestamp": (frame / self.contract.fps).astype(np.float32)}
        columns |= {"episode_index": np.full(T, index), "index": self.frames + frame}
        columns |= {"task_index": np.full(T, self.tasks.index(episode.task))}
        columns |= {"subtask_index": np.array([self.subtasks.index(word) for word in episode.subtasks], np.int64)}
        columns |= {key: [{"bytes": b, "path": None} for b in blobs] for key, blobs in episode.images.items()}
        return pa.Table.from_arrays([_arrow(columns[f.name], f.type) for f in schema], schema=schema)

    def _episode_table(self, episode: EncodedEpisode, index: int) -> pa.Table:
        row: dict[str, Any] = {"episode_index": index, "tasks": [episode.task], "length": episode.length}
        row |= {f"data/{k}": v for k, v in place(index).items()} | {
            f"meta/episodes/{k}": v for k, v in place(index).items()
        }
        row |= {"dataset_from_index": self.frames, "dataset_to_index": self.frames + episode.length}
        for key, content in episode.videos.items():
            row |= {f"videos/{key}/sha256": hashlib.sha256(content).hexdigest()}
            row |= {f"videos/{key}/{k}": v for k, v in place(index).items()}
            row |= {
                f"videos/{key}/from_timestamp": 0.0,
                f"videos/{key}/to_timestamp": episode.length / self.contract.fps,
            }
        words = sorted(set(episode.subtasks), key=self.subtasks.index)
        row |= {"subtasks": words} | episode.meta
        table = pa.Table.from_pylist([row])
        at = table.schema.get_field_index("subtasks")
        return table.set_column(at, "subtasks", table["subtasks"].cast(pa.list_(pa.string())))


def _arrow(values: Any, kind: pa.DataType) -> pa.Array:
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1), kind.value_type), type=kind)
    return pa.array(values.reshape(-1) if isinstance(values, np.ndarray) else values, kind)


def _holds_something(root: Path) -> bool:
    """Any file that is not hidden, or a folder that is a link to another place."""
    for folder, folders, names in os.walk(root):
        if not all(name.startswith(".") for name in names) or any(Path(folder, name).is_symlink() for name in folders):
            return True
    return False
