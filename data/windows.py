"""Training samples: which frames, what belongs to each, and a background thread that has the next batch ready.

Notable choices
- A sample is a frame t of an episode. Its window is cut with vectorised indexing. No Python loop runs per sample.
- `Sampler.indices(step)` is a pure function of (seed, step): an epoch is a permutation of the frames, batches run on
  across the border of two epochs, and resuming needs nothing but the step number.
- `Loader` hands out batches in step order whatever the prefetch depth.

Window of frame t, episode frames s .. e-1, chunk H, P planner ticks every `tick` frames:
    actions[h] = action[min(t+h, e-1)]      action_mask[h] = t+h < e and no perturbed step in t .. t+h
    future_index = min(t+H, e-1)
    history_index[p] = max(s, t - (P-1-p) * tick)      oldest first, the last one is t itself
    history_mask[p] = t - (P-1-p) * tick >= s
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch

from .cache import FrameCache
from .errors import DataError

Batch = dict[str, Any]


def window(cache: FrameCache, idx: np.ndarray, chunk: int = 16, ticks: int = 4, tick: int = 20) -> Batch:
    """idx int64 (B,) -> images {camera: uint8 (B,H,W,3)}, state (B,S), actions (B,H,A), action_mask, indices, words."""
    return unseen(cache, idx, chunk, ticks, tick) | look(cache, idx)


def unseen(cache: FrameCache, idx: np.ndarray, chunk: int, ticks: int, tick: int) -> Batch:
    """What belongs to the frames idx (B,) beside what is seen there."""
    episode = cache.episode_of[idx]
    start, last = cache.episode_start[episode], cache.episode_end[episode] - 1
    ahead = idx[:, None] + np.arange(chunk)  # (B, H)
    inside = np.minimum(ahead, last[:, None])
    mask = ahead <= last[:, None]
    if "perturbed" in cache.columns:
        clean = ~cache.columns["perturbed"][inside].reshape(inside.shape)
        mask &= np.logical_and.accumulate(clean, axis=1)  # what mends a push cannot be foreseen before the push
    back = idx[:, None] - tick * np.arange(ticks)[::-1]  # (B, P), oldest first
    before = idx - tick  # where the planner ticked last
    word = cache.columns.get("subtask_index", np.zeros(len(cache), np.int64))
    arrays = {
        "index": idx,
        "actions": cache.columns["action"][inside],
        "action_mask": mask,
        "subgoal_index": cache.segments.goal[idx],
        "progress": cache.segments.progress[idx],
        "future_index": np.minimum(idx + chunk, last),
        "history_index": np.maximum(back, start[:, None]),
        "history_mask": back >= start[:, None],
        "instruction": cache.instruction_of_frame[idx],  # into cache.instructions
        "subtask": word[idx],  # into cache.subtasks
        "previous_subtask": np.where(
            before >= start, word[np.maximum(before, start)], -1
        ),  # at the last tick; -1: none
    }
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


def look(cache: FrameCache, idx: np.ndarray) -> Batch:
    """What is seen at frames idx (any shape): {"images": {camera: uint8 (*idx, H, W, 3)}, "state": (*idx, S)}."""
    images = {camera: torch.from_numpy(cache.gather(camera, idx)) for camera in cache.images}
    state = cache.columns.get("observation.state")
    return {"images": images} | ({} if state is None else {"state": torch.from_numpy(state[idx])})


class Sampler:
    """Frames for every step: indices(step) -> int64 (B,) or the share of it, uniform, no frame twice in an epoch."""

    def __init__(
        self,
        cache: FrameCache,
        batch_size: int,
        seed: int,
        chunk: int = 16,
        ticks: int = 4,
        tick: int = 20,
        episodes: np.ndarray | None = None,
        frames: np.ndarray | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """`episodes`: sample from these only. `frames`: these only, which may repeat. `ticks` planner ticks, `tick`
        frames apart. `share` (r, n): every n-th frame of a batch from r on, so that n processes have a batch between
        them."""
        self.batch_size, self.seed = batch_size, seed
        self.chunk, self.ticks, self.tick = chunk, ticks, tick
        chosen = (
            np.ones(len(cache.episode_start), bool) if episodes is None else np.zeros(len(cache.episode_start), bool)
        )
        if episodes is not None:
            chosen[episodes] = True
        here = chosen[cache.episode_of]
        self.frames = np.flatnonzero(here) if frames is None else frames[here[frames]]
        self.share = share
        if batch_size % share[1]:
            raise DataError(f"sampler: {share[1]} processes cannot share a batch of {batch_size} evenly")
        if batch_size < 1 or not len(self.frames):
            raise DataError(f"sampler: batch size {batch_size} over {len(self.frames)} frames; both must be above 0")
        self._permutation = lru_cache(maxsize=2)(self._epoch_permutation)

    def indices(self, step: int) -> np.ndarray:
        rank, processes = self.share
        position = step * self.batch_size + np.arange(rank, self.batch_size, processes)
        epoch, place = np.divmod(position, len(self.frames))
        parts = [self._permutation(int(e))[place[epoch == e]] for e in np.unique(epoch)]
        return self.frames[np.concatenate(parts)]

    def _epoch_permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.frames))


@dataclass(frozen=True)
class Extras:
    """What a batch carries beside its window."""

    at: Sequence[str] = ()  # "subgoal": images and state at subgoal_index, as batch["subgoal"]
    share: float = 1.0  # of the batch's rows, the first ones, that have `at`
    columns: Sequence[str] = ()  # labels at t, as batch["columns"][key]


def make_batch(sampler: Sampler, cache: FrameCache, step: int, extras: Extras = Extras()) -> Batch:
    """The batch of one step. What the Loader runs in its thread."""
    idx = sampler.indices(step)
    batch = window(cache, idx, sampler.chunk, sampler.ticks, sampler.tick)
    for name in extras.at:
        batch[name] = look(cache, batch[f"{name}_index"][: max(1, int(extras.share * len(idx)))].numpy())
    batch["columns"] = {key: torch.from_numpy(cache.columns[key][idx]) for key in extras.columns}
    return batch


class Loader:
    """Iterates over batches from `start_step` on, without end. Use it in a `with` block, or call close()."""

    def __init__(
        self, sampler: Sampler, cache: FrameCache, prefetch: int = 2, start_step: int = 0, extras: Extras = Extras()
    ) -> None:
        unknown = [key for key in extras.columns if key not in cache.columns]
        if unknown or set(extras.at) - {"subgoal"}:
            raise DataError(f"loader: cannot give {unknown or list(extras.at)}; columns are {sorted(cache.columns)}")
        self._make = lambda step: make_batch(sampler, cache, step, extras)
        self._queue: queue.Queue[Batch | Exception] = queue.Queue(max(1, prefetch))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(start_step,), name="loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._stop.is_set():
            raise StopIteration
        item = self._queue.get()
        if isinstance(item, Exception):
            self.close()
            raise item
        return item

    def close(self) -> None:
        """Ends the threads."""
        self._stop.set()
        self._thread.join(timeout=10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self, step: int) -> None:
        while not self._stop.is_set():
            try:
                item: Batch | Exception = self._make(step)
            except Exception as error:  # noqa: BLE001 - handed over: the consumer raises it
                item = error
            self._put(item)
            if isinstance(item, Exception):
                return
            step += 1

    def _put(self, item: Batch | Exception) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
