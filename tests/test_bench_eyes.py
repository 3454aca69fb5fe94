"""Whose eyes: an expert that is told where things are off acts as if they were there."""

import numpy as np
import pytest
from tandem import envs
from tandem.scripts.benches.policy.eyes import Args, measure
from tandem.scripts.shared.errors import UserError


@pytest.mark.parametrize("task", ["push", "pick_place", "stack"])
def test_all_things_off_alike_is_the_hand_off_the_other_way(task):
    env = envs.make(task, 32)
    env.reset(seed=1)
    by = np.array([0.03, -0.02, 0.0])
    things, hand, plain = (envs.expert(env, 1, disturbed=0.0) for _ in range(3))
    names = [f"object{i}" for i in env.unwrapped.sim.colour_of] + ["mark", "bowl"]
    things.misplace(dict.fromkeys(names, by))
    hand._seen.by = by
    hand._misplaced.step = lambda: by
    np.testing.assert_allclose(things.act()[0], hand.act()[0], atol=1e-6)
    things.misplace({})
    np.testing.assert_array_equal(things.act()[0], plain.act()[0])
    env.close()


def test_the_expert_knows_the_truth_and_the_others_are_measured(trained):
    found = measure(Args(trained, ("reach",), episodes=2, workers=1))["reach"]
    assert set(found) == {"expert", "expert by what is seen", "policy"}  # an imitating policy remembers nothing
    assert found["expert"]["success"] == 1 and found["expert"]["far median [mm]"] is None
    assert found["expert by what is seen"]["far median [mm]"] > 1
    with pytest.raises(UserError, match="expert of open_drawer cannot"):
        measure(Args(trained, ("open_drawer",)))
