"""Laws of the Meta-World adapter.

Those that run its simulations need the package, and are skipped without it:
    pip install 'tandem-vla[metaworld]' && pip install --no-deps metaworld==3.1.1
"""

import importlib.util
import json
import multiprocessing

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from tandem import envs
from tandem.data.check import check
from tandem.data.contract import Contract
from tandem.data.reader import Dataset
from tandem.envs.metaworld.tasks import MT10, MT50, TIERS
from tandem.scripts.__main__ import run as tandem

needs_package = pytest.mark.skipif(importlib.util.find_spec("metaworld") is None, reason="metaworld is not installed")
ALL = envs.suite("metaworld-mt50")
FEW = ("metaworld-pick-place", "metaworld-door-close", "metaworld-hammer")  # kinds: one thing, a joint, two things


def episode(env, seed, steps=8):
    """States, rewards, digest and privileged columns under actions that are a function of the seed."""
    rng = np.random.default_rng(seed)
    obs, _ = env.reset(seed=seed)
    found = [obs["observation.state"].tobytes(), env.unwrapped.first_state_digest(), pictures(obs)]
    for _ in range(steps):
        obs, reward, *_ = env.step(rng.uniform(-1, 1, 4).astype(np.float32))
        found += [obs["observation.state"].tobytes(), reward]
    return found + [value.tobytes() for value in env.unwrapped.privileged().values()]


def pictures(obs):
    return [value.tobytes() for key, value in obs.items() if "images" in key]


def episode_elsewhere(job):
    task, seed = job
    return episode(envs.make(task), seed)


def test_fifty_tasks_in_four_tiers_and_no_two_instructions_alike():
    assert len(MT50) == 50 and [len(tier) for tier in TIERS.values()] == [28, 11, 6, 5]
    told = {instruction for instruction, _ in MT50.values()}
    assert len(told) == 50 and max(len(words.split()) for words in told) <= 10  # as subtasks they must not be cut
    assert set(MT10) < set(MT50) and len(envs.suite("metaworld-mt10")) == 10
    assert {task for tier in TIERS for task in envs.suite(f"metaworld-{tier}")} == set(ALL)


