"""Mutate every file that Tandem reads, and count what comes out besides an error of one line.

Every input follows from target and seed, so that one which failed can be tried again: `--only TARGET --seed N --inputs
1`. A traceback is an exception that is none of Tandem's own and no OSError. A hang takes more than ten seconds, or more
memory than there should be.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Args:
    """Flags of `tandem bench fuzz`."""

    inputs: int = 20_000  # in all, spread over the targets
    seed: int = 0  # of every target's first input
    only: str = ""  # one target by its name; none: all
    publish: bool = False  # write docs/results/fuzz.json
    dry_run: bool = False


def measure(args: Args) -> dict[str, Any]:
    """Runs the measurement and returns its figures by name."""
    from .mutations import fuzz

    return fuzz(args.inputs, args.seed, args.only)


def results(args: Args, metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The published figures by the name of their file."""
    return {"fuzz": metrics}
