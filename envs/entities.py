"""The named things a tabletop scene can hold, in the fixed order of the privileged columns."""

import numpy as np

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.08, 0.08),
    "green": (0.08, 0.62, 0.12),
    "blue": (0.08, 0.20, 0.85),
    "yellow": (0.95, 0.80, 0.05),
    "purple": (0.55, 0.10, 0.65),
}
SHAPES = ("cube", "cylinder", "ball")
ENTITIES = (*COLOURS, "bowl", "mark", "handle")  # whatever has that colour, then the fixtures


def sample_colours(rng: np.random.Generator, count: int) -> list[str]:
    """`count` different colours, drawn from `rng`."""
    return [str(c) for c in rng.permutation(list(COLOURS))[:count]]
