"""Say whether two evaluations differ: `tandem compare A B`, paired by task, seed, mode and control where possible.

Pairs are episodes that began in the same state of the simulator: the same seed is another layout where the code or the
package of a task changed in between. Success is true or false. Episodes that failed to run count as neither.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from .publish.comparison import compare, left_out, load, made_with, of_task, published, said, table, tasks
from .publish.figures import write_result
from .publish.manifest import this_command


@dataclass(frozen=True)
class Args:
    """Flags of `tandem compare`."""

    a: Annotated[Path, tyro.conf.Positional]  # results.json, or the folder that holds it
    b: Annotated[Path, tyro.conf.Positional]
    mode: str = "hierarchical"  # which mode of A
    mode_b: str | None = None  # which mode of B; default: the same
    control: str = "normal"
    result: str | None = None  # also write docs/results/<name>.json, with A as before and B as after
    dry_run: bool = False  # print the resolved settings and stop


def main(args: Args) -> int:
    """Runs the command and returns its exit code."""
    a = load(args.a, args.mode, args.control)
    b = load(args.b, args.mode_b or args.mode, args.control)
    Console(width=80).print(f"A = {args.a}\nB = {args.b}\nsuccess in %, with 95% intervals", markup=False)
    Console(width=80).print(table(a, b))
    for task in tasks(a, b):
        print(said(task, compare(of_task(a, task), of_task(b, task))))
    print(said("all", compare(a, b)))
    for line in left_out(a, b):
        print(line)
    if args.result:
        about: dict[str, Any] = {name: made_with(path) for name, path in (("before", args.a), ("after", args.b))}
        write_result(args.result, this_command(), published(args.a, args.b, a, b), **about)
    return 0
