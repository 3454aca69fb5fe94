"""Perturbations of a script: now and then something random lasts for a few steps.

Recordings mark those steps (`perturbed`), so that training can leave them out. What follows shows how to recover (DART,
arXiv 1703.09327, with the noise made visible).
"""

from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")


class Bursts(Generic[T]):
    """Perturbations that start by chance and last some steps."""

    def __init__(
        self, rng: np.random.Generator, rate: float, steps: tuple[int, int], draw: Callable[[np.random.Generator], T]
    ):
        """rate: chance a step that a burst starts.
        steps: its shortest and longest length.
        draw: what it is."""
        self._rng, self._rate, self._steps, self._draw = rng, rate, steps, draw
        self._left = 0
        self._drawn: T | None = None

    def change(self, rate: float) -> None:
        """From the next burst on."""
        self._rate, self._left = rate, 0

    def step(self) -> T | None:
        """What disturbs this step. None: nothing does."""
        if self._left == 0 and self._rng.random() < self._rate:
            self._left = int(self._rng.integers(self._steps[0], self._steps[1] + 1))
            self._drawn = self._draw(self._rng)
        if self._left == 0:
            return None
        self._left -= 1
        return self._drawn
