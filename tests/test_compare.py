"""`tandem compare`: what it says of two evaluations of the same seeds, and of files that are none."""

import copy
import json
import math
import os
import random

import pytest
from scipy.stats import norm
from tandem.envs import EnvError
from tandem.policy.evaluate.pool import Pool
from tandem.policy.evaluate.statistics import Proportion, newcombe, paired, tango
from tandem.scripts import compare
from tandem.scripts import eval as evaluation_script
from tandem.scripts.__main__ import run
from tandem.scripts.publish import comparison
from tandem.scripts.publish.results_file import read_evaluation, read_results
from tandem.scripts.shared.errors import UserError

Z = norm.ppf(0.975)
INPUTS, SEED = int(os.environ.get("TANDEM_FUZZ", "300")), int(os.environ.get("TANDEM_FUZZ_SEED", "0"))


def evaluation(folder, outcomes, minutes, task="reach", **more):
    folder.mkdir()
    common = {"task": task, "mode": "hierarchical", "control": "normal", "status": "done"} | more
    episodes = [common | {"seed": seed, "success": success} for seed, success in enumerate(outcomes)]
    made = {"code": "abc", "checkpoint": folder.name}
    (folder / "results.json").write_text(json.dumps({"episodes": episodes, "manifest": made, "train_minutes": minutes}))
    return folder


def change(folder, number, **fields):
    """One episode of an evaluation becomes another."""
    results = json.loads((folder / "results.json").read_text())
    results["episodes"][number] |= fields
    (folder / "results.json").write_text(json.dumps(results))


def test_what_only_one_of_them_ran_is_left_out_of_the_pairs(tmp_path, capsys):
    a, b = {("reach", i, ""): i < 20 for i in range(40)}, {("reach", i, ""): i < 21 for i in range(39)}
    assert (
        comparison.compare(a, b).test
        == comparison.compare({k: a[k] for k in b}, b).test
        != comparison.unpaired.__name__
    )
    folders = [evaluation(tmp_path / "a", a.values(), None), evaluation(tmp_path / "b", b.values(), None)]
    compare.main(compare.Args(*folders))
    assert "paired on the 39 episodes of both; A alone has 1, B alone 0" in capsys.readouterr().out


@pytest.mark.parametrize("minutes, ratio", [((10.0, 12.5), 1.25), ((None, 12.5), None), ((0.0, 12.5), None)])
def test_before_and_after_are_published_with_interval_and_times(tmp_path, monkeypatch, minutes, ratio):
    monkeypatch.setattr("tandem.scripts.publish.figures._folder", lambda: tmp_path)
    a = evaluation(tmp_path / "a", [True] * 6 + [False] * 34, minutes[0])
    b = evaluation(tmp_path / "b", [True] * 30 + [False] * 10, minutes[1])
    compare.main(compare.Args(a, b, result="backbone"))
    stored = json.loads((tmp_path / "backbone.json").read_text())
    found = stored["metrics"]
    assert (found["success_before"], found["success_after"]) == (0.15, 0.75)
    assert found["success_change"] == pytest.approx(0.6)
    assert found["success_change_low"] < 0.6 < found["success_change_high"]
    assert found.get("time_ratio") == ratio
    assert stored["manifest"]["after"] == {"code": "abc", "checkpoint": "b"}


def test_episodes_that_began_otherwise_are_no_pairs(tmp_path, capsys):
    a = evaluation(tmp_path / "a", [True] * 20, None, first_state="one")
    b = evaluation(tmp_path / "b", [True] * 20, None, first_state="one")
    for seed in range(17):
        change(b, seed, first_state="another", success=False)
    compare.main(compare.Args(a, b))
    said = capsys.readouterr().out
    assert "17 pairs differ in their first state and are left out" in said
    assert "all: no significant difference" in said and "McNemar" in said
    for seed in range(17, 20):
        change(b, seed, first_state="another")
    compare.main(compare.Args(a, b))
    said = capsys.readouterr().out
    assert "20 pairs differ" in said and "all: A is better" in said and "Barnard, unpaired" in said


