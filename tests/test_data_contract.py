"""Laws of the contract, the normaliser and `data check`: errors name the key and the entry; nothing passes through."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tandem.data.check import check
from tandem.data.contract import Contract
from tandem.data.errors import DataError
from tandem.data.normalize import Normalizer
from tandem.data.reader import Dataset
from tandem.data.stats import column_stats
from tandem.data.writer import Recorder
from toy import toy_contract, toy_dataset, toy_frames

CONTRACT = toy_contract()


def with_feature(key: str, **changes: Any) -> Contract:
    return replace(CONTRACT, features=CONTRACT.features | {key: replace(CONTRACT.features[key], **changes)})


def test_digest_is_of_the_meaning_not_the_spelling() -> None:
    again = Contract.from_json(json.dumps(json.loads(CONTRACT.to_json()), indent=3))
    shuffled = Contract(CONTRACT.robot, CONTRACT.fps, dict(reversed(CONTRACT.features.items())))
    assert again == CONTRACT and again.digest() == CONTRACT.digest() == shuffled.digest()
    assert with_feature("action", low=-1, high=np.float64(1.0)).digest() == CONTRACT.digest()
    assert with_feature("action", unit="m").digest() != CONTRACT.digest()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (replace(CONTRACT, fps=10), ["fps", "20", "10"]),
        (replace(CONTRACT, robot="ur5"), ["robot", "toy", "ur5"]),
        (with_feature("action", shape=(3,)), ["action.shape", "(2,)", "(3,)"]),
        (with_feature("observation.state", unit="mm"), ["observation.state.unit", "'m'", "'mm'"]),
        (CONTRACT.only("image", "state", "action"), ["next.reward", "present here", "missing there"]),
    ],
)
def test_check_names_key_field_and_both_values(other: Contract, words: list[str]) -> None:
    CONTRACT.check(CONTRACT)
    with pytest.raises(DataError) as caught:
        CONTRACT.check(other)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"colour": 1},
        {"robot": None, "features": {"action": {"dtype": "float32", "shape": [2], "role": "action", "scale": 1}}},
        {"features": {"action": {"dtype": "float32", "shape": [2], "role": "motor"}}},
        {"features": {"action": {"dtype": "float32", "shape": [2], "role": "action", "names": ["x"]}}},
        {"features": {"a/b": {"dtype": "float32", "shape": [2], "role": "label"}}},
        {"fps": 0},
        {"cameras": ["front"]},
    ],
)
def test_bad_contracts_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        Contract.from_fields(json.loads(CONTRACT.to_json()) | change)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("observation.images.front", np.zeros((3, 16, 16), np.uint8), "shape (3, 16, 16)"),
        ("observation.images.wrist", np.zeros((16, 16, 3), np.float32), "dtype float32"),
        ("observation.state", np.zeros(3), "dtype float64"),
        ("observation.state", np.array([0, np.nan, 0], np.float32), "[y]"),
        ("observation.state", np.array([0, 0, 1.5], np.float32), "[z]"),
        ("action", np.array([0, 1.01], np.float32), "[dy]"),
        ("action", np.zeros(7, np.float32), "shape (7,)"),
        ("next.reward", "high", "next.reward"),
        ("subtask", 3, "must be a str"),
        ("extra", 3, "not in the contract"),
        ("perturbed", None, "perturbed"),
    ],
)
def test_a_bad_frame_is_refused_and_named(tmp_path: Any, key: str, value: Any, words: str) -> None:
    good = list(toy_frames(CONTRACT, 3, 0))
    recorder = Recorder(tmp_path / "set", CONTRACT)
    recorder.add_frame(good[0])
    with pytest.raises(DataError, match=r"frame 1") as caught:
        recorder.add_frame(good[1] | {key: value})
    assert key in str(caught.value) and words in str(caught.value)
    recorder.add_frame(good[1])
    recorder.save_episode("go", {})
    recorder.close()
    assert len(Dataset(tmp_path / "set")) == 2


def test_single_values_are_checked() -> None:
    obs = next(toy_frames(CONTRACT, 1, 0)) | {"task": "lift"}
    for key in obs:
        CONTRACT.check_value(key, obs, "observation")
    with pytest.raises(DataError, match="wrist is missing"):
        CONTRACT.check_value("observation.images.wrist", {}, "observation")
    with pytest.raises(DataError, match="action"):
        CONTRACT.check_value("action", {"action": np.array([np.nan, 0], np.float32)}, "observation")


def state_stats(x: np.ndarray) -> dict[str, Any]:
    return {"observation.state": column_stats(x)}


def test_normalizer_inverts_and_survives_json() -> None:
    x = np.random.default_rng(0).normal(2.0, 3.0, (500, 3)).astype(np.float32)
    normalizer = Normalizer.fit(state_stats(x), CONTRACT, ["observation.state"])
    again = Normalizer.from_json(normalizer.to_json())
    assert again == normalizer
    z = again.normalize("observation.state", x)
    assert z.dtype == np.float32 and np.abs(z).max() < 5
    np.testing.assert_allclose(again.denormalize("observation.state", z), x, atol=1e-5)
    torch.testing.assert_close(again.normalize("observation.state", torch.from_numpy(x)), torch.from_numpy(z))
    np.testing.assert_allclose([z.mean(0), z.std(0)], [[0] * 3, [1] * 3], atol=1e-4)


def test_normalizer_never_passes_through() -> None:
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    key, keys = "observation.state", ["observation.state"]
    with pytest.raises(DataError, match="action is in no statistics"):
        Normalizer.fit(state_stats(x), CONTRACT, ["action"])
    with pytest.raises(DataError, match="shape"):
        Normalizer.fit(state_stats(x[:, :2]), CONTRACT, keys)
    constant = x.copy()
    constant[:, 1] = 0.3
    with pytest.raises(DataError, match=r"observation.state\[y\]"):
        Normalizer.fit(state_stats(constant), CONTRACT, keys)
    floored = Normalizer.fit(state_stats(constant), CONTRACT, keys, floor={key: 0.01})
    assert np.abs(floored.normalize(key, constant)[:, 1]).max() < 1e-4
    nan = state_stats(x)
    nan[key]["mean"][2] = float("nan")
    with pytest.raises(DataError, match=r"\[z\]"):
        Normalizer.fit(nan, CONTRACT, keys, floor={key: 0.01})
    normalizer = Normalizer.fit(state_stats(x), CONTRACT, keys)
    with pytest.raises(DataError, match="no statistics for action"):
        normalizer.normalize("action", x)
    with pytest.raises(DataError, match="last size"):
        normalizer.normalize(key, x[:, :2])
    with pytest.raises(DataError, match="bad scale"):
        Normalizer.from_json(normalizer.to_json().replace(str(normalizer.scale[key][0]), "0.0"))


def test_check_finds_what_is_odd(tmp_path: Any) -> None:
    assert check(toy_dataset(tmp_path / "good")) == []
    with Recorder(tmp_path / "bad", CONTRACT) as recorder:
        for _ in range(2):
            for frame in toy_frames(CONTRACT, 5, 0):
                black = np.zeros((16, 16, 3), np.uint8)
                state = np.array([frame["observation.state"][0], 1.01, 0.2], np.float32)  # within the slack
                recorder.add_frame(
                    frame | {"observation.images.wrist": black, "observation.state": state, "subtask": ""}
                )
            recorder.save_episode("go", {"sim/seed": 7, "sim/success": False, "sim/task": "toy"})
    found = {(f.severity, f.key) for f in check(tmp_path / "bad")}
    expected = {
        ("error", "observation.images.wrist"),
        ("warning", "observation.state[y]"),
        ("warning", "observation.state[z]"),
        ("warning", "sim/seed"),
        ("warning", "subtasks"),
        ("note", "sim/success"),
    }
    assert expected <= found
    assert check(tmp_path / "nowhere")[0].severity == "error"
