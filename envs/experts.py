"""Scripted experts: from the simulator's state to an action and the current subtask in words.

They are reactive: the action is a function of the present state, without timers or hidden phases, so that a policy
which sees one frame can imitate them, and so that they recover from whatever happens. Approaches follow a funnel: the
hand may be low only where it is already well placed.
Perturbations (envs/bursts.py): now and then a few steps get a random offset, or the fingers do the opposite. Asked to
be disturbed more than when it demonstrates, an expert also misplaces things for a while, as policies do that err: it
closes beside them, pushes them away, waits where it cannot see them.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from .bursts import Bursts
from .simulation import POSITION_SCALE, ROTATION_SCALE, Simulation

OPEN, CLOSED = -1.0, 1.0
BURST_RATE, BURST_STEPS = 0.035, (2, 5)  # chance a step that a perturbation starts; its length
FLIP_RATE = 0.3  # share of perturbations in which an open hand closes on nothing, or a closed one drops what it holds
MISPLACED, MISPLACED_STEPS = 0.03, (10, 30)  # deviation [m] of where it takes things to be, along x and y; for how long
MISPLACED_RATE = 0.3  # how often it misplaces things, for every perturbation that is asked for
SPEED = 0.6  # largest |delta position| of an unperturbed action
GRASPED = 0.66  # the gripper's opening around an object of 4.5 cm, with a margin


@dataclass(frozen=True)
class Move:
    """What an expert wants now."""

    action: np.ndarray  # (7,)
    subtask: str


class Misplaced:
    """The simulation as it looks to somebody who misplaces all things by `by` (3,) [m], seen from the hand, and bodies
    by what `off` says of their names besides."""

    def __init__(self, sim: Simulation):
        self._sim, self.by = sim, np.zeros(3)
        self.off: dict[str, np.ndarray] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sim, name)

    @property
    def pinch(self) -> np.ndarray:
        """The point between the fingertips, as the simulation has it."""
        return self._sim.pinch - self.by

    def body(self, name: str) -> np.ndarray:
        """Where the expert takes a body to be."""
        return self._sim.body(name) + self.off.get(name, np.zeros(3))

    def object(self, index: int) -> np.ndarray:
        """Where the expert takes an object to be."""
        return self.body(f"object{index}")


class Expert:
    """Subclasses say what to do in `decide`. This class adds the perturbations."""

    flip_rate = FLIP_RATE

    def __init__(self, sim: Simulation, names: tuple[str, ...], seed: int):
        self._seen = Misplaced(sim)
        self.sim, self.names = cast(Simulation, self._seen), names
        self._misplaced = Bursts(np.random.default_rng([8, seed]), 0.0, MISPLACED_STEPS, _misplacement)
        self._bursts = Bursts(np.random.default_rng([7, seed]), BURST_RATE, BURST_STEPS, self._disturbance)

    def disturb(self, rate: float) -> None:
        """Sets the chance a step that a perturbation of the actions starts."""
        self._bursts.change(rate)
        self._misplaced.change(MISPLACED_RATE * rate if rate > BURST_RATE else 0.0)

    def misplace(self, off: dict[str, np.ndarray]) -> None:
        """From now on it takes these bodies to be off by that (3,) [m], as somebody's eyes have it."""
        self._seen.off = off

    def act(self) -> tuple[np.ndarray, str, bool]:
        """-> action float32 (7,), subtask, perturbed."""
        by = self._misplaced.step()
        self._seen.by = np.zeros(3) if by is None else by
        move = self.decide()
        action, burst = move.action, self._bursts.step()
        if burst is not None:
            offset, flip = burst
            action = action + offset
            action[6] = -move.action[6] if flip else action[6]
        return np.clip(action, -1, 1).astype(np.float32), move.subtask, burst is not None or by is not None

    def _disturbance(self, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
        """Offset (7,) of the action. Do the fingers do the opposite."""
        offset = np.concatenate([rng.uniform(-0.6, 0.6, 3), [0, 0], rng.uniform(-0.4, 0.4, 1), [0]])
        return offset, bool(rng.random() < self.flip_rate)

    def decide(self) -> Move:
        """The next control step and its subtask, from the present state of the simulation."""
        raise NotImplementedError

    # -- building blocks -------------------------------------------------------------------------------------------
    def toward(self, target: np.ndarray, gripper: float, subtask: str, yaw: float | None = None) -> Move:
        """A step toward `target` (3,) [m], at most SPEED, slower near it. `yaw`: angle of the finger stroke."""
        step = (target - self.sim.pinch) / POSITION_SCALE
        step *= SPEED / max(SPEED, float(np.linalg.norm(step)))
        turn = 0.0 if yaw is None else np.clip(self.yaw_error(yaw) / ROTATION_SCALE, -0.8, 0.8)
        return Move(np.concatenate([step, [0, 0, turn, gripper]]), subtask)

    def yaw_error(self, yaw: float) -> float:
        """Smallest turn [rad] of the hand to a cube's yaw: faces repeat every 90 degrees."""
        stroke = self.sim.rotation[:, 1]
        error = yaw - np.arctan2(stroke[1], stroke[0])
        return float((error + np.pi / 4) % (np.pi / 2) - np.pi / 4)

    def funnel(
        self, target: np.ndarray, clearance: float = 0.09, radius: float = 0.007, slope: float = 5.0
    ) -> np.ndarray:
        """`target`, raised by how far the hand is from being above it (at most `clearance`)."""
        aside = float(np.linalg.norm(self.sim.pinch[:2] - target[:2]))
        return target + [0, 0, min(clearance, max(0.0, (aside - radius) * slope))]

    def aside(self, target: np.ndarray) -> float:
        """Horizontal distance of the hand from `target` [m]."""
        return float(np.linalg.norm(self.sim.pinch[:2] - target[:2]))


def _misplacement(rng: np.random.Generator) -> np.ndarray:
    return np.array([*rng.normal(0, MISPLACED, 2), 0.0])


class GraspExpert(Expert):
    """Shared by tasks that take object 0 somewhere."""

    lift_height = 0.14  # pinch height while carrying [m]

    def holds(self) -> bool:
        """Is object 0 between the closed fingers?"""
        offset = self.sim.object(0) - self.sim.pinch
        return bool(np.linalg.norm(offset) < 0.022 and self.sim.opening < GRASPED)

    def grasp(self) -> Move:
        """Above it, down to it, close. Only a cube's yaw matters."""
        name, target = self.names[0], self.sim.object(0).copy()
        yaw = self.sim.object_yaw(0) if self.sim.shape_of[0] == "cube" else None
        target[2] = max(0.018, target[2])
        place = self.funnel(target)
        crooked = yaw is not None and abs(self.yaw_error(yaw)) > 0.15
        if crooked:
            place[2] = max(place[2], target[2] + 0.06)
        if self.aside(target) > 0.02 or crooked:
            return self.toward(place, OPEN, f"move above the {name}", yaw)
        if self.sim.pinch[2] - target[2] > 0.012 or self.aside(target) > 0.01:
            return self.toward(place, OPEN, f"lower to the {name}", yaw)
        return self.toward(target, CLOSED, f"grasp the {name}", yaw)

    def carry(self, over: np.ndarray, where: str, reach: float) -> Move | None:
        """Lifts and takes the held object above `over` (x, y). None once it is within `reach` of it."""
        name, aside = self.names[0], float(np.linalg.norm(self.sim.object(0)[:2] - over[:2]))
        if aside <= reach:
            return None
        target = np.array([*(self.sim.pinch[:2] + over[:2] - self.sim.object(0)[:2]), self.lift_height])
        if self.sim.pinch[2] < self.lift_height - 0.05 and aside > 0.04:
            return self.toward(np.array([*self.sim.pinch[:2], self.lift_height]), CLOSED, f"lift the {name}")
        return self.toward(target, CLOSED, f"carry the {name} to the {where}")

    def retreat(self) -> Move:
        """Opens the fingers and moves up."""
        return self.toward(self.sim.pinch + [0, 0, 0.05], OPEN, f"release the {self.names[0]}")
