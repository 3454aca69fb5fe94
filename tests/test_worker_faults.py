"""Environments that hang, die or raise: noticed within the deadline, named and counted, and the rest goes on."""

import importlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import jobs
import numpy as np
import pytest
from tandem import envs
from tandem.data.files import Lock
from tandem.policy.act.runtime import AgentSpec
from tandem.policy.errors import CannotBegin, PolicyError
from tandem.policy.evaluate.episode import environment, run_job
from tandem.policy.evaluate.evaluation import EPISODES_FILE, evaluate, plan, read_outcomes, summary
from tandem.policy.evaluate.outcome import Episode
from tandem.policy.evaluate.pool import Crash, Pool
from tandem.policy.evaluate.worker import STEP, beat, default_deadline
from tandem.policy.train.run_folder import default_output
from tandem.scripts import collect, watch
from tandem.scripts.__main__ import run

HERE = Path(__file__).parent
EXPERT = AgentSpec("expert")


@pytest.fixture
def faulty(monkeypatch):
    """Tasks that raise, known here and in workers."""
    monkeypatch.setenv("TANDEM_TASKS", "faulty")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    known = dict(envs.TASKS)
    sys.modules.pop("faulty", None)
    importlib.import_module("faulty")
    yield
    for name in envs.TASKS.keys() - known.keys():
        del envs.TASKS[name]
    environment.cache_clear()
    collect._environment.cache_clear()


@pytest.fixture
def at_once(monkeypatch):
    """Pools work in this process: what is asked is not how workers start."""
    monkeypatch.setattr(Pool, "run", lambda pool, jobs: ((i, pool.work(job)) for i, job in enumerate(jobs)))


# --- workers ---------------------------------------------------------------------------------------------------------


@pytest.mark.fault("environment hangs", injected=2)
@pytest.mark.fault("environment hangs")
def test_a_step_that_hangs_costs_two_deadlines_and_a_slow_job_that_goes_on_is_left_alone():
    begin = time.monotonic()
    with Pool(jobs.work, workers=2, deadline=0.5) as pool:
        found = dict(pool.run([("hangs", 0), ("is slow", 1), ("", 2)]))
        assert pool.replaced == 2
    assert (found[1], found[2]) == (1, 2)
    assert isinstance(found[0], Crash) and found[0].reason == "worker made no step in 0.5 s, 2 times"
    assert time.monotonic() - begin < 30  # not the 300 s that a first environment may take to be made


@pytest.mark.fault("environment hangs", injected=2)
@pytest.mark.fault("environment worker crashes")
def test_a_worker_that_was_stopped_is_replaced():
    with Pool(jobs.work, workers=1, deadline=0.5) as pool:
        ((_, found),) = pool.run([("stops itself", 0)])
    assert isinstance(found, Crash) and "made no step" in found.reason


def test_waiting_for_workers_ends_within_a_second_when_it_is_asked_to():
    asked = time.monotonic() + 3
    with Pool(jobs.work, workers=1, stopped=lambda: time.monotonic() > asked) as pool:
        assert list(pool.run([("hangs", 0)])) == []
    assert time.monotonic() - asked < 4
    assert not pool._workers or not any(worker.process.is_alive() for worker in pool._workers)


PARENT = """
import jobs
from tandem.policy.evaluate.pool import Pool
if __name__ == "__main__":
    with Pool(jobs.work, 1) as pool:
        list(pool.run([("tells", 0)]))
"""


@pytest.mark.fault("environment hangs")
@pytest.mark.fault("environment hangs")
def test_a_hung_worker_dies_with_its_parent(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py"], env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.PIPE
    )
    worker = int(parent.stdout.readline())
    os.kill(worker, 0)  # it lives
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists() and _state(worker) != "Z" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{worker}").exists() or _state(worker) == "Z"


