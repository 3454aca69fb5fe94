"""Any gymnasium environment with images, a state and words can be recorded, trained on, evaluated and watched."""

import gc
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from tandem import envs  # isort: skip  # chooses the OpenGL backend before mujoco is imported
import mujoco  # isort: skip
from tandem.policy.checkpoint import store
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
    from tandem.policy.evaluate import episode as rollout
    from tandem.policy.evaluate import evaluation as evaluate
    from tandem.scripts import collect as collecting
    from tandem.scripts import watch as watching

    class Here:
        """In place of `policy.evaluate.pool.Pool`: a task that only this process knows needs this process."""

        replaced = 0

        def __init__(self, work, workers, deadline=None, stopped=lambda: False):
            self.work, self.stopped = work, stopped

        def __enter__(self):
            return self

        def __exit__(self, *_): ...

        def run(self, jobs):
            return enumerate(map(self.work, jobs))

    monkeypatch.setattr(collecting, "Pool", Here)
    monkeypatch.setattr(evaluate, "Pool", Here)
    monkeypatch.setattr(watching, "Pool", Here)
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
    assert store.tasks(tmp_path / "run") == ("test-mine",)
    wrong = command("collect", "--tasks", "test-mine", modules="yours")
    assert wrong.returncode == 2 and wrong.stderr.startswith("tandem: error: TANDEM_TASKS names 'yours'"), wrong.stderr


# -- what a stranger's environment gives ---------------------------------------------------------------------------


def dot(name="dot", kind=None, cameras=(), **more):
    """The environment of a task like TASK, without pictures."""
    options = dict(state=lambda seen: seen[:2], script=lambda seen: (seen[2:] - seen[:2]) / 3, robot="dot", horizon=40)
    return envs.GymTask(lambda size: (kind or Dot)(), "go", **(options | more)).make(name, cameras=cameras)


def stepped(env, action=(0.0, 0.0)):
    env.reset(seed=0)
    return env.step(np.asarray(action, np.float32))


def giving(step=None, info=None, reward=None):
    """A Dot whose steps give something else."""

    class Other(Dot):
        def step(self, action):
            seen, gain, done, late, found = super().step(action)
            if step is not None:
                return step(seen, gain, done, late, found)
            return seen, gain if reward is None else reward, done, late, found if info is None else info

    return Other


@pytest.mark.parametrize("yes", [True, np.True_, 1, 1.0, np.float32(1), np.int64(1), np.array(True), np.array([1.0])])
def test_success_is_a_bool_whatever_kind_of_yes_it_is(yes):
    for env in (dot(kind=giving(info={"found": yes}), success=lambda info: info["found"]),
                dot(kind=giving(info={"is_success": yes})), dot(kind=giving(info={"success": yes}))):  # fmt: skip
        *_, terminated, _, info = stepped(env)
        assert info["success"] is True and terminated is True
    *_, terminated, _, info = stepped(dot(kind=giving(info={"is_success": np.logical_not(yes)})))
    assert info["success"] is False and terminated is False


@pytest.mark.parametrize(
    "odd", [None, "false", np.nan, 0.5, 2, np.array([True, False]), np.array([]), {}, [[1], [1, 2]], object()]
)
def test_what_is_neither_yes_nor_no_is_refused(odd):
    for env in (dot("slide", giving(info={"is_success": odd})), dot("slide", success=lambda info: odd)):
        with pytest.raises(envs.EnvError, match="success of task 'slide' is .*(give a bool|no array)") as caught:
            stepped(env)
        assert "\n" not in str(caught.value)


def test_without_a_word_of_success_the_end_is_it():
    for done in (True, False, np.bool_(True)):
        ends = giving(lambda seen, gain, _, late, found, done=done: (seen, gain, done, late, {"distance": 3}))
        assert stepped(dot(kind=ends))[-1]["success"] is bool(done)


def test_a_success_that_needs_what_the_info_has_not_is_one_line():
    with pytest.raises(
        envs.EnvError, match=r"success of task 'dot' \(of an info with \['is_success'\]\) raised KeyError: 'x'"
    ):
        stepped(dot(success=lambda info: info["x"]))


