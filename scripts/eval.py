"""Measure task success on held-out seeds, with Wilson 95% intervals, hierarchical beside flat, and language controls.

`tandem eval --checkpoint outputs/train/…` writes results.json with a manifest; `--reproduce results.json` runs the same
episodes again and compares them one by one.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from ..data.files import write_atomic
from ..data.progress import progress_bar
from ..policy import checkpoint
from ..policy.agent import Runtime
from ..policy.agents import AgentSpec
from ..policy.evaluate import EPISODES_FILE, evaluate, plan, resolve_tasks, summary
from ..policy.rollout import CONTROLS, Outcome
from ..policy.run import default_output
from .errors import UserError
from .manifest import manifest, this_code, this_command
from .published import published, train_minutes, variant
from .results import add_to_result, write_result
from .settings import same_settings
from .tables import COLUMNS, cell


@dataclass(frozen=True)
class Args:
    checkpoint: str = ""  # output folder of `tandem train`, or a checkpoint in it
    agent: Literal["checkpoint", "expert", "random"] = "checkpoint"  # who acts
    tasks: tuple[str, ...] = ()  # task or suite names; none: those that the checkpoint was trained on
    episodes: int = 50  # per task, mode and control
    first_seed: int = 1_000_000  # held out: demonstrations use seeds from 0
    modes: tuple[Literal["hierarchical", "flat"], ...] = ("hierarchical", "flat")
    controls: tuple[Literal["normal", "wrong", "empty"], ...] = CONTROLS  # what the agent is told
    runtime: Runtime = Runtime()  # how the checkpoint is run
    workers: int = 2  # processes; the outcomes do not depend on it
    output: Path | None = None  # default: outputs/eval/<date>/<time>_<checkpoint>
    resume: bool = False  # continue the evaluation in --output
    reproduce: Path | None = None  # a results.json: run its episodes again and compare
    result: str | None = None  # also write docs/results/<name>.json
    row: str | None = None  # only add a row of this name to that file: success, minutes, samples/s
    dry_run: bool = False  # print the resolved settings and stop


def main(args: Args) -> int:
    if args.reproduce is not None:
        return reproduce(args)
    results, folder = run(args)
    show(results)
    print(f"results: {folder / 'results.json'}")
    return 0


def run(args: Args) -> tuple[dict[str, Any], Path]:
    """Runs the evaluation and writes results.json; returns its content and the folder."""
    spec = AgentSpec(
        args.agent, str(checkpoint.resolve(_needed(args))) if args.agent == "checkpoint" else "", args.runtime
    )
    tasks = resolve_tasks(args.tasks or _trained_on(spec))
    modes = args.modes if args.agent == "checkpoint" else ("hierarchical",)
    folder = args.output or default_output("eval", Path(args.checkpoint or args.agent).name)
    if (folder / EPISODES_FILE).exists() and not args.resume:
        raise UserError(
            f"output folder {folder} holds an evaluation; pass --resume to continue it or choose another --output"
        )
    if args.agent == "checkpoint":
        _preflight(spec, tasks)
    this_code()
    made = checkpoint.digest(spec.checkpoint) if spec.checkpoint else args.agent
    same_settings(folder, {"checkpoint": made, "runtime": asdict(args.runtime)})
    outcomes = _evaluate(args, spec, tasks, modes, folder)
    results: dict[str, Any] = {
        "manifest": manifest(checkpoint=made, command=this_command()),
        "options": asdict(replace(args, tasks=tasks, modes=modes)) | {"output": str(folder), "reproduce": None},
        "summary": summary(outcomes),
        "train_minutes": train_minutes(spec.checkpoint),
        "episodes": [outcome.as_dict() for outcome in outcomes],
    }
    write_atomic(folder / "results.json", json.dumps(results, indent=1, default=str).encode())
    if args.result:
        _publish(args, results, spec.checkpoint)
    return results, folder


def _publish(args: Args, results: dict[str, Any], folder: str) -> None:
    assert args.result is not None
    if args.row:
        add_to_result(args.result, this_command(), {args.row: variant(results, folder)})
        return
    about = {"checkpoint": results["manifest"]["checkpoint"], "first_seed": args.first_seed}
    write_result(args.result, this_command(), published(results, folder), **about)


def _evaluate(
    args: Args, spec: AgentSpec, tasks: tuple[str, ...], modes: tuple[str, ...], folder: Path
) -> list[Outcome]:
    episodes = plan(tasks, args.episodes, args.first_seed, modes, args.controls)
    with progress_bar(total=len(episodes), unit="episode", desc="eval") as bar:
        done = [0, 0]

        def count(outcome: Outcome) -> None:
            done[0] += outcome.success
            done[1] += 1
            bar.update()
            bar.set_postfix_str(f"{done[0]} of {done[1]} succeeded", refresh=False)

        outcomes = evaluate(spec, episodes, folder, args.workers, count)
    return outcomes


def _needed(args: Args) -> str:
    if not args.checkpoint:
        raise UserError("no --checkpoint given; pass the output folder of `tandem train`, or --agent expert")
    return args.checkpoint


def _trained_on(spec: AgentSpec) -> tuple[str, ...]:
    if not spec.checkpoint:
        return ("tabletop",)
    return checkpoint.tasks(spec.checkpoint)


def _preflight(spec: AgentSpec, tasks: tuple[str, ...]) -> None:
    """Loads the policy once here, so that a bad checkpoint is one line and not a worker's traceback."""
    from ..policy.agents import load_agent

    load_agent(spec, tasks)