def test_without_the_package_a_task_is_one_line_that_says_what_to_install(monkeypatch, capsys, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "metaworld" else found(name))
    with pytest.raises(envs.EnvError, match="no-deps metaworld"):
        envs.make("metaworld-reach")
    output = tmp_path / "data"
    assert tandem("collect", ["--suite", "metaworld-mt10", "--output", str(output)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "no-deps metaworld" in said[0] and not output.exists()


@needs_package
def test_the_contract_is_one_for_all_tasks_and_another_than_the_tabletops():
    contract = Contract.from_fields(envs.contract_fields("metaworld-mt50"))
    assert contract.features["observation.state"].shape == contract.features["action"].shape == (4,)
    with pytest.raises(envs.EnvError, match="'reach' and 'metaworld-reach' differ"):
        envs.contract_fields(("reach", "metaworld-reach"))


@needs_package
@pytest.mark.parametrize("task", ALL)
def test_equal_seeds_give_bit_equal_episodes_whatever_ran_before(task):
    env = envs.make(task, cameras=())
    first = episode(env, 3)
    np.random.seed(5)  # the package's own source of layouts
    other = episode(env, 4)
    assert episode(env, 3) == first != other
    env.close()


@needs_package
def test_equal_seeds_give_bit_equal_episodes_and_images_in_another_process():
    """Here after other episodes, there in a fresh environment: no marker stands where the last goal was."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.map(episode_elsewhere, [(task, 7) for task in FEW])
    for task, expected in zip(FEW, there, strict=True):
        env = envs.make(task)
        episode(env, 6)
        assert episode(env, 7) == expected
        env.close()


@needs_package
@pytest.mark.parametrize("task", FEW)
def test_gymnasium_check_env_passes(task):
    env = envs.make(task, image_size=32)
    check_env(env, skip_render_check=False)
    env.close()


@needs_package
@pytest.mark.parametrize("task", envs.suite("metaworld-mt10"))
def test_experts_solve_their_tasks_and_say_what_they_do(task):
    env = envs.make(task, cameras=())
    for seed in range(2):
        env.reset(seed=seed)
        expert, said = envs.expert(env, seed), []
        for _ in range(env.horizon):
            action, subtask, _ = expert.act()
            assert np.abs(action).max() <= 1
            said.append(subtask)
            _, reward, terminated, truncated, info = env.step(action)
            assert 0 <= reward <= 1 and terminated == info["success"]
            if terminated or truncated:
                break
        assert info["success"] and not info["sim_error"]
        stages = [f"{verb} the {env.words[1]}" for verb in ("reach", "grasp")] + [env.instruction]
        assert said == sorted(said, key=stages.index)  # no stage is left for an earlier one
    env.close()


@needs_package
def test_the_horizon_can_be_put_off_while_an_episode_runs():
    env = envs.make("metaworld-reach", cameras=()).unwrapped
    env.reset(seed=0)
    still = np.zeros(4, np.float32)
    env.horizon = 3
    assert [env.step(still)[3] for _ in range(3)] == [False, False, True]
    env.reset(seed=0)
    assert not env.step(still)[3]
    env.horizon = 505  # Meta-World's own limit is 500
    ended = [env.step(still)[3] for _ in range(504)]
    assert ended == [False] * 503 + [True]


@needs_package
def test_the_script_that_lifts_a_handle_does_not_let_go_of_it():
    env = envs.make("metaworld-handle-pull-side")
    env.reset(seed=0)
    expert, ended, up = envs.expert(env, 0, disturbed=0.0), False, []
    while not ended:
        action, _, _ = expert.act()
        up.append(float(action[2]))
        *_, ended, truncated, info = env.step(action)
        ended = ended or truncated
    fast = np.sign([speed for speed in up if abs(speed) > 0.5])
    assert info["success"] and (np.diff(fast) != 0).sum() <= 1  # down once; Meta-World's own turns nine times


@needs_package
def test_keypoints_are_where_the_camera_shows_the_goal():
    env = envs.make("metaworld-reach", image_size=128)
    for seed in range(4):
        env.reset(seed=seed)
        u, v, visible = env.privileged()["observation.keypoints.corner2"].reshape(-1, 3)[2]
        goal = env.sim.model.site("goal")
        shown = env.render_camera("corner2", 128).astype(int)
        goal.rgba[3] = 0.0
        changed = np.abs(env.render_camera("corner2", 128) - shown).sum(-1) > 20
        goal.rgba[3] = 1.0
        assert visible and changed.any()
        row, column = np.argwhere(changed).mean(0)
        assert abs(column + 0.5 - (u + 1) * 64) < 2 and abs(row + 0.5 - (v + 1) * 64) < 2
    env.close()


@needs_package
@pytest.mark.parametrize("task", ALL)
def test_hand_things_and_goal_are_in_view_when_an_episode_starts(task):
    beyond = {"metaworld-sweep", "metaworld-stick-pull"}  # whose goals lie off the table's edge
    env = envs.make(task, cameras=())
    for seed in range(3):
        env.reset(seed=seed)
        state = env.privileged()["observation.environment_state"].reshape(-1, 4)
        points = np.concatenate([state[state[:, 3] == 1, :3], env.full[None, :3]])
        assert (env._project(points)[:, 2] == 1).all() or task in beyond
    env.close()


@needs_package
def test_demonstrations_are_recorded_replayed_and_trained_on_with_the_encoders_teachers(tmp_path):
    output = tmp_path / "data"
    options = ["--tasks", "metaworld-hammer", "metaworld-reach", "--episodes", "1", "--workers", "1"]
    assert tandem("collect", [*options, "--image-size", "96", "--output", str(output)]) == 0
    dataset = Dataset(output)
    assert dataset.info["fps"] == 80 and dataset.images(0, "observation.images.corner2").shape[1:] == (96, 96, 3)
    state = dataset.columns(0)["observation.environment_state"].reshape(-1, 3, 4)
    assert (state[..., 3] == 1).all()  # the hammer, the nail and the goal
    assert {"reach the hammer", "hammer the nail"} <= set(dataset.subtasks.values())
    assert not [finding for finding in check(output) if finding.severity == "error"]
    assert tandem("data", ["replay", str(output)]) == 0
    run = tmp_path / "run"
    train = ["--preset", "debug", "--data", str(output), "--cache", str(tmp_path / "cache"), "--output", str(run)]
    assert tandem("train", [*train, "--threads", "1", "--precision", "fp32"]) == 0
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    taught = {"grounding", "keypoint_heat", "keypoint_offset", "keypoint_visible", "way", "probe_entities"}
    assert all(np.isfinite([entry[name] for name in taught]).all() for entry in log if entry["stage"] == "act")
    evaluation = ["--checkpoint", str(run), "--tasks", "metaworld-reach", "--episodes", "1", "--workers", "1"]
    assert tandem("eval", [*evaluation, "--modes", "flat", "--controls", "normal", "--output", str(run / "eval")]) == 0
    results = json.loads((run / "eval" / "results.json").read_text())
    assert results["episodes"][0]["status"] == "done" and results["summary"]["errors"] == 0
