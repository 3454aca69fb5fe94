"""The agent at run time: what keeps a robot still, planners that fail, words that are not known, latency."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from tandem.planner.system2 import Plan
from tandem.policy.act.action_limiter import ActionLimiter
from tandem.policy.act.agent import TandemAgent
from tandem.policy.act.runtime import Runtime
from tandem.policy.checkpoint import store
from tandem.policy.checkpoint.bundle import Bundle
from tandem.policy.errors import AgentGaveUp, PolicyError
from tandem.policy.train.run import train

BAD = np.array([np.nan, 0.0, 0.0])


@pytest.fixture(scope="module")
def bundle(trained):
    return Bundle.load(trained)


def observation(seed=0):
    rng = np.random.default_rng(seed)
    images = {f"observation.images.{c}": rng.integers(0, 255, (96, 96, 3), np.uint8) for c in ("front", "wrist")}
    return images | {
        "observation.state": np.r_[0.4, 0.0, 0.2, np.zeros(6), 0.5, 0, 0, 0, -1, 0, 1, 0].astype(np.float32)
    }


def acted(agent, steps=24):
    return np.stack([agent.act(observation(i)) for i in range(steps)])


@pytest.mark.fault("action NaN, out of range, or of a wrong shape", injected=3)
@pytest.mark.parametrize(
    "kinds, stays",
    [(None, [0.0, 0.0, 0.5]), (("absolute",) * 3, [0.1, 0.2, 0.5]), (("delta", "absolute", "delta"), [0.0, 0.2, 0.0])],
)
def test_staying_follows_from_the_kind_of_action(kinds, stays):
    limiter = ActionLimiter(3, Counter(), kinds=kinds)
    limiter(np.array([0.1, 0.2, 0.5]))
    assert np.allclose(limiter(BAD), stays)


@pytest.mark.fault("action NaN, out of range, or of a wrong shape", injected=4)
def test_an_episode_is_given_up_where_nothing_keeps_the_robot_still():
    for kinds in (("unknown",) * 3, ("absolute",) * 3):
        with pytest.raises(AgentGaveUp):
            ActionLimiter(3, Counter(), kinds=kinds)(BAD)
    with pytest.raises(AgentGaveUp, match="shape"):
        ActionLimiter(3, Counter())(np.zeros(4))
    limiter = ActionLimiter(3, events := Counter(), max_consecutive_holds=2)
    with pytest.raises(AgentGaveUp, match="3 steps in a row"):
        for _ in range(3):
            limiter(BAD)
    assert events["held"] == 3


def fails(kind, agent):
    W, (K, D) = agent.previous.shape[1], (agent.sizes.goal_tokens, agent.sizes.width)
    words, goal = torch.zeros(1, W, dtype=torch.int64), torch.zeros(1, K, D)
    plans = {
        "raises": RuntimeError("no memory"), "goal": Plan(words, torch.zeros(1, K, D + 1), torch.zeros(1)),
        "words": Plan(torch.zeros(1, W + 1, dtype=torch.int64), goal, torch.zeros(1)),
        "nan": Plan(words, goal * float("nan"), torch.zeros(1)),
        "progress": Plan(words, goal, torch.full((1,), float("nan"))), "nothing": None,
    }  # fmt: skip
    return plans[kind]


@pytest.mark.fault("planner late, malformed or repeating itself", injected=6)
@pytest.mark.parametrize("kind", ["raises", "goal", "words", "nan", "progress", "nothing"])
def test_a_planner_that_fails_is_counted_and_the_agent_goes_on(kind, bundle, monkeypatch):
    agent = TandemAgent(bundle, Runtime(mode="hierarchical"))
    agent.reset("reach", 0)

    def sample(*_):
        plan = fails(kind, agent)
        if isinstance(plan, Exception):
            raise plan
        return plan

    monkeypatch.setattr(bundle.model.planner, "sample", sample)
    assert np.isfinite(acted(agent)).all()
    assert agent.events["planner_failed"] >= 3 and agent.goal is None and agent.subtask == ""


@pytest.mark.fault("planner late, malformed or repeating itself", injected=2)
def test_a_planner_that_is_late_or_says_the_same_again_is_counted(bundle, monkeypatch):
    agent = TandemAgent(bundle, Runtime(planner_deadline_ms=0.0))
    agent.reset("reach", 0)
    plan = replace(
        bundle.model.planner.sample(agent.instruction, agent.previous, *_past(agent)), progress=torch.zeros(1)
    )
    monkeypatch.setattr(bundle.model.planner, "sample", lambda *_: plan)
    acted(agent)
    assert agent.events["planner_late"] >= 3 and agent.events["planner_repeated"] >= 2


def _past(agent):
    images, state = agent.bundle.observation(observation())
    z = agent.model.encoder(images, state).z
    referents, _ = agent.model.grounding(agent.instruction, z)
    return (*agent._padded([z[0]]), referents)


def test_words_that_are_not_known_or_not_read_are_events_and_a_warning(bundle, capsys):
    agent = TandemAgent(bundle, Runtime())
    agent.reset("please reach the vermilion cube", 0)
    assert agent.events["unknown_words"] >= 1 and "vermilion" in capsys.readouterr().err
    agent.reset("reach " * (agent.sizes.instruction_length + 2), 0)
    assert agent.events["cut_words"] == 2 and "reads no further" in capsys.readouterr().err
    agent.reset("", 0)
    assert not agent.events and not capsys.readouterr().err


@pytest.mark.fault("clock or latency jitter")
def test_latency_lets_the_last_chunk_go_on_and_is_said_where_it_is_too_long(bundle):
    at_once, late = (TandemAgent(bundle, Runtime(mode="flat", latency_ms=ms)) for ms in (0.0, 100.0))
    for agent in (at_once, late):
        agent.reset("reach", 0)
    first, delayed = acted(at_once, 4), acted(late, 4)
    stay = np.r_[np.zeros(6), -1.0]
    assert np.allclose(delayed[:2], stay) and np.allclose(delayed[2:], first[2:])  # two steps of 50 ms
    with pytest.raises(PolicyError, match="latency-ms"):
        TandemAgent(bundle, Runtime(latency_ms=5000.0))


def test_a_policy_from_before_stage_think_runs_flat_and_is_refused_by_name_otherwise(frames, recipe, tmp_path):
    train(replace(recipe, think=replace(recipe.think, steps=0)), frames, tmp_path / "run")
    early = Bundle.load(tmp_path / "run")
    assert store.modes(tmp_path / "run") == ("flat",)
    assert TandemAgent(early, Runtime()).runtime.mode == "flat"
    with pytest.raises(PolicyError, match="learned nothing"):
        TandemAgent(early, Runtime(mode="hierarchical"))
