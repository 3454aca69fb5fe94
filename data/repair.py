"""repair(root): keep the longest verified prefix of episodes, move everything else to quarantine/, rewrite meta/.

Notable choices
- An episode is verified from its files: its row in meta/episodes, row count, contiguous index, checksums of all parquet
  pages, the mp4's digest and frame count. info.json is believed in nothing. `repair` decodes every picture too, since
  the statistics need them anyway. `settle` the first and the last one of an episode.
- No link is followed, nothing leaves the folder: where a folder or a file of the data set is a link, or quarantine/ is,
  it is refused by name before anything is changed.
- Nothing is deleted: what is not kept lies under quarantine/NNNN/ with its path, and can be looked at or restored.
- An episode that was written but not yet counted in info.json (a recorder killed in between) is kept.
- Lost word tables are rebuilt from the episodes. A lost contract.json is not: nothing else holds units and ranges.
Only datasets recorded by Tandem (one file per episode).
"""

from __future__ import annotations

import hashlib
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from . import layout
from .contract import Contract
from .encode import decode_image, pixel_histogram
from .errors import DataError
from .files import Lock, check_regular, json_bytes, walk, write_changed
from .info import check_row
from .layout import check_column, read_contract, read_info, read_rows, read_table, read_words, table_bytes, word_table
from .progress import progress_bar
from .stats import write_stats
from .video import decode_video, verify_video

Row = dict[str, Any]


@dataclass(frozen=True)
class State:
    """What is on disk."""

    contract: Contract
    mode: str
    rows: list[Row]  # meta/episodes of the verified prefix
    tasks: list[str]
    subtasks: list[str]
    leftovers: list[Path]  # files that belong to no verified episode
    reason: str  # why the prefix ends where it does; "" where it ends because there is no more
    histograms: dict[str, np.ndarray] | None  # of all pictures, per camera key; None where they were not decoded


@dataclass(frozen=True)
class RepairReport:
    """What a repair kept and what it moved to quarantine."""

    episodes: int
    frames: int
    quarantined: list[str]
    reason: str

    def __str__(self) -> str:
        moved = f"{len(self.quarantined)} files moved to quarantine/" + (f" ({self.reason})" if self.reason else "")
        return f"{self.episodes} episodes, {self.frames} frames verified; " + (
            moved if self.quarantined else "nothing to move"
        )


def repair(root: Path | str, progress: bool = True) -> RepairReport:
    """Keeps the longest verified run of episodes and moves the rest to quarantine/."""
    root = Path(root)
    if not (root / "meta" / "contract.json").exists():
        raise DataError(f"{root}: no meta/contract.json; only datasets recorded by Tandem can be repaired")
    lock = Lock(root)
    try:
        state = survey(root, every_picture=True, progress=progress)
        moved = _apply(root, state)
        if state.rows:
            write_stats(root, state.histograms)
    finally:
        lock.release()
    return RepairReport(len(state.rows), _frames(state), moved, state.reason)


def settle(root: Path) -> State:
    """Make a dataset ready for a recorder: leftovers of an interrupted save are moved away, a finished episode
    that is not counted yet is counted in. Refuses where a counted one is damaged: that is for a person to decide."""
    state = survey(root)
    counted = read_info(root)["total_episodes"] if (root / "meta" / "info.json").exists() else 0
    if len(state.rows) < counted:
        raise DataError(
            f"{root}: episode {len(state.rows)} of {counted} is damaged ({state.reason}); run `tandem data repair`"
        )
    _apply(root, state)
    return state


