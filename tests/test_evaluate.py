"""Evaluation: outcomes do not depend on workers or order; crashes are repeated; intervals and tests are right."""

import json
import os
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from tandem.planner.system2 import Plan
from tandem.policy.act.agents import load_agent
from tandem.policy.act.runtime import AgentSpec, Runtime
from tandem.policy.errors import PolicyError
from tandem.policy.evaluate.episode import environment, run_episode
from tandem.policy.evaluate.evaluation import EPISODES_FILE, evaluate, plan, read_outcomes, summary
from tandem.policy.evaluate.outcome import Episode
from tandem.policy.evaluate.pool import Crash, Pool
from tandem.policy.evaluate.statistics import Proportion, paired, unpaired


def stable(outcome):
    """Everything but the clock."""
    return {k: v for k, v in outcome.as_dict().items() if not k.endswith("_ms")}


def test_outcomes_do_not_depend_on_workers_or_order(trained, tmp_path):
    spec = AgentSpec("checkpoint", str(trained), Runtime())
    episodes = plan(("reach", "press_button"), 2, 1_000_000, ("hierarchical", "flat"), ("normal", "wrong"))
    one = evaluate(spec, episodes, tmp_path / "one", workers=1)
    two = evaluate(spec, list(reversed(episodes)), tmp_path / "two", workers=2)
    assert [stable(o) for o in one] == [stable(o) for o in reversed(two)]


class Looker:
    """Looks at every third step and remembers what it was given."""

    image_size, trace, events = None, [], Counter()

    def __init__(self, always: bool):
        self.always, self.step, self.seen = always, 0, []

    looks = property(lambda self: self.always or self.step % 3 == 0)

    def bind(self, env): ...
    def reset(self, instruction, seed): ...

    def act(self, obs):
        self.seen.append({key: value for key, value in obs.items() if self.step % 3 == 0 or "images" not in key})
        assert any("images" in key for key in obs) == self.looks
        self.step += 1
        self.trace = [{"planner_ms": None, "controller_ms": None}]
        return np.full(7, 0.3 * (-1) ** self.step, np.float32)


