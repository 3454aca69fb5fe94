"""What a tabletop task is: fixtures, instructions, a reset, success, a dense reward, and an expert.

A task file holds one subclass of `Task`, registered by a decorator. Helpers here place things and choose words.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import tabletop
from .entities import sample_colours
from .errors import EnvError
from .scene import OBJECTS
from .simulation import Simulation
from .task_env import Script

if TYPE_CHECKING:
    from .experts import Expert

Clear = Callable[[list[np.ndarray]], bool]  # says whether a placement of all objects will do
TABLE = np.array([[0.36, -0.23], [0.60, 0.23]])  # where things stand: corners (x, y) [m]


class Task:
    """Subclasses set the class variables and define `place`, `success`, `reward`. The class is a `TaskSpec`."""

    fixtures: ClassVar[tuple[str, ...]]  # see envs.scene.compile_scene
    templates: ClassVar[tuple[str, ...]]  # paraphrases, with {object} and, for two objects, {other}
    horizon: ClassVar[int]  # steps of 50 ms
    expert: ClassVar[type["Expert"]]
    picks_object: ClassVar[bool] = True  # the instruction decides which object is meant
    shapes: ClassVar[tuple[str, ...]] = ("cube", "cylinder", "ball")
    destination: ClassVar[str | None] = None  # entity where the object goes

    @classmethod
    def make(cls, name: str, **options: Any) -> tabletop.TabletopEnv:
        """The environment of this task."""
        return tabletop.TabletopEnv(name, cls(), **options)

    @staticmethod
    def contract_fields(image_size: int = 96) -> dict[str, Any]:
        """The contract of this task as `envs.contract.build_contract` gives it."""
        return tabletop.contract_fields(image_size)

    def reset(self, sim: Simulation, rng: np.random.Generator) -> None:
        """Begins an episode: clears the scene, draws a wording and a layout from `rng`, and places the arm."""
        sim.clear()
        self.template = str(rng.choice(self.templates))
        self.place(sim, rng)
        sim.start_arm(rng.uniform([0.40, -0.10, 0.17], [0.52, 0.10, 0.25]))

    def place(self, sim: Simulation, rng: np.random.Generator) -> None:
        """Puts fixtures and objects in place, drawn from `rng`."""
        raise NotImplementedError

    def success(self, sim: Simulation) -> bool:
        """Is the goal reached in the present state of the simulation?"""
        raise NotImplementedError

    def reward(self, sim: Simulation) -> float:
        """Dense reward of the present state, in [0, 1]."""
        raise NotImplementedError

    def script(self, sim: Simulation, seed: int) -> Script:
        """The expert of one episode. Call it after `reset`."""
        return self.expert(sim, tuple(self.name(sim, i) for i in sorted(sim.colour_of)), seed)

    # -- helpers for subclasses: object 0 is the one meant ---------------------------------------------------------
    def place_objects(
        self,
        sim: Simulation,
        rng: np.random.Generator,
        apart_from: Sequence[np.ndarray] = (),
        clear: Clear = lambda spots: True,
    ) -> None:
        """Scatters three objects of different colours over the table. The first is the one that is meant."""
        colours = sample_colours(rng, OBJECTS)
        spots = scatter(rng, OBJECTS, apart_from, clear)
        for i, (colour, xy) in enumerate(zip(colours, spots, strict=True)):
            sim.place_object(i, colour, str(rng.choice(self.shapes)), xy, rng.uniform(-np.pi, np.pi))

    def name(self, sim: Simulation, index: int) -> str:
        """Colour and shape of an object by its index, e.g. "red cube"."""
        return f"{sim.colour_of[index]} {sim.shape_of[index]}"

    def referents(self, sim: Simulation) -> tuple[str | None, str | None]:
        """Entities that the true instruction names: what is handled, and where it goes."""
        return sim.colour_of[0], self.destination

    def instruction(self, sim: Simulation) -> str:
        """The sentence about the object that is meant."""
        return self._say(sim, 0, 1)

    def wrong_instruction(self, sim: Simulation) -> str | None:
        """The same sentence about another object of the scene. None where the instruction picks nothing."""
        return self._say(sim, 2, 1) if self.picks_object else None

    def _say(self, sim: Simulation, index: int, other: int) -> str:
        if not self.picks_object:
            return self.template
        return self.template.format(object=self.name(sim, index), other=self.name(sim, other))


def scatter(
    rng: np.random.Generator,
    count: int,
    apart_from: Sequence[np.ndarray] = (),
    clear: Clear = lambda spots: True,
    distance: float = 0.11,
) -> list[np.ndarray]:
    """`count` spots (x, y) on the table, `distance` apart, a little more from `apart_from`, as `clear` wants."""
    for _ in range(500):
        spots = list(rng.uniform(TABLE[0], TABLE[1], (count, 2)))
        pairs = [np.linalg.norm(a - b) for i, a in enumerate(spots) for b in spots[:i]]
        pairs += [np.linalg.norm(a - b) - 0.03 for a in spots for b in apart_from]
        if min(pairs, default=1.0) > distance and clear(spots):
            return spots
    raise EnvError(f"no room for {count} things {distance} m apart on the table; ask for fewer")