def test_episodes_that_failed_to_run_are_left_out_and_counted(tmp_path, capsys):
    a, b = (evaluation(tmp_path / name, [True] * 10, None) for name in "ab")
    for seed, status in enumerate(("crashed",) * 4 + ("error",)):
        change(b, seed, status=status, success=False)
    compare.main(compare.Args(a, b))
    said = capsys.readouterr().out
    assert "4 crashed, 1 error of 10 episodes" in said and "A alone has 5, B alone 0" in said


@pytest.mark.parametrize("wrong", [{"success": "false"}, {"success": 1}, {"success": math.nan}, {"seed": 1},
    {"seed": True}, {"task": ["x"]}, {"task": "\x1b[31m"}, {"status": "fine"}, {"first_state": 3}])  # fmt: skip
def test_what_is_no_outcome_is_refused_in_one_line(tmp_path, capsys, wrong):
    a, b = (evaluation(tmp_path / name, [True] * 3, None) for name in "ab")
    change(b, 0, **wrong)
    assert run("compare", [str(a), str(b)]) == 2
    said = capsys.readouterr().err.strip()
    assert "is no evaluation" in said and len(said.splitlines()) == 1


def test_the_table_has_a_line_a_row_in_80_columns(tmp_path, capsys):
    task, marked = "metaworld-handle-press-side", "push[red]it[/red]"
    folders = [evaluation(tmp_path / name, [name == "b"] * 100, None, task) for name in "ab"]
    for folder in folders:
        results = json.loads((folder / "results.json").read_text())
        results["episodes"] += [e | {"task": marked} for e in results["episodes"]]
        (folder / "results.json").write_text(json.dumps(results))
    compare.main(compare.Args(*folders))
    table, below = capsys.readouterr().out.split(f"{task}: ", 1)
    rows = [line for line in table.splitlines() if "B better" in line]
    assert len(rows) == 3 and max(map(len, table.replace(str(tmp_path), "").splitlines())) <= 80
    assert "…" in rows[0] and "handle-press-side" in rows[0] and marked in rows[1] and "+100 [+93, +100]" in rows[0]
    assert "B is better (p = " in below and f"{marked}: " in below


# --- intervals -------------------------------------------------------------------------------------------------------


def wald(only_a, only_b, n):
    difference = (only_b - only_a) / n
    error = math.sqrt(max(0.0, (only_a + only_b) / n - difference**2) / n)
    return difference - Z * error, difference + Z * error


def coverage(interval, n, shares):
    """How often the interval of n pairs holds the truth, exactly; shares: of pairs that A alone, and B alone, wins."""
    only_a, only_b = shares
    held, truth = 0.0, only_b - only_a
    for i in range(n + 1):
        for j in range(n + 1 - i):
            chance = _chance(n, (i, j, n - i - j), (only_a, only_b, 1 - only_a - only_b))
            if chance > 1e-9:
                low, high = interval(i, j, n)
                held += chance * (low - 1e-9 <= truth <= high + 1e-9)
    return held


def _chance(n, counts, shares):
    if any(count and not share for count, share in zip(counts, shares, strict=True)):
        return 0.0
    logs = [
        count * math.log(share) - math.lgamma(count + 1) for count, share in zip(counts, shares, strict=True) if share
    ]
    return math.exp(math.lgamma(n + 1) + sum(logs))


# None or few pairs differ, in one direction or in both; outcomes that go together, and ones that do not.
TRUTHS = [(0.0, 0.0), (0.01, 0.01), (0.02, 0.0), (0.0, 0.05), (0.1, 0.02), (0.2, 0.2), (0.4, 0.05), (0.0, 0.3)]


@pytest.mark.parametrize("n", [20, 50])
def test_the_paired_interval_holds_the_truth_as_often_as_it_says_and_walds_does_not(n):
    score, plain = ([coverage(interval, n, truth) for truth in TRUTHS] for interval in (tango, wald))
    assert sum(score) / len(score) > 0.95 and min(score) > 0.92
    assert min(plain) < 0.7