@pytest.mark.parametrize("reward", [np.float32(0.5), np.array(0.5), np.array([0.5]), 0.5])
def test_rewards_are_numbers(reward):
    gain = stepped(dot(kind=giving(reward=reward)))[1]
    assert gain == 0.5 and type(gain) is float
    with pytest.raises(envs.EnvError, match="reward of task 'dot' is 'much'; give a number"):
        stepped(dot(kind=giving(reward="much")))


@pytest.mark.parametrize("what", ["reward", "state"])
def test_what_is_not_finite_is_a_broken_simulation_and_no_success(what):
    def broken(seen, gain, done, late, found):
        nan = np.float32(np.nan)
        return (seen, nan, True, late, {"is_success": True}) if what == "reward" else (seen * nan, 1, True, late, found)

    env = dot(kind=giving(broken))
    obs, reward, success, ended, info = stepped(env)
    assert info == {"success": False, "sim_error": True} and ended and not success and reward == 0.0
    assert np.isfinite(obs["observation.state"]).all()
    assert not env.reset(seed=1)[1]["success"]


def test_a_state_may_be_one_number_a_list_or_of_another_type():
    for state in (lambda seen: seen[0], lambda seen: float(seen[0]), lambda seen: seen[:1], lambda seen: [seen[0]]):
        env = dot(state=state)
        found = env.reset(seed=3)[0]["observation.state"]
        assert found.shape == (1,) and found.dtype == np.float32 and found[0] == env.inner.at[0]
    assert dot(state=lambda seen: list(map(float, seen))).reset(seed=0)[0]["observation.state"].shape == (4,)
    assert dot(state=lambda seen: seen.astype(np.int64)).reset(seed=0)[0]["observation.state"].dtype == np.float32


@pytest.mark.parametrize(
    "state, complaint",
    [
        (lambda seen: seen.reshape(2, 2), r"state of task 'dot' is an array of float32 \(2, 2\); give numbers"),
        (lambda seen: None, "state of task 'dot' is None"),
        (lambda seen: {"at": seen}, "state of task 'dot' is {"),
        (lambda seen: seen[:0], "give numbers in one dimension"),
        (lambda seen: [[1], [1, 2]], "no array"),
        (lambda seen: seen * np.nan, "first state of task 'dot' is not finite: entry 0 is nan"),
        (lambda seen: seen[9], "state of task 'dot' raised IndexError"),
        (lambda seen: seen["observation"], "state of task 'dot' raised IndexError"),
    ],
)
def test_a_state_that_is_none_is_one_line(state, complaint):
    with pytest.raises(envs.EnvError, match=complaint):
        dot(state=state).reset(seed=0)


def test_a_state_keeps_its_length():
    lengths = iter([2, 2, 3])
    env = dot(state=lambda seen: seen[: next(lengths)])
    with pytest.raises(envs.EnvError, match="state of task 'dot' has 3 entries; expected 2"):
        stepped(env)


class Bead(Dot):
    """One action."""

    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def step(self, action):
        assert action.shape == (1,)
        return super().step(np.repeat(action, 2) + 3)


@pytest.mark.parametrize("action", [np.array([0.5]), [0.5], 0.5, np.float64(0.5), np.array(0.5, np.float16)])
def test_one_action_may_be_one_number(action):
    env = dot(kind=Bead, script=lambda seen: action)
    env.reset(seed=0)
    before = env.inner.at.copy()
    found, _, _ = env.expert(0).act()
    assert found.shape == (1,) and found.dtype == np.float32
    env.step(action)
    np.testing.assert_allclose(env.inner.at - before, 1.0, atol=1e-5)


