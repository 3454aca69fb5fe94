"""Training ends well or says what was wrong: no NaN of its own, no step lost in silence, no waiting without end."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from foreign import foreign_dataset
from tandem.data.cache import FrameCache
from tandem.data.stopping import PREEMPTED, Stopped
from tandem.policy.checkpoint import store
from tandem.policy.errors import PolicyError
from tandem.policy.train.held_out import split
from tandem.policy.train.recipe import Stage, debug, refuse_sizes
from tandem.policy.train.run import train
from tandem.policy.train.stage_act import ActLearner
from tandem.policy.train.stage_think import ThinkLearner


@pytest.fixture(scope="module")
def without_words(tmp_path_factory):
    """Frames recorded elsewhere, without subtasks."""
    folder = tmp_path_factory.mktemp("foreign")
    return FrameCache.build(foreign_dataset(folder / "set"), folder / "cache", progress=False)


def losses(output):
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.fault("NaN or Inf in loss or gradient")
def test_data_without_subtask_words_trains_in_both_stages(without_words, recipe, tmp_path):
    train(replace(recipe, tasks=()), without_words, tmp_path / "run")
    found = losses(tmp_path / "run")
    assert len(found) == 8 and all(map(torch.isfinite, torch.tensor(found)))


@pytest.mark.parametrize("batch, processes", [(1, 1), (2, 1), (3, 1), (4, 2), (2, 2)])
def test_small_batches_train(batch, processes, frames, recipe, tmp_path):
    stage = Stage(steps=2, batch=batch, warmup=1)
    train(replace(recipe, act=stage, think=stage, processes=processes), frames, tmp_path / "run")
    found = losses(tmp_path / "run")
    assert len(found) == 4 and all(map(torch.isfinite, torch.tensor(found)))


def spoil(monkeypatch, learner, steps):
    """Losses of these steps, counted from 0 in the whole run, are not finite."""
    count, original = iter(range(1000)), learner.losses

    def losses(self, batch):
        loss, parts = original(self, batch)
        return (loss * float("nan") if next(count) in steps else loss), parts

    monkeypatch.setattr(learner, "losses", losses)


@pytest.mark.fault("NaN or Inf in loss or gradient")
def test_steps_that_were_skipped_are_counted_logged_and_said(frames, recipe, tmp_path, monkeypatch, capsys):
    spoil(monkeypatch, ThinkLearner, {1, 2})
    output = tmp_path / "run"
    train(recipe, frames, output)
    assert "stage think: 2 of 4 steps were skipped" in capsys.readouterr().out
    assert store.progress(output)["skipped"] == 2
    assert json.loads((output / "log.jsonl").read_text().splitlines()[-1])["skipped"] == 2


@pytest.mark.fault("NaN or Inf in loss or gradient", injected=2)
@pytest.mark.parametrize("learner", [ActLearner, ThinkLearner])
def test_a_stage_in_which_every_step_was_skipped_is_an_error(learner, frames, recipe, tmp_path, monkeypatch):
    spoil(monkeypatch, learner, set(range(100)))
    with pytest.raises(PolicyError, match=f"stage {learner.name} learned nothing: 4 of 4 steps"):
        train(recipe, frames, tmp_path / "run")


def test_skipped_steps_are_remembered_by_a_resumed_run(frames, recipe, tmp_path, monkeypatch, stop_once_saved):
    spoil(monkeypatch, ActLearner, {0})
    stop_once_saved(2)
    with pytest.raises(Stopped):
        train(recipe, frames, tmp_path / "run")
    monkeypatch.undo()
    train(replace(recipe, think=replace(recipe.think, steps=0)), frames, tmp_path / "other")
    assert store.progress(tmp_path / "run")["skipped"] == 1


@pytest.mark.fault("resume with changed config, data, processes or code", injected=3)
@pytest.mark.parametrize("change", [{"threads": 2}, {"processes": 2}, {"precision": "bf16"}])
def test_a_resume_that_would_change_the_numbers_is_refused_or_said(
    change, frames, recipe, tmp_path, capsys, stop_once_saved, monkeypatch
):
    output = tmp_path / "run"
    stop_once_saved(2)
    with pytest.raises(Stopped):
        train(recipe, frames, output)
    monkeypatch.undo()
    ((name, value),) = change.items()
    with pytest.raises(PolicyError, match=f"{name} "):
        train(replace(recipe, **change), frames, output, resume=True)
    if name == "threads":  # a choice of precision is part of the recipe
        train(replace(recipe, **change), frames, output, resume=True, allow_changed=True)
        assert "threads (was 1, now 2)" in capsys.readouterr().err
        assert any("changed" in json.loads(line) for line in (output / "log.jsonl").read_text().splitlines())


def test_the_measured_precision_is_kept(frames, recipe, tmp_path, monkeypatch, stop_once_saved):
    import tandem.policy.train.run as module

    output, auto = tmp_path / "run", replace(recipe, precision="auto")
    monkeypatch.setattr(module, "fastest_dtype", lambda device: torch.float32)
    with monkeypatch.context():
        stop_once_saved(2)
        with pytest.raises(Stopped):
            train(auto, frames, output)
    monkeypatch.undo()
    monkeypatch.setattr(module, "fastest_dtype", lambda device: pytest.fail("measured again"))
    train(auto, frames, output, resume=True)
    assert store.progress(output)["ways"]["precision"] == "fp32"


def test_resume_begins_where_there_is_nothing_yet(frames, recipe, tmp_path):
    assert train(recipe, frames, tmp_path / "run", resume=True).exists()


def command(*flags):
    return [sys.executable, "-m", "tandem.scripts", "train", "--preset", "debug", "--precision", "fp32", *flags]


@pytest.mark.fault("SIGTERM, SIGHUP, preemption", injected=2)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_preempted_run_saves_and_the_same_command_continues(number, demonstrations, tmp_path):
    flags = ("--data", str(demonstrations), "--act-steps", "400", "--think-steps", "0", "--resume", "--output", "run")
    process = subprocess.Popen(command(*flags), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not store.exists(tmp_path / "run") and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == PREEMPTED == 75 and "same command" in said
    reached = store.progress(tmp_path / "run")["step"]
    assert 0 < reached < 400
    again = subprocess.Popen(command(*flags), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while store.progress(tmp_path / "run")["step"] == reached and time.monotonic() < deadline:
        time.sleep(0.1)
    again.send_signal(number)
    again.communicate(timeout=60)
    assert again.returncode == PREEMPTED and store.progress(tmp_path / "run")["step"] > reached


HANGS = """
import os, signal, sys, time
from pathlib import Path
import torch
from tandem.policy.train import data_parallel as module
from tandem.policy.errors import PolicyError

