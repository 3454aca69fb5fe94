"""Laws of the tabletop environments."""

import gc
import multiprocessing
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from tandem import envs
from tandem.envs.entities import ENTITIES
from tandem.envs.rewards import tolerance
from tandem.envs.wrappers import StateOnly

TASKS = envs.suite("tabletop")


@pytest.fixture(scope="module")
def blind():
    """Environments without cameras, made once."""
    made = {task: envs.make(task, cameras=()) for task in TASKS}
    yield made
    for env in made.values():
        env.close()


def run(env, seed, steps=12):
    """States and rewards under actions that are a function of the seed."""
    rng = np.random.default_rng(seed)
    obs, _ = env.reset(seed=seed)
    found = [obs["observation.state"].tobytes(), obs["task"], env.unwrapped.first_state_digest()]
    for _ in range(steps):
        obs, reward, *_ = env.step(rng.uniform(-1, 1, 7).astype(np.float32))
        found += [obs["observation.state"].tobytes(), reward, env.unwrapped.sim.digest()]
    return found


def run_elsewhere(job):
    task, seed = job
    return run(envs.make(task, cameras=()), seed)


def solve(env, seed):
    env.reset(seed=seed)
    expert = envs.expert(env, seed)
    for _ in range(env.unwrapped.horizon):
        action, subtask, _ = expert.act()
        assert subtask and np.isfinite(action).all()
        _, _, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            break
    return info["success"]


@pytest.mark.parametrize("task", TASKS)
def test_gymnasium_check_env_passes(task):
    env = gymnasium.make(envs.gym_id(task), image_size=32)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        check_env(env.unwrapped, skip_render_check=False)
    env.close()


@pytest.mark.parametrize("task", TASKS)
def test_stable_baselines3_check_env_passes_on_the_state_only_view(task):
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(StateOnly(envs.make(task, cameras=())), warn=True, skip_render_check=True)


def test_the_state_only_view_ends_with_the_way_to_what_is_named(blind):
    for task, env in blind.items():
        obs, _ = StateOnly(env).reset(seed=3)
        known, ways = env.unwrapped.privileged(), obs[-6:].reshape(2, 3)
        places = known["observation.environment_state"].reshape(-1, 4)[:, :3]
        for entity, way in zip(known["referents"], ways, strict=True):
            want = places[entity] - env.unwrapped.sim.pinch if entity >= 0 else np.zeros(3)
            assert way == pytest.approx(want, abs=1e-5), task


@pytest.mark.parametrize("task", TASKS)
def test_equal_seeds_give_bit_equal_trajectories_whatever_ran_before(blind, task):
    first = run(blind[task], 3)
    run(blind[task], 4)
    assert run(blind[task], 3) == first
    assert run(blind[task], 5) != first


def test_equal_seeds_give_bit_equal_trajectories_in_another_process(blind):
    jobs = [(task, 7) for task in ("pick_place", "open_drawer", "press_button")]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.map(run_elsewhere, jobs)
    assert there == [run(blind[task], seed) for task, seed in jobs]


@pytest.mark.parametrize("task", TASKS)
def test_experts_solve_their_tasks(blind, task):
    assert sum(solve(blind[task], seed) for seed in range(12)) >= 11


def test_an_expert_that_is_disturbed_more_than_usual_takes_things_to_be_elsewhere(blind):
    def longest(disturbed):
        """Steps in a row in which it closes its fingers beside the object; a disturbed action lasts five at most."""
        env, found = blind["pick_place"], 0
        for seed in range(8):
            env.reset(seed=seed)
            expert, sim, beside = envs.expert(env, seed, disturbed), env.unwrapped.sim, 0
            for _ in range(env.unwrapped.horizon):
                action, _, _ = expert.act()
                missed = np.linalg.norm(sim.pinch[:2] - sim.object(0)[:2]) > 0.025
                beside = beside + 1 if action[6] > 0 and missed else 0
                found = max(found, beside)
                if env.step(action)[4]["success"]:
                    break
        return found

    assert longest(0.0) == 0 and longest(0.15) > 5


