"""Record, train, evaluate and watch three tasks in one go: what `make demo` runs.

Everything is real: MuJoCo demonstrations, training from pixels and language, success on held-out seeds, a page with
rollouts. Takes up to 15 minutes on two cores.
"""

import resource
import time
from dataclasses import dataclass
from pathlib import Path

from ..policy.train.run_folder import default_output
from . import eval as evaluation
from . import train, watch
from .publish.figures import write_result

EPISODES = 20  # per task: 60 held-out seeds in all


@dataclass(frozen=True)
class Args:
    """Flags of `tandem demo`."""

    seed: int = 0
    publish: bool = False  # write docs/results/demo.json
    dry_run: bool = False  # print the resolved settings and stop


def main(args: Args) -> int:
    """Runs the command and returns its exit code."""
    begin = time.perf_counter()
    run = default_output("train", "demo")
    train.main(train.Args(preset="demo", output=run, seed=args.seed))
    measured = evaluation.Args(
        checkpoint=str(run), episodes=EPISODES, modes=("hierarchical", "flat"), controls=("normal",)
    )
    results, _ = evaluation.run(measured)
    evaluation.show(results)
    if "hierarchical" not in results["summary"]["mean"]:
        print("demo: nothing could be measured; run `tandem doctor`")
        return 1
    page = watch.run(watch.Args(checkpoint=str(run), output=default_output("watch", "demo")), results["summary"])
    minutes = (time.perf_counter() - begin) / 60
    success = results["summary"]["mean"]["hierarchical"]
    print(f"demo: {100 * success:.0f}% success over {_measured(results)} held-out seeds, {minutes:.1f} minutes")
    if args.publish:
        metrics = {"minutes": round(minutes, 2), "peak_gb": peak_gb(), "success": success, **_tables(results)}
        write_result("demo", "tandem demo --publish", metrics, checkpoint=results["manifest"]["checkpoint"])
    print(f"open this page: {Path(page).resolve()}")
    return 0


def _measured(results: dict) -> int:
    return sum(row["hierarchical"]["n"] for row in results["summary"]["per_task"].values() if "hierarchical" in row)


def _tables(results: dict) -> dict:
    return {"success_flat": results["summary"]["mean"]["flat"], "per_task": results["summary"]["per_task"]}


def peak_gb() -> float:
    """Largest resident memory of this process plus that of its largest child."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return round(sum(resource.getrusage(kind).ru_maxrss for kind in kinds) / 2**20, 2)