def _state(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


def test_a_beat_costs_next_to_nothing_and_deadlines_follow_the_rate(monkeypatch):
    from tandem.policy.evaluate import worker

    monkeypatch.setattr(worker, "_heart", worker.Heart(None))
    rounds = []
    for _ in range(20):
        begin = time.perf_counter()
        for _ in range(1000):
            beat()
        rounds.append((time.perf_counter() - begin) / 1000)
    assert min(rounds) < 2e-6
    assert default_deadline(20) == STEP and default_deadline(2) == 300
    worker.pace(2)
    assert worker._heart.step == 300 and not worker._heart.overdue
    worker._heart.grant(-1)
    assert worker._heart.overdue == -1
    worker._heart.excuse(10)  # the machine slept
    assert not worker._heart.overdue


# --- evaluation ------------------------------------------------------------------------------------------------------


def test_what_an_environment_raises_is_the_status_of_that_episode(faulty):
    stepped = run_job((EXPERT, Episode("bead-step", 1_000_002)))
    assert stepped.status == "error" and not stepped.success
    assert "RuntimeError: physics state is invalid: BADQACC" in stepped.detail and "faulty.py" in stepped.detail
    reset = run_job((EXPERT, Episode("bead-reset", 13)))
    assert reset.status == "error" and "no layout for seed 13" in reset.detail
    assert run_job((EXPERT, Episode("bead-step", 1_000_003))).status == "done"  # the next one has a fresh environment


@pytest.mark.fault("black, frozen or flipped pictures", injected=2)
def test_a_camera_that_shows_nothing_is_no_matter_of_one_episode(faulty, at_once, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["faulty"].Bead, "render", lambda env: None)
    task = ["--tasks", "bead", "--episodes", "3", "--workers", "1"]
    assert run("collect", [*task, "--output", str(tmp_path / "d")]) == 2
    assert run("watch", [*task, "--agent", "expert", "--output", str(tmp_path / "w")]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(said) == 2 and all("task 'bead' renders nothing" in line for line in said)


def test_what_is_the_same_for_every_episode_is_an_error(faulty, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(CannotBegin, match="ZeroDivisionError"):
        patch.setattr(envs.GymTask, "make", lambda *_, **__: 1 / 0)
        run_job((EXPERT, Episode("bead", 0)))
    without = replace(envs.TASKS["bead"], script=None)
    with monkeypatch.context() as patch, pytest.raises(CannotBegin, match="no scripted expert"):
        patch.setitem(envs.TASKS, "bead", without)
        run_job((EXPERT, Episode("bead", 0)))
    environment.cache_clear()


@pytest.mark.fault("planner late, malformed or repeating itself")
def test_a_policy_or_a_planner_that_raises_ends_its_episode_alone(trained, monkeypatch):
    from tandem.policy.act.agent import TandemAgent
    from tandem.policy.act.runtime import Runtime

    spec = AgentSpec("checkpoint", str(trained), Runtime())
    monkeypatch.setattr(TandemAgent, "_think", lambda *_: 1 / 0)
    outcome = run_job((spec, Episode("reach", 0)))
    assert outcome.status == "error" and "ZeroDivisionError" in outcome.detail
    assert run_job((spec, Episode("reach", 0, "flat"))).status == "done"


@pytest.mark.fault("simulator diverges", injected=3)
@pytest.mark.parametrize("broken", [("qvel", 1e12), ("qpos", np.nan), ("qfrc_applied", 1e30)])
def test_a_simulation_that_breaks_is_never_a_success_and_the_next_episode_is_clean(monkeypatch, broken):
    fine = [run_job((EXPERT, Episode("reach", seed))) for seed in (0, 1)]
    step, (name, value) = envs.TabletopEnv.step, broken

    def breaking(env, action):
        if env.sim.data.time > 0.2:
            getattr(env.sim.data, name)[:3] = value
        return step(env, action)

    with monkeypatch.context() as patch:
        patch.setattr(envs.TabletopEnv, "step", breaking)
        outcome = run_job((EXPERT, Episode("reach", 0)))
    assert (outcome.status, outcome.success) == ("sim_error", False) and outcome.steps <= fine[0].steps + 1
    assert [run_job((EXPERT, Episode("reach", seed))) for seed in (0, 1)] == fine


@pytest.mark.fault("reset ignores its seed")
def test_layouts_that_do_not_follow_from_the_seed_are_found(faulty, at_once, capsys, tmp_path, monkeypatch):
    bead = sys.modules["faulty"].Bead
    reset = bead.reset
    with monkeypatch.context() as patch:
        patch.setattr(bead, "reset", lambda env, **given: reset(env, **{**given, "seed": None}))
        assert evaluation("--tasks", "bead", "--episodes", 3, "--output", tmp_path / "never") == 2
        assert "ignores its seed" in capsys.readouterr().err
    for name, shift in (("a", 0), ("b", 1)):  # another version of the task has other layouts
        environment.cache_clear()
        monkeypatch.setattr(bead, "reset", lambda env, shift=shift, **given: reset(env, seed=given["seed"] + shift))
        assert evaluation("--tasks", "bead", "--episodes", 3, "--output", tmp_path / name) == 0
    again = ["--reproduce", str(tmp_path / "a" / "results.json"), "--output", str(tmp_path / "c"), "--workers", "1"]
    assert run("eval", again) == 1
    assert run("compare", [str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    said = capsys.readouterr().out
    assert "0 of 3 episodes reproduced exactly" in said and "3 pairs differ in their first state" in said


def evaluation(*more):
    flags = ["--agent", "expert", "--controls", "normal", "--workers", "1", *map(str, more)]
    return run("eval", flags)


@pytest.mark.fault("environment worker crashes")
def test_an_episode_that_raised_is_named_counted_and_tried_again(faulty, at_once, capsys, tmp_path, monkeypatch):
    flags = ("--tasks", "bead-step", "--episodes", 4, "--output", tmp_path / "e")
    assert evaluation(*flags) == 0
    said = capsys.readouterr().out
    assert "errors (not counted): 1" in said and "bead-step seed 1000002" in said and "BADQACC" in said
    results = json.loads((tmp_path / "e" / "results.json").read_text())
    assert results["summary"]["errors"] == 1
    assert results["summary"]["per_task"]["bead-step"]["hierarchical"]["n"] == 3
    monkeypatch.setattr(sys.modules["faulty"].Bead, "step", _fine(sys.modules["faulty"].Bead.step))
    assert evaluation(*flags, "--resume") == 0
    results = json.loads((tmp_path / "e" / "results.json").read_text())
    assert results["summary"]["errors"] == 0 and [e["status"] for e in results["episodes"]] == ["done"] * 4
    assert len((tmp_path / "e" / EPISODES_FILE).read_text().splitlines()) == 5  # of equal keys the last one counts


def _fine(step):
    def mended(env, action):
        env.digit = -1
        return step(env, action)

    return mended


def test_an_evaluation_that_measured_nothing_says_so_and_a_hopeless_one_ends_early(faulty, at_once, capsys, tmp_path):
    assert evaluation("--tasks", "bead-never", "--episodes", 3, "--output", tmp_path / "few") == 1
    assert "nothing was measured" in capsys.readouterr().out and (tmp_path / "few" / "results.json").exists()
    assert evaluation("--tasks", "bead-never", "--episodes", 500, "--output", tmp_path / "many") == 2
    said = capsys.readouterr().err
    assert "the first 10 episodes of bead-never all failed" in said and "no layout for seed 1000000" in said
    assert len(read_outcomes(tmp_path / "many")) == 10 and not (tmp_path / "many" / "results.json").exists()


def test_numbers_that_make_no_sense_are_one_line(capsys, tmp_path):
    wrong = {"episodes": 0, "workers": 0, "first-seed": -1, "step-deadline": 0}
    for verb, more in (("eval", ["--agent", "expert"]), ("watch", ["--agent", "expert"]), ("collect", [])):
        for flag, value in [*wrong.items(), ("first-seed", 2**40)]:
            options = ["--tasks", "reach", *more, f"--{flag}", str(value), "--output", str(tmp_path / "o")]
            assert run(verb, options) == 2
            said = capsys.readouterr().err.strip()
            assert said.startswith(f"tandem: error: --{flag} is") and len(said.splitlines()) == 1
    assert run("eval", ["--agent", "expert", "--resume"]) == 2 and "--output" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.fault("no OpenGL, no GPU, out of memory", injected=2)
@pytest.mark.fault("no OpenGL, no GPU, out of memory")
def test_too_little_memory_is_one_line(capsys, monkeypatch):
    for error in (MemoryError(), RuntimeError("can't start new thread")):
        monkeypatch.setattr("tandem.scripts.compare.main", lambda args, error=error: (_ for _ in ()).throw(error))
        assert run("compare", ["a", "b"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("tandem: error: too little memory") and len(said.splitlines()) == 1


@pytest.mark.fault("two runs in one folder", injected=2)
def test_two_commands_of_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda form: form.replace("%", ""))
    folders = {default_output("eval", "expert") for _ in range(3)}
    assert len(folders) == 3 and all(folder.is_dir() for folder in folders)


@pytest.mark.fault("two runs in one folder", injected=2)
@pytest.mark.fault("two runs in one folder")
def test_a_folder_that_is_evaluated_into_is_nobody_elses(faulty, at_once, capsys, tmp_path):
    (tmp_path / "e").mkdir()
    lock = Lock(tmp_path / "e")
    for more in ([], ["--resume"]):
        assert evaluation("--tasks", "bead", "--episodes", 1, "--output", tmp_path / "e", *more) == 2
        assert f"in use by process {os.getpid()}" in capsys.readouterr().err
    lock.release()
    assert evaluation("--tasks", "bead", "--episodes", 1, "--output", tmp_path / "e", "--resume") == 0  # it begins
    assert not (tmp_path / "e" / ".lock").exists()


@pytest.mark.fault("interrupted evaluation", injected=2)
@pytest.mark.fault("interrupted evaluation")
def test_the_log_of_episodes_is_mended_or_named(faulty, at_once, tmp_path):
    episodes = plan(("bead",), 3, 0, ("hierarchical",), ("normal",))
    whole = [outcome.as_dict() for outcome in evaluate(EXPERT, episodes, tmp_path, 1)]
    file = tmp_path / EPISODES_FILE
    content = file.read_bytes()
    file.write_bytes(content[:-1])  # its last newline alone is lost
    assert [o.as_dict() for o in evaluate(EXPERT, episodes, tmp_path, 1)] == whole and file.read_bytes() == content
    file.write_bytes(content + content.splitlines(keepends=True)[0].replace(b'"steps": ', b'"steps": 1'))
    first, *_ = evaluate(EXPERT, episodes, tmp_path, 1)
    assert first.steps == int(f"1{whole[0]['steps']}")  # written later
    first, second, third = content.splitlines(keepends=True)
    for damaged in (b"\xff\xfe\n", b"[1]\n", b"[" * 9999 + b"\n", first.replace(b"true", b'"true"'), b"{}\n"):
        file.write_bytes(first + damaged + third)
        with pytest.raises(PolicyError, match=r"line 2 is damaged .*remove the line and resume"):
            read_outcomes(tmp_path)
    file.write_bytes(first + second + b"\xff{")  # killed while it was written
    assert len(read_outcomes(tmp_path)) == 2 and file.read_bytes() == first + second
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises((OSError, PolicyError)):
        evaluate(EXPERT, episodes, tmp_path, 1)
    assert not (tmp_path / "elsewhere").exists()


def test_clamped_and_held_steps_and_broken_simulations_are_counted(faulty, capsys):
    from tandem.scripts.eval import show

    done = run_job((EXPERT, Episode("bead", 1)))
    outcomes = [
        replace(done, steps=10, events={"clamped": 3, "planner_failed": 2}),
        replace(done, seed=2, steps=30, events={"clamped": 1, "held": 5}),
        replace(done, seed=3, status="sim_error", success=False, steps=0),
        replace(done, seed=4, status="crashed", success=False, steps=0, detail="worker died"),
    ]
    s = summary(outcomes)
    assert (s["clamped_share"], s["held"], s["errors"], s["sim_errors"]) == (0.1, 5, 1, 1)
    assert s["per_task"]["bead"]["hierarchical"]["n"] == 3 and s["events"]["planner_failed"] == 2
    show({"summary": s, "episodes": [o.as_dict() for o in outcomes]})
    said = capsys.readouterr().out
    assert "clamped at 10.0% of the steps, held at 5, planner_failed 2" in said
    assert "errors (not counted): 1; broken simulations (no success): 1" in said and "seed 4" in said


# --- recording -------------------------------------------------------------------------------------------------------


def recording(output, *more):
    flags = ["--tasks", "bead-step", "--episodes", "4", "--workers", "1", "--output", str(output), *map(str, more)]
    return run("collect", flags)


def test_a_seed_that_raises_is_left_out_counted_and_named(faulty, at_once, capsys, tmp_path):
    assert recording(tmp_path / "d", "--resume") == 0  # which also begins
    said = capsys.readouterr().out
    assert "4 episodes" in said and "1 failed attempts left out, 1 raised: bead-step seed 2: " in said
    assert "RuntimeError: physics state is invalid" in said
    flags = ["--tasks", "bead-never", "--episodes", "100", "--workers", "1", "--output", str(tmp_path / "never")]
    assert run("collect", [*flags, "--first-seed", "1"]) == 2
    said = capsys.readouterr().err
    assert "the first 10 attempts at bead-never all failed" in said and "no layout for seed 10" in said


def test_an_expert_that_stops_succeeding_is_given_up(faulty, at_once, capsys, tmp_path, monkeypatch):
    original = collect.record
    monkeypatch.setattr(collect, "record", lambda job: original(job) if job.seed == 0 else None)
    assert recording(tmp_path / "d") == 2
    assert "failed in the last 40 attempts" in capsys.readouterr().err


@pytest.mark.fault("SIGTERM, SIGHUP, preemption", injected=2)
def test_a_stop_that_an_import_swallowed_is_still_heard(monkeypatch, capsys, tmp_path):
    def swallowing(*_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except KeyboardInterrupt:  # as C code does that calls Python
            return 0

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setattr("tandem.scripts.compare.main", swallowing)
    assert run("compare", ["a", "b"]) == 75
    monkeypatch.setattr(collect, "layouts", swallowing)
    assert run("collect", ["--tasks", "reach", "--episodes", "1", "--output", str(tmp_path / "d")]) == 75
    assert "--resume" in capsys.readouterr().err
    for number, handler in before.items():
        signal.signal(number, handler)


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.fault("SIGTERM, SIGHUP, preemption")
@pytest.mark.fault("SIGTERM, SIGHUP, preemption")
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGHUP, 75)])
def test_a_recording_that_is_stopped_at_any_time_says_how_to_go_on_and_comes_to_the_same(
    faulty, at_once, tmp_path, number, code
):
    flags = ["--tasks", "bead", "--episodes", "60", "--workers", "2", "--image-size", "32"]
    command = [sys.executable, "-m", "tandem.scripts", "collect", *flags, "--output", str(tmp_path / "stopped")]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "stopped").glob("data/**/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(random.Random(number).uniform(0, 0.5))
    os.killpg(running.pid, number)  # to the workers too
    _, said = running.communicate(timeout=60)
    assert running.returncode == code and "Traceback" not in said, said
    assert f"--resume and --output {tmp_path / 'stopped'}" in said
    episodes = len(list((tmp_path / "stopped").glob("meta/episodes/**/*.parquet")))
    assert 1 <= episodes < 60
    assert run("collect", [*flags, "--output", str(tmp_path / "stopped"), "--resume"]) == 0
    assert run("collect", [*flags, "--output", str(tmp_path / "whole")]) == 0
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")


# --- films -----------------------------------------------------------------------------------------------------------


def test_an_episode_that_failed_is_a_card_with_the_reason(faulty, at_once, capsys, tmp_path):
    flags = ["--agent", "expert", "--tasks", "bead-step", "--first-seed", "1", "--episodes", "2", "--workers", "1"]
    assert run("watch", [*flags, "--output", str(tmp_path / "w"), "--animation", str(tmp_path / "both.webp")]) == 0
    page = (tmp_path / "w" / "report.html").read_text()
    assert page.count("<article") == 2 and page.count("<video") == 1 and (tmp_path / "both.webp").exists()
    assert "RuntimeError: physics state is invalid: BADQACC" in page and ", 1 failed to run" in page
    assert [path.name for path in (tmp_path / "w").glob("*.mp4")] == ["bead-step_1.mp4"]
    flags[flags.index("1")] = "2"
    assert run("watch", [*flags[:-4], "--episodes", "1", "--workers", "1", "--output", str(tmp_path / "none")]) == 1
    assert "no episode came to its end" in capsys.readouterr().out


def test_a_page_counts_clamped_steps(faulty):
    outcome = replace(run_job((EXPERT, Episode("bead", 1))), events={"clamped": 3})
    assert "3 clamped" in watch._where(outcome, 7) and "held" not in watch._where(outcome, 7)


# --- reinforcement learning ------------------------------------------------------------------------------------------


@pytest.mark.fault("environment hangs")
@pytest.mark.parametrize("what, said", [("hangs", "made no step in 0.5 s"), ("raises", "physics state is invalid")])
def test_an_environment_of_a_learner_that_hangs_or_raises_is_one_line(what, said):
    import multiprocessing

    from tandem.policy.rl.dsrl.sb3_workers import in_processes

    makers = [partial(jobs.third_step, ""), partial(jobs.third_step, what)]
    with pytest.raises(PolicyError, match=said), in_processes(makers, 0.5) as vector:
        vector.reset()
        for _ in range(3):
            vector.step(np.zeros(2, int))
    assert not multiprocessing.active_children()


def flat(trained):
    from tandem.policy.act.runtime import Runtime
    from tandem.policy.checkpoint import store

    return AgentSpec("checkpoint", str(store.resolve(trained)), Runtime(mode="flat"))


def test_layouts_that_raise_are_left_out_and_ten_in_a_row_end_the_learning(trained, monkeypatch):
    from tandem.policy.rl.dsrl.noise_env import NoiseEnv
    from tandem.policy.rl.shared.episodes import Job, roll_out

    bad, reset = {6, 7}, envs.TabletopEnv.reset

    def failing(env, *, seed=None, options=None):
        if seed in bad:
            raise RuntimeError(f"no layout {seed}")
        return reset(env, seed=seed, options=options)

    monkeypatch.setattr(envs.TabletopEnv, "reset", failing)
    assert "no layout 6" in roll_out(Job(flat(trained), "reach", 6)).reason
    env = NoiseEnv(flat(trained), ("reach",), first_seed=5)
    env.reset()
    env.reset()
    assert env.seed == 8
    *_, info = env.step(np.zeros(env.action_space.shape, np.float32))
    assert [what for what, _ in info["left_out"]] == ["reach seed 6", "reach seed 7"]
    bad |= set(range(9, 100))
    with pytest.raises(PolicyError, match="10 episodes in a row broke"):
        env.reset()


def test_a_round_whose_first_episodes_all_fail_ends_the_learning(trained, tmp_path, monkeypatch, at_once):
    import tandem.policy.rl.ppo.ppo as module
    import tyro
    from tandem.scripts import rl

    monkeypatch.setattr(module, "roll_out", lambda job: Crash("RuntimeError: broken"))
    flags = ["--checkpoint", str(trained), "--method", "ppo", "--tasks", "reach", "--output", str(tmp_path / "run")]
    with pytest.raises(PolicyError, match="the first 10 episodes of a round failed; RuntimeError: broken"):
        rl.main(tyro.cli(rl.Args, args=[*flags, "--workers", "1"]))


# --- recorded data ---------------------------------------------------------------------------------------------------


def test_a_policy_is_measured_on_recorded_data(trained, demonstrations, tmp_path, capsys):
    flags = ["--checkpoint", str(trained), "--data", str(demonstrations), "--cache", str(tmp_path / "cache")]
    assert run("eval", [*flags, "--output", str(tmp_path / "e")]) == 0
    said = capsys.readouterr().out
    assert "has learned from all of these episodes" in said and "open-loop error" in said
    assert json.loads((tmp_path / "e" / "held_out.json").read_text())["entries"]
