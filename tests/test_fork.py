"""A run that takes stage `act` over from another: equal to training it again, and only from what matches."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tandem.planner.trunk import ATTENTION
from tandem.policy.checkpoint import store
from tandem.policy.errors import PolicyError
from tandem.policy.train.run import train
from tandem.policy.train.run_folder import Run


def weights(folder):
    return load_file(folder / "pretrained_model" / "model.safetensors")


def thinking_with_attention(recipe):
    return replace(recipe, sizes=replace(recipe.sizes, planner=ATTENTION))


def test_taking_a_stage_over_equals_training_it(frames, recipe, trained, tmp_path):
    forked = train(recipe, frames, tmp_path / "run", act_from=trained)
    whole, parts = weights(store.resolve(trained)), weights(forked)
    assert whole.keys() == parts.keys()
    assert not [key for key in whole if not torch.equal(whole[key], parts[key])]


def test_another_system_2_sees_with_the_same_eyes(frames, recipe, trained, tmp_path):
    forked = train(thinking_with_attention(recipe), frames, tmp_path / "run", act_from=trained)
    end = trained / "checkpoints" / f"{recipe.act.steps:06d}"
    before, after = weights(end), weights(forked)
    frozen = [key for key in before if key.split(".")[0] in ("encoder", "read_out", "grounding")]
    assert frozen and all(torch.equal(before[key], after[key]) for key in frozen)
    state = "training_state/training_step.json"
    assert store.read_json(forked, state)["seconds"] > store.read_json(end, state)["seconds"]


def test_a_fork_resumes_like_any_run(frames, recipe, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "stop_requested", True)  # stops after one step
    with pytest.raises(KeyboardInterrupt):
        train(recipe, frames, tmp_path / "run", act_from=trained)
    monkeypatch.undo()
    whole, parts = weights(store.resolve(trained)), weights(train(recipe, frames, tmp_path / "run", resume=True))
    assert not [key for key in whole if not torch.equal(whole[key], parts[key])]


def test_what_does_not_match_is_refused_in_one_line(frames, recipe, trained, tmp_path):
    wider = replace(recipe, sizes=replace(recipe.sizes, chunk=8))
    with pytest.raises(PolicyError, match="sizes.chunk was 16, now 8"):
        train(wider, frames, tmp_path / "run", act_from=trained)
    with pytest.raises(PolicyError, match="act.learning_rate"):
        train(replace(recipe, act=replace(recipe.act, learning_rate=1.0)), frames, tmp_path / "run", act_from=trained)
    with pytest.raises(PolicyError, match="not the end of stage act"):
        train(recipe, frames, tmp_path / "run", act_from=store.resolve(trained))
    with pytest.raises(PolicyError, match="does not exist"):
        train(recipe, frames, tmp_path / "run", act_from=tmp_path / "nothing")
    assert not (tmp_path / "run").exists()
