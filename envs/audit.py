"""Whether the environment of a task keeps its promises: equal seeds give equal episodes, and pictures are the right way
round in the right colours.
"""

import gymnasium
import numpy as np

from .entities import COLOURS
from .errors import EnvError
from .others import RaisedError
from .task_env import task_of

# Of what `things_in_place` knows, by its name in the privileged columns: red, green, blue in [0, 1].
KNOWN = COLOURS | {"object": (1.0, 0.0, 0.0), "goal": (1.0, 0.0, 0.0)}  # the latter two: of Meta-World's `reach`
ALIKE = 0.9  # cosine between two colours that pass for one


def seed_is_heard(env: gymnasium.Env, seed: int = 0) -> bool:
    """False where every seed gives the same first state: a task without chance, which is worth a note. EnvError where
    two resets with one seed differ, in state or in pictures, whatever ran between them. True too where somebody's code
    raises for one of these seeds: that is the business of that seed's own episode.

    Costs four resets and a step. Leaves the environment as a reset leaves it: call it before the first episode.
    """
    try:
        return _heard(env, seed)
    except RaisedError:
        return True


def _heard(env: gymnasium.Env, seed: int) -> bool:
    inner = task_of(env)
    first = _reset(env, seed)
    env.step(np.zeros(inner.action_space.shape, np.float32))
    others = [_reset(env, other)[0] for other in (seed + 1, seed + 2)]
    again = _reset(env, seed)
    for what, before, after in zip(("state", "pictures"), first, again, strict=True):
        if before != after:
            raise EnvError(
                f"task {inner.name!r} ignores its seed: two resets with seed {seed} give different {what}; draw all "
                "that is random from self.np_random, after super().reset(seed=seed)"
            )
    return any(other != first[0] for other in others)


def _reset(env: gymnasium.Env, seed: int) -> tuple[str, dict[str, bytes]]:
    """Digest of the first state. First pictures."""
    inner = task_of(env)
    inner.looking = True
    obs, _ = env.reset(seed=seed)
    pictures = {key: value.tobytes() for key, value in obs.items() if key.startswith("observation.images.")}
    return inner.first_state_digest(), pictures


def things_in_place(env: gymnasium.Env, seeds: int = 6) -> tuple[int, int]:
    """How many things of KNOWN the first camera shows where the simulator says that they are, in their own colour. And
    how many should be seen. For tasks that have privileged columns."""
    inner = task_of(env)
    camera, shown, of = inner.known_cameras[0], 0, 0
    names = inner.entities
    for seed in range(seeds):
        env.reset(seed=seed)
        image = inner.picture(camera, inner.image_size).astype(np.float64)
        places = inner.privileged()[f"observation.keypoints.{camera}"].reshape(len(names), 3)
        for name, (u, v, visible) in zip(names, places, strict=True):
            if visible and name in KNOWN:
                found = image[int((v + 1) / 2 * len(image)), int((u + 1) / 2 * len(image))]
                want, of = np.asarray(KNOWN[name]), of + 1
                shown += bool(found @ want > ALIKE * np.linalg.norm(found) * np.linalg.norm(want))
    env.close()
    return shown, of