def show(results: dict[str, Any]) -> None:
    s = results["summary"]
    names = [c for c in COLUMNS if c in s["mean"]]
    table = Table(title="success, with Wilson 95% intervals")
    for heading in ("task", *names):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for task, row in s["per_task"].items():
        table.add_row(task, *(cell(row.get(name)) for name in names))
    table.add_row("mean over tasks", *(f"{100 * s['mean'][name]:.1f}%" for name in names))
    console = Console()
    console.print(table)
    latency = f"planner {s['planner_ms']} ms, controller {s['controller_ms']} ms (medians)"
    console.print(f"errors (not counted): {s['errors']}; {latency}")


def read_results(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text()))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not a results.json ({error}); pass the file that `tandem eval` wrote") from error


def reproduce(args: Args) -> int:
    """Runs the episodes of a results.json again; exit code 1 if any outcome differs."""
    stored = read_results(Path(str(args.reproduce)))
    options = stored["options"]
    again = replace(
        args, checkpoint=args.checkpoint or options["checkpoint"], agent=options["agent"],
        tasks=tuple(options["tasks"]),
        episodes=options["episodes"], first_seed=options["first_seed"], modes=tuple(options["modes"]),
        controls=tuple(options["controls"]), runtime=Runtime(**options["runtime"]), reproduce=None, result=None,
    )  # fmt: skip
    results, _ = run(again)
    for key in ("code", "packages", "checkpoint", "gl", "processor"):
        if stored["manifest"].get(key) != results["manifest"].get(key):
            print(f"note: {key} was {stored['manifest'].get(key)}, is {results['manifest'].get(key)}")
    new = {(e["task"], e["seed"], e["mode"], e["control"]): e for e in results["episodes"]}
    fields = ("success", "steps", "reward", "first_state", "status")
    differ = [
        e for e in stored["episodes"]
        if any(e[f] != new[(e["task"], e["seed"], e["mode"], e["control"])][f] for f in fields)
    ]  # fmt: skip
    for e in differ[:20]:
        print(f"differs: {e['task']} seed {e['seed']} {e['mode']} {e['control']}")
    print(f"{len(stored['episodes']) - len(differ)} of {len(stored['episodes'])} episodes reproduced exactly")
    return int(bool(differ))
