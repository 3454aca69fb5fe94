"""Measure on this machine: rates of environments, loading, training and inference; blocks beside the reference's; and
small versions of the headline results of the papers that the backbone follows; what reinforcement learning adds."""

import importlib
import operator
import sys
from functools import reduce
from typing import Annotated, Any

import tyro

from .manifest import this_code, this_command
from .results import add_to_result, write_result

PAPERS = ("engram", "mhc", "dsa", "recall", "mtp", "balance")
MACHINE = ("env", "data", "train", "latency", "backbone")
TOPICS = (*MACHINE, "system2", "rl", "scratch", "noise", "eyes", "fuzz", *PAPERS)  # scripts/benches/TOPIC.py


def _args() -> Any:
    modules = {topic: importlib.import_module(f"tandem.scripts.benches.{topic}") for topic in TOPICS}
    named = [
        Annotated[module.Args, tyro.conf.subcommand(topic, description=module.__doc__)]
        for topic, module in modules.items()
    ]
    return reduce(operator.or_, named)


Args = _args()


def main(args: Any) -> int:
    module = sys.modules[type(args).__module__]
    this_code()  # as it is now, not when the figures are written
    metrics = module.measure(args)
    show(metrics)
    if args.publish:
        topic = module.__name__.rpartition(".")[2]
        commands = module.commands(args) if hasattr(module, "commands") else {}
        shared = module.headline(metrics) if hasattr(module, "headline") else {}  # several topics share one table
        own = module.results(args, metrics) if hasattr(module, "results") else {f"bench_{topic}": metrics}
        for name, figures in own.items():
            write_result(name, commands.get(name, this_command()), figures)
        if shared:
            add_to_result(module.RESULT, this_command(), shared)
    return 0


def show(metrics: dict[str, Any], indent: str = "") -> None:
    for key, value in metrics.items():
        if isinstance(value, dict):
            print(f"{indent}{key}")
            show(value, indent + "  ")
        else:
            print(f"{indent}{key:28} {value:,.4g}" if isinstance(value, float | int) else f"{indent}{key:28} {value}")