@pytest.mark.parametrize(
    "script, complaint",
    [
        (lambda seen: np.zeros(3), "the script's action of task 'dot' has 3 entries; expected 2"),
        (lambda seen: np.zeros((1, 2)), "the script's action of task 'dot' is an array of float64"),
        (lambda seen: np.array([np.nan, 0]), "the script's action of task 'dot' is not finite: entry 0 is nan"),
        (lambda seen: None, "the script's action of task 'dot' is None"),
        (lambda seen: 1 / 0, "script of task 'dot' raised ZeroDivisionError"),
    ],
)
def test_a_script_that_gives_no_action_is_one_line(script, complaint):
    env = dot(script=script)
    env.reset(seed=0)
    with pytest.raises(envs.EnvError, match=complaint):
        env.expert(0).act()


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, np.int64, np.uint8])
def test_actions_have_the_type_of_the_inner_box_and_never_leave_it(kind):
    low, high = (0.1, 0.7) if np.issubdtype(kind, np.floating) else (0, 200)
    given = []

    class Typed(Dot):
        action_space = spaces.Box(low, high, (2,), kind)

        def step(self, action):
            assert self.action_space.contains(action), action
            given.append(action)
            return super().step(np.zeros(2, np.float32))

    env = dot(kind=Typed)
    env.reset(seed=0)
    for value in np.linspace(-1, 1, 41, dtype=np.float32):
        env.step(np.full(2, value))
    found = [float(given[step][0]) for step in (0, 20, 40)]
    assert given[0].dtype == kind and found == pytest.approx([low, (low + high) / 2, high], rel=1e-2)


def test_boxes_as_good_as_unbounded_are_refused():
    class Wide(Dot):
        action_space = spaces.Box(-np.finfo(np.float32).max, np.finfo(np.float32).max, (2,), np.float32)

    with pytest.raises(envs.EnvError, match="as good as unbounded"):
        dot(kind=Wide)


def old_reset(self, *, seed=None, options=None):
    return Dot.reset(self, seed=seed)[0]


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"reset": old_reset}, r"reset of task 'dot' gives a ndarray; gymnasium's gives \(observation, info\)"),
        ({"reset": lambda self: (None, {})}, "reset of task 'dot' raised TypeError"),
        ({"step": lambda self, action: (np.zeros(4), 0.0, False, {})}, "step of task 'dot' gives 4 values"),
        ({"step": lambda self, action: None}, "step of task 'dot' gives a NoneType"),
        ({"step": lambda self, action: 1 / 0}, r"step 1 of task 'dot' raised ZeroDivisionError: .*test_plain_env\.py"),
        ({"step": lambda self, action: sys.exit(0)}, r"step 1 of task 'dot' ended with sys\.exit\(0\)"),
        ({"__init__": lambda self: 1 / 0}, "make_env of task 'dot' raised ZeroDivisionError"),
        ({"__init__": lambda self: __import__("no_such")}, "make_env of task 'dot' needs the package no-such"),
        ({"metadata": {"render_fps": "fast"}}, "render_fps 'fast'"),
        ({"render": lambda self: __import__("not_there")}, "render of task 'dot' needs the package not-there"),
        ({"render": lambda self: None}, "camera 'view' of task 'dot' renders nothing"),
    ],
)  # fmt: skip
def test_whatever_its_code_does_is_one_line(change, complaint):
    with pytest.raises(envs.EnvError, match=complaint) as caught:
        stepped(dot(kind=type("Other", (Dot,), change), cameras=("view",)))
    assert "\n" not in str(caught.value)


def test_what_make_env_gives_must_be_an_environment():
    with pytest.raises(envs.EnvError, match="make_env of task 'dot' gives a NoneType, which is no gymnasium.Env"):
        dot(kind=lambda: None)
    with pytest.raises(envs.EnvError, match="make_env of task 'x' raised NameNotFound"):
        envs.GymTask(lambda size: gymnasium.make("No-such-v0"), "go", state=lambda seen: seen).make("x")


def test_gymnasiums_own_missing_packages_are_named():
    """README's pendulum draws with pygame."""
    if importlib.util.find_spec("pygame") is not None:
        pytest.skip("pygame is installed")
    task = envs.GymTask(
        lambda size: gymnasium.make("Pendulum-v1", render_mode="rgb_array"), "swing up", state=lambda seen: seen
    )
    with pytest.raises(envs.EnvError, match="needs the package pygame, which is not installed: pip install pygame"):
        task.contract_fields(96)  # before anything is recorded


