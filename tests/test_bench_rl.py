"""What is published of reinforcement learning: pairs by layout, per training seed, only what was measured."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tandem.scripts.benches.rl import scratch
from tandem.scripts.benches.rl.record import Record, read_record
from tandem.scripts.benches.rl.rl import Args, commands, measure, results
from tandem.scripts.benches.rl.rows import curves, gain, interval
from tandem.scripts.benches.rl.speed import speed
from tandem.scripts.publish.figures import write_result
from tandem.scripts.results import plots
from tandem.scripts.shared.errors import UserError


def evaluated(folder, **successes):
    """successes: task -> one bool per layout, each of its own length; success takes 50 steps less in an 'after'."""
    folder.mkdir(parents=True)
    steps = 100 if folder.name == "before" else 50
    episodes = [
        {"task": task, "seed": seed, "success": success, "steps": steps + seed if success else 200, "status": "done"}
        for task, outcomes in successes.items()
        for seed, success in enumerate(outcomes)
    ]
    (folder / "results.json").write_text(json.dumps({"episodes": episodes}))
    return folder


@pytest.fixture
def policy(tmp_path):
    """A checkpoint that has a digest, and nothing that could run."""
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "manifest.json").write_text("{}")
    return tmp_path / "policy"


def learned(root, name, given=60.0, **successes):
    evaluated(root / name / "eval", **successes)
    cost = {"env_steps": 1000, "minutes": 10.0, "settings": {"discount": 0.9}, "given": given}
    (root / name / "learned.json").write_text(json.dumps(cost))
    (root / name / "log.jsonl").write_text("")
    (root / name / "made_with.json").write_text(json.dumps({"code": "0123456789ab"}))
    return root / name


def test_a_gain_counts_the_seeds_that_are_clearly_higher(tmp_path):
    before = evaluated(tmp_path / "before", push=[True] * 10 + [False] * 20)
    runs = [
        learned(tmp_path, "a", push=[True] * 30),
        learned(tmp_path, "b", push=[True] * 11 + [False] * 19),
        learned(tmp_path, "c", push=[False] * 30),
    ]
    found = [read_record(run, before, ("push",), 10.0, "base", "", "dsrl", seed) for seed, run in enumerate(runs)]
    assert [Record.from_dict(json.loads(json.dumps(record.as_dict()))) for record in found] == found
    row = gain(found, "push")
    assert row["before"] == pytest.approx(1 / 3) and row["after"] == pytest.approx(41 / 90, abs=1e-4)
    assert row["gain"] == pytest.approx(row["after"] - row["before"]) and row["each"] == "100/37/0"
    assert row["low"] < -0.1 < row["gain"] < 0.4 < row["high"]  # seeds that differ so much say little of the next one
    assert (row["higher"], row["lower"], row["seeds"]) == (1, 1, 3)
    assert (row["length_before"], row["length_after"]) == (104.5, 54.5)  # of layouts that succeed before and after
    assert (row["env_steps"], row["minutes"], row["code"]) == (1000, 10.0, "0123456")
    found[1] = replace(found[1], settings={"discount": 0.5})
    with pytest.raises(UserError, match="seed 1 of .* learned with other settings than seed 0; delete"):
        gain(found, "push")


def test_an_interval_is_over_layouts_and_seeds():
    rng = np.random.default_rng(1)
    alike = np.tile(rng.random(50) < 0.5, (3, 1)).astype(float)  # three seeds that do the same: fifty outcomes
    low, high = interval(alike)
    assert high - low == pytest.approx(2 * 1.96 * alike[0].std() / 50**0.5, rel=0.1)
    seeds = np.repeat([[0.0], [1.0], [1.0]], 50, axis=1)  # layouts do not matter at all
    assert interval(seeds) == (0.0, 1.0) and interval(np.ones((3, 50))) == (1.0, 1.0)


def test_one_run_of_all_tasks_counts_for_each_and_a_suite_names_what_fell(tmp_path, policy):
    evaluated(tmp_path / "before", push=[True] * 30, stack=[False] * 30)
    learned(tmp_path, "together_recap_0", push=[False] * 30, stack=[True] * 30)
    args = Args(policy, ("push", "stack"), ("recap",), together=("recap",), seeds=1, episodes=1, output=tmp_path)
    metrics = measure(args)
    assert (metrics["push"]["recap"]["after"], metrics["stack"]["recap"]["after"]) == (0, 1)
    row = results(replace(args, result="rl_suite"), metrics)["rl_suite"]
    assert row["before"] == row["after"] == 0.5 and row["tasks_lower"] == 1


def test_what_a_run_did_not_learn_is_not_published_as_its_result(tmp_path, policy):
    evaluated(tmp_path / "before", push=[True], stack=[False], reach=[True])
    run = learned(tmp_path, "together_recap_0", push=[True], stack=[True], reach=[True])
    (run / "asked.json").write_text(json.dumps({"tasks": ["push", "stack"]}))
    args = Args(policy, ("push", "stack"), ("recap",), together=("recap",), seeds=1, episodes=1, output=tmp_path)
    assert set(measure(args)) == {"push", "stack"}
    for others in (("push", "stack", "reach"), ("push",)):
        with pytest.raises(UserError, match="together_recap_0 learned push stack, not"):
            measure(replace(args, tasks=others))
    with pytest.raises(UserError, match="--together names dsrl, which is not in --methods"):
        measure(replace(args, together=("dsrl",)))
    with pytest.raises(UserError, match="rl_suite is about one method"):
        measure(replace(args, methods=("recap", "dsrl"), result="rl_suite"))


def test_curves_are_means_over_the_runs_of_one_kind(tmp_path):
    before, runs = evaluated(tmp_path / "before", push=[True]), []
    for seed, shares in enumerate(([0.0, 1.0], [0.5, 0.5])):
        folder = learned(tmp_path, f"push_dsrl_{seed}", push=[True])
        rows = [
            {"stage": "rl", "step": 1000 * (i + 1), "success": share, "n": 50 * (i + 1)}
            for i, share in enumerate(shares)
        ]
        (folder / "log.jsonl").write_text("\n".join(json.dumps(row) for row in [*rows, {"stage": "recap", "step": 3}]))
        runs.append(read_record(folder, before, ("push",), 10.0, "base", "", "dsrl", seed))
    found = curves(runs)["push"]["dsrl"]
    assert found["1000"]["success"] == 0.25 and found["2000"]["success"] == 0.75 and found["1500"]["success"] == 0.5
    assert all(row["low"] < row["success"] < row["high"] for row in found.values())
    assert found["100"]["n"] == 100 and found["2000"]["n"] == 200  # as many episodes as there were


def test_seeds_of_other_times_stay_and_what_they_are_not_comparable_with_goes(tmp_path, policy, monkeypatch):
    pages = tmp_path / "pages"

    def publish(output, seeds, minutes=60.0, **after):
        evaluated(output / "before", **{task: [True, False] for task in after})
        for seed in seeds:
            learned(output, f"{'together' if len(after) > 1 else 'push'}_recap_{seed}", minutes, **after)
        together: tuple = ("recap",) if len(after) > 1 else ()
        args = Args(policy, tuple(after), ("recap",), len(seeds), seeds[0], (minutes,), 2, together, output=output)
        monkeypatch.setattr("tandem.scripts.benches.rl.rl.this_command", lambda: f"tandem bench rl {output.name}")
        made_by = commands(args, pages)
        for name, metrics in results(args, measure(args), pages).items():
            write_result(name, made_by[name], metrics, pages)
        published = json.loads((pages / "rl.json").read_text())
        return published["metrics"], published["command"].split("; ")

    publish(tmp_path / "others", [0], reach=[True, True], stack=[True, False])
    first, made_by = publish(tmp_path / "a", [0], push=[True, False])
    assert set(first) == {"push", "reach", "stack"}
    assert made_by == ["tandem bench rl a", "tandem bench rl others"]
    second, made_by = publish(tmp_path / "b", [1, 2], push=[True, True])
    assert (second["push"]["recap"]["seeds"], second["push"]["recap"]["each"]) == (3, "50/100/100")
    assert made_by == ["tandem bench rl a", "tandem bench rl b", "tandem bench rl others"]
    again, _ = publish(tmp_path / "c", [1], push=[False, False])
    assert again["push"]["recap"]["each"] == "50/0/100"  # a seed that was learned again replaces itself
    of_speed = json.loads((pages / "rl_speed.json").read_text())["command"]
    assert "others" not in of_speed and of_speed.startswith("tandem bench rl a; ")  # it has fewer seeds
    other, made_by = publish(tmp_path / "d", [3], minutes=30.0, push=[True, True])
    assert (other["push"]["recap"]["seeds"], other["push"]["recap"]["each"]) == (1, "100")
    assert made_by == ["tandem bench rl d", "tandem bench rl others"]
    wider, made_by = publish(tmp_path / "e", [0], push=[True, True], stack=[True, True])
    assert set(wider) == {"push", "stack"} and made_by == ["tandem bench rl e"]  # of its tasks, a row says one thing
    learned(tmp_path / "e", "push_dsrl_0", push=[True, True])
    dsrl = Args(policy, ("push",), ("dsrl",), 1, 0, (60.0,), 2, output=tmp_path / "e")
    assert "rl_speed" not in results(dsrl, measure(dsrl), pages)  # it has nothing to say of recap's
    wider, made_by = publish(tmp_path / "f", [0], reach=[True, True], press_button=[True, True])
    assert set(wider) == {"push", "stack", "reach", "press_button"}  # one run of other tasks is another row


def test_what_is_there_is_not_run_again_and_speed_is_that_of_recap(tmp_path, policy, monkeypatch):
    evaluated(tmp_path / "before", push=[True, False])
    learned(tmp_path, "push_recap_0", push=[True, True])
    learned(tmp_path, "push_dsrl_0", push=[True, False])
    args = Args(policy, ("push",), ("dsrl", "recap"), seeds=1, episodes=2, output=tmp_path)
    metrics = measure(args)
    with pytest.raises(UserError, match="dsrl_0 learned for --minutes 60, not 1;"):
        measure(replace(args, minutes=(1.0,)))
    with pytest.raises(UserError, match="recap_0 learned for --minutes 60, not 1;"):
        measure(replace(args, minutes=(60.0, 1.0)))
    with pytest.raises(UserError, match="3 numbers for 2 methods"):
        measure(replace(args, minutes=(1.0, 2.0, 3.0)))
    learned(tmp_path, "stack_recap_0", stack=[True, True])
    asked = []
    monkeypatch.setattr("tandem.scripts.benches.rl.rl._tandem", lambda *flags: asked.append(flags))
    with pytest.raises(UserError, match="no episode of stack"):  # for nothing was evaluated here
        measure(replace(args, tasks=("stack",), methods=("recap",)))
    ((command, *flags),) = asked  # the policy before, and what is known of it stays
    assert command == "eval" and flags[3:5] == ["push", "stack"] and flags[-1] == "--resume"
    assert metrics["push"]["recap"]["after"] == 1.0 and metrics["push"]["dsrl"]["after"] == 0.5
    published = results(args, metrics, tmp_path / "pages")
    assert published["rl"] == metrics
    assert (published["rl_speed"]["length_before"], published["rl_speed"]["length_after"]) == (100, 50)
    assert published["rl_speed"]["change"] == -0.5
    every = published["rl_speed"]["layouts"]["all, a failure as long as it lasted"]
    assert (every["length_before"], every["length_after"]) == (150, 50.5)  # (100 + 200) / 2, (50 + 51) / 2


def test_with_more_minutes_a_finished_run_goes_on_and_what_it_came_to_stays(tmp_path, policy, monkeypatch):
    evaluated(tmp_path / "before", push=[True, False])
    run = learned(tmp_path, "push_recap_0", 45.0, push=[True, False])
    args = Args(policy, ("push",), ("recap",), seeds=1, minutes=(75.0,), episodes=2, output=tmp_path)
    asked = []

    def fails(*flags):
        asked.append(flags)
        raise UserError("killed")

    monkeypatch.setattr("tandem.scripts.benches.rl.rl._tandem", fails)
    for _ in range(2):  # killed, and begun again
        with pytest.raises(UserError, match="killed"):
            measure(args)
    assert all(flags[0] == "rl" and flags[-1] == "--resume" and "75.0" in flags for flags in asked) and len(asked) == 2
    before = json.loads((run / "45_minutes_eval" / "results.json").read_text())
    assert [e["success"] for e in before["episodes"]] == [True, False]
    assert json.loads((run / "45_minutes_learned.json").read_text())["given"] == 45
    assert not (run / "eval").exists() and not (run / "learned.json").exists()


def test_with_more_episodes_evaluations_go_on_and_none_gets_fewer(tmp_path, policy, monkeypatch):
    evaluated(tmp_path / "before", push=[True, False], stack=[True] * 4)
    learned(tmp_path, "push_recap_0", push=[True, True])
    args = Args(policy, ("push",), ("recap",), seeds=1, episodes=3, output=tmp_path)
    asked = []
    monkeypatch.setattr("tandem.scripts.benches.rl.rl._tandem", lambda *flags: asked.append(" ".join(flags)))
    measured = measure(args)["push"]["recap"]
    before, after = asked
    assert "--tasks push stack --episodes 4 " in before and "--tasks push --episodes 3 " in after
    assert all(flags.startswith("eval ") and flags.endswith("--resume") for flags in asked)
    assert measured["layouts"] == 2  # that is how many there are as long as nothing ran
    asked.clear()
    measure(replace(args, episodes=2))
    assert not asked


def record(seed, before, after, task="push", settings=None):
    sides = ({task: dict(enumerate(before))}, {task: dict(enumerate(after))})
    return Record("recap", seed, "base", 1.0, "", "", settings or {}, 0, 1.0, [], *sides)


def test_speed_is_a_ratio_of_means_over_tasks_with_its_interval():
    rng = np.random.default_rng(3)
    slow = [(bool(won), int(steps)) for won, steps in zip(rng.random(50) < 0.6, rng.integers(30, 90, 50), strict=True)]
    fast = [(won, steps // 2) for won, steps in slow]
    found = speed([record(seed, slow, fast) for seed in (0, 1)])
    both = found["layouts"]["succeed before and after"]
    assert both["low"] <= both["change"] == found["change"] <= both["high"]
    assert both["change"] == pytest.approx(-0.5, abs=0.01) and both["high"] - both["low"] < 0.02  # every one is halved
    shuffled = speed([record(0, slow, [slow[i] for i in rng.permutation(50)])])["layouts"]
    assert all(row["low"] < 0 < row["high"] for row in shuffled.values())
    hopeless = record(0, [(False, 120)] * 3, [(False, 120)] * 3, "stack")
    with_hopeless = speed([record(0, slow, fast), hopeless])
    assert with_hopeless["change"] == found["change"]  # a task without such layouts has no length
    assert speed([hopeless]) == {}
    with pytest.raises(UserError, match="other settings"):
        speed([record(0, slow, fast), record(1, slow, fast, settings={"discount": 0.5})])


def test_learning_from_nothing_is_drawn_task_by_task_and_not_done_twice(tmp_path):
    rows = [{"stage": "rl", "step": 1000 * n, "success": n / 4, "n": 40} for n in (1, 2, 3, 4)]
    for task in ("reach", "push"):
        (run := tmp_path / "runs" / f"{task}_0").mkdir(parents=True)
        (run / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (run / "learned.json").touch()
    args = scratch.Args(("reach", "push"), output=tmp_path / "runs")
    figures = scratch.results(args, scratch.measure(args))["rl_scratch"]
    assert figures["push"] == figures["reach"] and figures["reach"]["2000"]["success"] == 0.5
    with pytest.raises(UserError, match="minutes"):
        scratch.measure(replace(args, minutes=1.0))
    write_result("rl_scratch", "tandem bench scratch", figures, tmp_path)
    ((file, drawn),) = plots(tmp_path).items()
    assert file.name == "rl_scratch.svg" and drawn.count("<polyline") == 2 and ">reach<" in drawn
