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
    return sim.object(0) + [0, 0, ABOVE]


class ReachExpert(Expert):
    def decide(self) -> Move:
        return self.toward(goal(self.sim), OPEN, f"move above the {self.names[0]}")


@register("reach", "tabletop")
class Reach(Task):
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
        self.place_objects(sim, rng)

    def success(self, sim: Simulation) -> bool:
        return bool(np.linalg.norm(sim.pinch - goal(sim)) < CLOSE)

    def reward(self, sim: Simulation) -> float:
        return tolerance(float(np.linalg.norm(sim.pinch - goal(sim))), CLOSE, 0.25)
