"""What the noise decides: shares of a variance are those that outcomes were made with."""

import numpy as np
import pytest
import torch
from tandem.policy.act.runtime import Runtime
from tandem.policy.checkpoint.bundle import Bundle
from tandem.scripts.benches.policy.noise import Args, best, constant, measure, shares
from tandem.scripts.benches.policy.nudge import Job, Nudged, succeeds
from tandem.scripts.shared.errors import UserError


def outcomes(layout, draw, rest, shape=(400, 8, 4)):
    """Gaussian outcomes whose effects have these variances."""
    rng = np.random.default_rng(0)
    L, K, R = shape
    effects = (rng.normal(size=(L, 1, 1)), rng.normal(size=(L, K, 1)), rng.normal(size=(L, K, R)))
    return sum(variance**0.5 * effect for variance, effect in zip((layout, draw, rest), effects, strict=True))


@pytest.mark.parametrize("variances", [(0.5, 0.3, 0.2), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.2, 0.0, 0.8)])
def test_shares_are_those_that_outcomes_have(variances):
    assert shares(outcomes(*variances)) == pytest.approx(variances[:2], abs=0.06)


def test_the_best_draw_is_better_only_where_draws_matter():
    assert best(outcomes(0.5, 0.0, 0.5)) == pytest.approx(outcomes(0.5, 0.0, 0.5).mean(), abs=0.05)
    assert best(outcomes(0.0, 1.0, 0.0)) == pytest.approx(1.42, abs=0.05)  # largest of eight normal numbers


def test_one_draw_for_all_layouts_is_better_only_where_it_suits_them_all():
    theirs = outcomes(0.0, 1.0, 0.0)  # every layout has draws of its own that suit it
    assert constant(theirs) == pytest.approx(theirs.mean(), abs=0.1)
    assert constant(theirs + np.arange(8)[:, None]) == pytest.approx(7.0, abs=0.2)


def test_the_first_looks_get_what_they_are_given_and_then_repeats_differ(trained):
    agent = Nudged(Bundle.load(trained), Runtime(mode="flat"))
    agent.given, agent.hold, agent.repeat = torch.zeros(1, 1, 4, 7), 2, 0
    draws = []
    for agent.repeat in range(2):
        agent.reset("", 0)
        draws.append([agent.noise(None) for _ in range(4)])
    assert all(torch.equal(a, b) and not a.any() for a, b in zip(draws[0][:2], draws[1][:2], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(draws[0][2:], draws[1][2:], strict=True))


def test_an_outcome_is_a_function_of_its_job_and_too_few_are_refused(trained):
    job = Job(trained, "press_button", 1, 0, 0, 0)
    assert succeeds(job) == succeeds(job)
    with pytest.raises(UserError, match="--repeats must be even"):
        measure(Args(trained, ("reach",), repeats=3))
