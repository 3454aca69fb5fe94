"""Modules of other people's tasks, and the machine's settings: what is wrong is one line before a command starts."""

import os
import subprocess
import sys

import numpy as np
import pytest
from tandem import envs
from tandem.envs import engine, gl
from tandem.envs.plugins import OURS, import_tasks
from tandem.scripts.__main__ import run
from test_plain_env import TASK

LINE = "from tandem import envs\n"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """module(name, text) writes one where it can be imported; what it registers is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in OURS:  # pytest may know the project's own folder by such a name
        monkeypatch.delitem(sys.modules, name, raising=False)
    known, imported = dict(envs.TASKS), set(sys.modules)

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)

    yield write
    for name in set(envs.TASKS) - set(known):
        envs.TASKS.pop(name)
    for name in set(sys.modules) - imported:
        sys.modules.pop(name)


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("x = (\n", r"raised SyntaxError: .* \(.*plugin\.py, line 1\)"),
        ("\nimport no_such_package.part\n", r"needs the package no-such-package.*pip install.*plugin\.py, line 2"),
        ("\n\n1 / 0\n", r"raised ZeroDivisionError: division by zero \(.*plugin\.py, line 3\)"),
        ("import sys\nsys.exit(0)\n", r"ended with sys.exit\(0\) \(.*plugin\.py, line 2\)"),
        ("x = 1\n", r"\(.*plugin\.py\), which registers no task; call envs.register"),
        (
            LINE + "envs.register('reach')(None)\n",
            r"task 'reach' is registered already, as the class.*plugin\.py, line 2",
        ),
        (LINE + "envs.register('tabletop')(None)\n", r"is a suite's; choose another name \(.*plugin\.py, line 2\)"),
        (LINE + "envs.register('pick-place')(None)\n", "would share the id Tandem/PickPlace-v0"),
        (LINE + "envs.register('mine')(3)\n", "makes no environments; register an envs.GymTask"),
        (LINE + "envs.GymTask(3)\n", "raised TypeError"),
        ("import envs\n", "imports 'envs': write `from tandem import envs`"),
        ("import scripts.no_such\n", r"imports 'scripts': write `from tandem import scripts` \(.*plugin\.py, line 1\)"),
        ("import planner\n", "imports 'planner': write `from tandem import planner`"),
        ("raise SystemExit\n", "ended with sys.exit"),
        ("raise ValueError('two\\nlines')\n", "raised ValueError: two lines"),
        ("import other_plugin\n", r"raised NameError: .*other_plugin\.py, line 2\)"),
    ],
)
def test_a_broken_module_is_one_line_with_its_place(module, text, complaint):
    module("other_plugin", "\nnonsense\n")
    module("plugin", text)
    with pytest.raises(envs.EnvError, match=f"TANDEM_TASKS names 'plugin'.*{complaint}") as caught:
        import_tasks("plugin")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "names", ["..", ".plugin", "a/b", "plugin.py", "folder/plugin.py", "one,two", "-x", "a..b", "3"]
)
def test_what_is_no_modules_name_is_one_line(names):
    with pytest.raises(envs.EnvError, match="which is no module; "):
        import_tasks(names)


def test_missing_modules_are_told_from_their_missing_parts(module):
    for name in ("not_there", "not_there.tasks", "json.tasks"):
        with pytest.raises(envs.EnvError, match=f"names '{name}', which cannot be imported; is it on PYTHONPATH"):
            import_tasks(name)
    import_tasks("")
    import_tasks("  \n ")


def test_a_module_that_another_one_imports_registers_once(module):
    register = "from test_plain_env import TASK\nenvs.register('{}')(TASK)\n"
    module("base_plugin", LINE + register.format("test-base"))
    module("plugin", "import base_plugin\n" + LINE + register.format("test-more"))
    import_tasks("plugin base_plugin")
    assert {"test-base", "test-more"} <= set(envs.TASKS)


@pytest.mark.parametrize(
    "name", ["", "a b", "a/b", "..", "../x", "-x", ".hidden", "würfel", "a" * 65, "x\n", "C:x", 3, None]
)
def test_names_become_files_so_they_are_plain(name):
    with pytest.raises(envs.EnvError, match="task name .*: use up to 64 letters"):
        envs.register(name)


# -- the machine's settings ---------------------------------------------------------------------------------------


def tandem(*arguments, **settings):
    environment = os.environ | settings
    line = [sys.executable, "-m", "tandem.scripts", *arguments]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120, cwd=settings.get("PWD"))


def test_a_module_that_leaves_does_not_end_the_command_as_if_all_were_well(tmp_path):
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)\n")
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = tandem("collect", "--tasks", "reach", "--dry-run", TANDEM_TASKS="leaves", PYTHONPATH=paths)
    assert done.returncode == 2 and done.stdout == "", done.stdout
    said = done.stderr.splitlines()
    assert len(said) == 1 and said[0].startswith(
        "tandem: error: TANDEM_TASKS names 'leaves', which ended with sys.exit(0)"
    )


@pytest.mark.fault("no OpenGL, no GPU, out of memory")
def test_a_wrong_opengl_backend_is_one_line_for_those_who_draw_only(tmp_path):
    done = tandem("collect", "--tasks", "reach", "--output", str(tmp_path / "data"), MUJOCO_GL="nonsense")
    said = done.stderr.splitlines()
    assert done.returncode == 2 and len(said) == 1 and not (tmp_path / "data").exists(), done.stderr
    assert said[0].startswith("tandem: error: MUJOCO_GL is 'nonsense'") and "egl" in said[0] and "osmesa" in said[0]
    helped = tandem("collect", "--help", MUJOCO_GL="nonsense")
    assert helped.returncode == 0 and not helped.stderr


@pytest.mark.parametrize("verb", ["eval", "watch"])
def test_nothing_is_begun_where_nothing_can_be_drawn(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    output = tmp_path / "out"
    assert run(verb, ["--agent", "expert", "--tasks", "reach", "--episodes", "1", "--output", str(output)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "MUJOCO_GL is 'nonsense'" in said[0] and not output.exists()


def test_without_cameras_no_opengl_is_needed(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    envs.make("reach", cameras=()).reset(seed=0)
    with pytest.raises(envs.EnvError, match="'nonsense', which is no OpenGL backend"):
        envs.make("reach")
    for name in ("EGL", "osmesa", "glfw", "off", "disable", ""):
        monkeypatch.setenv("MUJOCO_GL", name)
        gl.need_opengl()


@pytest.mark.fault("version drift")
def test_the_version_of_mujoco_that_computes_wrongly_is_refused():
    engine.refuse("3.17.0")
    with pytest.raises(envs.EnvError, match=r"mujoco 4\.0\.0 computes wrong accelerations.*pip install"):
        engine.refuse("4.0.0")


@pytest.mark.fault("simulator diverges")
def test_a_simulation_that_breaks_says_so_and_writes_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = envs.make("push", cameras=())
    env.reset(seed=0)
    env.sim.data.qvel[:] = 1e12
    *_, terminated, truncated, info = env.step(np.zeros(7, np.float32))
    assert info == {"success": False, "sim_error": True} and truncated and not terminated
    assert not list(tmp_path.iterdir())
    env.reset(seed=1)
    assert not env.step(np.zeros(7, np.float32))[-1]["sim_error"]


# -- seeds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["reach", "dot", "metaworld-reach"])
def test_seeds_are_whole_numbers_from_zero(name):
    if name.startswith("metaworld"):
        pytest.importorskip("metaworld")
    env = TASK.make("dot", cameras=()) if name == "dot" else envs.make(name, cameras=())
    for seed in (np.int64(3), np.uint8(3)):
        env.reset(seed=3)
        digest = env.first_state_digest()
        env.reset(seed=seed)
        assert env.first_state_digest() == digest
    for seed in (0, 2**32, 2**64 + 1, None):
        env.reset(seed=seed)
    for seed, complaint in (
        (-1, "is negative"),
        (np.int64(-3), "is negative"),
        (1.5, "no whole number"),
        ("1", "no whole"),
    ):
        with pytest.raises(envs.EnvError, match=f"seed .*{complaint}"):
            env.reset(seed=seed)
    if name != "dot":
        env.reset(seed=2**64)
        envs.expert(env, 2**64).act()


@pytest.mark.fault("reset ignores its seed")
def test_an_environment_that_ignores_its_seed_is_found_out():
    from test_plain_env import Dot

    class Deaf(Dot):
        def reset(self, *, seed=None, options=None):
            return super().reset()

    class Drifting(Dot):
        """Its picture depends on what ran before."""

        resets = 0

        def render(self):
            return np.roll(super().render(), self.resets, 0)

        def reset(self, **kwargs):
            self.resets += 1
            return super().reset(**kwargs)

    class Constant(Dot):
        def reset(self, **kwargs):
            return super().reset(seed=0)

    def task(kind):
        return envs.GymTask(lambda size: kind(), "go", state=lambda seen: seen[:2], horizon=40).make("dot")

    class Unstable(Dot):
        """One layout in three raises, when it is laid out or in its first step."""

        def reset(self, *, seed=None, options=None):
            self.seed = seed
            if seed == 1:
                raise RuntimeError("no room")
            return super().reset(seed=seed)

        def step(self, action):
            if self.seed == 3:
                raise RuntimeError("BADQACC")
            return super().step(action)

    assert envs.seed_is_heard(task(Unstable)) and envs.seed_is_heard(task(Unstable), seed=3)
    assert envs.seed_is_heard(task(Dot)) and envs.seed_is_heard(envs.make("reach"), seed=5)
    assert not envs.seed_is_heard(task(Constant))
    with pytest.raises(envs.EnvError, match="'dot' ignores its seed: two resets with seed 0 give different state"):
        envs.seed_is_heard(task(Deaf))
    with pytest.raises(envs.EnvError, match="different pictures"):
        envs.seed_is_heard(task(Drifting))
