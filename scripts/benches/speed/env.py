"""Control steps per second on one core, without images and with two 96x96 images."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Args:
    """Flags of `tandem bench env`."""

    seconds: float = 5.0
    publish: bool = False  # write docs/results/bench_env.json
    dry_run: bool = False


def measure(args: Args) -> dict[str, Any]:
    """Runs the measurement and returns its figures by name."""
    from ....envs import bench

    return bench.measure(args.seconds)
