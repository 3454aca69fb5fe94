"""Measure task success on held-out seeds, with Wilson 95% intervals, hierarchical beside flat, and language controls.

`tandem eval --checkpoint outputs/train/…` writes results.json with a manifest. `--reproduce results.json` runs the same
episodes again and compares them one by one. Exit code 1: nothing could be measured, or an episode was not reproduced.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..data.files import write_atomic
from ..data.progress import progress_bar
from ..data.stopping import Stop
from ..policy.act.runtime import AgentSpec, Runtime
from ..policy.checkpoint import store
from ..policy.evaluate.evaluation import EPISODES_FILE, evaluate, in_use, measured, plan, resolve_tasks, summary
from ..policy.evaluate.outcome import CONTROLS, FAILED, MEASURED, Outcome
from ..policy.train.run_folder import default_output
from .publish.figures import add_to_result, write_result
from .publish.manifest import manifest, this_code, this_command
from .publish.results_file import key_of, read_evaluation
from .publish.success import published, train_minutes, variant
from .publish.tables import COLUMNS, cell
from .shared.errors import UserError
from .shared.settings import at_least, layouts, same_settings


@dataclass(frozen=True)
class Args:
    """Flags of `tandem eval`."""

    checkpoint: str = ""  # output folder of `tandem train`, or a checkpoint in it
    agent: Literal["checkpoint", "expert", "random"] = "checkpoint"  # who acts
    tasks: tuple[str, ...] = ()  # task or suite names; none: those that the checkpoint was trained on
    episodes: int = 50  # per task, mode and control
    first_seed: int = 1_000_000  # held out: demonstrations use seeds from 0
    modes: tuple[Literal["hierarchical", "flat"], ...] = ("hierarchical", "flat")
    controls: tuple[Literal["normal", "wrong", "empty"], ...] = CONTROLS  # what the agent is told
    runtime: Runtime = Runtime()  # how the checkpoint is run
    data: tuple[Path, ...] = ()  # recorded data sets: measure loss and open-loop error on them, without a simulator
    rename: tuple[str, ...] = ()  # THEIR_NAME=OUR_NAME of --data's features, as for `tandem train`
    cache: Path = Path("cache")  # of --data: decoded frames
    workers: int = 2  # processes; the outcomes do not depend on it
    step_deadline: float | None = None  # seconds a step may take; default: 30, or 600 control periods if longer
    output: Path | None = None  # default: outputs/eval/<date>/<time>_<checkpoint>
    resume: bool = False  # continue the evaluation in --output, or begin it; episodes that failed run again
    reproduce: Path | None = None  # a results.json: run its episodes again and compare
    result: str | None = None  # also write docs/results/<name>.json
    row: str | None = None  # only add a row of this name to that file: success, minutes, samples/s
    dry_run: bool = False  # print the resolved settings and stop


def main(args: Args) -> int:
    """Runs the command and returns its exit code."""
    if args.reproduce is not None:
        return reproduce(args)
    if args.data:
        from .on_data import measure_on_data

        return measure_on_data(_needed(args), args.data, args.rename, args.cache, args.output)
    results, folder = run(args)
    show(results)
    print(f"results: {folder / 'results.json'}")
    return _verdict(results)


def _verdict(results: dict[str, Any]) -> int:
    """The exit code: an evaluation that measured nothing is no success."""
    if results["summary"]["per_task"] and any(results["summary"]["per_task"].values()):
        return 0
    print("nothing was measured: no episode ended as a success or a failure")
    return 1


def run(args: Args) -> tuple[dict[str, Any], Path]:
    """Runs the evaluation and writes results.json. Returns its content and the folder."""
    _refuse_nonsense(args)
    spec = AgentSpec(args.agent, str(store.resolve(_needed(args))) if args.agent == "checkpoint" else "", args.runtime)
    tasks = resolve_tasks(args.tasks or _trained_on(spec))
    modes = _modes(args, spec)
    if args.output is not None:
        _refuse_another(args.output, args.resume)
    if args.agent == "checkpoint":
        _preflight(spec, tasks)
    this_code()
    folder = args.output or default_output("eval", Path(args.checkpoint or args.agent).name)
    with Stop() as stop, in_use(folder):
        _refuse_another(folder, args.resume)  # again: another evaluation may have been quicker
        made = store.digest(spec.checkpoint) if spec.checkpoint else args.agent
        same_settings(folder, {"checkpoint": made, "runtime": _stored_runtime(args.runtime)})
        outcomes = _evaluate(args, spec, tasks, modes, folder, stop)
        stop.finish(f"continue with the same command, --resume and --output {folder}")
        results: dict[str, Any] = {
            "manifest": manifest(checkpoint=made, command=this_command()),
            "options": asdict(replace(args, tasks=tasks, modes=modes)) | {"output": str(folder), "reproduce": None},
            "summary": summary(outcomes),
            "train_minutes": train_minutes(spec.checkpoint),
            "episodes": [outcome.as_dict() for outcome in outcomes],
        }
        write_atomic(folder / "results.json", json.dumps(results, indent=1, default=str).encode())
    if args.result and measured(outcomes):
        _publish(args, results, spec.checkpoint)
    return results, folder


def _modes(args: Args, spec: AgentSpec) -> tuple[Literal["hierarchical", "flat"], ...]:
    """Those asked for. Flat alone where a planner has learned nothing and was not asked for by itself."""
    if args.agent != "checkpoint":
        return ("hierarchical",)
    able = store.modes(spec.checkpoint)
    if args.modes != Args.modes or able == args.modes:
        return args.modes
    print(store.why_flat(args.checkpoint))
    return able


def _refuse_nonsense(args: Args) -> None:
    at_least(args, episodes=1, workers=1)
    layouts(args.first_seed, args.episodes)
    if args.resume and args.output is None:
        raise UserError("--resume continues what is in a folder; pass it as --output")
    if not args.modes or not args.controls:
        raise UserError("--modes and --controls name at least one each; leave them out for all")


def _stored_runtime(runtime: Runtime) -> dict[str, Any]:
    """As a folder keeps it: without the mode, which the episodes have, and without what older versions did not know."""
    usual = asdict(Runtime())
    newer = ("latency_ms", "planner_deadline_ms")
    kept = asdict(replace(runtime, mode=runtime.mode or "hierarchical"))
    return {name: value for name, value in kept.items() if name not in newer or value != usual[name]}


def _refuse_another(folder: Path, resume: bool) -> None:
    if (folder / EPISODES_FILE).exists() and not resume:
        raise UserError(
            f"output folder {folder} holds an evaluation; pass --resume to continue it or choose another --output"
        )


def _publish(args: Args, results: dict[str, Any], folder: str) -> None:
    assert args.result is not None
    if args.row:
        add_to_result(args.result, this_command(), {args.row: variant(results, folder)})
        return
    about = {"checkpoint": results["manifest"]["checkpoint"], "first_seed": args.first_seed}
    write_result(args.result, this_command(), published(results, folder), **about)


def _evaluate(
    args: Args, spec: AgentSpec, tasks: tuple[str, ...], modes: tuple[str, ...], folder: Path, stop: Stop
) -> list[Outcome]:
    episodes = plan(tasks, args.episodes, args.first_seed, modes, args.controls)
    with progress_bar(total=len(episodes), unit="episode", desc="eval") as bar:
        done = [0, 0]

        def count(outcome: Outcome) -> None:
            done[0] += outcome.success
            done[1] += outcome.status in MEASURED
            bar.update()
            bar.set_postfix_str(f"{done[0]} of {done[1]} succeeded", refresh=False)

        return evaluate(
            spec, episodes, folder, args.workers, count, deadline=args.step_deadline, stopped=lambda: stop.requested
        )


def _needed(args: Args) -> str:
    if not args.checkpoint:
        raise UserError("no --checkpoint given; pass the output folder of `tandem train`, or --agent expert")
    return args.checkpoint


def _trained_on(spec: AgentSpec) -> tuple[str, ...]:
    if not spec.checkpoint:
        return ("tabletop",)
    return store.tasks(spec.checkpoint)


def _preflight(spec: AgentSpec, tasks: tuple[str, ...]) -> None:
    """Loads the policy once here, so that a bad checkpoint is one line and not a worker's traceback."""
    from ..policy.act.agents import load_agent

    load_agent(spec, tasks)