@pytest.mark.parametrize("task", TASKS)
def test_rewards_stay_in_range_and_success_is_not_given_away(blind, task):
    env, rng = blind[task], np.random.default_rng(0)
    for seed in range(3):
        env.reset(seed=seed)
        assert not env.unwrapped.task.success(env.unwrapped.sim)
        for _ in range(10):
            _, reward, *_ = env.step(rng.uniform(-1, 1, 7).astype(np.float32))
            assert 0.0 <= reward <= 1.0


@pytest.mark.parametrize("task", TASKS)
def test_the_instruction_names_what_must_be_handled(blind, task):
    env = blind[task]
    env.reset(seed=11)
    instruction, sim = env.unwrapped.instruction, env.unwrapped.sim
    wrong = env.unwrapped.wrong_instruction()
    named, _ = env.unwrapped.privileged()["referents"]
    if env.unwrapped.picks_object:
        colour = ENTITIES[named]
        assert colour in instruction and wrong != instruction and colour not in wrong
        assert sim.colour_of[0] == colour
    else:
        assert wrong is None


def test_several_paraphrases_and_scenes(blind):
    for task, env in blind.items():
        told = {env.reset(seed=seed)[1]["instruction"] for seed in range(20)}
        assert len(told) >= 3, task


def test_an_instruction_can_be_overridden_and_changes_nothing_else(blind):
    env = blind["pick_place"]
    env.reset(seed=5)
    state = env.unwrapped.sim.digest()
    obs, info = env.reset(seed=5, options={"instruction": "do something"})
    assert obs["task"] == info["instruction"] == "do something" and env.unwrapped.sim.digest() == state


@pytest.mark.parametrize(
    "action, complaint",
    [(np.full(7, np.nan), "not finite"), (np.zeros(6), "shape"), (np.array([0, 0, 0, np.inf, 0, 0, 0]), "not finite")],
)
def test_bad_actions_are_one_clear_line(blind, action, complaint):
    env = blind["reach"]
    env.reset(seed=0)
    with pytest.raises(envs.EnvError, match=complaint):
        env.step(action.astype(np.float32))


def test_out_of_range_actions_are_limited(blind):
    env = blind["reach"]
    env.reset(seed=0)
    env.step(np.full(7, 3.0, np.float32))
    state = env.unwrapped.sim.digest()
    env.reset(seed=0)
    env.step(np.ones(7, np.float32))
    assert env.unwrapped.sim.digest() == state


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(envs.EnvError, match="did you mean 'pick_place'"):
        envs.make("pick_plase")
    with pytest.raises(envs.EnvError, match="unknown camera 'top'.*front"):
        envs.make("reach", cameras=("top",))
    with pytest.raises(envs.EnvError, match="is a suite"):
        envs.make("tabletop")


def test_tasks_can_be_registered_from_outside():
    class Higher(envs.TASKS["reach"]):
        horizon = 7

    envs.register("test_reach_short")(Higher)
    try:
        env = gymnasium.make(envs.gym_id("test_reach_short"), cameras=())
        assert env.unwrapped.horizon == 7 and "test_reach_short" in envs.TASKS
        with pytest.raises(envs.EnvError, match="registered already"):
            envs.register("reach")(Higher)
    finally:
        envs.TASKS.pop("test_reach_short")


def test_task_files_stay_small():
    for file in (Path(envs.__file__).parent / "tasks").glob("*.py"):
        lines = [line for line in file.read_text().splitlines() if line.strip() and '"""' not in line]
        assert len(lines) <= 75, file  # beside docstrings of one line


