"""The command line: bad input is one clear line and exit code 2, and loses nothing."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tandem import envs
from tandem.data.contract import Contract
from tandem.data.writer import Recorder
from tandem.policy.act.agents import load_agent
from tandem.policy.act.runtime import AgentSpec, Runtime
from tandem.scripts.__main__ import VERBS, main, run


def complaint(capsys, verb, *arguments):
    """Runs a verb that must fail; returns the one line that it says."""
    capsys.readouterr()
    assert run(verb, [str(a) for a in arguments]) == 2
    bars = ("eval:", "collect:", "decode:")
    said = [line for line in capsys.readouterr().err.splitlines() if line and not line.startswith(bars)]
    assert len(said) == 1 and said[0].startswith("tandem: error: "), said
    return said[0]


def files(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("verb", ["collect", "eval", "watch"])
def test_an_unknown_task(capsys, verb, tmp_path):
    more = [] if verb == "collect" else ["--agent", "expert"]
    said = complaint(capsys, verb, "--tasks", "pick_plase", "--output", tmp_path / "o", *more)
    assert "pick_place" in said and not (tmp_path / "o").exists()


@pytest.mark.parametrize("verb", ["eval", "watch"])
def test_a_missing_checkpoint(capsys, verb, tmp_path):
    assert "does not exist" in complaint(capsys, verb, "--checkpoint", tmp_path / "none", "--output", tmp_path / "o")
    assert verb == "watch" or "no --checkpoint" in complaint(capsys, verb)  # watch has the policy of the clone


@pytest.mark.parametrize("verb", ["eval", "watch"])
def test_a_truncated_checkpoint(capsys, verb, trained, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(trained, copy, symlinks=True)
    for weights in copy.glob("checkpoints/0*/pretrained_model/model.safetensors"):
        os.truncate(weights, 1000)
    said = complaint(capsys, verb, "--checkpoint", copy, "--output", tmp_path / "o")
    assert "model.safetensors" in said and not (tmp_path / "o" / "results.json").exists()


def test_the_last_good_checkpoint_is_taken_where_the_newest_is_damaged(trained, tmp_path):
    from tandem.policy.checkpoint.store import resolve

    copy = tmp_path / "run"
    shutil.copytree(trained, copy, symlinks=True)
    newest = resolve(copy)
    os.truncate(newest / "pretrained_model" / "model.safetensors", 1000)
    assert resolve(copy) != newest


def test_a_data_set_of_another_contract(capsys, demonstrations, tmp_path):
    small = Contract.from_fields(envs.contract_fields(image_size=32))
    env = envs.make("reach", image_size=32)
    with Recorder(tmp_path / "small", small, mode="image") as recorder:
        obs, _ = env.reset(seed=0)
        for step in range(3):
            frame = {k: v for k, v in obs.items() if k != "task"} | env.unwrapped.privileged()
            labels = {"next.reward": 0.0, "next.success": step == 2, "next.done": step == 2, "perturbed": False}
            recorder.add_frame(frame | labels | {"action": np.zeros(7, np.float32), "subtask": "wait"})
            obs, *_ = env.step(np.zeros(7, np.float32))
        recorder.save_episode(env.unwrapped.instruction, {"sim/seed": 0, "sim/success": True, "sim/task": "reach"})
    env.close()
    options = ("--preset", "debug", "--cache", tmp_path / "cache", "--output", tmp_path / "run")
    assert "32" in complaint(capsys, "train", "--data", tmp_path / "small", *options)
    both = complaint(capsys, "train", "--data", demonstrations, tmp_path / "small", *options)
    assert "small" in both and not (tmp_path / "run").exists()


def test_existing_outputs_are_left_alone(capsys, demonstrations, trained, tmp_path):
    before = files(demonstrations) | files(trained)
    assert "--resume" in complaint(capsys, "collect", "--tasks", "reach", "--output", demonstrations)
    options = ("--preset", "debug", "--data", demonstrations, "--cache", tmp_path / "cache")
    assert "--resume" in complaint(capsys, "train", *options, "--output", trained)
    evaluation = ("--agent", "expert", "--tasks", "reach", "--episodes", "1", "--controls", "normal", "--workers", "1")
    assert run("eval", [*evaluation, "--output", str(tmp_path / "e")]) == 0
    assert "--resume" in complaint(capsys, "eval", *evaluation, "--output", tmp_path / "e")
    assert files(demonstrations) | files(trained) == before


@pytest.mark.fault("wrong cameras, names, dtypes or axes")
def test_a_wrong_image_shape_is_named(trained):
    agent = load_agent(AgentSpec("checkpoint", str(trained), Runtime()))
    env = envs.make("reach", image_size=64)
    obs, _ = env.reset(seed=0)
    agent.reset(obs["task"], 0)
    with pytest.raises(ValueError, match=r"observation.images.front has shape \(64, 64, 3\).*\(96, 96, 3\)"):
        agent.act(obs)
    whole = {f"observation.images.{camera}": np.zeros((96, 96, 3), np.uint8) for camera in ("front", "wrist")}
    with pytest.raises(ValueError, match="observation.images.wrist is missing"):
        agent.act({k: v for k, v in (obs | whole).items() if "wrist" not in k})
    with pytest.raises(ValueError, match="finite"):
        agent.act(obs | whole | {"observation.state": np.full_like(obs["observation.state"], np.nan)})
    env.close()


@pytest.mark.fault("no OpenGL, no GPU, out of memory")
def test_no_opengl_is_one_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "tandem.scripts",
        "collect",
        "--tasks",
        "reach",
        "--episodes",
        "1",
        "--workers",
        "1",
    ]
    broken = {k: v for k, v in os.environ.items() if k != "DISPLAY"} | {"MUJOCO_GL": "glfw", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--output", tmp_path / "o"], env=broken, capture_output=True, text=True, timeout=120
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("tandem: error")]
    assert done.returncode == 2 and len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    assert "OpenGL" in errors[0] and "tandem doctor" in errors[0]


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_recorded_bytes_do_not_depend_on_workers_or_on_an_interruption(tmp_path):
    def collect(name, episodes, workers, *more):
        output = tmp_path / name
        options = ["--tasks", "reach", "--episodes", str(episodes), "--workers", str(workers), "--output", str(output)]
        assert run("collect", [*options, *more]) == 0
        return content(output)

    whole = collect("one", 3, 1)
    assert collect("two", 3, 2) == whole
    assert collect("parts", 2, 1) != whole
    assert collect("parts", 3, 1, "--resume") == whole


def test_unknown_flags_and_verbs(capsys, monkeypatch):
    with pytest.raises(SystemExit) as stop:
        run("collect", ["--no-such-flag", "1"])
    assert stop.value.code == 2
    monkeypatch.setattr(sys, "argv", ["tandem", "colect"])
    assert main() == 2 and "collect" in capsys.readouterr().err


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_explains_itself(capsys, verb):
    with pytest.raises(SystemExit) as stop:
        run(verb, ["--help"])
    assert stop.value.code == 0 and f"tandem {verb}" in capsys.readouterr().out


def test_dry_run_prints_the_resolved_settings_and_does_nothing(capsys, tmp_path):
    assert run("train", ["--preset", "demo", "--output", str(tmp_path / "run"), "--dry-run"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tasks"] == ["reach", "pick_place", "open_drawer"] and found["recipe"]["sizes"]["chunk"] == 16
    assert not (tmp_path / "run").exists()


def test_doctor_finds_this_machine_able(capsys):
    assert run("doctor", []) == 0
    assert "mujoco" in capsys.readouterr().out


def test_results_tables_come_from_files(tmp_path, capsys):
    (tmp_path / "docs" / "results").mkdir(parents=True)
    metrics = {"controller_ms": 12.0, "planner_ms": 20.0}
    made = {"code": "abc", "processor": "p", "cores": 2}
    result = {"name": "bench_latency", "command": "tandem bench latency", "manifest": made, "metrics": metrics}
    (tmp_path / "docs" / "results" / "bench_latency.json").write_text(json.dumps(result))
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- results:bench_latency -->\nold\n<!-- /results:bench_latency -->\nb\n")
    assert run("results", ["--root", str(tmp_path), "--check"]) == 1
    assert run("results", ["--root", str(tmp_path)]) == 0
    assert "12.0 ms" in readme.read_text() and "old" not in readme.read_text() and readme.read_text().endswith("b\n")
    assert run("results", ["--root", str(tmp_path), "--check"]) == 0


def test_reproducing_an_evaluation_compares_episode_by_episode(capsys, tmp_path):
    options = ["--agent", "expert", "--tasks", "reach", "--episodes", "2", "--controls", "normal", "--workers", "1"]
    assert run("eval", [*options, "--output", str(tmp_path / "first")]) == 0
    results = tmp_path / "first" / "results.json"
    assert run("eval", ["--reproduce", str(results), "--output", str(tmp_path / "again"), "--workers", "1"]) == 0
    assert "2 of 2 episodes reproduced exactly" in capsys.readouterr().out
    stored = json.loads(results.read_text())
    stored["episodes"][0]["steps"] += 1
    results.write_text(json.dumps(stored))
    assert run("eval", ["--reproduce", str(results), "--output", str(tmp_path / "third"), "--workers", "1"]) == 1


def test_a_recipe_says_how_many_demonstrations_each_task_gets(tmp_path, monkeypatch):
    from tandem.data.reader import Dataset
    from tandem.policy.train.recipe import debug
    from tandem.scripts.train import ensure_data

    monkeypatch.chdir(tmp_path)
    recipe = replace(debug(), tasks=("reach", "press_button"), episodes=(1, 2))
    for _ in range(2):  # what is complete is not recorded again
        (folder,) = ensure_data(recipe)
        assert [row["sim/task"] for row in Dataset(folder).episodes] == ["reach", "press_button", "press_button"]


@pytest.mark.fault("resume with changed config, data, processes or code")
def test_a_run_that_goes_on_with_other_code_says_so_and_keeps_it(tmp_path, capsys):
    from tandem.scripts.publish.manifest import MADE_WITH, say_changes, say_how

    say_how(tmp_path)
    say_changes(tmp_path)
    assert capsys.readouterr().err == ""
    made = json.loads((tmp_path / MADE_WITH).read_text())
    made["code"], made["packages"]["torch"] = "0123456789ab", "1.0.0"
    (tmp_path / MADE_WITH).write_text(json.dumps(made))
    say_changes(tmp_path)
    said = capsys.readouterr().err
    assert "code (was 0123456789ab, now" in said and "torch (was 1.0.0, now" in said and said.count("\n") == 1
    kept = json.loads((tmp_path / MADE_WITH).read_text())
    assert kept["code"] == "0123456789ab" and [leg["code"] != made["code"] for leg in kept["resumed"]] == [True]
