"""Training: resuming is exact, nothing is overwritten, gradients stay where they belong, bad numbers stop it."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tandem.data.errors import DataError
from tandem.policy.checkpoint import store
from tandem.policy.checkpoint.bundle import Bundle
from tandem.policy.errors import PolicyError
from tandem.policy.train import loop as fit
from tandem.policy.train import run as training
from tandem.policy.train.run_folder import Run
from tandem.policy.train.stage_think import ThinkLearner, _succeeds_within
from tandem.scripts import train as command


def weights(output, name="pretrained_model"):
    return load_file(store.resolve(output) / name / "model.safetensors")


@pytest.mark.fault("resume is not bit-exact")
@pytest.mark.parametrize("stop_at", [2, 4, 6])
def test_stopping_and_resuming_equals_not_stopping(
    frames, recipe, trained, tmp_path, monkeypatch, stop_once_saved, stop_at
):
    """N steps == k steps, stop, resume, N - k steps: weights and averages, bit for bit, in either stage."""
    saves = stop_once_saved(stop_at)
    with pytest.raises(KeyboardInterrupt):
        training.train(recipe, frames, tmp_path / "run")
    monkeypatch.undo()
    assert max(saves) < 8
    training.train(recipe, frames, tmp_path / "run", resume=True)
    for name in ("pretrained_model", "training_state"):
        whole, parts = weights(trained, name), weights(tmp_path / "run", name)
        assert whole.keys() == parts.keys()
        different = [key for key in whole if not torch.equal(whole[key], parts[key])]
        assert not different


@pytest.mark.fault("resume with changed config, data, processes or code")
def test_an_existing_run_is_not_overwritten_and_a_changed_recipe_is_not_resumed(frames, recipe, trained):
    before = store.digest(trained)
    with pytest.raises(PolicyError, match="exists"):
        training.train(recipe, frames, trained)
    with pytest.raises(PolicyError, match="act.learning_rate"):
        training.train(replace(recipe, act=replace(recipe.act, learning_rate=1.0)), frames, trained, resume=True)
    assert store.digest(trained) == before


@pytest.mark.fault("two runs in one folder")
def test_two_runs_in_one_folder_are_refused(tmp_path):
    holding = "import sys, time; from pathlib import Path; from tandem.data.files import Lock; Lock(Path(sys.argv[1]))"
    holder = subprocess.Popen(
        [sys.executable, "-c", f"{holding}; print('held', flush=True); time.sleep(60)", str(tmp_path)],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None and holder.stdout.readline()
    try:
        with pytest.raises(DataError, match=f"in use by process {holder.pid}"), Run(tmp_path, resume=True):
            pass
    finally:
        holder.kill()
        holder.wait()
    with Run(tmp_path, resume=True):  # whoever was killed holds nothing
        pass


@pytest.mark.fault("NaN or Inf in loss or gradient")
def test_numbers_that_are_not_finite_stop_training_with_the_frames_named(frames, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "MAX_SKIPPED", 1)
    from tandem.policy.train.stage_act import ActLearner

    original = ActLearner.losses

    def poisoned(self, batch):
        loss, parts = original(self, batch)
        return loss * float("nan"), parts

    monkeypatch.setattr(ActLearner, "losses", poisoned)
    with pytest.raises(PolicyError, match="not finite"):
        training.train(recipe, frames, tmp_path / "run")


def test_the_flow_loss_does_not_reach_the_planner(frames, recipe, trained):
    bundle = Bundle.load(trained)
    bundle.model.requires_grad_(True)
    learner = ThinkLearner(bundle, None, frames, 4, 0, torch.float32)
    batch = next(learner.batches(0))
    sample = learner.sample(batch)
    _, plan = bundle.model.planner.loss({name: value[:2] for name, value in sample.items()})
    learner.flow_loss(sample, plan.goal).backward()
    assert all(p.grad is None for p in bundle.model.planner.parameters())
    assert any(p.grad is not None for p in bundle.model.controller.parameters())


@pytest.mark.fault("wrong cameras, names, dtypes or axes")
def test_a_checkpoint_of_another_contract_is_refused_before_weights_are_read(trained, monkeypatch):
    from tandem import envs
    from tandem.data.contract import Contract
    from tandem.data.errors import DataError

    monkeypatch.setattr(store, "read_tensors", lambda *a: pytest.fail("weights were read"))
    fields = envs.contract_fields(image_size=64)
    with pytest.raises(DataError, match="observation.images.front"):
        Bundle.load(trained, expect=Contract.from_fields(fields))


def test_data_that_does_not_say_when_it_succeeded_shows_successes(frames):
    silent = replace(frames, columns={key: value for key, value in frames.columns.items() if key != "next.success"})
    soon = _succeeds_within(silent, 3)
    left = silent.episode_end[silent.episode_of] - 1 - np.arange(len(silent))
    assert np.array_equal(soon, left <= 3)


def test_a_run_is_not_resumed_with_another_preset_and_nothing_is_recorded_for_it(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PolicyError, match="was 'debug', now 'demo'"):
        command.main(command.Args("demo", output=trained, resume=True))
    assert not list(tmp_path.iterdir())


def test_a_state_that_names_no_hand_is_said_where_the_encoder_has_teachers(frames, recipe, capsys):
    from tandem.policy.train.new_bundle import new_bundle

    assert new_bundle(recipe, frames).names_hand and capsys.readouterr().err == ""
    state = frames.contract.features["observation.state"]
    unnamed = replace(state, names=tuple(f"entry_{i}" for i in range(state.shape[0])))
    features = frames.contract.features | {"observation.state": unnamed}
    bundle = new_bundle(recipe, replace(frames, contract=replace(frames.contract, features=features)))
    assert not bundle.names_hand and "names no hand (eef_x, eef_y, eef_z)" in capsys.readouterr().err
