"""Frames per second of the training loader."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..frames import frame_cache


@dataclass(frozen=True)
class Args:
    """Flags of `tandem bench data`."""

    root: Path = Path("datasets/tabletop")
    cache: Path = Path("cache")
    publish: bool = False  # write docs/results/bench_data.json
    dry_run: bool = False


def measure(args: Args) -> dict[str, Any]:
    """Runs the measurement and returns its figures by name."""
    from ....data.bench import loader_rate

    return loader_rate(frame_cache(args.root, args.cache), at=("subgoal",))