def survey(root: Path, every_picture: bool = False, progress: bool = False) -> State:
    """Read and verify everything. Changes nothing. DataError where a part of the data set is a link."""
    stored = _stored(root)
    contract = read_contract(root)
    mode = "video" if (root / "videos").exists() or _info_mode(root) == "video" else "image"
    rows: list[Row] = []
    words: dict[str, dict[int, str]] = {"task": {}, "subtask": {}}
    histograms: dict[str, np.ndarray] = {}
    reason, begin = "", 0
    total = sum(path.is_relative_to(root / "data") for path in stored)
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        progress_bar(total=total, desc="verify", unit="episode", disable=not progress) as bar,
    ):
        for episode in itertools.count():
            if not layout.episode_file(root, episode).exists() and not layout.data_file(root, episode).exists():
                break
            try:
                row, table = verify_episode(root, contract, mode, episode, begin)
                known = {name: _known_words(table, row, name) for name in words}
                counted = _pixels(root, contract, mode, row, table, pool) if every_picture else {}
            except DataError as error:
                reason = str(error).split("; ")[0]
                break
            rows.append(row)
            words = {name: words[name] | known[name] for name in words}
            histograms = {key: histograms.get(key, 0) + counts for key, counts in counted.items()}
            begin += row["length"]
            bar.update()
    kept = {path for e in range(len(rows)) for path in _files_of(root, contract, mode, e)}
    leftovers = [path for path in stored if path not in kept]
    tasks, subtasks = (_table(root, name, words[name]) for name in ("task", "subtask"))
    return State(contract, mode, rows, tasks, subtasks, leftovers, reason, histograms or None)


def verify_episode(root: Path, contract: Contract, mode: str, episode: int, begin: int) -> tuple[Row, pa.Table]:
    """The episode's row and data if all its files are sound, else DataError."""
    path, data = layout.episode_file(root, episode), layout.data_file(root, episode)
    rows = read_rows(path, root)
    videos = contract.keys("image") if mode == "video" else []
    if len(rows) != 1 or rows[0].get("episode_index") != episode or rows[0].get("dataset_from_index") != begin:
        raise DataError(f"{path}: is not the row of episode {episode}")
    row = rows[0]
    try:
        check_row(row, episode, videos)
    except DataError as error:
        raise DataError(f"{path}: has {error}") from None
    verify_data_file(data, episode, begin, row["length"], root)
    table = read_table(data, root=root)
    if table.schema.remove_metadata() != layout.data_schema(contract, mode):
        raise DataError(f"{data}: columns are not those of the contract")
    for key, feature in layout.numeric_features(contract).items():
        check_column(table[key], {"shape": feature.shape}, f"{data}: {key}")
    for key in ("task_index", "subtask_index"):
        if key in table.column_names and table[key].null_count:
            raise DataError(f"{data}: values of {key} are missing")
    for key in contract.keys("image"):
        if mode == "video":
            _verify_mp4(layout.video_file(root, key, episode), root, row, key, contract)
        else:
            for t in (0, row["length"] - 1):
                _picture(data, contract, table, key, t)
    return row, table


def _known_words(table: pa.Table, row: Row, name: str) -> dict[int, str]:
    """The words that the episode's indices stand for."""
    if f"{name}_index" not in table.column_names:
        return {}
    index, told = np.unique(table[f"{name}_index"].to_numpy()).tolist(), row.get(f"{name}s") or []
    if len(index) != len(told) or min(index) < 0 or max(index) > layout.MAX_WORDS:
        raise DataError(f"episode {row['episode_index']} has other {name}s in its data than in its row")
    return dict(zip(index, told, strict=True))


def _picture(data: Path, contract: Contract, table: pa.Table, key: str, t: int) -> np.ndarray:
    shape = contract.features[key].shape
    return decode_image(table[key][t]["bytes"].as_py(), f"{data}: {key}, frame {t}", shape)


def _pixels(
    root: Path, contract: Contract, mode: str, row: Row, table: pa.Table, pool: ThreadPoolExecutor
) -> dict[str, np.ndarray]:
    """Decodes every picture of an episode. Camera key -> int64 (3, 256), how often each value occurs."""
    episode, length, found = row["episode_index"], row["length"], {}
    for key in contract.keys("image"):
        if mode == "video":
            frames = decode_video(layout.video_file(root, key, episode), slice(0, length), contract.features[key].shape)
            found[key] = pixel_histogram(frames)
            continue
        data = layout.data_file(root, episode)

        def count(t: int, key: str = key, data: Path = data) -> np.ndarray:
            return pixel_histogram(_picture(data, contract, table, key, t))

        found[key] = np.sum(list(pool.map(count, range(length))), axis=0)
    return found


