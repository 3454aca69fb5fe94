"""How fast the environments run on one core."""

import time
from typing import Any

import numpy as np

from .registry import SUITES, make


def measure(seconds: float, tasks: tuple[str, ...] = SUITES["tabletop"]) -> dict[str, Any]:
    """Control steps a second, mean over the tasks, without images and with two 96x96 images: {"steps_per_s", …}."""
    share = seconds / (2 * len(tasks))
    plain = {task: rate(task, (), share) for task in tasks}
    seen = {task: rate(task, ("front", "wrist"), share) for task in tasks}
    return {
        "steps_per_s": float(np.mean(list(plain.values()))),
        "steps_per_s_images": float(np.mean(list(seen.values()))),
        "slowest": min(plain.values()),
        "slowest_images": min(seen.values()),
    }


def rate(task: str, cameras: tuple[str, ...], seconds: float) -> float:
    """Control steps a second under random actions. Resets are not counted, compiling and first frames neither."""
    env, rng = make(task, cameras=cameras), np.random.default_rng(0)
    steps, spent, seed = 0, 0.0, 0
    env.reset(seed=seed)
    env.step(env.action_space.sample())
    while spent < seconds or steps < 20:
        seed += 1
        env.reset(seed=seed)
        actions = rng.uniform(-1, 1, (50, 7)).astype(np.float32)
        begin = time.perf_counter()
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            steps += 1
            if terminated or truncated:
                break
        spent += time.perf_counter() - begin
    env.close()
    return steps / spent
