"""Pick and place: put the named object in the bowl."""

import numpy as np

from ..experts import OPEN, GraspExpert, Move
from ..registry import register
from ..rewards import tolerance
from ..scene import BOWL_RADIUS
from ..simulation import Simulation
from ..task import TABLE, Task

GRIPPER_CLEAR = 0.7  # opening at which an object of 4.5 cm is let go


def inside(sim: Simulation) -> bool:
    """Does the named object lie in the bowl?"""
    offset = sim.object(0) - sim.body("bowl")
    return bool(np.linalg.norm(offset[:2]) < BOWL_RADIUS - 0.01 and offset[2] < 0.06)


class PickPlaceExpert(GraspExpert):
    """Grasps the named object, carries it over the bowl and lets go."""

    def decide(self) -> Move:
        """The script's next control step, from the present state of the simulation."""
        bowl = self.sim.body("bowl")
        if self.holds():
            move = self.carry(bowl, "bowl", 0.02)
            return move or self.toward(np.array([*bowl[:2], 0.11]), OPEN, f"release the {self.names[0]}")
        if np.linalg.norm(self.sim.object(0)[:2] - bowl[:2]) < BOWL_RADIUS - 0.005:  # it is in, or still falling
            return self.retreat()
        return self.grasp()


@register("pick_place", "tabletop")
class PickPlace(Task):
    """Put the named object into the bowl."""

    fixtures = ("objects", "bowl")
    templates = (
        "put the {object} in the bowl",
        "pick up the {object} and put it in the bowl",
        "place the {object} into the bowl",
        "drop the {object} in the bowl",
        "take the {object} and place it in the bowl",
    )
    horizon = 120
    destination = "bowl"
    expert = PickPlaceExpert

    def place(self, sim: Simulation, rng: np.random.Generator) -> None:
        """Puts the fixtures and the objects in place, drawn from `rng`."""
        bowl = rng.uniform(*TABLE)
        sim.place_fixture("bowl", bowl)
        self.place_objects(sim, rng, [bowl])

    def success(self, sim: Simulation) -> bool:
        """Is the goal reached in the present state of the simulation?"""
        return inside(sim) and sim.opening > GRIPPER_CLEAR and sim.object_speed(0) < 0.1

    def reward(self, sim: Simulation) -> float:
        """Dense reward of the present state, in [0, 1]."""
        near = tolerance(float(np.linalg.norm(sim.pinch - sim.object(0))), 0.02, 0.2)
        home = tolerance(float(np.linalg.norm(sim.object(0)[:2] - sim.body("bowl")[:2])), 0.05, 0.25)
        return 1.0 if self.success(sim) else 0.3 * near + 0.6 * home