def verify_data_file(path: Path, episode: int, begin: int, length: int, root: Path) -> None:
    """Read back what was written: rows, contiguous index, frame_index from 0, one episode."""
    table = read_table(path, ["index", "frame_index", "episode_index"], root)
    if missing := {"index", "frame_index", "episode_index"} - set(table.column_names):
        raise DataError(f"{path}: columns {sorted(missing)} are missing; run `tandem data repair`")
    if table.num_rows != length:
        raise DataError(f"{path}: {table.num_rows} rows, expected {length}; run `tandem data repair`")
    frame = np.arange(length)
    expected = {"index": begin + frame, "frame_index": frame, "episode_index": np.full(length, episode)}
    for key, values in expected.items():
        if not table[key].type == pa.int64() or not np.array_equal(table[key].to_numpy(), values):
            raise DataError(f"{path}: {key} is not what episode {episode} must have; run `tandem data repair`")


def own_columns(row: Row) -> Row:
    """The part of a row of meta/episodes that the user gave as meta."""
    return {
        k: v for k, v in row.items() if k not in layout.EPISODE_COLUMNS and not k.startswith(layout.EPISODE_PREFIXES)
    }


def _verify_mp4(path: Path, root: Path, row: Row, key: str, contract: Contract) -> None:
    try:
        check_regular(path, root)
    except FileNotFoundError:
        raise DataError(f"{path}: file is missing") from None
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != row.get(f"videos/{key}/sha256"):
            raise DataError(f"{path}: is not the file that was recorded")
    verify_video(path, row["length"], contract.fps, str(path))


def _apply(root: Path, state: State) -> list[str]:
    moved = _quarantine(root, state.leftovers)
    for name, words in (("task", state.tasks), ("subtask", state.subtasks)):
        if words:
            write_changed(root / "meta" / f"{name}s.parquet", table_bytes(word_table(name, words)), root)
    info = layout.info_json(state.contract, state.mode, len(state.rows), _frames(state), len(state.tasks))
    write_changed(root / "meta" / "info.json", json_bytes(info), root)
    return moved


def _quarantine(root: Path, paths: list[Path]) -> list[str]:
    """Into a folder that is made for them: nothing that lies in it can be a link."""
    if not paths:
        return []
    if (root / "quarantine").is_symlink():
        raise DataError(f"{root / 'quarantine'}: is a link, and nothing is moved through a link; remove it")
    (root / "quarantine").mkdir(exist_ok=True)
    for n in itertools.count(1):
        folder = root / "quarantine" / f"{n:04d}"
        try:
            folder.mkdir()
            break
        except FileExistsError:
            continue
    for path in paths:
        target = folder / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    return [str(path.relative_to(root)) for path in paths]


def _files_of(root: Path, contract: Contract, mode: str, episode: int) -> list[Path]:
    videos = contract.keys("image") if mode == "video" else []
    own = [layout.data_file(root, episode), layout.episode_file(root, episode)]
    return own + [layout.video_file(root, key, episode) for key in videos]


def _stored(root: Path) -> list[Path]:
    """All files of episodes, and temporary files of meta/."""
    if (root / "quarantine").is_symlink():
        raise DataError(f"{root / 'quarantine'}: is a link, and nothing is moved through a link; remove it")
    episodes = [path for part in ("data", "videos") for path in walk(root / part)]
    meta = walk(root / "meta")
    inside = [path for path in meta if path.is_relative_to(root / "meta" / "episodes")]
    return sorted(episodes + inside + [p for p in meta if p.parent == root / "meta" and p.match(".*.tmp")])


def _table(root: Path, name: str, known: dict[int, str]) -> list[str]:
    """The words by index: the stored table if it is sound and agrees with the episodes, else rebuilt from them."""
    rebuilt = [known.get(i, f"(lost {name} {i})") for i in range(max(known, default=-1) + 1)]
    try:
        words = read_words(root / "meta" / f"{name}s.parquet", name)
    except DataError:
        return rebuilt
    agrees = [*words] == [*range(len(words))] and all(words.get(i) == word for i, word in known.items())
    return list(words.values()) if agrees else rebuilt


def _info_mode(root: Path) -> str:
    try:
        return "video" if read_info(root).get("video_path") else "image"
    except DataError:
        return "image"


def _frames(state: State) -> int:
    return sum(row["length"] for row in state.rows)