def show(results: dict[str, Any]) -> None:
    """Prints the table of an evaluation."""
    s = results["summary"]
    names = [c for c in COLUMNS if c in s["mean"]]
    failed = [name for name in ("errors", "sim_errors") if s[name]]
    table = Table(title="success, with Wilson 95% intervals")
    for heading in ("task", *names, *failed):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for task, row in s["per_task"].items():
        counts = (str(s["failed_per_task"][task][name]) for name in failed)
        table.add_row(escape(task), *(cell(row.get(name)) for name in names), *counts)
    means = (f"{100 * s['mean'][name]:.1f}%" for name in names)
    table.add_row("mean over tasks", *means, *(str(s[name]) for name in failed))
    console = Console()
    console.print(table)
    latency = f"planner {s['planner_ms']} ms, controller {s['controller_ms']} ms (medians)"
    console.print(f"errors (not counted): {s['errors']}; broken simulations (no success): {s['sim_errors']}")
    console.print(f"{_limited(s)}\n{latency}")
    for line in failures(results["episodes"]):
        console.print(line, markup=False, soft_wrap=True)


def _limited(s: dict[str, Any]) -> str:
    """What the limiter did."""
    share = "–" if s["clamped_share"] is None else f"{100 * s['clamped_share']:.1f}%"
    others = {name: many for name, many in s["events"].items() if name not in ("clamped", "held")}
    more = "".join(f", {name} {many}" for name, many in others.items())
    return f"actions clamped at {share} of the steps, held at {s['held']}{more}"