def test_an_environment_that_refuses_to_go_on_after_its_end_stands_still():
    class Once(Dot):
        over = False

        def reset(self, **kwargs):
            self.over = False
            return super().reset(**kwargs)

        def step(self, action):
            if self.over:
                raise RuntimeError("reset first")
            self.over = True
            seen, gain, _, late, _ = super().step(action)
            return seen, gain, True, late, {"is_success": True}

    env = dot(kind=Once)
    first = stepped(env)
    second = env.step(np.ones(2, np.float32))
    assert first[-1] == second[-1] == {"success": True, "sim_error": False}
    np.testing.assert_array_equal(first[0]["observation.state"], second[0]["observation.state"])
    env.reset(seed=1)
    env.step(np.zeros(2, np.float32))


def test_pictures_may_change_their_size():
    class Growing(Dot):
        size = 40

        def render(self):
            self.size += 7
            image = np.zeros((self.size, 2 * self.size, 3), np.uint8)
            image[:40, :40] = super().render()
            return image

    env = dot(kind=Growing, cameras=("view",))
    obs = stepped(env)[0]
    assert obs["observation.images.view"].shape == (96, 96, 3)


def test_an_environment_that_cannot_be_closed_is_let_go():
    def close(self):
        raise OSError("no display")

    with pytest.warns(UserWarning, match="close of task 'dot' raised OSError: no display"):
        dot(kind=type("Stuck", (Dot,), {"close": close})).close()


def test_a_contract_is_made_once():
    made = []

    class Counted(Dot):
        def __init__(self):
            made.append(1)

    task = envs.GymTask(lambda size: Counted(), "go", state=lambda seen: seen, horizon=9)
    first = task.contract_fields(96)
    first["robot"] = "changed"
    assert task.contract_fields(96)["robot"] == "unknown" and len(made) == 1
    assert task.contract_fields(48) != task.contract_fields(96) and len(made) == 2


def test_digests_need_no_observation_space():
    class Bare(Dot):
        observation_space = None

    env = dot(kind=Bare)
    env.reset(seed=0)
    first = env.first_state_digest()
    env.reset(seed=1)
    assert env.first_state_digest() != first
    env.reset(seed=0)
    assert env.first_state_digest() == first


# -- MuJoCo inside --------------------------------------------------------------------------------------------------

MJCF = """<mujoco>
  <asset>
    <texture name="grid" type="2d" builtin="checker" width="64" height="64" rgb1=".1 .2 .3" rgb2=".6 .6 .6"/>
    <material name="grid" texture="grid" texrepeat="4 4" reflectance=".3"/>
  </asset>
  <worldbody>
    <light pos="0 0 3" dir="0 0 -1"/>
    <camera name="c" pos="0 -1.5 1" xyaxes="1 0 0 0 .6 .8"/>
    <geom type="plane" size="2 2 .1" material="grid"/>
    <body pos="0 0 .2"><joint name="x" type="slide" axis="1 0 0" damping="1"/>
      <geom type="box" size=".1 .1 .1" rgba=".9 .2 .1 1"/></body>
  </worldbody>
  <actuator><motor joint="x" ctrlrange="-1 1" gear="3"/></actuator>
</mujoco>"""


