"""repair(root): keep the longest verified prefix of episodes, move everything else to quarantine/, rewrite meta/.

Notable choices
- An episode is verified from its files: its row in meta/episodes, row count, contiguous index, checksums of all parquet
  pages, first and last image decode, the mp4's digest and frame count. info.json is believed in nothing.
- Nothing is deleted: what is not kept lies under quarantine/NNNN/ with its path, and can be looked at or restored.
- An episode that was written but not yet counted in info.json (a recorder killed in between) is kept.
- Lost word tables are rebuilt from the episodes; a lost contract.json is not: nothing else holds units and ranges.
Only datasets recorded by Tandem (one file per episode).
"""

from __future__ import annotations

import hashlib
import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import layout
from .contract import Contract
from .encode import decode_image
from .errors import DataError
from .files import Lock, json_bytes, write_changed
from .layout import read_json, read_table, read_words, table_bytes, word_table
from .stats import write_stats
from .video import verify_video

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


@dataclass(frozen=True)
class RepairReport:
    episodes: int
    frames: int
    quarantined: list[str]
    reason: str

    def __str__(self) -> str:
        moved = f"{len(self.quarantined)} files moved to quarantine/" + (f" ({self.reason})" if self.reason else "")
        return f"{self.episodes} episodes, {self.frames} frames verified; " + (
            moved if self.quarantined else "nothing to move"
        )


def repair(root: Path | str) -> RepairReport:
    root = Path(root)
    if not (root / "meta" / "contract.json").exists():
        raise DataError(f"{root}: no meta/contract.json; only datasets recorded by Tandem can be repaired")
    lock = Lock(root)
    try:
        state = survey(root)
        moved = _apply(root, state)
        if state.rows:
            write_stats(root)
    finally:
        lock.release()
    return RepairReport(len(state.rows), _frames(state), moved, state.reason)


def settle(root: Path) -> State:
    """Make a dataset ready for a recorder: leftovers of an interrupted save are moved away, a finished episode
    that is not counted yet is counted in. Refuses where a counted one is damaged: that is for a person to decide."""
    state = survey(root)
    info = root / "meta" / "info.json"
    counted = read_json(info)["total_episodes"] if info.exists() else 0
    if len(state.rows) < counted:
        raise DataError(
            f"{root}: episode {len(state.rows)} of {counted} is damaged ({state.reason}); run `tandem data repair`"
        )
    _apply(root, state)
    return state


def survey(root: Path) -> State:
    """Read and verify everything; changes nothing."""
    contract = Contract.from_json((root / "meta" / "contract.json").read_text())
    mode = "video" if (root / "videos").exists() or _info_mode(root) == "video" else "image"
    rows: list[Row] = []
    words: dict[str, dict[int, str]] = {"task": {}, "subtask": {}}
    reason, begin = "", 0
    for episode in itertools.count():
        if not layout.episode_file(root, episode).exists() and not layout.data_file(root, episode).exists():
            break
        try:
            row = verify_episode(root, contract, mode, episode, begin, words)
        except (ValueError, KeyError, TypeError) as error:  # DataError, or a row that lacks what it must have
            reason = str(error).split("; ")[0]
            break
        rows.append(row)
        begin += row["length"]
    kept = {path for e in range(len(rows)) for path in _files_of(root, contract, mode, e)}
    leftovers = sorted(path for path in _stored(root) if path not in kept)
    tasks, subtasks = (_table(root, name, words[name]) for name in ("task", "subtask"))
    return State(contract, mode, rows, tasks, subtasks, leftovers, reason)


def verify_episode(
    root: Path, contract: Contract, mode: str, episode: int, begin: int, words: dict[str, dict[int, str]]
) -> Row:
    """The episode's row if all its files are sound, else DataError; notes the words that its indices stand for."""
    path, data = layout.episode_file(root, episode), layout.data_file(root, episode)
    rows = read_table(path).to_pylist()
    if len(rows) != 1 or rows[0]["episode_index"] != episode or rows[0]["dataset_from_index"] != begin:
        raise DataError(f"{path}: is not the row of episode {episode}")
    row = rows[0]
    verify_data_file(data, episode, begin, row["length"])
    table = read_table(data)
    if table.schema.remove_metadata() != layout.data_schema(contract, mode):
        raise DataError(f"{data}: columns are not those of the contract")
    for key in contract.keys("image"):
        if mode == "image":
            for t in (0, row["length"] - 1):
                decode_image(table[key][t]["bytes"].as_py(), f"{data}: {key}, frame {t}")
        else:
            _verify_mp4(layout.video_file(root, key, episode), row, key, contract.fps)
    for name in words:
        if f"{name}_index" in table.column_names:
            index = np.unique(table[f"{name}_index"].to_numpy()).tolist()
            words[name] |= dict(zip(index, row[f"{name}s"], strict=True))
    return row


def verify_data_file(path: Path, episode: int, begin: int, length: int) -> None:
    """Read back what was written: rows, contiguous index, frame_index from 0, one episode."""
    table = read_table(path, ["index", "frame_index", "episode_index"])
    if table.num_rows != length:
        raise DataError(f"{path}: {table.num_rows} rows, expected {length}; run `tandem data repair`")
    frame = np.arange(length)
    expected = {"index": begin + frame, "frame_index": frame, "episode_index": np.full(length, episode)}
    for key, values in expected.items():
        if not np.array_equal(table[key].to_numpy(), values):
            raise DataError(f"{path}: {key} is not what episode {episode} must have; run `tandem data repair`")


def own_columns(row: Row) -> Row:
    """The part of a row of meta/episodes that the user gave as meta."""
    return {
        k: v for k, v in row.items() if k not in layout.EPISODE_COLUMNS and not k.startswith(layout.EPISODE_PREFIXES)
    }


def _verify_mp4(path: Path, row: Row, key: str, fps: int) -> None:
    if not path.exists():
        raise DataError(f"{path}: file is missing")
    if hashlib.sha256(path.read_bytes()).hexdigest() != row[f"videos/{key}/sha256"]:
        raise DataError(f"{path}: is not the file that was recorded")
    verify_video(path, row["length"], fps, str(path))


def _apply(root: Path, state: State) -> list[str]:
    moved = _quarantine(root, state.leftovers)
    for name, words in (("task", state.tasks), ("subtask", state.subtasks)):
        if words:
            write_changed(root / "meta" / f"{name}s.parquet", table_bytes(word_table(name, words)))
    info = layout.info_json(state.contract, state.mode, len(state.rows), _frames(state), len(state.tasks))
    write_changed(root / "meta" / "info.json", json_bytes(info))
    return moved


def _quarantine(root: Path, paths: list[Path]) -> list[str]:
    if not paths:
        return []
    folder = next(p for n in itertools.count(1) if not (p := root / "quarantine" / f"{n:04d}").exists())
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
    """All files of episodes, and temporary files anywhere."""
    folders = [root / "data", root / "videos", root / "meta" / "episodes"]
    return [p for f in folders for p in f.rglob("*") if p.is_file()] + list((root / "meta").glob(".*.tmp"))


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
        return "video" if read_json(root / "meta" / "info.json")["video_path"] else "image"
    except (DataError, KeyError):
        return "image"


def _frames(state: State) -> int:
    return sum(row["length"] for row in state.rows)
