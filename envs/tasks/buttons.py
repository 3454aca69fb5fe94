"""Press the button of the named colour."""

import numpy as np

from ..entities import sample_colours
from ..experts import CLOSED, Expert, Move
from ..registry import register
from ..rewards import tolerance
from ..scene import OBJECTS
from ..simulation import Simulation
from ..task import Task, scatter

PRESSED = 0.6  # share of the button's travel


def cap(sim: Simulation) -> np.ndarray:
    return sim.data.body("button0_cap").xpos


class PressExpert(Expert):
    """Moves above the named button and presses it down."""

    def decide(self) -> Move:
        """The script's next control step, from the present state of the simulation."""
        target = cap(self.sim).copy()
        if self.aside(target) > 0.012:
            place = self.funnel(target + [0, 0, 0.04], radius=0.012, clearance=0.05)
            return self.toward(place, CLOSED, f"move above the {self.names[0]}")
        down = np.array([*target[:2], self.sim.pinch[2] - 0.03])
        return self.toward(down, CLOSED, f"press the {self.names[0]}")


@register("press_button", "tabletop")
class PressButton(Task):
    """Press the button of the named colour."""

    fixtures = ("buttons",)
    templates = ("press the {object}", "push the {object} down", "hit the {object}", "press down on the {object}")
    horizon = 60
    expert = PressExpert

    def place(self, sim: Simulation, rng: np.random.Generator) -> None:
        """Puts the fixtures and the objects in place, drawn from `rng`."""
        spots = scatter(rng, OBJECTS, distance=0.12)
        for i, (colour, xy) in enumerate(zip(sample_colours(rng, OBJECTS), spots, strict=True)):
            sim.place_button(i, colour, xy)

    def success(self, sim: Simulation) -> bool:
        """Is the goal reached in the present state of the simulation?"""
        return sim.button_press(0) > PRESSED

    def reward(self, sim: Simulation) -> float:
        """Dense reward of the present state, in [0, 1]."""
        near = tolerance(float(np.linalg.norm(sim.pinch - cap(sim))), 0.02, 0.25)
        return 1.0 if self.success(sim) else 0.6 * near + 0.3 * min(1.0, max(0.0, sim.button_press(0) / PRESSED))
