"""Laws of the files: what is read is what was recorded, statistics are exact, and LeRobot can open the folder."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tandem.data.cache import content_digest
from tandem.data.contract import Contract
from tandem.data.errors import DataError
from tandem.data.reader import Dataset
from tandem.data.writer import Recorder
from toy import read_frames, toy_contract, toy_dataset, toy_episode, toy_frames

CONTRACT = toy_contract()


def same_frames(dataset: Dataset, episode: int, frames: list[dict[str, Any]]) -> None:
    got = read_frames(dataset, episode)
    for key in CONTRACT.keys("image", "state", "action"):
        np.testing.assert_array_equal(got[key], np.stack([f[key] for f in frames]))
    for key in ("perturbed", "next.reward"):
        np.testing.assert_array_equal(got[key], np.array([f[key] for f in frames], got[key].dtype))
    assert [dataset.subtasks[i] for i in got["subtask_index"]] == [f["subtask"] for f in frames]


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    tasks=st.lists(st.text(max_size=8), min_size=4, max_size=4),
)
def test_round_trip(tmp_path_factory: Any, lengths: list[int], tasks: list[str]) -> None:
    root = tmp_path_factory.mktemp("round") / "set"
    episodes = [list(toy_frames(CONTRACT, n, seed)) for seed, n in enumerate(lengths)]
    with Recorder(root, CONTRACT) as recorder:
        for seed, frames in enumerate(episodes):
            for frame in frames:
                recorder.add_frame(frame)
            recorder.save_episode(tasks[seed], {"sim/seed": seed, "sim/success": seed % 2 == 0})
    dataset = Dataset(root)
    assert len(dataset) == sum(lengths) and dataset.contract == CONTRACT
    for e, frames in enumerate(episodes):
        same_frames(dataset, e, frames)
        row, columns = dataset.episodes[e], dataset.columns(e)
        assert row["tasks"] == [tasks[e]] and dataset.tasks[columns["task_index"][0]] == tasks[e]
        assert (row["sim/seed"], row["sim/success"]) == (e, e % 2 == 0)
        np.testing.assert_array_equal(columns["index"], np.arange(row["dataset_from_index"], row["dataset_to_index"]))
        np.testing.assert_allclose(columns["timestamp"], np.arange(lengths[e]) / 20)


def test_statistics_are_exact(tmp_path: Path) -> None:
    dataset = Dataset(toy_dataset(tmp_path / "set", episodes=4))
    frames = [read_frames(dataset, e) for e in range(4)]
    for key in ("observation.state", "action", "next.reward", "observation.images.front"):
        x = np.concatenate([f[key] for f in frames]).astype(np.float64)
        x = x.reshape(-1, 3) / 255 if "images" in key else x.reshape(len(dataset), -1)
        got = {name: np.ravel(value) for name, value in dataset.stats[key].items()}
        assert got["count"] == [len(dataset)]
        for name, value in (("min", x.min(0)), ("max", x.max(0)), ("mean", x.mean(0)), ("std", x.std(0))):
            np.testing.assert_allclose(got[name], value, atol=1e-12)
        for q in (1, 10, 50, 90, 99):
            np.testing.assert_allclose(got[f"q{q:02d}"], np.quantile(x, q / 100, axis=0), atol=1e-12)
    assert np.shape(dataset.stats["observation.images.front"]["mean"]) == (3, 1, 1)


def test_bytes_do_not_depend_on_who_encoded(tmp_path: Path) -> None:
    """Directly, or in workers that finish in another order and send pickles."""
    meta = [{"sim/seed": s, "sim/success": True, "sim/task": "toy"} for s in range(3)]
    made = {s: toy_episode(10 + s, s, f"lift toy {s % 2}", meta[s]) for s in (2, 0, 1)}
    with Recorder(tmp_path / "workers", CONTRACT) as recorder:
        for seed in sorted(made):
            recorder.save_encoded(pickle.loads(pickle.dumps(made[seed])))
    alone = toy_dataset(tmp_path / "alone")
    assert content_digest(tmp_path / "workers") == content_digest(alone)
    assert Dataset(alone).stats == Dataset(tmp_path / "workers").stats


def test_language_survives_pandas(tmp_path: Path) -> None:
    """Without the pandas index metadata LeRobot loads happily and hands out 0 in place of the instruction."""
    root = toy_dataset(tmp_path / "set")
    for name, words in (("task", ["lift toy 0", "lift toy 1"]), ("subtask", ["approach", "grasp", "lift"])):
        table = pq.read_table(root / "meta" / f"{name}s.parquet")
        assert json.loads(table.schema.metadata[b"pandas"])["index_columns"] == [name]
        assert table[name].to_pylist() == words and table[f"{name}_index"].to_pylist() == list(range(len(words)))


def test_info_is_lerobot_v3(tmp_path: Path) -> None:
    info = json.loads((toy_dataset(tmp_path / "set") / "meta/info.json").read_text())
    assert (info["codebase_version"], info["total_episodes"], info["total_frames"], info["total_tasks"]) == (
        "v3.0",
        3,
        33,
        2,
    )
    assert info["video_path"] is None and info["splits"] == {"train": "0:3"}
    assert info["features"]["observation.state"] == {"dtype": "float32", "shape": [3], "names": ["x", "y", "z"]}
    assert info["features"]["observation.images.front"]["names"] == ["height", "width", "channels"]
    assert {"timestamp", "frame_index", "episode_index", "index", "task_index", "subtask_index"} <= info[
        "features"
    ].keys()
    assert info["contract_digest"] == CONTRACT.digest()


def test_video_mode(tmp_path: Path) -> None:
    """All frames, in order, close to what was recorded; no image column in the data files."""
    contract = toy_contract(size=96)
    root = toy_dataset(tmp_path / "set", episodes=2, length=25, size=96, mode="video")
    dataset = Dataset(root)
    for e in range(2):
        frames = list(toy_frames(contract, 25 + e, e))
        assert "observation.images.front" not in dataset.table(e).column_names
        for key in contract.keys("image"):
            got, true = dataset.images(e, key), np.stack([f[key] for f in frames])
            assert got.shape == true.shape
            assert np.abs(got.astype(int) - true).mean() < 4.0
            error = np.abs(got[:, None].astype(int) - true[None]).mean((2, 3, 4))  # (T, T)
            assert (error.argmin(1) == np.arange(len(true))).mean() > 0.9
    assert dataset.episodes[1]["videos/observation.images.front/to_timestamp"] == 26 / 20


def test_video_needs_even_sides(tmp_path: Path) -> None:
    contract = toy_contract(size=15)
    with pytest.raises(DataError, match="even"):
        Recorder(tmp_path / "set", contract, "video").add_frame(next(toy_frames(contract, 1, 0)))


def test_dataset_without_a_contract_of_ours(tmp_path: Path) -> None:
    """As recorded by others: features from info.json, many episodes in one data file."""
    import pyarrow as pa

    root = toy_dataset(tmp_path / "set")
    before = [read_frames(Dataset(root), e) for e in range(3)]
    data, meta = root / "data/chunk-000", root / "meta/episodes/chunk-000"
    for folder in (data, meta):
        paths = sorted(folder.glob("*.parquet"))
        table = pa.concat_tables([pq.read_table(p) for p in paths])
        if folder is meta:
            for column in ("data/chunk_index", "data/file_index"):
                table = table.set_column(table.schema.get_field_index(column), column, pa.array([0, 0, 0], pa.int64()))
        for path in paths[1:]:
            path.unlink()
        pq.write_table(table, paths[0])
    info = json.loads((root / "meta/info.json").read_text())
    del info["contract_digest"]
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/contract.json").unlink()
    dataset = Dataset(root)
    assert dataset.contract.features["observation.state"].names == ("x", "y", "z")
    assert dataset.subtasks == {0: "approach", 1: "grasp", 2: "lift"}
    for e in range(3):
        for key, value in before[e].items():
            np.testing.assert_array_equal(read_frames(dataset, e)[key], value)


def test_what_names_no_task_is_not_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tandem.scripts.__main__ import run

    with Recorder(root := tmp_path / "set", CONTRACT) as recorder:
        for frame in toy_frames(CONTRACT, 3, 0):
            recorder.add_frame(frame)
        recorder.save_episode("do it", {"sim/success": True})
    assert run("data", ["replay", str(root)]) != 0
    assert "names no task" in (said := capsys.readouterr().err) and "Traceback" not in said


def test_paths_may_not_leave_the_dataset(tmp_path: Path) -> None:
    root = toy_dataset(tmp_path / "set")
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps(info | {"data_path": "../../x-{chunk_index}-{file_index}.parquet"}))
    with pytest.raises(DataError, match="leads outside"):
        Dataset(root).columns(0)


@pytest.mark.parametrize("mode", ["image", "video"])
def test_lerobot_opens_it(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real reader. Set it up in an environment of its own (it pins older packages):
    python3 -m venv lerobot-env && lerobot-env/bin/pip install lerobot==0.4.4 pytest hypothesis tqdm  (3 GB)
    HF_HUB_OFFLINE=1 lerobot-env/bin/python -m pytest tests/test_data_format.py -k lerobot
    """
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    module = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    root = toy_dataset(tmp_path / "set", size=64, mode=mode)
    theirs = module.LeRobotDataset("any/name", root=root, video_backend="pyav")
    ours = Dataset(root)
    assert len(theirs) == len(ours) and theirs.num_episodes == 3
    i = 0
    for e in range(3):
        frames = read_frames(ours, e)
        for t in range(0, len(frames["index"]), 4):
            item = theirs[i + t]
            assert item["task"] == ours.episodes[e]["tasks"][0]
            if "subtask" in item:
                assert item["subtask"] == ours.subtasks[frames["subtask_index"][t]]
            np.testing.assert_array_equal(item["action"].numpy(), frames["action"][t])
            image = item["observation.images.front"].numpy().transpose(1, 2, 0) * 255
            assert np.abs(image - frames["observation.images.front"][t]).max() <= (0.01 if mode == "image" else 6)
        i += len(frames["index"])
    assert np.allclose(theirs.meta.stats["action"]["mean"], ours.stats["action"]["mean"])


def test_other_contract_is_refused(tmp_path: Path) -> None:
    root = toy_dataset(tmp_path / "set")
    with pytest.raises(DataError, match="robot"):
        Recorder(root, Contract("other", CONTRACT.fps, CONTRACT.features), resume=True)
    (root / "meta/contract.json").write_text(CONTRACT.to_json().replace('"fps":20', '"fps":10'))
    with pytest.raises(DataError, match="contract.json: changed"):
        Dataset(root)
