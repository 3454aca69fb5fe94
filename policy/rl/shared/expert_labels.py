"""The expert's actions from a state that the policy reached. They are tried in the simulator, which is then restored.

    act, act, ...   look: the expert's next H actions from here   restore   act, act, ...

This labels the states that the policy itself visits (DAgger, arXiv 1011.0686). The expert never acts in the episode.
"""

import numpy as np

from .... import envs


def advise(env: envs.TaskEnv, seed: int, steps: int) -> np.ndarray:
    """The expert's next actions from the present state, float32 (n, A) in the environment's units.

    n is `steps`, or less where the expert succeeds earlier.
    n is 0 where the simulator cannot be restored, or breaks.
    """
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
