"""What the expert would do from where the policy got itself: tried in the simulator, which is then put back.

    act, act, ... look: the expert's next H actions from here;   back;   act, act, ...

Labels for the states that the policy itself visits (DAgger, arXiv 1011.0686), without the expert ever acting.
"""

import numpy as np

from .... import envs


def advise(env: envs.TaskEnv, seed: int, steps: int) -> np.ndarray:
    """The expert's next actions in the environment's units, float32 (n, A): `steps`, or fewer where it succeeds before.
    (0, A) where the simulator cannot be put back, or breaks."""
    inner = env.unwrapped
    back, looking, tried = inner.snapshot(), inner.looking, np.zeros((0, *inner.action_space.shape), np.float32)
    if back is None:
        return tried
    inner.looking = False
    try:
        return _try(inner, envs.expert(env, seed, disturbed=0.0), steps, tried)
    finally:
        back()
        inner.looking = looking


def _try(inner: envs.TaskEnv, expert: envs.Script, steps: int, nothing: np.ndarray) -> np.ndarray:
    actions = []
    for _ in range(steps):
        action, _, _ = expert.act()
        _, _, succeeded, _, info = inner.step(action)
        if info["sim_error"]:
            return nothing
        actions.append(action)
        if succeeded:
            break
    return np.stack(actions)
