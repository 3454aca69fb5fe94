"""`point-maze` of gymnasium-robotics, its maze without walls inside: an example of envs/plain.py.

The state is the green ball's place and velocity. Where the red one is must be seen.
(Fetch would be the robot to show, but 1.4.2's joint helpers refuse every joint under new MuJoCo.)
"""

from typing import Any

import gymnasium
import numpy as np

from .optional import require
from .plain import GymTask
from .registry import register


def _environment(size: int) -> gymnasium.Env:
    require("gymnasium_robotics", "point-maze", "pip install 'tandem-vla[robotics]'")
    import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)
    look: dict[str, Any] = {"render_mode": "rgb_array", "width": size, "height": size}
    env = gymnasium.make("PointMaze_Open-v3", continuing_task=False, disable_env_checker=True, **look)
    maze: Any = env.unwrapped
    quality = maze.point_env.model.vis.quality  # read when the first image is made
    quality.offsamples = quality.shadowsize = 0
    return env


def _script(seen: dict[str, Any]) -> np.ndarray:
    """A spring to the goal, and a brake: forces (2,)."""
    return 10 * (seen["desired_goal"] - seen["achieved_goal"]) - 2 * seen["observation"][2:]


register("point-maze")(
    GymTask(
        _environment,
        "roll the green ball to the red one",
        state=lambda seen: seen["observation"],
        script=_script,
        robot="point_maze",
        horizon=150,  # the script needs at most about 80
        success=lambda info: info["success"],
        quality="as_is",  # set above
    )
)
