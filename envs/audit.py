"""Whether the environment of a task keeps its promise about seeds: equal seeds, equal episodes; other seeds, others."""

from typing import Any

import numpy as np

from .errors import EnvError


def seed_is_heard(env: Any, seed: int = 0) -> bool:
    """False where every seed gives the same first state: a task without chance, which is worth a note. EnvError where
    two resets with one seed differ, in state or in pictures, whatever ran between them.

    Costs four resets and a step. Leaves the environment as a reset leaves it: call it before the first episode.
    """
    inner = env.unwrapped
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


def _reset(env: Any, seed: int) -> tuple[str, dict[str, bytes]]:
    """Digest of the first state; first pictures."""
    inner = env.unwrapped
    inner.looking = True
    obs, _ = env.reset(seed=seed)
    pictures = {key: value.tobytes() for key, value in obs.items() if key.startswith("observation.images.")}
    return inner.first_state_digest(), pictures
