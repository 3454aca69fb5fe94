"""Laws of durability: whatever happens to a recorder or its files, no finished episode is lost or silently wrong."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tandem.data.cache import FrameCache
from tandem.data.errors import DataError
from tandem.data.files import Lock
from tandem.data.reader import Dataset
from tandem.data.repair import repair
from tandem.data.writer import Recorder
from toy import read_frames, toy_contract, toy_dataset, toy_episode, toy_frames

CONTRACT = toy_contract()


def episode(seed: int, mode: str = "image", task: str = "") -> Any:
    return toy_episode(4, seed, task or f"toy {seed}", {"sim/seed": seed}, mode)


def record(root: Path, seeds: range, mode: str = "image", resume: bool = False) -> None:
    with Recorder(root, CONTRACT, mode, resume=resume) as recorder:
        for seed in seeds:
            recorder.save_encoded(episode(seed, mode))


def is_whole(root: Path, episodes: int) -> None:
    """Exactly these episodes, with the content that their seed gives, statistics included."""
    dataset = Dataset(root)
    assert [row["sim/seed"] for row in dataset.episodes] == list(range(episodes))
    for e in range(episodes):
        frames = read_frames(dataset, e)
        state = np.stack([f["observation.state"] for f in toy_frames(CONTRACT, 4, e)])
        np.testing.assert_array_equal(frames["observation.state"], state)
        assert dataset.tasks[frames["task_index"][0]] == f"toy {e}" == dataset.episodes[e]["tasks"][0]
    assert dataset.stats["action"]["count"] == [4 * episodes]


class Crash(BaseException):
    """Stands for the death of the process at this point."""


@pytest.mark.parametrize("mode", ["image", "video"])
def test_death_at_every_file_boundary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    real, boundaries = os.replace, 4 if mode == "image" else 6
    for die_at in range(2 * boundaries + 1):  # before or after each rename of the second save; the last one survives
        root = tmp_path / f"{mode}{die_at}"
        recorder = Recorder(root, CONTRACT, mode)
        recorder.save_encoded(episode(0, mode))
        calls = [0]

        def replace(a: Any, b: Any, calls: list[int] = calls, die_at: int = die_at) -> None:
            if calls[0] == die_at // 2 and die_at % 2 == 0:
                raise Crash
            real(a, b)
            calls[0] += 1
            if calls[0] == die_at // 2 + 1 and die_at % 2 == 1:
                raise Crash

        monkeypatch.setattr(os, "replace", replace)
        saved = 2
        try:
            recorder.save_encoded(episode(1, mode))
        except Crash:
            saved = 1
        monkeypatch.setattr(os, "replace", real)
        recorder._lock.release()  # as the kernel does
        report = repair(root)
        assert report.episodes >= saved
        is_whole(root, report.episodes)
        if die_at % 4 == 0:
            record(root, range(report.episodes, 3), mode, resume=True)
            is_whole(root, 3)


CHILD = """
import sys
from tandem.data.writer import Recorder
sys.path.insert(0, sys.argv[2])
from test_data_durable import episode
from toy import toy_contract
recorder = Recorder(sys.argv[1], toy_contract())
for seed in range(10_000):
    recorder.save_encoded(episode(seed))
    print(seed + 1, flush=True)
