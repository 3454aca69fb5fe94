"""Synthetic episodes for tests: smooth pictures, a random walk, three subtasks.

toy_dataset("/tmp/toy", episodes=3)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tandem.data.contract import Contract
from tandem.data.encode import EncodedEpisode, EpisodeEncoder, Meta
from tandem.data.reader import Dataset
from tandem.data.writer import Recorder

SUBTASKS = ("approach", "grasp", "lift")


def toy_contract(size: int = 16, robot: str = "toy") -> Contract:
    image = {"dtype": "uint8", "shape": [size, size, 3], "role": "image"}
    text = {"dtype": "string", "shape": [], "role": "text"}
    state = {
        "dtype": "float32",
        "shape": [3],
        "names": ["x", "y", "z"],
        "unit": "m",
        "low": -1,
        "high": 1,
        "role": "state",
    }
    action = {"dtype": "float32", "shape": [2], "names": ["dx", "dy"], "low": -1, "high": 1, "role": "action"}
    features = {
        "observation.images.front": image,
        "observation.images.wrist": image,
        "observation.state": state,
        "action": action,
        "task": text,
        "subtask": text,
        "perturbed": {"dtype": "bool", "shape": [1], "role": "label"},
        "next.reward": {"dtype": "float32", "shape": [1], "low": 0, "high": 1, "role": "label"},
    }
    return Contract.from_fields({"robot": robot, "fps": 20, "features": features})


def toy_frames(contract: Contract, length: int, seed: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    size = contract.features["observation.images.front"].shape[0]
    down, right = np.mgrid[0:size, 0:size] * (6.0 / size)
    state = rng.uniform(-0.5, 0.5, 3)
    for t in range(length):
        action = rng.uniform(-1, 1, 2)
        state[:2] = np.clip(state[:2] + 0.05 * action, -1, 1)
        wave = [np.sin(down + phase + 3 * state[0]) + np.cos(right + 3 * state[1]) for phase in (0, 2, 4)]
        image = (127.5 + 60 * np.stack(wave, -1)).astype(np.uint8)
        yield {
            "observation.images.front": image,
            "observation.images.wrist": image[::-1].copy(),
            "observation.state": state.astype(np.float32),
            "action": action.astype(np.float32),
            "subtask": SUBTASKS[3 * t // length],
            "perturbed": bool(rng.random() < 0.1),
            "next.reward": t / length,
        }


def toy_episode(length: int, seed: int, task: str, meta: Meta, mode: str = "image") -> EncodedEpisode:
    """As a collecting worker process returns it."""
    encoder = EpisodeEncoder(toy_contract(), mode)
    for frame in toy_frames(encoder.contract, length, seed):
        encoder.add(frame)
    return encoder.finish(task, meta)


def toy_dataset(
    root: Path | str, episodes: int = 3, length: int = 10, size: int = 16, mode: str = "image", first_seed: int = 0
) -> Path:
    """Episode e has seed first_seed + e and length + e frames."""
    contract = toy_contract(size)
    with Recorder(root, contract, mode) as recorder:
        for e in range(episodes):
            for frame in toy_frames(contract, length + e, seed=first_seed + e):
                recorder.add_frame(frame)
            recorder.save_episode(
                f"lift toy {e % 2}", {"sim/seed": first_seed + e, "sim/success": True, "sim/task": "toy"}
            )
    return Path(root)


def read_frames(dataset: Dataset, episode: int) -> dict[str, np.ndarray]:
    """Columns and decoded images by key, e.g. observation.images.front (T, H, W, 3)."""
    images = {key: dataset.images(episode, key) for key in dataset.contract.keys("image")}
    return dataset.columns(episode) | images