def test_keypoints_are_where_the_camera_shows_the_object():
    env = envs.make("reach", image_size=96)
    for seed in range(8):
        env.reset(seed=seed)
        env.unwrapped.sim.start_arm(np.array([0.3, 0.0, 0.45]))  # out of the camera's way
        named = ENTITIES[env.unwrapped.privileged()["referents"][0]]
        u, v, visible = env.unwrapped.privileged()["observation.keypoints.front"].reshape(-1, 3)[ENTITIES.index(named)]
        shown = env.unwrapped.render_camera("front", 96).astype(int)
        wanted = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1), "purple": (0, 2)}.get(named)
        if not visible or wanted is None:
            continue
        others = [c for c in range(3) if c not in wanted]
        excess = shown[..., list(wanted)].min(-1) - shown[..., others].max(-1)
        column, row = (u + 1) * 48, (v + 1) * 48
        window = excess[max(0, int(row) - 4) : int(row) + 5, max(0, int(column) - 4) : int(column) + 5]
        assert window.max() > 40, (seed, named)
    env.close()


# Modified Denavit-Hartenberg parameters (a, d, alpha) of the Panda, from the manufacturer's documentation.
DH = [
    (0, 0.333, 0), (0, 0, -np.pi / 2), (0, 0.316, np.pi / 2), (0.0825, 0, np.pi / 2), (-0.0825, 0.384, -np.pi / 2),
    (0, 0, np.pi / 2), (0.088, 0, np.pi / 2),
]  # fmt: skip
LIMITS = [
    (-2.8973, 2.8973), (-1.7628, 1.7628), (-2.8973, 2.8973), (-3.0718, -0.0698), (-2.8973, 2.8973), (-0.0175, 3.7525),
    (-2.8973, 2.8973),
]  # fmt: skip


def published_pose(joints):
    """Joint frame 7 in the base frame."""
    pose = np.eye(4)
    for (a, d, alpha), theta in zip(DH, joints, strict=True):
        c, s, ca, sa = np.cos(theta), np.sin(theta), np.cos(alpha), np.sin(alpha)
        pose = pose @ np.array(
            [[c, -s, 0, a], [s * ca, c * ca, -sa, -d * sa], [s * sa, c * sa, ca, d * ca], [0, 0, 0, 1]]
        )
    return pose


def test_the_arm_has_the_published_kinematics_and_limits(blind):
    import mujoco

    model = blind["reach"].unwrapped.sim.model
    joints = [model.joint(f"joint{i}") for i in range(1, 8)]
    np.testing.assert_allclose([joint.range for joint in joints], LIMITS, atol=1e-4)
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    for _ in range(20):
        q = np.array([rng.uniform(low, high) for low, high in LIMITS])
        data.qpos[[joint.qposadr[0] for joint in joints]] = q
        mujoco.mj_kinematics(model, data)
        link = data.body(model.jnt_bodyid[joints[6].id])
        base = data.body("link0").xpos
        expected = published_pose(q)
        np.testing.assert_allclose(link.xpos - base, expected[:3, 3], atol=2e-3)
        np.testing.assert_allclose(link.xmat.reshape(3, 3), expected[:3, :3], atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.floats(-5, 5), st.floats(0, 1), st.floats(0.01, 2))
def test_tolerance_is_one_inside_and_falls_outside(value, bound, margin):
    reward = tolerance(value, bound, margin)
    assert 0.0 <= reward <= 1.0
    assert (reward == 1.0) if abs(value) <= bound else reward <= 1.0
    assert tolerance(bound + margin, bound, margin) == pytest.approx(0.1)


@pytest.mark.parametrize("end", ["closed", "forgotten"])
def test_the_end_of_one_environment_leaves_the_images_of_another_alone(end):
    """Each has an OpenGL context; what one frees must not be what the other draws with, whichever drew last."""
    kept, other = envs.make("reach", image_size=64), envs.make("push", image_size=96)
    kept.reset(seed=0), other.reset(seed=0)
    before = kept.render_camera("front", 64)
    other.render_camera("front", 96), kept.render_camera("front", 64)
    if end == "closed":
        other.close()
    del other
    gc.collect()
    assert (kept.render_camera("front", 64) == before).all()
    kept.close()