"""


def test_kill_9(tmp_path: Path) -> None:
    rng, here = random.Random(0), Path(__file__).parent
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(here.parent), *sys.path]), "OMP_NUM_THREADS": "1"}
    for n in range(2):
        root = tmp_path / str(n)
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(root), str(here)], env=env, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        told = [child.stdout.readline()]
        with pytest.raises(DataError, match=str(child.pid)):
            Recorder(root, CONTRACT, resume=True)
        time.sleep(rng.uniform(0.02, 0.3))
        child.send_signal(signal.SIGKILL)
        told += child.stdout.readlines()
        child.wait()
        finished = int(told[-1])
        if n == 0:
            assert repair(root).episodes >= finished
        record(root, range(0), resume=True)  # the dead recorder's lock is taken over; statistics are written
        dataset = Dataset(root)
        assert len(dataset.episodes) >= finished
        is_whole(root, len(dataset.episodes))


@pytest.mark.fault("bit flip or truncation of a file")
def test_damage_is_named_and_the_prefix_is_kept(tmp_path: Path) -> None:
    root, victim = tmp_path / "set", "data/chunk-000/file-001.parquet"
    record(root, range(3))
    content = (root / victim).read_bytes()
    for damaged in (content[:-100], b"", content.replace(content[200:210], bytes(10))):
        (root / victim).write_bytes(damaged)
        with pytest.raises(DataError, match="file-001.parquet"):
            read_frames(Dataset(root), 1)
        with pytest.raises(DataError, match="episode 1 of 3 is damaged"):
            Recorder(root, CONTRACT, resume=True)
    report = repair(root)
    assert report.episodes == 1 and "file-001.parquet" in report.reason
    assert len(report.quarantined) == 4 and (root / "quarantine/0001" / victim).read_bytes() == damaged
    is_whole(root, 1)
    record(root, range(1, 3), resume=True)
    is_whole(root, 3)


@pytest.mark.parametrize("name", ["info.json", "tasks.parquet", "subtasks.parquet", "stats.json"])
def test_lost_meta_is_rebuilt(tmp_path: Path, name: str) -> None:
    root = tmp_path / "set"
    record(root, range(2))
    good = (root / "meta" / name).read_bytes()
    for damaged in (good[: len(good) // 2], None):
        if damaged is None:
            (root / "meta" / name).unlink()
        else:
            (root / "meta" / name).write_bytes(damaged)
        with pytest.raises(DataError, match=name):
            dataset = Dataset(root)
            print(dataset.tasks, dataset.subtasks, dataset.stats)
        assert repair(root).episodes == 2
        assert (root / "meta" / name).read_bytes() == good
        is_whole(root, 2)


@pytest.mark.fault("bit flip or truncation of a file")
def test_damaged_video_is_noticed(tmp_path: Path) -> None:
    root = tmp_path / "set"
    record(root, range(2), "video")
    victim = root / "videos/observation.images.wrist/chunk-000/file-001.mp4"
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    report = repair(root)
    assert report.episodes == 1 and "file-001.mp4" in report.reason
    victim.parent.joinpath("file-000.mp4").unlink()
    with pytest.raises(DataError, match=r"file-000.mp4: file is missing"):
        read_frames(Dataset(root), 0)


def spoil_picture(root: Path, episode: int, key: str, t: int) -> None:
    """Cuts one PNG; the parquet file around it is sound."""
    path = root / f"data/chunk-000/file-{episode:03d}.parquet"
    table = pq.read_table(path)
    cells = table[key].to_pylist()
    cells[t]["bytes"] = cells[t]["bytes"][: len(cells[t]["bytes"]) // 2]
    column = pa.array(cells, table.schema.field(key).type)
    pq.write_table(table.set_column(table.column_names.index(key), key, column), path)


@pytest.mark.parametrize("t", [0, 2, 3])
def test_a_picture_cut_anywhere_ends_the_run_that_repair_keeps(tmp_path: Path, t: int) -> None:
    root = tmp_path / "set"
    record(root, range(3))
    spoil_picture(root, 1, "observation.images.wrist", t)
    with pytest.raises(DataError, match=f"episode 1, observation.images.wrist, frame {t}: .*run `tandem data repair`"):
        read_frames(Dataset(root), 1)
    report = repair(root, progress=False)
    assert report.episodes == 1 and f"wrist, frame {t}: image does not decode" in report.reason
    is_whole(root, 1)
    record(root, range(1, 3), resume=True)
    is_whole(root, 3)


@pytest.mark.parametrize("mode", ["image", "video"])
def test_repair_gives_the_statistics_that_the_recorder_gave(tmp_path: Path, mode: str) -> None:
    root = tmp_path / "set"
    record(root, range(3), mode)
    stats = root / "meta" / "stats.json"
    before = stats.read_bytes()
    stats.unlink()
    repair(root, progress=False)
    assert stats.read_bytes() == before


def test_an_interrupt_anywhere_in_a_save_tears_nothing(tmp_path: Path) -> None:
    """Ctrl-C may come between any two lines: the episode is there or is not, and the one before and after it are."""
    ours = ("writer.py", "files.py", "layout.py", "repair.py")

    def interrupted_at(line: int, root: Path) -> bool:
        """Saves three episodes, the second with an interrupt after so many lines; False where it has fewer."""
        left = [line]

        def trace(frame: Any, event: str, argument: Any) -> Any:
            if Path(frame.f_code.co_filename).name not in ours:
                return None
            if event == "line":
                left[0] -= 1
                if left[0] == 0:
                    raise KeyboardInterrupt
            return trace

        with Recorder(root, CONTRACT) as recorder:
            recorder.save_encoded(episode(0))
            sys.settrace(trace)
            try:
                recorder.save_encoded(episode(1))
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(None)
            saved = Dataset(root).info["total_episodes"]
            for seed in range(saved, 3):
                assert recorder.save_encoded(episode(seed)) == seed
        is_whole(root, 3)
        assert repair(root, progress=False).reason == ""
        return left[0] <= 0

    line = 1
    while interrupted_at(line, tmp_path / str(line)):
        line += 41  # a prime: other lines at every repetition of a loop
    assert line > 100


@pytest.mark.parametrize("text", ["\ud83d", "x" * 100_000, 3])
def test_a_text_that_no_file_can_hold_is_refused_and_the_recorder_goes_on(tmp_path: Path, text: Any) -> None:
    with Recorder(tmp_path / "set", CONTRACT) as recorder:
        frames = list(toy_frames(CONTRACT, 4, 0))
        with pytest.raises(DataError, match="subtask"):
            recorder.add_frame(frames[0] | {"subtask": text})
        for frame in frames:
            recorder.add_frame(frame)
        for task, meta in ((text, {"sim/seed": 0}), ("toy 0", {"sim/note": text})):
            if text == 3 and task != text:
                continue  # a number is a good value of meta
            with pytest.raises(DataError, match="task|meta"):
                recorder.save_episode(task, meta)
        recorder.save_episode("toy 0", {"sim/seed": 0})
    is_whole(tmp_path / "set", 1)


@pytest.mark.fault("two runs in one folder")
def test_one_recorder_per_folder(tmp_path: Path) -> None:
    root = tmp_path / "set"
    with Recorder(root, CONTRACT) as recorder:
        with pytest.raises(DataError, match="not empty"):
            Recorder(root, CONTRACT)
        with pytest.raises(DataError, match=f"process {os.getpid()}"):
            Recorder(root, CONTRACT, resume=True)
        recorder.save_encoded(episode(0))
    lock = Lock(root)
    with pytest.raises(DataError, match="in use"):
        repair(root)
    lock.release()
    with pytest.raises(DataError, match="image mode, not video"):
        Recorder(root, CONTRACT, "video", resume=True)


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(DataError, match="not empty"):
            Recorder(tmp_path, CONTRACT, resume=resume)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.fault("disk full")
def test_disk_full_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(tmp_path / "set", CONTRACT)
    for frame in toy_frames(CONTRACT, 4, 0):
        recorder.add_frame(frame)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
        with pytest.raises(DataError, match="disk full"):
            recorder.save_episode("toy 0", {"sim/seed": 0})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(DataError, match="No space left"):
            recorder.save_episode("toy 0", {"sim/seed": 0})
    recorder.save_episode("toy 0", {"sim/seed": 0})
    recorder.close()
    is_whole(tmp_path / "set", 1)


def test_a_cache_for_which_the_disk_has_no_room_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room is taken before the frames are written: a write into a mapped file cannot fail, only kill."""
    root = toy_dataset(tmp_path / "set")

    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(DataError, match="No space left.*free space"):
        patch.setattr("os.posix_fallocate", full)
        FrameCache.build(root, tmp_path / "cache", progress=False)
    assert not any((tmp_path / "cache").iterdir())
    assert len(FrameCache.build(root, tmp_path / "cache", progress=False)) == 33


