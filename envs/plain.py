"""Any gymnasium environment as a task: it must render, and its actions be a box of numbers.

    def make(size):
        return gymnasium.make("Pendulum-v1", render_mode="rgb_array")

    register("pendulum")(GymTask(make, "swing the pendulum up", state=lambda obs: obs, success=is_up, horizon=200))

and the command line, told the module by TANDEM_TASKS, takes it by its name. With a `script` demonstrations can be
recorded. What is seen is what it renders (envs/pictures.py), scaled to the size asked for. Actions are scaled from
[-1, 1] to its own limits and type. Its reward passes as it is. An episode in which the state or the reward is not
finite, or in which MuJoCo says so, is a `sim_error`. Whatever its code raises is one line (envs/others.py).
Left out: privileged columns (the encoder then learns without teachers), more than one camera, wrong instructions.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from .contract import Vector, build_contract
from .errors import EnvError
from .mjcf import Divergence, draw_fast, free_drawing, viewers
from .others import call, note
from .pictures import fitted
from .registry import TASKS
from .rendering import close_at_exit
from .task_env import Script, TaskEnv, digest, told, whole_seed
from .values import finite, number, truth, vector

CAMERA = "view"
SLOW, TIMED = 20, 6  # pictures a second below which it is said, once so many were drawn


@dataclass(frozen=True, eq=False)
class GymTask:
    """An `envs.TaskSpec`."""

    make_env: Callable[[int], gymnasium.Env]  # image size [pixels] -> environment with render_mode="rgb_array"
    instruction: str
    state: Callable[[Any], Any]  # its observation -> proprioception: (S,), or one number
    script: Callable[[Any], Any] | None = None  # its observation -> expert's action in [-1, 1]: (A,), or one number
    robot: str = "unknown"
    horizon: int = 0  # steps; 0: the environment's own limit
    # Of the step's info, a bool or 0 or 1; none: its "is_success" or "success", and where it has neither, `terminated`.
    success: Callable[[dict[str, Any]], Any] | None = None
    dense_reward: bool = False  # does its reward rise on the way to success, as `tandem rl ppo` needs?
    # Of a MuJoCo model inside. "fast": one sample a pixel, no shadows, no mirrors, which is all that small pictures
    # show, and 20 to 50 times as fast without a GPU; "as_is": as the model and the environment say.
    quality: Literal["fast", "as_is"] = "fast"
    check_pictures: bool = True  # refuse a camera that shows one colour, or one picture while the state moves

    def make(self, name: str, **options: Any) -> TaskEnv:
        """The environment of this task."""
        return PlainEnv(name, self, **options)

    def contract_fields(self, image_size: int = 96) -> dict[str, Any]:
        """Made from the environment itself: entries have numbers for names, and units are not known."""
        return copy.deepcopy(_contract_fields(self, image_size))

    def environment(self, name: str, image_size: int) -> gymnasium.Env:
        """The gymnasium environment itself. EnvError where it cannot be made, or driven."""
        env = call(f"make_env of task {name!r}", self.make_env, image_size)
        if not isinstance(env, gymnasium.Env):
            raise EnvError(f"make_env of task {name!r} gives a {type(env).__name__}, which is no gymnasium.Env")
        if self.quality == "fast":
            draw_fast(env.unwrapped)
        return env


@lru_cache(maxsize=64)
def _contract_fields(task: GymTask, image_size: int) -> dict[str, Any]:
    """Asked for every episode, and an environment may take seconds to make. One picture is drawn, so that a missing
    package is known before anything is recorded."""
    name = next((name for name, spec in TASKS.items() if spec is task), task.instruction)
    env = PlainEnv(name, task, image_size=image_size)
    try:
        env.render_camera(CAMERA, image_size)
    finally:
        env.close()
    S, A = env.observation_space["observation.state"].shape[0], env.action_space.shape[0]  # type: ignore[index]
    state = Vector(tuple(f"state_{i}" for i in range(S)), ("unknown",) * S)
    names, units = tuple(f"action_{i}" for i in range(A)), ("of the limit",) * A
    action = Vector(names, units, (-1.0,) * A, (1.0,) * A)
    view = {CAMERA: "sRGB, as the environment renders"}
    return build_contract(task.robot, env.metadata["render_fps"], view, image_size, state, action)


def _box(name: str, env: gymnasium.Env) -> spaces.Box:
    space = env.action_space
    if not isinstance(space, spaces.Box) or len(space.shape) != 1 or not space.is_bounded():
        raise EnvError(
            f"actions of task {name!r} ({env}) are {space}; only bounded boxes of one dimension can be driven"
        )
    with np.errstate(over="ignore"):
        wide = space.high.astype(np.float32) - space.low.astype(np.float32)
    if not np.isfinite(wide).all():
        raise EnvError(f"actions of task {name!r} are {space}, as good as unbounded; give them limits")
    return space


def _rate(name: str, env: gymnasium.Env) -> int:
    """Control steps a second [Hz]."""
    rate = (env.metadata or {}).get("render_fps") or 20
    if not isinstance(rate, (int, float, np.number)) or not 1 <= rate <= 100_000:
        raise EnvError(f"metadata of task {name!r} says render_fps {rate!r}; give whole steps a second")
    return int(rate)


class PlainEnv(TaskEnv):
    """The environment of a `GymTask`."""

    def __init__(
        self,
        name: str,
        task: GymTask,
        cameras: tuple[str, ...] = (CAMERA,),
        image_size: int = 96,
        render_mode: str | None = "rgb_array",
    ):
        self._closed, self._viewers_known = True, False
        self._viewers: list[Any] = []  # that draw into whichever OpenGL context is the current one
        self.name, self.task, self.inner = name, task, task.environment(name, image_size)
        self._closed = False
        self.dense_reward, self.check_pictures = task.dense_reward, task.check_pictures
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": _rate(name, self.inner)}
        self._box = _box(name, self.inner)
        self.seen = self._first_seen(0)  # the inner environment's last observation
        self.state = finite(self._of("the first state"), vector(self._of("state"), self._call("state", self.seen)))
        limits = (np.full(len(self.state), -np.inf, np.float32), np.full(len(self.state), np.inf, np.float32))
        horizon = task.horizon or getattr(self.inner.spec, "max_episode_steps", None)
        if not horizon or horizon < 0:
            raise EnvError(f"task {name!r} has no limit of steps; give GymTask a horizon")
        actions = self._box.shape[0]
        super().__init__(name, cameras, (CAMERA,), image_size, horizon, limits, actions, render_mode)
        self._steps, self._over = 0, False
        self._last: tuple[float, bool, bool, dict[str, Any]] = (0.0, False, False, {})  # what the last step gave
        self._drawn: list[float] = []  # seconds that each of the first pictures took

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """options: see `envs.task_env.told`."""
        super().reset(seed=seed)
        self.seen = self._first_seen(whole_seed(self.name, seed))
        self.instruction, self._steps, self._over = told(options, self.task.instruction), 0, False
        self.state = finite(self._of("the first state"), self._state())
        return self.observed(self.state), {"success": False, "instruction": self.instruction}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One control step, as gymnasium's: observation, reward, terminated on success, truncated, info."""
        reward, terminated, truncated, found = self._step(np.clip(self.checked(action), -1.0, 1.0))
        self._steps += 1
        state = self._state()
        broken = self._diverged.found() or not np.isfinite(state).all() or not np.isfinite(reward)
        self.state = np.where(np.isfinite(state), state, self.state)
        success = not broken and self._success(found, terminated)
        self._over |= terminated or truncated
        ended = terminated or truncated or broken or self._steps >= self.horizon
        info = {"success": success, "sim_error": broken}
        return self.observed(self.state), 0.0 if broken else reward, success, ended, info

    def render_camera(self, camera: str, size: int) -> np.ndarray:
        """uint8 (size, size, 3): what a camera shows now."""
        for viewer in self._viewers:
            viewer.make_context_current()
        begin = time.perf_counter()
        frame = self._call("render")
        close_at_exit(self)
        if not self._viewers_known:
            self._viewers, self._viewers_known = viewers(self.inner.unwrapped), True
        if len(self._drawn) < TIMED:
            self._note_rate(time.perf_counter() - begin)
        return fitted(self.pictures.converted(camera, frame), size)

    def close(self) -> None:
        """Frees the renderers."""
        if self._closed:
            return
        self._closed = True
        try:
            call(self._of("the renderer"), free_drawing, self.inner.unwrapped)
            self._call("close")
        except EnvError as error:  # nothing depends on it any more
            note(str(error))

    def __del__(self) -> None:
        """One that is forgotten frees what is its own, as long as it can say which context that is in."""
        self.close()

    def expert(self, seed: int) -> Script:
        """The scripted expert of this episode. EnvError where the task has none."""
        return super().expert(seed) if self.task.script is None else _PlainScript(self, self.task.script)

    def first_state_digest(self) -> str:
        """sha256 of the state after `reset` and of the instruction."""
        return digest(*_leaves(self.inner, self.seen), self.task.instruction)

    # -- the inner environment, and what it gives -------------------------------------------------------------------
    def _of(self, what: str) -> str:
        return f"{what} of task {self.name!r}"

    def _call(self, what: Literal["state", "render", "close"], *arguments: Any) -> Any:
        function = self.task.state if what == "state" else getattr(self.inner, what)
        return call(self._of(what), function, *arguments)

    def _first_seen(self, seed: int | None) -> Any:
        given: Any = call(self._of("reset"), self.inner.reset, seed=seed)
        if not isinstance(given, tuple) or len(given) != 2 or not isinstance(given[1], dict):
            raise EnvError(
                f"{self._of('reset')} gives a {type(given).__name__}; gymnasium's gives (observation, info): "
                "environments of the old gym need a wrapper (shimmy)"
            )
        if self.task.quality == "fast":  # it may have made another model
            draw_fast(self.inner.unwrapped)
        self._diverged, self._viewers_known = Divergence(self.inner.unwrapped), False
        return given[0]

    def _step(self, limited: np.ndarray) -> tuple[float, bool, bool, dict[str, Any]]:
        """Reward, terminated, truncated, info. What refuses to go on after its end stands still."""
        try:
            given: Any = call(f"step {self._steps + 1} of task {self.name!r}", self.inner.step, self._driven(limited))
        except EnvError:
            if not self._over:
                raise
            return self._last
        if not isinstance(given, tuple) or len(given) != 5 or not isinstance(given[4], dict):
            count = f"{len(given)} values" if isinstance(given, tuple) else f"a {type(given).__name__}"
            raise EnvError(
                f"{self._of('step')} gives {count}; gymnasium's gives observation, reward, terminated, truncated, info"
            )
        self.seen, reward, terminated, truncated, found = given
        self._last = (
            number(self._of("reward"), reward), truth(self._of("terminated"), terminated),
            truth(self._of("truncated"), truncated), found,
        )  # fmt: skip
        return self._last

    def _driven(self, limited: np.ndarray) -> np.ndarray:
        """[-1, 1] -> the box's own limits and type."""
        low, high, kind = self._box.low, self._box.high, self._box.dtype
        if not np.issubdtype(kind, np.floating):
            low, high = low.astype(np.float64), high.astype(np.float64)
        driven = np.clip((high + low) / 2 + (high - low) / 2 * limited, low, high)
        return (driven if np.issubdtype(kind, np.floating) else np.rint(driven)).astype(kind)

    def _state(self) -> np.ndarray:
        return vector(self._of("state"), self._call("state", self.seen), len(self.state))

    def _success(self, found: dict[str, Any], terminated: bool) -> bool:
        if self.task.success is None:
            said = found.get("is_success", found.get("success", terminated))
        else:
            said = call(f"{self._of('success')} (of an info with {sorted(map(str, found))})", self.task.success, found)
        return truth(self._of("success"), said)

    def _note_rate(self, seconds: float) -> None:
        self._drawn.append(seconds)
        if len(self._drawn) == TIMED and self.task.quality == "fast":
            rate = (TIMED - 1) / sum(self._drawn[1:])  # the first one makes the context
            if rate < SLOW:
                note(
                    f"task {self.name!r} renders {rate:.0f} pictures a second; let its environment draw smaller ones, "
                    "without shadows and with one sample a pixel (GymTask can see to that only where the environment "
                    "keeps its mujoco.MjModel as an attribute)"
                )


