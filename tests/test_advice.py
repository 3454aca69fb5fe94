"""What the expert advises is what it would do from there, and asking it changes nothing."""

import importlib.util

import numpy as np
import pytest
import torch
from tandem import envs
from tandem.policy.act.runtime import AgentSpec, Runtime
from tandem.policy.checkpoint import store
from tandem.policy.checkpoint.bundle import Bundle
from tandem.policy.rl.shared.episodes import Job, roll_out
from tandem.policy.rl.shared.expert_labels import advise
from tandem.policy.rl.shared.frames import of_advice, of_trajectory

needs_package = pytest.mark.skipif(importlib.util.find_spec("metaworld") is None, reason="metaworld is not installed")
MEETS = [pytest.param(f"metaworld-{name}", marks=needs_package) for name in ("push-back", "hammer", "door-close")]
TASKS = ["push", "stack", "open_drawer", "press_button", *MEETS]


def walk(task, asks):
    """Steps now by the expert, now by chance: everything that the simulator says on the way."""
    env = envs.make(task, 32).unwrapped
    env.reset(seed=5)
    expert, rng = envs.expert(env, 5, disturbed=0.0), np.random.default_rng(0)
    told = []
    for i in range(36):
        if asks:
            advise(env, 5, 12)
        by_chance = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        obs, reward, _, truncated, info = env.step(by_chance if i // 6 % 2 else expert.act()[0])
        images = [image for name, image in obs.items() if "images" in name]
        known = env.privileged()["observation.environment_state"]
        told.append([*images, obs["observation.state"], known, reward, truncated, info["success"]])
    return told


@pytest.mark.parametrize("task", TASKS)
def test_asking_changes_nothing(task):
    for step, (alone, asked) in enumerate(zip(walk(task, False), walk(task, True), strict=True)):
        assert all(np.array_equal(a, b) for a, b in zip(alone, asked, strict=True)), step


@pytest.mark.parametrize("task", TASKS)
def test_advice_is_what_the_expert_does_until_it_succeeds(task):
    env = envs.make(task, 32).unwrapped
    env.reset(seed=6)
    advice = advise(env, 6, 400)
    assert len(advice) < 400 and np.array_equal(advise(env, 6, 3), advice[:3])
    expert, succeeded = envs.expert(env, 6, disturbed=0.0), False
    for step, advised in enumerate(advice):
        assert not succeeded
        action, _, _ = expert.act()
        np.testing.assert_array_equal(advised, action, err_msg=str(step))
        succeeded = env.step(action)[4]["success"]
    assert succeeded


def test_a_simulator_that_cannot_be_put_back_is_not_asked(monkeypatch):
    env = envs.make("reach", 32)
    env.reset(seed=0)
    monkeypatch.setattr(type(env.unwrapped), "snapshot", envs.TaskEnv.snapshot)
    before = env.unwrapped.first_state_digest()
    assert advise(env, 0, 4).shape == (0, 7)
    assert env.unwrapped.first_state_digest() == before


def test_chunks_are_advised_where_the_policy_acts(trained):
    bundle, spec = Bundle.load(trained), AgentSpec("checkpoint", str(store.resolve(trained)), Runtime(mode="flat"))
    ran = roll_out(Job(spec, "reach", 7, takeover=0.3, advised=True))
    given, expert = ran.arrays["advised"], ran.arrays["expert"][ran.arrays["look"]]
    assert expert.any() and not expert.all() and ((given == 0) == expert).all()
    looks = of_trajectory(bundle, ran, ("reach",), 100)
    samples = of_advice(bundle, ran, looks)
    assert torch.equal(samples.z, looks.z[torch.from_numpy(~expert)]) and len(samples) == (~expert).sum()
    assert samples.action_mask.sum(1).tolist() == given[~expert].tolist()
    taught, wanted = bundle.action(samples.actions[0, 0].numpy()), ran.arrays["advice"][0, 0]
    np.testing.assert_allclose(taught, wanted, atol=1e-5)
    alone = roll_out(Job(spec, "reach", 7, takeover=0.3))
    assert alone.steps == ran.steps and np.array_equal(alone.arrays["action"], ran.arrays["action"])
