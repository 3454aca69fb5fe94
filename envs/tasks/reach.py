"""Reach: bring the fingertips over the named object."""

import numpy as np

from ..experts import OPEN, Expert, Move
from ..registry import register
from ..rewards import tolerance
from ..scene import OBJECT_RADIUS
from ..simulation import Simulation
from ..task import Task

ABOVE = OBJECT_RADIUS + 0.04  # of the object's centre [m]
CLOSE = 0.025  # [m]


def goal(sim: Simulation) -> np.ndarray:
    """The point above the named object that the fingertips must reach (3,) [m]."""
    return sim.object(0) + [0, 0, ABOVE]


class ReachExpert(Expert):
    """Moves straight to the point above the named object."""

    def decide(self) -> Move:
        """The script's next control step, from the present state of the simulation."""
        return self.toward(goal(self.sim), OPEN, f"move above the {self.names[0]}")


@register("reach", "tabletop")
class Reach(Task):
    """Bring the fingertips over the named object."""

    fixtures = ("objects",)
    templates = (
        "move to the {object}",
        "reach the {object}",
        "go to the {object}",
        "bring the gripper to the {object}",
        "hover over the {object}",
    )
    horizon = 50
    expert = ReachExpert

    def place(self, sim: Simulation, rng: np.random.Generator) -> None:
        """Puts the fixtures and the objects in place, drawn from `rng`."""
        self.place_objects(sim, rng)

    def success(self, sim: Simulation) -> bool:
        """Is the goal reached in the present state of the simulation?"""
        return bool(np.linalg.norm(sim.pinch - goal(sim)) < CLOSE)

    def reward(self, sim: Simulation) -> float:
        """Dense reward of the present state, in [0, 1]."""
        return tolerance(float(np.linalg.norm(sim.pinch - goal(sim))), CLOSE, 0.25)