def _leaves(inner: gymnasium.Env, seen: Any) -> list[np.ndarray | str]:
    """The observation's numbers, flat. One by one where it is not as its space says, or there is no space."""
    try:
        return [np.asarray(spaces.flatten(inner.observation_space, seen))]
    except Exception:  # whatever flattening meets: a missing key, another shape, a kind of space without it
        return _parts(seen)


def _parts(seen: Any) -> list[np.ndarray | str]:
    if isinstance(seen, dict):
        return [part for key in sorted(seen, key=str) for part in (str(key), *_parts(seen[key]))]
    if isinstance(seen, (tuple, list)):
        return [part for item in seen for part in _parts(item)]
    array = np.asarray(seen)
    return [array] if array.dtype.kind in "biuf" else [str(seen)]


class _PlainScript:
    """Says its instruction: a function of the observation has no stages to tell of."""

    def __init__(self, env: PlainEnv, script: Callable[[Any], Any]):
        self._env, self._script = env, script

    def disturb(self, rate: float) -> None:
        """Nothing ever does."""

    def act(self) -> tuple[np.ndarray, str, bool]:
        env, what = self._env, f"the script's action of task {self._env.name!r}"
        wanted = call(f"script of task {env.name!r}", self._script, env.seen)
        action = finite(what, vector(what, wanted, env.action_space.shape[0]))  # type: ignore[index]
        return np.clip(action, -1.0, 1.0), env.task.instruction, False
