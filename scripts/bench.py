"""Measure on this machine: rates of environments, loading, training and inference. Blocks beside the reference's. And
small versions of the headline results of the papers that the backbone follows. What reinforcement learning adds."""

import difflib
import importlib
import importlib.util
from typing import Any

import tyro

from .publish.figures import add_to_result, write_result
from .publish.manifest import this_code, this_command
from .shared.errors import UserError

# Topic -> the folder of its file below scripts/benches/, and what it measures.
TOPICS = {
    "env": ("speed", "control steps per second on one core, without images and with two of 96x96 pixels"),
    "data": ("speed", "frames per second of the training loader"),
    "train": ("speed", "samples/s and FLOP/s of stage act, beside the machine's GEMM rate"),
    "latency": ("speed", "milliseconds of a controller's inference and of a planner's"),
    "backbone": ("speed", "every block beside transformers' own module with the same weights"),
    "system2": ("policy", "which trunk of System 2 learns to plan best"),
    "noise": ("policy", "success against the noise that the flow begins with"),
    "eyes": ("policy", "success where a part of the policy is replaced by its oracle"),
    "rl": ("rl", "success before and after reinforcement learning"),
    "scratch": ("rl", "learning without any policy, for reference"),
    "fuzz": ("fuzz", "what comes of damaged files"),
    "engram": ("papers", "an n-gram memory beside none, at equal parameters"),
    "mhc": ("papers", "several residual streams beside one"),
    "dsa": ("papers", "sparse attention beside dense"),
    "recall": ("papers", "mixers that must recall what they have read"),
    "mtp": ("papers", "multi-token prediction as a drafter"),
    "balance": ("papers", "experts balanced by a bias beside a loss"),
}


def parse(arguments: list[str]) -> Any:
    """The topic's flags. The other topics are not imported."""
    known = {topic: what for topic, (folder, what) in TOPICS.items() if _is_installed(folder)}
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: tandem bench <topic> [flags]; tandem bench <topic> --help explains them\n")
        print("\n".join(f"  {topic:9} {what}" for topic, what in known.items()))
        raise SystemExit(0 if arguments else 2)
    topic = arguments[0]
    if topic not in known:
        near = difflib.get_close_matches(topic, known, 1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"unknown topic {topic!r}; {guess}known: {', '.join(known)}")
    module = importlib.import_module(f"{_folder(TOPICS[topic][0])}.{topic}")
    return tyro.cli(module.Args, prog=f"tandem bench {topic}", args=arguments[1:], description=module.__doc__)


def _folder(name: str) -> str:
    return f"{__package__}.benches.{name}"


def _is_installed(folder: str) -> bool:
    """The papers' topics are in a checkout only."""
    return importlib.util.find_spec(_folder(folder)) is not None


def main(args: Any) -> int:
    """Runs the command and returns its exit code."""
    module = importlib.import_module(type(args).__module__)
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
    """Prints figures, groups of them indented."""
    for key, value in metrics.items():
        if isinstance(value, dict):
            print(f"{indent}{key}")
            show(value, indent + "  ")
        else:
            print(f"{indent}{key:28} {value:,.4g}" if isinstance(value, float | int) else f"{indent}{key:28} {value}")
