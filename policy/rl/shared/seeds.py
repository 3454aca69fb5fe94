"""Which layouts are met while learning: seeds from 2,000,000 on, other ones for every seed of training.

Demonstrations count from 0, evaluation from 1,000,000, and nobody learns from 3,000,000 on.
"""

from itertools import count, islice

from .experience import Experience

FIRST, EACH = 2_000_000, 100_000
SEEDS = 10  # of training


def training_seed(seed: int) -> int:
    """The first layout of a run."""
    if not 0 <= seed < SEEDS:
        raise ValueError(f"seed {seed} of training has no layouts; there are {SEEDS}")
    return FIRST + EACH * seed


def unmet(experience: Experience, seed: int, many: int, crashed: frozenset[int] = frozenset()) -> list[int]:
    """The next layouts. Workers end out of order, so that a kill leaves gaps, which come first. What is older than all
    that is kept was met where anything was forgotten.

    crashed: layouts that ended no episode.
    """
    met = {int(layout) for layout in experience.column("seed")}
    begin = min(met) if met and experience.forgot else training_seed(seed)
    return list(islice((i for i in count(begin) if i not in met and i not in crashed), max(0, many)))