class Cart(gymnasium.Env):
    """An own MJCF; eager: its renderer is made at once, as most do."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float64)

    def __init__(self, size, eager=True):
        self.model = mujoco.MjModel.from_xml_string(MJCF)
        self.data = mujoco.MjData(self.model)
        self.size = size
        self.renderer = mujoco.Renderer(self.model, size, size) if eager else None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[0] = self.np_random.uniform(-0.5, 0.5)
        mujoco.mj_forward(self.model, self.data)
        return self._seen(), {}

    def _seen(self):
        return np.concatenate([self.data.qpos, self.data.qvel])

    def step(self, action):
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, 20)
        return self._seen(), -abs(self.data.qpos[0]), False, False, {}

    def render(self):
        if self.renderer is None:
            self.renderer = mujoco.Renderer(self.model, self.size, self.size)
        self.renderer.update_scene(self.data, "c")
        return self.renderer.render()

    def close(self):
        if self.renderer is not None:
            self.renderer.close()


def cart(eager=True, **more):
    make = lambda size: Cart(size, eager)  # noqa: E731
    return envs.GymTask(make, "bring the cart to the middle", state=lambda seen: seen, horizon=50, **more).make("cart")


def seconds(env, pictures=6):
    env.reset(seed=0)
    env.render_camera("view", 96)
    begin = time.perf_counter()
    for _ in range(pictures):
        env.render_camera("view", 96)
    return (time.perf_counter() - begin) / pictures


def test_an_own_mjcf_is_drawn_without_what_small_pictures_do_not_show():
    slow, eager, late = cart(quality="as_is"), cart(), cart(eager=False)
    before = seconds(slow)
    assert slow.inner.model.vis.quality.offsamples == 4 and slow.inner.model.light_castshadow.all()
    for env in (eager, late):
        assert env.inner.model.vis.quality.offsamples == env.inner.model.vis.quality.shadowsize == 0
        assert seconds(env) < before
    first, second = (env.reset(seed=3)[0]["observation.images.view"].astype(int) for env in (eager, late))
    assert (first == second).all() and first.std() > 5
    assert env.inner.renderer._mjr_context.offSamples == eager.inner.renderer._mjr_context.offSamples == 0
    assert np.abs(first - slow.reset(seed=3)[0]["observation.images.view"]).mean() < 40  # the same scene
    for env in (slow, eager, late):
        env.close()


def test_mujoco_says_when_a_simulation_breaks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = cart()
    for value in (1e13, np.nan):
        env.reset(seed=0)
        env.inner.data.qvel[0] = value
        *_, ended, info = env.step(np.zeros(1, np.float32))
        assert info == {"success": False, "sim_error": True} and ended
        env.reset(seed=1)
        assert not env.step(np.zeros(1, np.float32))[-1]["sim_error"]
    assert not list(tmp_path.iterdir())
    env.close()


def test_slow_pictures_are_said_once_where_nothing_can_be_done_about_them():
    class Slow(Dot):
        def render(self):
            time.sleep(0.06)
            return super().render()

    with pytest.warns(UserWarning, match="task 'dot' renders 1[0-9] pictures a second") as said:
        env = dot(kind=Slow, cameras=("view",))
        for _ in range(20):
            env.render_camera("view", 96)
    assert len(said) == 1


@pytest.mark.parametrize("end", ["none", "closed", "forgotten"])
@pytest.mark.parametrize("kind", ["gymnasium's", "eager"])
def test_environments_draw_apart_from_each_other(kind, end):
    """Gymnasium's viewers draw into, and MuJoCo's renderers free by number in, whichever context is the current one."""
    if kind == "gymnasium's":
        pytest.importorskip("imageio")

    def made(name="Reacher-v5"):
        if kind == "eager":
            return cart()
        look = {"render_mode": "rgb_array", "width": 96, "height": 96}
        return envs.GymTask(lambda size: gymnasium.make(name, **look), "go", state=lambda seen: seen).make("theirs")

    def shown(env):
        return env.render_camera("view", 96)

    kept = made()
    kept.reset(seed=0)
    before = shown(kept)
    for other in (made("InvertedPendulum-v5"), envs.make("reach")):
        other.reset(seed=0)
        theirs = other.picture(other.known_cameras[0], 96)
        np.testing.assert_array_equal(shown(kept), before)
        np.testing.assert_array_equal(other.picture(other.known_cameras[0], 96), theirs)
        shown(kept)
        if end == "closed":
            other.close()
        if end == "forgotten":
            del other
            gc.collect()
        np.testing.assert_array_equal(shown(kept), before)
    kept.close()
