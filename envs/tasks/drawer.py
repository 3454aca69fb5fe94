"""Open and close a drawer by its handle: fingers closed, hooked behind the bar or pushing its front."""

import numpy as np

from ..experts import CLOSED, Expert, Move
from ..registry import register
from ..rewards import tolerance
from ..simulation import Simulation
from ..task import Task

OPENED, SHUT = 0.12, 0.015  # [m]
LOW = 0.042  # pinch height at the handle [m]


class DrawerExpert(Expert):
    """`side`: where the fingers go, along the cabinet's axis from the bar [m]. `pull`: which way they then move.
    `reach`: between which places along the axis they have hold of the bar [m]."""

    side: float
    pull: float
    reach: tuple[float, float]
    words: tuple[str, str, str]

    def decide(self) -> Move:
        """The script's next control step, from the present state of the simulation."""
        yaw = self.sim.drawer_yaw
        axis, across = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
        offset = self.sim.pinch[:2] - self.sim.handle[:2]
        depth, drift = float(offset @ axis), float(offset @ across)
        spot = np.array([*(self.sim.handle[:2] + self.side * axis), LOW])
        if self.sim.pinch[2] < LOW + 0.018 and abs(drift) < 0.025 and self.reach[0] < depth < self.reach[1]:
            ahead = self.sim.pinch[:2] + self.pull * 0.03 * axis - 0.8 * drift * across
            return self.toward(np.array([*ahead, LOW]), CLOSED, self.words[2])
        place = self.funnel(spot, radius=0.006)
        return self.toward(place, CLOSED, self.words[0] if self.aside(spot) > 0.02 else self.words[1])


class OpenExpert(DrawerExpert):
    """Grips the handle and pulls."""

    side, pull, reach = 0.028, -1.0, (0.008, 0.042)
    words = ("move above the handle", "lower behind the handle", "pull the drawer open")


class CloseExpert(DrawerExpert):
    """Pushes the drawer shut."""

    side, pull, reach = -0.045, 1.0, (-0.075, -0.008)
    words = ("move in front of the handle", "lower in front of the handle", "push the drawer shut")


class Drawer(Task):
    """Tasks with the drawer."""

    fixtures = ("drawer",)
    picks_object = False
    start: tuple[float, float]  # how far it is open at first, lowest and highest [m]

    def place(self, sim: Simulation, rng: np.random.Generator) -> None:
        """Puts the fixtures and the objects in place, drawn from `rng`."""
        sim.place_fixture("cabinet", rng.uniform([0.62, -0.13], [0.68, 0.13]), rng.uniform(-0.26, 0.26))
        sim.data.joint("drawer").qpos[0] = rng.uniform(*self.start)

    def referents(self, sim: Simulation) -> tuple[str, None]:
        """The entities that the instruction names: what is handled, and where it goes. None where there is none."""
        return "handle", None


@register("open_drawer", "tabletop")
class OpenDrawer(Drawer):
    """Open the drawer."""

    templates = ("open the drawer", "pull the drawer open", "slide the drawer out", "open up the drawer")
    horizon = 90
    expert = OpenExpert
    start = (0.0, 0.02)

    def success(self, sim: Simulation) -> bool:
        """Is the goal reached in the present state of the simulation?"""
        return sim.drawer > OPENED

    def reward(self, sim: Simulation) -> float:
        """Dense reward of the present state, in [0, 1]."""
        near = tolerance(float(np.linalg.norm(sim.pinch - sim.handle)), 0.03, 0.25)
        return 1.0 if self.success(sim) else 0.3 * near + 0.6 * min(1.0, max(0.0, sim.drawer / OPENED))


@register("close_drawer", "tabletop")
class CloseDrawer(Drawer):
    """Close the drawer."""

    templates = ("close the drawer", "push the drawer shut", "shut the drawer", "slide the drawer in")
    horizon = 90
    expert = CloseExpert
    start = (0.10, 0.15)

    def success(self, sim: Simulation) -> bool:
        """Is the goal reached in the present state of the simulation?"""
        return sim.drawer < SHUT

    def reward(self, sim: Simulation) -> float:
        """Dense reward of the present state, in [0, 1]."""
        near = tolerance(float(np.linalg.norm(sim.pinch - sim.handle)), 0.05, 0.25)
        return 1.0 if self.success(sim) else 0.3 * near + 0.6 * tolerance(sim.drawer, SHUT, 0.15)
