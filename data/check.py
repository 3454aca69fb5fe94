"""check(root): what is wrong or odd in a dataset, before somebody trains on it.

Severities: "error" (do not train), "warning" (look at it), "note". Every finding names the feature (and its entry) or
the file. Notable choices: constant entries are warnings for state and action and notes elsewhere (an absent object is a
constant zero); the first image of each episode is decoded and must not be of one colour (a black renderer).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import layout
from .contract import Feature, entry_name, out_of_range
from .encode import decode_image
from .errors import DataError
from .normalize import NEARLY
from .reader import Dataset

MIN_LENGTH, MAX_RATIO = 2, 5.0  # frames; times the median length


@dataclass(frozen=True)
class Finding:
    severity: str  # "error" | "warning" | "note"
    key: str
    what: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.key}: {self.what}"


def check(root: Path | str) -> list[Finding]:
    """Errors first. An unreadable dataset is one finding, an unreadable episode too."""
    try:
        dataset = Dataset(root)
        findings = _check_episodes(dataset) + _check_words(dataset) + _check_stats(dataset)
    except DataError as error:
        return [Finding("error", "dataset", str(error))]
    columns: dict[str, list[np.ndarray]] = {}
    for episode in range(len(dataset.episodes)):
        try:
            values = dataset.columns(episode)
            findings += _check_index(dataset, episode, values) + _check_picture(dataset, episode)
        except DataError as error:
            findings.append(Finding("error", f"episode {episode}", str(error)))
            continue
        for key, value in values.items():
            columns.setdefault(key, []).append(value.reshape(len(value), -1))
    for key, feature in layout.numeric_features(dataset.contract).items():
        findings += _check_column(key, feature, columns.get(key, []))
    return sorted(findings, key=lambda f: ("error", "warning", "note").index(f.severity))


def _check_episodes(dataset: Dataset) -> list[Finding]:
    if not dataset.episodes:
        return [Finding("warning", "episodes", "there are none")]
    lengths = np.array([row["length"] for row in dataset.episodes])
    median = float(np.median(lengths))
    found = [
        Finding("warning", f"episode {e}", f"has {lengths[e]} frames") for e in np.flatnonzero(lengths < MIN_LENGTH)
    ]
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
        if any(not word.strip() for word in words):
            found.append(Finding("warning", name, f"entry {[w.strip() for w in words].index('')} is empty"))
    if "subtask_index" not in dataset.info["features"]:
        found.append(Finding("warning", "subtask", "no subtask labels: the planner cannot be trained on this"))
    return found


def _check_stats(dataset: Dataset) -> list[Finding]:
    if not dataset.episodes:
        return []
    try:
        missing = set(layout.numeric_features(dataset.contract)) - set(dataset.stats)
    except DataError as error:
        return [Finding("warning", "stats", str(error))]
    return [Finding("error", "stats", f"no statistics for {sorted(missing)}")] if missing else []


def _check_index(dataset: Dataset, episode: int, values: dict[str, np.ndarray]) -> list[Finding]:
    row, frame = dataset.episodes[episode], np.arange(dataset.episodes[episode]["length"])
    expected = {"frame_index": frame, "index": row["dataset_from_index"] + frame}
    gaps = [key for key, value in expected.items() if not np.array_equal(values[key], value)]
    found = [Finding("error", key, f"has a gap in episode {episode}") for key in gaps]
    before = dataset.episodes[episode - 1]["dataset_to_index"] if episode else 0
    if row["dataset_from_index"] != before or row["dataset_to_index"] != before + row["length"]:
        found.append(Finding("error", "dataset_from_index", f"episode {episode} does not follow the one before"))
    worst = float(np.abs(values["timestamp"] - frame / dataset.contract.fps).max())
    if worst > 1e-3:
        found.append(Finding("error", "timestamp", f"is off by {worst:.4f} s in episode {episode}"))
    for name, words in (("task", dataset.tasks), ("subtask", dataset.subtasks)):
        index = values.get(f"{name}_index")
        if index is not None and not ((index >= 0) & (index < len(words))).all():
            found.append(
                Finding("error", f"{name}_index", f"episode {episode} points outside the table of {len(words)}")
            )
    return found


def _check_picture(dataset: Dataset, episode: int) -> list[Finding]:
    found = []
    for key in dataset.contract.keys("image"):
        if dataset.info["features"][key]["dtype"] == "image":
            blob: Any = dataset.table(episode, [key])[key][0]["bytes"].as_py()
            image = decode_image(blob, f"episode {episode}, {key}, frame 0")
        else:
            image = dataset.images(episode, key)[0]
        if image.shape != dataset.contract.features[key].shape:
            found.append(Finding("error", key, f"episode {episode} has images of {image.shape}"))
        elif image.std() < 1.0:
            found.append(Finding("error", key, f"the first image of episode {episode} is of one colour"))
    return found


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
    """One warning per entry of state and action, which would break the normaliser; one note per feature elsewhere."""
    with np.errstate(invalid="ignore"):
        wide = x.astype(np.float64)
        constant = np.flatnonzero(wide.std(0) <= NEARLY * np.maximum(1.0, np.abs(wide.mean(0)))).tolist()
    if feature.role in ("state", "action"):
        said = "is (nearly) constant at {:.5g}"
        return [Finding("warning", entry_name(key, feature, i), said.format(float(x[0, i]))) for i in constant]
    return [Finding("note", key, f"{len(constant)} of {x.shape[1]} entries are constant")] if len(constant) else []