def test_images_are_made_when_the_agent_looks_and_are_then_the_same():
    episode, found = Episode("reach", 3), []
    for always in (True, False, True):  # the third: nothing stays switched off in an environment that is used again
        agent = Looker(always)
        outcome = run_episode(environment("reach", 32), agent, episode)
        found.append((stable(outcome), agent.seen))
    for outcome, seen in found[1:]:
        assert outcome == found[0][0] and len(seen) == len(found[0][1]) > 3
        for ours, theirs in zip(seen, found[0][1], strict=True):
            assert ours.keys() == theirs.keys() and all(np.array_equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_the_planner_sees_the_past_a_tick_apart_however_early_it_thinks(trained, monkeypatch, progress):
    agent = load_agent(AgentSpec("checkpoint", str(trained), Runtime()))
    sizes, steps, seen = agent.sizes, [], []
    plan = Plan(
        torch.zeros(1, sizes.subtask_length, dtype=torch.int64),
        torch.zeros(1, sizes.goal_tokens, sizes.width),
        torch.tensor([progress]),
    )

    def sample(*inputs):
        steps.append(agent.step)
        seen.append(int(inputs[3].sum()))  # ticks that are not made up
        return plan

    monkeypatch.setattr(agent.model.planner, "sample", sample)
    run_episode(environment("reach", agent.image_size), agent, Episode("reach", 5))
    assert steps[:3] == ([0, 4, 8] if progress else [0, 8, 16])  # it looks every 4 steps, a tick is 8
    assert seen == [min(sizes.ticks, 1 + step // sizes.tick) for step in steps]


@pytest.mark.fault("interrupted evaluation")
def test_an_interrupted_evaluation_resumes_to_the_same_numbers(tmp_path):
    spec, episodes = AgentSpec("expert"), plan(("reach",), 3, 5, ("hierarchical",), ("normal",))
    whole = evaluate(spec, episodes, tmp_path, workers=1)
    file = tmp_path / EPISODES_FILE
    first, second, _ = file.read_text().splitlines()
    file.write_text(f"{first}\n{second[:40]}")  # killed while writing the second line
    assert len(read_outcomes(tmp_path)) == 1
    assert [stable(o) for o in evaluate(spec, episodes, tmp_path, workers=1)] == [stable(o) for o in whole]
    assert len(file.read_text().splitlines()) == 3


def square_or_die(job):
    number, marker = job
    if marker and not os.path.exists(marker):
        open(marker, "w").close()
        os._exit(7)
    return number**2


def test_a_worker_that_died_while_idle_is_replaced():
    with Pool(square_or_die, workers=1) as pool:
        assert list(pool.run([(2, "")])) == [(0, 4)]
        pool._workers[0].process.kill()
        pool._workers[0].process.join()
        assert list(pool.run([(3, "")])) == [(0, 9)]


def always_die(job):
    os._exit(7)


def fail(job):
    raise PolicyError(f"job {job} is bad")


@pytest.mark.fault("environment worker crashes")
def test_a_crashed_workers_job_is_repeated(tmp_path):
    jobs = [(i, str(tmp_path / "died") if i == 2 else "") for i in range(5)]
    with Pool(square_or_die, workers=2) as pool:
        assert dict(pool.run(jobs)) == {i: i**2 for i in range(5)}
        assert pool.replaced == 1


def process_and_square(number):
    return os.getpid(), number**2


def test_workers_are_kept_from_run_to_run_and_a_run_given_up_leaves_nothing_behind():
    with Pool(process_and_square, workers=1) as pool:
        first, second = (dict(pool.run([n, n + 1])) for n in (3, 5))
        assert [square for _, square in (*first.values(), *second.values())] == [9, 16, 25, 36]
        assert len({process for process, _ in (*first.values(), *second.values())}) == 1
        next(pool.run([7, 8, 9]))
        assert {index: square for index, (_, square) in pool.run([1, 2])} == {0: 1, 1: 4}


def rest(seconds):
    time.sleep(seconds)
    return seconds


def test_a_worker_that_is_given_up_ends_without_a_word(capfd):
    with Pool(rest, workers=2) as pool:
        assert next(pool.run([0.0, 20.0])) == (0, 0.0)
    assert capfd.readouterr().err == ""


@pytest.mark.fault("environment worker crashes")
def test_a_job_that_keeps_crashing_is_an_error_of_its_own():
    with Pool(always_die, workers=1) as pool:
        results = dict(pool.run([0]))
    assert isinstance(results[0], Crash) and "exit code 7" in results[0].reason


def test_an_exception_in_a_worker_reaches_the_caller():
    with pytest.raises(PolicyError, match="job 3 is bad"):
        with Pool(fail, workers=1) as pool:
            list(pool.run([3]))


def test_summary_keeps_errors_apart(tmp_path):
    outcomes = evaluate(
        AgentSpec("expert"), plan(("open_drawer",), 2, 0, ("hierarchical",), ("normal", "wrong")), tmp_path, 1
    )
    outcomes[0] = replace(outcomes[0], status="crashed", success=False)
    s = summary(outcomes)
    assert s["errors"] == 1 and s["per_task"]["open_drawer"]["hierarchical"] == Proportion(1, 1).as_dict()
    assert "wrong" not in s["per_task"]["open_drawer"]  # the instruction picks nothing there: skipped, not failed
    assert json.dumps(s)


def test_wilson_interval_against_its_formula():
    k, n, z = 17, 20, 1.959964
    centre = (k / n + z * z / 2 / n) / (1 + z * z / n)
    half = z * np.sqrt(k / n * (1 - k / n) / n + z * z / 4 / n / n) / (1 + z * z / n)
    assert Proportion(k, n).interval == pytest.approx((centre - half, centre + half), abs=1e-4)


def test_comparison_says_when_there_is_no_difference_and_when_there_is():
    same = paired([True, False] * 20, [True, False] * 20)
    assert not same.significant and "no significant difference" in same.verdict
    better = paired([False] * 30 + [True] * 10, [True] * 30 + [True] * 10)
    assert better.significant and better.verdict.startswith("B") and better.difference == pytest.approx(0.75)
    assert paired([True] * 5, [False] * 5).p_value == pytest.approx(2 * 0.5**5)
    assert unpaired(Proportion(2, 20), Proportion(15, 20)).significant
    assert not unpaired(Proportion(9, 20), Proportion(11, 20)).significant


def test_unknown_agent_is_refused():
    with pytest.raises(PolicyError, match="unknown agent"):
        load_agent(AgentSpec("oracle"))


def test_an_episode_is_the_same_whoever_runs_it():
    """Sums over two threads differ in their last bits, and contacts make another episode of that."""
    torch.set_num_threads(2)
    run_episode(environment("reach", None), load_agent(AgentSpec("expert")), Episode("reach", 0))
    assert torch.get_num_threads() == 1
