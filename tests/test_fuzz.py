"""Whatever a file holds, reading it gives its content or an error of one line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tandem.scripts.benches.fuzz.mutations import KNOWN, limited, mutated, try_input
from tandem.scripts.benches.fuzz.targets import targets

NAMES = (
    "data set: info", "data set: contract", "data set: stats", "data set: tasks", "data set: subtasks",
    "data set: episodes", "data set: frames", "data set: video", "data set elsewhere: info", "cache: about",
    "cache: columns", "cache: pictures", "checkpoint: manifest", "checkpoint: config", "checkpoint: contract",
    "checkpoint: normalizer", "checkpoint: tokenizer", "checkpoint: train_config", "checkpoint: training_step",
    "checkpoint: optimizer", "checkpoint: weights", "run: made_with", "rl: experience", "rl: asked", "rl: seconds",
    "rl: checkpoint", "rl: round of recap", "rl: rounds of ppo", "evaluation: results", "evaluation: reproduce",
    "evaluation: compare", "evaluation: episodes", "evaluation: settings", "figure", "published model: config",
    "published model: index", "published model: weights",
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    return folder, targets(folder)


@pytest.mark.fault("hostile checkpoint or data set", injected=300)
def test_any_damage_of_any_file_is_one_line(files):
    folder, known = files
    assert set(known) == set(NAMES)

    @settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @given(st.sampled_from(NAMES), st.integers(0, 2**32 - 1))
    def law(name, seed):
        assert try_input(name, known[name], folder, seed) is None

    with limited():
        law()


def test_files_that_were_not_spoiled_are_read(files):
    folder, known = files
    for target in known.values():
        target.read(folder)


def test_an_error_that_is_not_known_is_noticed(files):
    from dataclasses import replace

    folder, known = files
    broken = replace(known["data set: info"], read=lambda folder: {}["nothing"])
    assert isinstance(try_input("data set: info", broken, folder, 0), KeyError) and KeyError not in KNOWN


def test_inputs_follow_from_their_seed(files):
    import numpy as np

    folder, known = files
    content = (folder / known["evaluation: results"].file).read_bytes()
    again = [mutated(content, ".json", np.random.default_rng(7)) for _ in range(2)]
    assert again[0] == again[1] != content
