"""Laws of samples: hand-made windows, permutations, resuming, and a loader that equals direct indexing."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from tandem.data.bench import loader_rate
from tandem.data.cache import FrameCache
from tandem.data.contract import Contract
from tandem.data.errors import DataError
from tandem.data.reader import Dataset
from tandem.data.segments import find_segments
from tandem.data.windows import Extras, Loader, Sampler, window
from tandem.data.writer import Recorder
from toy import read_frames, toy_contract, toy_dataset, toy_frames


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sets")
    return [toy_dataset(folder / "a", episodes=3), toy_dataset(folder / "b", episodes=2, length=5, first_seed=100)]


@pytest.fixture(scope="module")
def cache(roots: list[Path], tmp_path_factory: pytest.TempPathFactory) -> FrameCache:
    return FrameCache.build(roots, tmp_path_factory.mktemp("cache"), progress=False)


def test_cache_is_the_datasets_in_a_row(cache: FrameCache, roots: list[Path]) -> None:
    episodes = [(Dataset(root), e) for root, n in zip(roots, (3, 2), strict=True) for e in range(n)]
    assert len(cache) == int(cache.episode_end[-1]) == sum(map(len, map(Dataset, roots)))
    for i, (dataset, e) in enumerate(episodes):
        frames, span = read_frames(dataset, e), slice(cache.episode_start[i], cache.episode_end[i])
        for camera, key in cache.contract.cameras().items():
            np.testing.assert_array_equal(cache.images[camera][span], frames[key])
        np.testing.assert_array_equal(cache.columns["action"][span], frames["action"])
        assert (cache.episode_of[span] == i).all()
        assert cache.instructions[cache.instruction_of_episode[i]] == dataset.episodes[e]["tasks"][0]
        words = [cache.subtasks[w] for w in cache.columns["subtask_index"][span]]
        assert words == [dataset.subtasks[w] for w in frames["subtask_index"]]


def test_cache_is_reused_and_renewed(roots: list[Path], tmp_path: Path) -> None:
    root = toy_dataset(tmp_path / "set", episodes=1)
    first = FrameCache.build(root, tmp_path / "cache", progress=False)
    assert FrameCache.build(root, tmp_path / "cache", progress=False).digest == first.digest
    assert len(list((tmp_path / "cache").iterdir())) == 1
    contract = toy_contract()
    with Recorder(root, contract, resume=True) as recorder:
        for frame in toy_frames(contract, 4, 9):
            recorder.add_frame(frame)
        recorder.save_episode("more", {"sim/seed": 9, "sim/success": True, "sim/task": "toy"})
    again = FrameCache.build(root, tmp_path / "cache", progress=False)
    assert again.digest != first.digest and len(again) == len(first) + 4
    (folder,) = (p for p in (tmp_path / "cache").iterdir() if FrameCache.open(p).digest == first.digest)
    (folder / "camera-0.npy").write_bytes(b"")
    with pytest.raises(DataError, match="delete the folder"):
        FrameCache.open(folder)


def test_datasets_of_different_contracts_do_not_mix(roots: list[Path], tmp_path: Path) -> None:
    other = toy_contract(robot="ur5")
    assert isinstance(other, Contract)
    with Recorder(tmp_path / "set", other) as recorder:
        recorder.add_frame(next(toy_frames(other, 1, 0)))
        recorder.save_episode("x", {})
    with pytest.raises(DataError, match="robot"):
        FrameCache.build([roots[0], tmp_path / "set"], tmp_path, progress=False)
    with Recorder(tmp_path / "empty", other), pytest.raises(DataError, match="no episodes"):
        FrameCache.build(tmp_path / "empty", tmp_path, progress=False)


def test_segments_worked_example() -> None:
    """The table in data/segments.py."""
    subtask = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2])
    got = find_segments(subtask, np.array([0, 8]), np.array([8, 10]))
    assert got.start.tolist() == [0, 0, 0, 3, 3, 5, 5, 5, 8, 8]
    assert got.goal.tolist() == [3, 3, 3, 5, 5, 7, 7, 7, 9, 9]
    np.testing.assert_allclose(got.progress, [0, 1 / 3, 2 / 3, 0, 0.5, 0, 0.5, 1, 0, 1], rtol=1e-6)
    alone = find_segments(np.array([0]), np.array([0]), np.array([1]))
    assert alone.progress.tolist() == [1.0] and alone.goal.tolist() == [0]


def test_window_against_a_plain_loop(cache: FrameCache) -> None:
    """Every frame of the cache, against the definition written as loops."""
    H, P, tick = 4, 3, 2
    idx = np.arange(len(cache))
    got = {k: v.numpy() for k, v in window(cache, idx, H, P, tick).items() if k != "images"}
    action, perturbed, word = (cache.columns[k] for k in ("action", "perturbed", "subtask_index"))
    assert perturbed.any()
    for t in idx:
        e = cache.episode_of[t]
        start, last = cache.episode_start[e], cache.episode_end[e] - 1
        for h in range(H):
            np.testing.assert_array_equal(got["actions"][t, h], action[min(t + h, last)])
            assert got["action_mask"][t, h] == (t + h <= last and not perturbed[t : t + h + 1].any())
        for p in range(P):
            back = t - (P - 1 - p) * tick
            assert got["history_index"][t, p] == max(start, back) and got["history_mask"][t, p] == (back >= start)
        assert got["future_index"][t] == min(t + H, last)
        goal = next((j for j in range(t, last + 1) if word[j] != word[t]), last)
        assert got["subgoal_index"][t] == goal and 0 <= got["progress"][t] <= 1
        assert got["previous_subtask"][t] == (word[t - tick] if t - tick >= start else -1)
        assert got["instruction"][t] == cache.instruction_of_episode[e]


@pytest.mark.parametrize(("batch", "episodes"), [(7, None), (64, None), (5, np.array([1, 3]))])
def test_sampler_laws(cache: FrameCache, batch: int, episodes: np.ndarray | None) -> None:
    sampler = Sampler(cache, batch, seed=3, episodes=episodes)
    frames = np.flatnonzero(np.isin(cache.episode_of, np.arange(5) if episodes is None else episodes))
    n = len(frames)
    stream = np.concatenate([sampler.indices(step) for step in range(3 * n // batch + 1)])
    epochs = stream[: 3 * n].reshape(3, n)
    np.testing.assert_array_equal(np.sort(epochs, 1), np.tile(frames, (3, 1)))  # each epoch is a permutation
    assert not np.array_equal(epochs[0], epochs[1])
    fresh = Sampler(cache, batch, seed=3, episodes=episodes)  # resuming needs the step number only
    np.testing.assert_array_equal(fresh.indices(11), sampler.indices(11))
    assert not np.array_equal(Sampler(cache, batch, seed=4, episodes=episodes).indices(0), sampler.indices(0))


@pytest.mark.parametrize("prefetch", [1, 3])
def test_loader_equals_direct_indexing(cache: FrameCache, prefetch: int) -> None:
    sampler = Sampler(cache, 6, seed=0, chunk=3, ticks=2, tick=2)
    extras = Extras(at=("subgoal",), share=0.5, columns=("next.reward",))
    with Loader(sampler, cache, prefetch, start_step=5, extras=extras) as loader:
        for step in range(5, 12):
            got, idx = next(loader), sampler.indices(step)
            np.testing.assert_array_equal(got["images"]["front"], cache.images["front"][idx])
            np.testing.assert_array_equal(got["state"], cache.columns["observation.state"][idx])
            np.testing.assert_array_equal(got["columns"]["next.reward"], cache.columns["next.reward"][idx])
            goal = cache.segments.goal[idx]
            np.testing.assert_array_equal(got["subgoal"]["images"]["wrist"], cache.images["wrist"][goal[:3]])
    assert not loader._thread.is_alive()
    with pytest.raises(StopIteration):
        next(loader)


def test_loader_errors_reach_the_consumer(cache: FrameCache, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="nothing"):
        Loader(Sampler(cache, 4, 0), cache, extras=Extras(columns=("nothing",)))
    sampler, threads = Sampler(cache, 4, 0), threading.active_count()
    monkeypatch.setattr(sampler, "indices", lambda step: np.array([10**9]))
    loader = Loader(sampler, cache)
    with pytest.raises(IndexError):
        next(loader)
    assert threading.active_count() == threads


def test_small_things(cache: FrameCache) -> None:
    with pytest.raises(DataError, match="above 0"):
        Sampler(cache, 4, 0, episodes=np.array([], int))
    assert loader_rate(cache, 8, 5)["frames_per_s"] > 0
