"""Stack: put the named cube on top of another named cube."""

import numpy as np

from ..experts import CLOSED, OPEN, GraspExpert, Move
from ..registry import register
from ..rewards import tolerance
from ..scene import OBJECT_RADIUS
from ..simulation import Simulation
from ..task import Task

CUBE = 2 * OBJECT_RADIUS  # edge [m]


def stacked(sim: Simulation) -> bool:
    """Does object 0 rest on object 1?"""
    offset = sim.object(0) - sim.object(1)
    return bool(np.linalg.norm(offset[:2]) < 0.8 * OBJECT_RADIUS * 1.4 and abs(offset[2] - CUBE) < 0.008)


class StackExpert(GraspExpert):
    """Grasps object 0, carries it over object 1 and sets it down."""

    def decide(self) -> Move:
        """The script's next control step, from the present state of the simulation."""
        base = self.sim.object(1)
        if self.holds():
            move = self.carry(base, self.names[1], 0.006 if self.sim.pinch[2] > 0.1 else 0.015)
            return move or self.lower(base)
        if stacked(self.sim):
            return self.retreat()
        return self.grasp()

    def lower(self, base: np.ndarray) -> Move:
        top, name = base[2] + CUBE, self.names[0]
        gap = self.sim.object(0)[2] - top
        if gap < 0.004:
            return self.toward(self.sim.pinch.copy(), OPEN, f"release the {name}")
        aside = base[:2] - self.sim.object(0)[:2]
        target = np.array([*(self.sim.pinch[:2] + aside), self.sim.pinch[2] - gap])
        return self.toward(target, CLOSED, f"lower the {name} onto the {self.names[1]}")


@register("stack", "tabletop")
class Stack(Task):
    """Put the named object on another one."""

    fixtures = ("objects",)
    templates = (
        "stack the {object} on the {other}",
        "put the {object} on top of the {other}",
        "place the {object} onto the {other}",
        "set the {object} on the {other}",
    )
    horizon = 130
    expert = StackExpert
    shapes = ("cube",)

    def place(self, sim: Simulation, rng: np.random.Generator) -> None:
        """Puts the fixtures and the objects in place, drawn from `rng`."""
        self.place_objects(sim, rng)

    def referents(self, sim: Simulation) -> tuple[str, str]:
        """The entities that the instruction names: what is handled, and where it goes. None where there is none."""
        return sim.colour_of[0], sim.colour_of[1]

    def success(self, sim: Simulation) -> bool:
        """Is the goal reached in the present state of the simulation?"""
        return stacked(sim) and sim.opening > 0.7 and sim.object_speed(0) < 0.05

    def reward(self, sim: Simulation) -> float:
        """Dense reward of the present state, in [0, 1]."""
        near = tolerance(float(np.linalg.norm(sim.pinch - sim.object(0))), 0.02, 0.2)
        home = tolerance(float(np.linalg.norm(sim.object(0) - sim.object(1) - [0, 0, CUBE])), 0.02, 0.25)
        return 1.0 if self.success(sim) else 0.3 * near + 0.6 * home