def test_meta_must_be_alike_and_plain(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "set", CONTRACT)
    recorder.save_encoded(episode(0))
    for meta in ({"sim/seed": 1.5}, {}, {"sim/seed": np.int64(1)}, {"length": 3}, {"data/x": 1}):
        with pytest.raises(DataError, match="meta"):
            recorder.save_encoded(toy_episode(2, 1, "x", meta))
    with pytest.raises(DataError, match="no frames"):
        recorder.save_episode("x", {"sim/seed": 1})


def test_resuming_a_complete_data_set_writes_nothing(tmp_path: Path) -> None:
    """Caches know a data set by the times of its files."""
    from tandem.scripts import collect

    args = collect.Args(("reach",), episodes=2, output=tmp_path / "data", workers=1)
    collect.main(args)
    before = {path: path.stat().st_mtime_ns for path in args.output.rglob("*") if path.is_file()}
    collect.main(replace(args, resume=True))
    assert {path: path.stat().st_mtime_ns for path in args.output.rglob("*") if path.is_file()} == before


def test_repair_of_a_sound_dataset_changes_nothing(tmp_path: Path) -> None:
    root = toy_dataset(tmp_path / "set")
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    report = repair(root)
    assert (report.episodes, report.quarantined, report.reason) == (3, [], "")
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == before
