"""What recording, training, evaluation and films ask of an environment, beside gymnasium's own interface.

Observation, with the keys and shapes that the task's contract promises:
    observation.images.<camera>   uint8 (size, size, 3)   RGB, row 0 at the top
    observation.state             float32 (S,)            proprioception
    task                          str                     the instruction
Action: float32 (A,) in [-1, 1]. An episode terminates on success and is truncated at the horizon. `info` of every step
holds "success" and "sim_error" (the simulation broke: neither a success nor the policy's fault).
Equal seeds give equal episodes, bit for bit, in any process.
"""

import hashlib
import operator
import string
from collections.abc import Callable
from typing import Any, Protocol, Self

import gymnasium
import numpy as np
from gymnasium import spaces

from .errors import EnvError
from .picture_watch import PictureWatch
from .pictures import Pictures

CHARACTERS = string.ascii_letters + string.digits + string.punctuation + " "


class Script(Protocol):
    """A scripted expert, which acts from the simulator's state. Made after a reset, for one episode."""

    def act(self) -> tuple[np.ndarray, str, bool]:
        """-> action float32 (A,) in [-1, 1]. What it is doing, in words. Was the action perturbed on purpose."""
        ...

    def disturb(self, rate: float) -> None:
        """rate: chance of every step from now on that a perturbation starts. 0: nothing is perturbed on purpose.
        Above its own rate an expert of Tabletop also misplaces things (envs/experts.py)."""