def test_the_paired_interval_is_that_of_the_score_test():
    assert tango(2, 12, 50) == pytest.approx((0.0611, 0.3447), abs=1e-4)  # Tango 1998, 36 and 0 pairs that agree
    for n in (1, 20, 1000):
        low, high = tango(0, 0, n)  # no pair differs: that says something, and not everything
        assert (-low, high) == pytest.approx((Z * Z / (n + Z * Z),) * 2)
    for i in range(11):
        for j in range(11 - i):
            (low, high), mirrored = tango(i, j, 10), tango(j, i, 10)
            assert -1 <= low <= (j - i) / 10 <= high <= 1 and low < high
            assert mirrored == pytest.approx((-high, -low), abs=1e-9)


def test_the_unpaired_interval_has_a_width_at_the_edges():
    assert newcombe(Proportion(48, 80), Proportion(56, 70)) == pytest.approx((0.0524, 0.3339), abs=1e-4)  # his table II
    low, high = newcombe(Proportion(10, 10), Proportion(10, 10))
    assert low < 0 < high and paired([True] * 10, [True] * 10).low < 0


# --- files -----------------------------------------------------------------------------------------------------------


def whole(folder):
    """As `tandem eval` writes it."""
    options = ["--agent", "expert", "--tasks", "reach", "--episodes", "2", "--controls", "normal", "--workers", "1"]
    assert run("eval", [*options, "--output", str(folder)]) == 0
    return json.loads((folder / "results.json").read_text())


VALUES = (None, True, -1, 0, 2**70, 1.5, math.nan, math.inf, "", "x", "\ud800", "[/b]", [], [1], {}, {"a": 1})


def mutated(value, rng):
    """The value with one of its parts replaced, removed or doubled."""
    value = copy.deepcopy(value)
    inside = value
    while isinstance(inside, (dict, list)) and inside:
        at = rng.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
        if not isinstance(inside[at], (dict, list)) or not inside[at] or rng.random() < 0.3:
            kind = rng.random()
            if kind < 0.2:
                del inside[at]
            elif kind < 0.3 and isinstance(inside, list):
                inside.append(inside[at])
            else:
                inside[at] = rng.choice(VALUES)
            return value
        inside = inside[at]
    return rng.choice(VALUES)


def test_whatever_a_results_file_holds_it_is_read_or_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Pool, "run", lambda pool, jobs: ((i, pool.work(job)) for i, job in enumerate(jobs)))
    good, rng, refused = whole(tmp_path / "good"), random.Random(SEED), 0
    file = tmp_path / "mutated.json"
    monkeypatch.setattr(evaluation_script, "run", lambda args: (good, tmp_path))
    verbs = (
        lambda: compare.main(compare.Args(tmp_path / "good", file)),
        lambda: evaluation_script.main(evaluation_script.Args(reproduce=file)),
    )
    for _ in range(INPUTS // 2):
        content = json.dumps(mutated(good, rng)).encode()
        if rng.random() < 0.2:
            at = rng.randrange(len(content))
            content = content[:at] + bytes([rng.randrange(256)]) + content[at + rng.randrange(3) :]
        file.write_bytes(content)
        for verb in verbs:
            try:
                assert verb() in (0, 1)
            except (UserError, EnvError) as error:
                refused += 1
                str(error).encode()
                assert "\n" not in str(error)
    assert 0.1 < refused / INPUTS < 0.95


def test_a_file_that_is_none_is_named(tmp_path):
    for content in (b"", b"[]", b"{}", b"\xff\xfe", b"[" * 10**5, b'{"episodes": [], "manifest": 3}'):
        (tmp_path / "results.json").write_bytes(content)
        for read in (read_results, read_evaluation):
            with pytest.raises(UserError, match=r"is no evaluation \(.*pass the results.json"):
                read(tmp_path)
