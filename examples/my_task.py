"""A task of your own, in one file: lift the named object off the table.

    export TANDEM_TASKS=my_task PYTHONPATH=examples
    tandem watch --agent expert --tasks lift

Object 0 of a scene is the one that the instruction names. Object 2 is the one that a wrong instruction names.
"""

import numpy as np
from tandem.envs.experts import CLOSED, GraspExpert, Move
from tandem.envs.registry import register
from tandem.envs.rewards import tolerance
from tandem.envs.scene import OBJECT_RADIUS
from tandem.envs.simulation import Simulation
from tandem.envs.task import Task

HIGH = OBJECT_RADIUS + 0.08  # height of the object's centre that counts as lifted [m]


class LiftExpert(GraspExpert):
    """Grasps the object and moves straight up."""

    def decide(self) -> Move:
        """One control step: an action and the subtask in words."""
        if self.holds():
            return self.toward(self.sim.pinch + [0.0, 0.0, 0.05], CLOSED, f"lift the {self.names[0]}")
        return self.grasp()


@register("lift")
class Lift(Task):
    """The instruction names one of three objects."""

    fixtures = ("objects",)
    templates = ("lift the {object}", "pick up the {object}", "raise the {object}")
    horizon = 80
    expert = LiftExpert
    shapes = ("cube", "cylinder")

    def place(self, sim: Simulation, rng: np.random.Generator) -> None:
        """Scatters the objects over the table."""
        self.place_objects(sim, rng)

    def success(self, sim: Simulation) -> bool:
        """The object is HIGH above the table."""
        return bool(sim.object(0)[2] > HIGH)

    def reward(self, sim: Simulation) -> float:
        """In [0, 1]: half for being near the object, half for its height."""
        near = tolerance(float(np.linalg.norm(sim.pinch - sim.object(0))), 0.02, 0.25)
        return 0.5 * near + 0.5 * tolerance(max(0.0, HIGH - float(sim.object(0)[2])), 0.0, 0.08)
