"""check(root): what is wrong or odd in a dataset, before somebody trains on it.

Severities: "error" (do not train), "warning" (look at it), "note". Every finding names the feature (and its entry) or
the file. Findings of one kind over many episodes are one line.

Notable choices
- Every image is decoded: what is vouched for was looked at. Threads decode, an episode each, so memory holds a few.
- An episode whose first image is of one colour is an error (a black renderer). So is one whose images never change
  though the state does (a renderer that gives the last picture again).
- Constant entries are warnings for state and action and notes elsewhere (an absent object is a constant zero).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import layout
from .contract import Feature, entry_name, out_of_range
from .errors import DataError
from .kinds import action_kinds
from .preflight import refuse_actions, refuse_unusable
from .progress import progress_bar
from .reader import Dataset
from .stats import NEARLY

MIN_LENGTH, MAX_RATIO = 2, 5.0  # frames; times the median length
FLAT = 1.0  # deviation of pixel values below which an image is of one colour
REPEATED = 0.5  # share of images that equal the one before, above which a warning is given
MOVED = 1e-3  # of an entry of the state: it has changed


@dataclass(frozen=True)
class Finding:
    """One line of `tandem data check`."""

    severity: str  # "error" | "warning" | "note"
    key: str
    what: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.key}: {self.what}"


@dataclass(frozen=True)
class Pictures:
    """What the images of one camera in one episode are like."""

    one_colour: bool  # the first one
    constant: bool  # all alike, though the state changes
    repeated: float  # share that equals the one before


def check(root: Path | str, rename: Mapping[str, str] | None = None, progress: bool = False) -> list[Finding]:
    """Errors first. An unreadable dataset is one finding, an unreadable episode too. rename: as `Dataset` takes it."""
    try:
        dataset = Dataset(root, rename)
        findings = _check_usable(dataset) + _check_episodes(dataset) + _check_words(dataset) + _check_stats(dataset)
    except DataError as error:
        return [Finding("error", "dataset", str(error))]
    columns: dict[str, list[np.ndarray]] = {}
    last: list[np.ndarray] = []
    for episode, row in enumerate(dataset.episodes):
        try:
            values = dataset.columns(episode)
            findings += _check_index(dataset, episode, values)
        except DataError as error:
            findings.append(Finding("error", f"episode {episode}", str(error)))
            continue
        for key, value in values.items():
            columns.setdefault(key, []).append(value.reshape(len(value), -1))
        last.append(np.arange(row["length"]) == row["length"] - 1)
    findings += _check_pictures(dataset, progress)
    for key, feature in layout.numeric_features(dataset.contract).items():
        findings += _check_column(key, feature, columns.get(key, []))
    findings += _check_actions(dataset, columns, last)
    return sorted(findings, key=lambda f: ("error", "warning", "note").index(f.severity))


def _check_usable(dataset: Dataset) -> list[Finding]:
    """What training would refuse."""
    try:
        refuse_unusable(dataset)
    except DataError as error:
        return [Finding("error", "dataset", str(error))]
    return []


def _check_episodes(dataset: Dataset) -> list[Finding]:
    if not dataset.episodes:
        return [Finding("warning", "episodes", "there are none")]
    lengths = np.array([row["length"] for row in dataset.episodes])
    median = float(np.median(lengths))
    short = np.flatnonzero(lengths < MIN_LENGTH).tolist()
    found = _folded((e, "warning", f"has {lengths[e]} frames") for e in short)
    for e in np.flatnonzero(lengths > MAX_RATIO * median):
        found.append(Finding("warning", f"episode {e}", f"has {lengths[e]} frames, the median is {median:g}"))
    seeds = Counter(
        (row.get("sim/task"), row["sim/seed"], row.get("source")) for row in dataset.episodes if "sim/seed" in row
    )
    for (task, seed, _), count in seeds.items():
        if count > 1:
            found.append(Finding("warning", "sim/seed", f"seed {seed} of task {task} is there {count} times"))
    failed = sum(row.get("sim/success") is False for row in dataset.episodes)
    return found + ([Finding("note", "sim/success", f"{failed} of {len(lengths)} episodes failed")] if failed else [])


def _check_words(dataset: Dataset) -> list[Finding]:
    found = []
    for name, words in (("tasks", dataset.tasks), ("subtasks", dataset.subtasks)):
        if empty := [index for index, word in words.items() if not word.strip()]:
            found.append(Finding("warning", name, f"entry {empty[0]} is empty"))
    if not dataset.subtasks:
        found.append(Finding("warning", "subtask", "no subtask labels: the planner learns no words from this"))
    return found


def _check_stats(dataset: Dataset) -> list[Finding]:
    if not dataset.episodes or dataset.foreign:  # statistics of others are not used
        return []
    try:
        missing = set(layout.numeric_features(dataset.contract)) - set(dataset.stats)
    except DataError as error:
        return [Finding("warning", "stats", str(error))]
    return [Finding("error", "stats", f"no statistics for {sorted(missing)}")] if missing else []


def _check_index(dataset: Dataset, episode: int, values: dict[str, np.ndarray]) -> list[Finding]:
    row, frame = dataset.episodes[episode], np.arange(dataset.episodes[episode]["length"])
    expected = {"frame_index": frame, "index": row["dataset_from_index"] + frame}
    gaps = [key for key, value in expected.items() if key not in values or not np.array_equal(values[key], value)]
    found = [Finding("error", key, f"has a gap in episode {episode}") for key in gaps]
    before = dataset.episodes[episode - 1]["dataset_to_index"] if episode else 0
    if row["dataset_from_index"] != before or row["dataset_to_index"] != before + row["length"]:
        found.append(Finding("error", "dataset_from_index", f"episode {episode} does not follow the one before"))
    worst = float(np.abs(values["timestamp"] - frame / dataset.contract.fps).max()) if "timestamp" in values else 0.0
    if not worst <= 1e-3:
        found.append(Finding("error", "timestamp", f"is off by {worst:.4f} s in episode {episode}"))
    for name, words in (("task", dataset.tasks), ("subtask", dataset.subtasks)):
        index = values.get(f"{name}_index")
        if index is not None and (unknown := sorted({*np.unique(index).tolist()} - words.keys())):
            what = f"episode {episode} points outside the table of {len(words)}: {unknown[0]} is not in it"
            found.append(Finding("error", f"{name}_index", what))
    return found


def _check_pictures(dataset: Dataset, progress: bool) -> list[Finding]:
    """Decodes every image."""
    episodes, cameras = range(len(dataset.episodes)), dataset.contract.keys("image")
    found = []
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        progress_bar(total=len(episodes) * len(cameras), desc="check", unit="video", disable=not progress) as bar,
    ):
        for key in cameras:
            jobs = [pool.submit(look_at, dataset, episode, key) for episode in episodes]
            said: list[tuple[int, str, str]] = []
            for episode, job in enumerate(jobs):
                try:
                    said += [(episode, *about) for about in _judge(job.result())]
                except DataError as error:
                    found.append(Finding("error", f"episode {episode}", str(error)))
                bar.update()
            found += _folded(said, key)
    return found


def look_at(dataset: Dataset, episode: int, key: str) -> Pictures:
    """Decodes all images of a camera in an episode. DataError where one does not decode."""
    images = dataset.images(episode, key)
    same = np.array([np.array_equal(a, b) for a, b in zip(images[1:], images[:-1], strict=True)], bool)
    state = dataset.columns(episode).get("observation.state")
    moves = state is not None and bool((np.ptp(state, axis=0) > MOVED).any())
    return Pictures(
        one_colour=bool(images[0].std() < FLAT),
        constant=bool(len(same) and same.all() and moves),
        repeated=float(same.mean()) if len(same) else 0.0,
    )


def _judge(pictures: Pictures) -> list[tuple[str, str]]:
    """(severity, what is wrong)."""
    if pictures.one_colour:
        return [("error", "the first image is of one colour")]
    if pictures.constant:
        return [("error", "the images never change, though the state does")]
    if pictures.repeated > REPEATED:
        return [("warning", "more than half of the images repeat the one before")]
    return []


def _folded(said: Iterable[tuple[int, str, str]], key: str = "") -> list[Finding]:
    """(episode, severity, what) -> one finding for all episodes of which the same is said."""
    groups: dict[tuple[str, str], list[int]] = {}
    for episode, severity, what in said:
        groups.setdefault((severity, what), []).append(episode)
    found = []
    for (severity, what), episodes in groups.items():
        named = _named(episodes)
        found.append(Finding(severity, key or named, f"{what} ({named})" if key else what))
    return found


def _named(episodes: list[int]) -> str:
    more = f" and {len(episodes) - 4} more" if len(episodes) > 4 else ""
    return ("episode " if len(episodes) == 1 else "episodes ") + ", ".join(map(str, episodes[:4])) + more


def _check_column(key: str, feature: Feature, parts: list[np.ndarray]) -> list[Finding]:
    widths = sorted({part.shape[1] for part in parts})
    if not parts or widths != list(feature.shape):
        return [Finding("error", key, f"has {widths} entries, the contract says {feature.shape}")] if parts else []
    x = np.concatenate(parts)  # (F, n)
    finite = np.isfinite(x) if x.dtype.kind == "f" else np.ones(x.shape, bool)
    outside = out_of_range(feature, x) & finite
    found = []
    for i in range(x.shape[1]):
        name = entry_name(key, feature, i)
        if not finite[:, i].all():
            found.append(Finding("error", name, f"{(~finite[:, i]).sum()} of {len(x)} values are not finite"))
        if outside[:, i].any():
            severity = "error" if feature.role == "action" else "warning"
            extent = f"{x[:, i].min():.5g} .. {x[:, i].max():.5g}"
            found.append(Finding(severity, name, f"{outside[:, i].mean():.2%} out of range ({extent})"))
    return found + _check_constant(key, feature, x)


def _check_constant(key: str, feature: Feature, x: np.ndarray) -> list[Finding]:
    """One warning per entry of state and action, which would break the normaliser. One note per feature elsewhere."""
    with np.errstate(invalid="ignore"):
        wide = x.astype(np.float64)
        constant = np.flatnonzero(wide.std(0) <= NEARLY * np.maximum(1.0, np.abs(wide.mean(0)))).tolist()
    if feature.role in ("state", "action"):
        said = "is (nearly) constant at {:.5g}"
        return [Finding("warning", entry_name(key, feature, i), said.format(float(x[0, i]))) for i in constant]
    return [Finding("note", key, f"{len(constant)} of {x.shape[1]} entries are constant")] if len(constant) else []


def _check_actions(dataset: Dataset, columns: dict[str, list[np.ndarray]], last: list[np.ndarray]) -> list[Finding]:
    """What kind of actions they are, where names of ours do not say so, and whether training takes them."""
    if not dataset.foreign or not {"observation.state", "action"} <= columns.keys():
        return []
    state, action = (np.concatenate(columns[key]) for key in ("observation.state", "action"))
    kinds = Counter(action_kinds(dataset.contract, state, action, np.concatenate(last)))
    said = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    found = [Finding("note", "action", f"kinds of its {action.shape[1]} entries, as far as can be told: {said}")]
    try:
        refuse_actions(dataset.contract, action, str(dataset.root))
    except DataError as error:
        found.append(Finding("error", "action", str(error)))
    return found