def failures(episodes: list[dict[str, Any]], most: int = 10) -> list[str]:
    """A line for each of the first episodes that failed, and how many others there are."""
    failed = [e for e in episodes if e["status"] in FAILED]
    lines = [
        f"{e['status']}: {e['task']} seed {e['seed']} {e['mode']} {e['control']}: {e['detail']}" for e in failed[:most]
    ]
    if rest := Counter(e["status"] for e in failed[most:]):
        lines.append("and " + ", ".join(f"{count} more {status}" for status, count in rest.items()))
    return [*lines, "episodes that failed run again with --resume"] if failed else []


def reproduce(args: Args) -> int:
    """Runs the episodes of a results.json again. Exit code 1 if any outcome differs."""
    stored = read_evaluation(Path(str(args.reproduce)))
    options = stored["options"]
    again = replace(
        args, checkpoint=args.checkpoint or options["checkpoint"], agent=options["agent"],
        tasks=tuple(options["tasks"]),
        episodes=options["episodes"], first_seed=options["first_seed"], modes=tuple(options["modes"]),
        controls=tuple(options["controls"]), runtime=options["runtime"], reproduce=None, result=None,
    )  # fmt: skip
    before = {key_of(e): e for e in stored["episodes"]}
    planned = plan(resolve_tasks(again.tasks), again.episodes, again.first_seed, again.modes, again.controls)
    if before.keys() != {(e.task, e.seed, e.mode, e.control) for e in planned}:
        raise UserError(f"{args.reproduce}: its options do not name its episodes; pass what `tandem eval` wrote")
    results, _ = run(again)
    for key in ("code", "packages", "checkpoint", "gl", "processor"):
        was, now = (_printable(each["manifest"].get(key)) for each in (stored, results))
        if was != now:
            print(f"note: {key} was {was}, is {now}")
    new = {key_of(e): e for e in results["episodes"]}
    fields = ("success", "steps", "reward", "first_state", "status")
    differ = [key for key, e in before.items() if not all(_equal(e[f], new[key][f]) for f in fields)]
    for task, seed, mode, control in differ[:20]:
        print(f"differs: {task} seed {seed} {mode} {control}")
    print(f"{len(before) - len(differ)} of {len(before)} episodes reproduced exactly")
    return int(bool(differ)) or _verdict(results)


def _printable(value: Any) -> str:
    """Of a file that may be anybody's: halves of characters and commands to terminals are spelled out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value)[:400])


def _equal(a: Any, b: Any) -> bool:
    """A reward that is not a number equals itself here."""
    return bool(a == b or (a != a and b != b))
