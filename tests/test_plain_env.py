"""Any gymnasium environment with images, a state and words can be recorded, trained on, evaluated and watched."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from tandem import envs
from tandem.policy import checkpoint
from tandem.scripts.__main__ import run as tandem

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("gymnasium_robotics") is None, reason="gymnasium-robotics is not installed"
)


class Dot(gymnasium.Env):
    """A white dot that actions of at most 3 pixels move; a red one is where it should go."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = spaces.Box(0, 40, (4,), np.float32)
    action_space = spaces.Box(0.0, 6.0, (2,), np.float32)  # 3 is rest

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.goal = self.np_random.uniform(4, 36, (2, 2)).astype(np.float32)
        return np.concatenate([self.at, self.goal]), {}

    def step(self, action):
        self.at = np.clip(self.at + action - 3, 0, 39.9).astype(np.float32)
        found = bool(np.abs(self.at - self.goal).max() < 2)
        return np.concatenate([self.at, self.goal]), float(found), found, False, {"is_success": found}

    def render(self):
        image = np.zeros((40, 40, 3), np.uint8)
        for (x, y), colour in ((self.goal, (255, 0, 0)), (self.at, (255, 255, 255))):
            image[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2] = colour
        return image


TASK = envs.GymTask(
    lambda size: Dot(), "go to the red dot", state=lambda seen: seen[:2],
    script=lambda seen: (seen[2:] - seen[:2]) / 3, robot="dot", horizon=40,
)  # fmt: skip


@pytest.fixture(scope="module")
def task():
    name = "test-dot"
    envs.register(name)(TASK)
    yield name
    envs.TASKS.pop(name)


def test_it_is_a_gymnasium_environment_with_our_observations(task):
    env = envs.make(task)
    check_env(env, skip_render_check=False)
    obs, _ = env.reset(seed=3)
    assert obs["observation.images.view"].shape == (96, 96, 3) and obs["task"] == "go to the red dot"
    again = envs.make(task).reset(seed=3)[0]
    assert all(np.array_equal(obs[key], again[key]) for key in obs)


def test_actions_are_scaled_to_its_own_limits(task):
    env = envs.make(task, cameras=())
    for action, moved in (((0, 0), (0, 0)), ((1, -1), (3, -3)), ((9, 0), (3, 0))):
        env.reset(seed=1)
        before = env.inner.at.copy()
        env.step(np.float32(action))
        np.testing.assert_allclose(env.inner.at - before, moved, atol=1e-5)


def test_what_cannot_be_driven_is_one_clear_line(task):
    cart = envs.GymTask(lambda size: gymnasium.make("CartPole-v1"), "balance", state=lambda seen: seen)
    with pytest.raises(envs.EnvError, match="only bounded boxes"):
        cart.make("cart")
    mute = envs.GymTask(lambda size: Dot(), "go", state=lambda seen: seen, horizon=5).make("mute")
    with pytest.raises(envs.EnvError, match="no scripted expert"):
        mute.expert(0)
    with pytest.raises(envs.EnvError, match="limit of steps"):
        envs.GymTask(lambda size: Dot(), "go", state=lambda seen: seen).make("endless")


def record_train_evaluate_and_watch(task, folder):
    """The whole way through the command line, with one process; returns the evaluation's results."""
    data, model = str(folder / "data"), str(folder / "run")
    collect = ["--tasks", task, "--episodes", "3", "--workers", "1", "--image-size", "96", "--output", data]
    assert tandem("collect", collect) == 0
    assert tandem("data", ["check", data]) == 0 and tandem("data", ["replay", data]) == 0
    train = ["--preset", "debug", "--data", data, "--cache", str(folder / "cache"), "--output", model]
    assert tandem("train", [*train, "--threads", "1", "--precision", "fp32"]) == 0
    for agent in (["--agent", "expert"], ["--checkpoint", model]):
        output = str(folder / agent[-1].split("/")[-1])
        options = ["--tasks", task, "--episodes", "1", "--workers", "1", "--output", f"{output}_eval"]
        options += ["--modes", "flat", "hierarchical", "--controls", "normal", "wrong"]
        assert tandem("eval", [*agent, *options]) == 0
    watch = ["--checkpoint", model, "--tasks", task, "--episodes", "1", "--output", str(folder / "page")]
    assert tandem("watch", watch) == 0 and (folder / "page" / "report.html").exists()
    return json.loads((folder / "expert_eval" / "results.json").read_text())


def test_it_is_recorded_trained_on_evaluated_and_watched(task, tmp_path, monkeypatch):
    from tandem.policy import evaluate, rollout
    from tandem.scripts import collect as collecting

    class Here:
        """In place of `policy.pool.Pool`: a task that only this process knows needs this process."""

        def __init__(self, work, workers, deadline=0.0):
            self.work = work

        def __enter__(self):
            return self

        def __exit__(self, *_): ...

        def run(self, jobs):
            return enumerate(map(self.work, jobs))

    monkeypatch.setattr(collecting, "Pool", Here)
    monkeypatch.setattr(evaluate, "Pool", Here)
    results = record_train_evaluate_and_watch(task, tmp_path)
    rollout.environment.cache_clear()
    assert results["summary"]["mean"]["hierarchical"] == 1.0
    assert "wrong" not in results["summary"]["mean"]  # there is nothing else to name


@pytest.mark.skipif(
    importlib.util.find_spec("gymnasium_robotics") is None, reason="gymnasium-robotics is not installed"
)
def test_a_task_of_gymnasium_robotics_is_recorded_trained_on_evaluated_and_watched(tmp_path):
    """Needs `pip install 'tandem-vla[robotics]'`."""
    results = record_train_evaluate_and_watch("point-maze", tmp_path)
    assert results["summary"]["mean"]["hierarchical"] == 1.0


def test_the_command_line_and_its_workers_know_tasks_of_other_modules(tmp_path):
    """Recorded by spawned workers, and what is trained on it says which tasks it is for, whatever the preset."""
    (tmp_path / "mine.py").write_text(
        "from tandem import envs\nfrom test_plain_env import TASK\nenvs.register('test-mine')(TASK)\n"
    )
    here = Path(__file__).parent
    paths = os.pathsep.join(map(str, (tmp_path, here, here.parent)))

    def command(*arguments, modules="mine"):
        environment = os.environ | {"TANDEM_TASKS": modules, "PYTHONPATH": paths}
        line = [sys.executable, "-m", "tandem.scripts", *arguments]
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    done = command("collect", "--tasks", "test-mine", "--episodes", "2", "--output", "data")
    assert done.returncode == 0, done.stderr
    done = command("train", "--preset", "debug", "--data", "data", "--output", "run")
    assert done.returncode == 0, done.stderr
    assert checkpoint.tasks(tmp_path / "run") == ("test-mine",)
    wrong = command("collect", "--tasks", "test-mine", modules="yours")
    assert wrong.returncode == 2 and wrong.stderr.startswith("tandem: error: TANDEM_TASKS names 'yours'"), wrong.stderr
