"""Push: slide the named object onto the mark, with closed fingers."""

import numpy as np

from ..experts import CLOSED, Expert, Move
from ..registry import register
from ..rewards import tolerance
from ..scene import OBJECTS
from ..simulation import Simulation
from ..task import TABLE, Task

ON_MARK = 0.035  # distance of the centres [m]
LOW = 0.022  # pinch height while pushing [m]
BEHIND = 0.062  # distance of the hand from the object's centre before it pushes [m]
ROOM = 0.045  # distance that the hand keeps from other objects' centres [m]


def distance(sim: Simulation) -> float:
    """Horizontal distance of the named object from the mark [m]."""
    return float(np.linalg.norm(sim.object(0)[:2] - sim.body("mark")[:2]))


def way_is_free(mark: np.ndarray, thing: np.ndarray, *others: np.ndarray) -> bool:
    """Nothing else stands where the hand goes down or between there and the mark."""
    start = thing + 0.08 * (thing - mark) / np.linalg.norm(thing - mark)
    stops = [start + share * (mark - start) for share in np.linspace(0, 1, 8)]
    return min(float(np.linalg.norm(stop - other)) for stop in stops for other in others) > 0.075


class PushExpert(Expert):
    """Goes behind the named object and pushes it to the mark."""

    flip_rate = 0.0  # fingers that open against the cube take it along, and the way is lost

    def decide(self) -> Move:
        """The script's next control step, from the present state of the simulation."""
        name, thing, hand = self.names[0], self.sim.object(0), self.sim.pinch
        way = self.sim.body("mark")[:2] - thing[:2]
        way = self.turned(thing[:2], way / max(1e-6, float(np.linalg.norm(way))))
        offset = hand[:2] - thing[:2]
        along, across = float(offset @ way), offset - (offset @ way) * way
        behind = np.array([*(thing[:2] - BEHIND * way), LOW])
        if hand[2] < 0.045 and along < -0.025 and np.linalg.norm(across) < (0.03 if hand[2] < 0.03 else 0.02):
            ahead = hand[:2] + 0.035 * way - 0.9 * across
            return self.toward(np.array([*ahead, LOW]), CLOSED, f"push the {name} to the mark")
        if self.aside(behind) > 0.02:
            return self.toward(self.funnel(behind, radius=0.012), CLOSED, f"move behind the {name}")
        return self.toward(self.funnel(behind, radius=0.012), CLOSED, f"lower behind the {name}")

    def turned(self, thing: np.ndarray, way: np.ndarray) -> np.ndarray:
        """The direction to push: `way`, turned as little as leaves the hand room behind the object."""
        others = [self.sim.object(i)[:2] for i in range(1, OBJECTS)]
        for angle in (0.0, 0.5, -0.5, 1.0, -1.0):
            turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ way
            if min(float(np.linalg.norm(thing - BEHIND * turned - other)) for other in others) > ROOM:
                return turned
        return way


@register("push", "tabletop")
class Push(Task):
    """Push the named object onto the mark."""

    fixtures = ("objects", "mark")
    templates = (
        "push the {object} to the mark",
        "slide the {object} onto the mark",
        "move the {object} to the black mark",
        "push the {object} onto the black spot",
    )
    horizon = 120
    destination = "mark"
    expert = PushExpert
    shapes = ("cube",)  # a pushed cylinder tips and rolls away

    def place(self, sim: Simulation, rng: np.random.Generator) -> None:
        """Puts the fixtures and the objects in place, drawn from `rng`."""
        mark = rng.uniform(TABLE[0] + 0.02, TABLE[1] - 0.02)
        sim.place_fixture("mark", mark)
        self.place_objects(sim, rng, [mark], clear=lambda spots: way_is_free(mark, *spots))

    def success(self, sim: Simulation) -> bool:
        """Is the goal reached in the present state of the simulation?"""
        return distance(sim) < ON_MARK

    def reward(self, sim: Simulation) -> float:
        """Dense reward of the present state, in [0, 1]."""
        near = tolerance(float(np.linalg.norm(sim.pinch - sim.object(0))), 0.06, 0.2)
        return 1.0 if self.success(sim) else 0.2 * near + 0.7 * tolerance(distance(sim), ON_MARK, 0.25)