class TaskEnv(gymnasium.Env):
    """Subclasses add `reset`, which calls this one first, `step`, `render_camera` and `first_state_digest`."""

    action_space: spaces.Box
    observation_space: spaces.Dict
    dense_reward: bool = True  # it rises on the way to success
    entities: tuple[str, ...] = ()  # named things whose places `privileged` tells, in the order of its columns
    check_pictures: bool = True  # refuse cameras that show one colour, or the same picture for ever

    def __init__(
        self,
        name: str,
        cameras: tuple[str, ...],
        known_cameras: tuple[str, ...],
        image_size: int,
        horizon: int,
        state_range: tuple[np.ndarray, np.ndarray],
        actions: int,
        render_mode: str | None = "rgb_array",
    ):
        """name: under which it is registered.
        cameras: those in the observation, of `known_cameras`.
        horizon: steps.
        state_range: lowest and highest proprioception, float32 (S,) each.
        actions: A.
        render_mode: "rgb_array" or None.
        """
        if render_mode not in (None, "rgb_array"):
            raise EnvError(f"unknown render_mode {render_mode!r} for task {name!r}; known: 'rgb_array'")
        unknown = sorted(set(cameras) - set(known_cameras))
        if unknown:
            raise EnvError(f"unknown camera {unknown[0]!r} for task {name!r}; known: {', '.join(known_cameras)}")
        self.name, self.cameras, self.known_cameras = name, tuple(cameras), known_cameras
        self.image_size, self.horizon, self.render_mode = image_size, horizon, render_mode
        self.instruction = ""  # `reset` sets it
        self.looking = True  # False: observations come without images, for steps at which nobody looks
        image = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        self.observation_space = spaces.Dict(
            {f"observation.images.{camera}": image for camera in self.cameras}
            | {
                "observation.state": spaces.Box(*state_range, dtype=np.float32),
                "task": spaces.Text(max_length=128, min_length=0, charset=CHARACTERS),
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (actions,), np.float32)
        self.pictures, self._watch = Pictures(name), PictureWatch(name, state_range)

    @property
    def unwrapped(self) -> Self:
        """The task itself, also where gymnasium's wrappers are around it."""
        return self

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Seeds the generator, and begins to watch the cameras anew. EnvError where the seed is none."""
        self._watch.restart()
        return super().reset(seed=whole_seed(self.name, seed), options=options)

    def render_camera(self, camera: str, size: int) -> np.ndarray:
        """uint8 (size, size, 3), whatever the observation's size."""
        raise NotImplementedError

    def picture(self, camera: str, size: int) -> np.ndarray:
        """What `render_camera` gives, converted to uint8 (size, size, 3) where it is something else, and of its own
        memory. PictureError where that is impossible."""
        picture = self.pictures.converted(camera, self.render_camera(camera, size))
        if picture.shape != (size, size, 3):
            raise self.pictures.refused(camera, f"renders a picture of {picture.shape}; asked for ({size}, {size}, 3)")
        return picture

    def render(self) -> np.ndarray:  # type: ignore[override]
        """uint8 (480, 480, 3): what the first camera shows now."""
        return self.picture(self.known_cameras[0], 480)

    def first_state_digest(self) -> str:
        """sha256 of the state after `reset` and the instruction. Equal seeds give equal digests."""
        raise NotImplementedError

    def expert(self, seed: int) -> Script:
        """The scripted expert of this episode. EnvError where the task has none."""
        raise EnvError(f"task {self.name!r} has no scripted expert; evaluate a policy on it, or choose another task")

    def snapshot(self) -> Callable[[], None] | None:
        """What puts the episode back to where it is now, bit for bit, after steps that were only tried. None where that
        is impossible."""
        return None

    def privileged(self) -> dict[str, np.ndarray]:
        """What only a simulator knows, by key of the contract. Recorded for training, never part of an observation."""
        return {}

    def wrong_instruction(self) -> str | None:
        """A true sentence about something else in this scene. None where there is none."""
        return None

    def images(self) -> dict[str, np.ndarray]:
        """The observation's images, where somebody looks. PictureError where a camera shows one colour."""
        return _named(self._shown())

    def observed(self, state: np.ndarray) -> dict[str, Any]:
        """The observation with this state, (S,). PictureError where the cameras show nothing: see
        envs/picture_watch.py."""
        pictures, state = self._shown(), np.array(state, np.float32)
        if pictures and self.check_pictures:
            self._watch.still(pictures, state, self.instruction, self.first_state_digest)
        return _named(pictures) | {"observation.state": state, "task": self.instruction}

    def _shown(self) -> dict[str, np.ndarray]:
        """By camera, where somebody looks."""
        pictures = {camera: self.picture(camera, self.image_size) for camera in (self.cameras if self.looking else ())}
        if pictures and self.check_pictures:
            self._watch.colours(pictures)
        return pictures

    def checked(self, action: np.ndarray) -> np.ndarray:
        """The action as float32 (A,), of one number where A is 1. EnvError where its shape is wrong or it is not
        finite."""
        action, shape = np.asarray(action, np.float32), self.action_space.shape
        if action.shape == () and shape == (1,):
            action = action[None]
        if action.shape != shape:
            raise EnvError(f"action of task {self.name!r} has shape {action.shape}; expected {shape}")
        if not np.isfinite(action).all():
            raise EnvError(f"action of task {self.name!r} is not finite: {action.tolist()}")
        return action


def task_of(env: gymnasium.Env) -> TaskEnv:
    """The task inside gymnasium's wrappers. EnvError where the environment is none of Tandem's."""
    inner = env.unwrapped
    if not isinstance(inner, TaskEnv):
        raise EnvError(f"{env} is no task of Tandem; register it as an envs.GymTask")
    return inner


def _named(pictures: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"observation.images.{camera}": picture for camera, picture in pictures.items()}


def whole_seed(task: str, seed: Any) -> int | None:
    """A seed as gymnasium takes it, of any whole number from 0, numpy's too. None: a random one. Else EnvError."""
    try:
        whole = None if seed is None else operator.index(seed)
    except TypeError:
        raise EnvError(f"seed {seed!r} of task {task!r} is no whole number") from None
    if whole is not None and whole < 0:
        raise EnvError(f"seed {whole} of task {task!r} is negative; seeds are whole numbers from 0")
    return whole


def digest(*parts: np.ndarray | str) -> str:
    """sha256 over arrays and words, in this order."""
    content = hashlib.sha256()
    for part in parts:
        content.update(part.encode() if isinstance(part, str) else part.tobytes())
    return content.hexdigest()


def told(options: dict[str, Any] | None, instruction: str) -> str:
    """What the agent is told: `reset`'s options {"instruction": str} change that, not what counts as success."""
    override = (options or {}).get("instruction")
    return instruction if override is None else str(override)
