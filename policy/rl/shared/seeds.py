"""Seeds of the layouts that training uses: from 2,000,000 on, with a range of its own for every seed of training.

Demonstrations use seeds from 0, and evaluation uses seeds from 1,000,000. No training uses seeds from 3,000,000 on.
"""

from itertools import count, islice

from .experience import Experience

FIRST, EACH = 2_000_000, 100_000  # first layout of all, and layouts for each seed of training
SEEDS = 10  # number of seeds of training


def training_seed(seed: int) -> int:
    """Seed of the first layout of a run. ValueError where `seed` is not in [0, SEEDS)."""
    if not 0 <= seed < SEEDS:
        raise ValueError(f"seed {seed} of training has no layouts; there are {SEEDS}")
    return FIRST + EACH * seed


def unmet(experience: Experience, seed: int, many: int, crashed: frozenset[int] = frozenset()) -> list[int]:
    """Seeds of the next `many` layouts that the experience does not hold.

    Workers end out of order, so that a kill leaves gaps. The gaps come first.
    Where the experience has deleted episodes, all layouts before its oldest one count as used.
    seed: seed of training.
    crashed: layouts whose episodes crashed. They are skipped.
    """
    met = {int(layout) for layout in experience.column("seed")}
    begin = min(met) if met and experience.forgot else training_seed(seed)
    return list(islice((i for i in count(begin) if i not in met and i not in crashed), max(0, many)))