def partner(team, held):
    team.average([torch.ones(3)])
    Path(held).write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)

if __name__ == "__main__":
    module.SILENCE, module.GRACE = (float(n) for n in sys.argv[2:4])
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    try:
        with module.recruit(2, partner, (sys.argv[1],), lambda: bool(asked)) as team:
            team.average([torch.ones(3)])
            if sys.argv[4] == "term":
                os.kill(os.getpid(), signal.SIGTERM)
            team.average([torch.ones(3)])
    except PolicyError as error:
        print(type(error).__name__, error)
"""


@pytest.mark.fault("training process dies or hangs", injected=2)
@pytest.mark.parametrize(
    "silence, grace, ask, found", [("2", "60", "wait", "PolicyError"), ("60", "1", "term", "Unanswered")]
)
def test_a_partner_that_hangs_ends_training_with_one_line(silence, grace, ask, found, tmp_path):
    (tmp_path / "hangs.py").write_text(HANGS)
    line = [sys.executable, str(tmp_path / "hangs.py"), str(tmp_path / "held"), silence, grace, ask]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.stdout.startswith(found) and "gave no answer" in done.stdout, done.stderr
    assert not os.path.exists(f"/proc/{(tmp_path / 'held').read_text()}")


WRONG = {
    "chunk": {"sizes": {"chunk": 10}}, "image_size": {"sizes": {"image_size": 100}}, "width": {"sizes": {"width": 33}},
    "seed": {"seed": -1}, "processes": {"processes": 0}, "threads": {"threads": 0},
    "batch of stage act": {"act": {"batch": 0}}, "steps of stage think": {"think": {"steps": -1}},
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_numbers_that_do_not_fit_are_refused_by_name(name):
    recipe = debug()
    change = {k: replace(getattr(recipe, k), **v) if isinstance(v, dict) else v for k, v in WRONG[name].items()}
    with pytest.raises(PolicyError, match=f": {name} is .*; use "):
        refuse_sizes(replace(recipe, **change))


def test_episodes_are_held_out_of_data_that_no_simulator_measures(without_words, frames):
    assert len(split(without_words, None, 0)) == 1 and split(frames, None, 0) == ()
    assert len(split(frames, 0.5, 0)) == 2 and split(frames, 0.0, 0) == ()


def test_training_on_foreign_data_ends_with_an_error_on_what_it_has_not_seen(tmp_path):
    foreign_dataset(tmp_path / "set")
    flags = ("--data", "set", "--output", "run")
    done = subprocess.run(command(*flags), cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (
        "held out: 1 episodes, 8 frames" in done.stdout
        and "next: tandem eval --checkpoint run --data set" in done.stdout
    )
    measured = json.loads((tmp_path / "run/held_out.json").read_text())
    assert measured["episodes"] == store.recipe(tmp_path / "run")["held_out"]
    assert set(measured["entries"]) == {f"action[action_{i}]" for i in range(7)}
    assert all(0 < row["chunk"] < 3 and 0 < row["stay"] < 1 for row in measured["entries"].values())


@pytest.mark.fault("hostile checkpoint or data set", injected=4)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda moments, groups: moments.pop("0.exp_avg_sq"),
        lambda moments, groups: moments.update({"0.exp_avg": torch.zeros(5)}),
        lambda moments, groups: moments.update({"weights": torch.zeros(5)}),
        lambda moments, groups: groups[0].update(lr="fast"),
    ],
)
def test_an_optimiser_takes_up_its_own_state_only(spoil):
    from tandem.policy.checkpoint import optimizer_state

    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(2)
    optimizer.step()
    moments, groups = optimizer_state.split(optimizer.state_dict())
    optimizer_state.load_into(optimizer, optimizer_state.joined(moments, groups))
    spoil(moments, groups)
    with pytest.raises(PolicyError, match="optimiser"):
        optimizer_state.load_into(optimizer, optimizer_state.joined(moments, groups))


@pytest.mark.fault("no OpenGL, no GPU, out of memory", injected=2)
@pytest.mark.parametrize("stage", ["act", "think"])
def test_where_memory_runs_out_half_of_the_batch_goes_on_if_that_was_allowed(
    stage, frames, recipe, tmp_path, monkeypatch, capsys
):
    learner = {"act": ActLearner, "think": ThinkLearner}[stage]
    whole, sizes = learner.losses, []

    def losses(self, batch):
        rows = len(next(value for value in batch.values() if isinstance(value, torch.Tensor)))
        sizes.append(rows)
        if rows > 2 and len(sizes) > 1:  # the first step has room
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried")
        return whole(self, batch)

    monkeypatch.setattr(learner, "losses", losses)
    with pytest.raises(PolicyError, match=f"stage {stage}: out of memory with batches of 4 .*--halve-batch"):
        train(recipe, frames, tmp_path / "refused")
    sizes.clear()
    made = train(replace(recipe, halve_batch=True), frames, tmp_path / "run")
    assert "goes on with 2" in capsys.readouterr().err
    assert store.progress(made)["ways"]["batches"] == {stage: 2} and store.progress(made)["step"] == recipe.think.steps
    assert {"stage": stage, "batch": 2} in [json.loads(line) for line in (tmp_path / "run/log.jsonl").open()]
