"""The stages of one system: train, measure, evaluate. Each is a command in that system's environment.

A stage leaves `<output>/<system>/<stage>.json`, and does not run again where that file exists. The evaluation does run
again where more episodes are requested than its file counts.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ...data.files import json_bytes, write_atomic
from ...policy.evaluate.evaluation import EPISODES_FILE
from ..publish.manifest import ROOT
from ..shared.errors import UserError
from .launch import module, our_python, run
from .table import OURS
from .tandem import train_tandem
from .train import Budget, train_peer

System = Literal["tandem", "act", "diffusion", "smolvla"]
SYSTEMS: tuple[System, ...] = get_args(System)  # in the order of the table
STAGES = ("train", "measure", "eval")
VENV = ROOT / ".venv-peers"


@dataclass(frozen=True)
class Plan:
    """Settings that are equal for every system."""

    output: Path  # folder of all systems
    tasks: tuple[str, ...]  # short names of the evaluated tasks
    preset: str  # training preset of Tandem
    mode: str  # mode of Tandem: hierarchical or flat
    budget: Budget  # budget of each training
    episodes: int  # evaluated episodes of each task
    first_seed: int  # seed of the first evaluated layout
    workers: int  # processes of the evaluation
    repeats: int  # chunks whose time is measured


def run_stages(plan: Plan, system: str, data: Path) -> None:
    """Runs the stages of a system that are not done yet, and prints their results. data: its data set."""
    works: dict[str, Callable[[], dict[str, Any]]] = {
        "train": lambda: _train(plan, system, data),
        "measure": lambda: _measure(plan, system, data),
        "eval": lambda: _evaluate(plan, system),
    }
    for stage in STAGES:
        file = plan.output / system / f"{stage}.json"
        if not _done(plan, file):
            write_atomic(file, json_bytes(works[stage]()))
        print(f"{system}: {stage} {json.loads(file.read_text(encoding='utf-8'))}", flush=True)


def complete(plan: Plan) -> list[str]:
    """Names of the systems with all stages done, in the order of the table."""
    return [name for name in SYSTEMS if all(_done(plan, plan.output / name / f"{stage}.json") for stage in STAGES)]


def _done(plan: Plan, file: Path) -> bool:
    return (
        file.exists() and json.loads(file.read_text(encoding="utf-8")).get("episodes", plan.episodes) >= plan.episodes
    )


def found(output: Path, system: str) -> dict[str, Any]:
    """The results of all stages of a complete system, merged into one dictionary."""
    files = [output / system / f"{stage}.json" for stage in STAGES]
    return {key: value for file in files for key, value in json.loads(file.read_text(encoding="utf-8")).items()}


def python(system: str) -> Path:
    """The interpreter of a system's environment: .venv for Tandem, .venv-peers for a peer."""
    return our_python() if system == OURS else VENV / "bin" / "python"


def _train(plan: Plan, system: str, data: Path) -> dict[str, Any]:
    folder = plan.output / system
    if folder.exists():
        raise UserError(f"{folder} holds an interrupted training; minutes cannot be added up: remove the folder")
    if system == OURS:
        return train_tandem(plan.preset, data, folder, plan.budget).as_dict()
    return train_peer(system, python(system), data, folder, plan.budget).as_dict()


def _measure(plan: Plan, system: str, data: Path) -> dict[str, Any]:
    folder = plan.output / system
    file = folder / "measured.json"
    command = module(
        python(system), "measure", f"--system={system}", f"--checkpoint={_checkpoint(plan, system)}",
        f"--task={plan.tasks[0]}", f"--data={data}", f"--output={file}", f"--mode={plan.mode}",
        f"--repeats={plan.repeats}",
    )  # fmt: skip
    run(command, folder / "measure.log", plan.output)
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _evaluate(plan: Plan, system: str) -> dict[str, Any]:
    """Evaluates a system. Returns its rate and the number of episodes of each task.

    The rate includes the start-up. It counts the episodes of this call only, where an earlier one was interrupted.
    """
    folder = plan.output / system / "eval"
    before, begin = _episodes(folder), time.perf_counter()
    run(_evaluation(plan, system, folder), plan.output / system / "eval.log", plan.output, threads=1)
    minutes = (time.perf_counter() - begin) / 60
    return {"episodes_per_min": round((_episodes(folder) - before) / minutes, 2), "episodes": plan.episodes}


def _evaluation(plan: Plan, system: str, folder: Path) -> list[str]:
    common = [
        f"--checkpoint={_checkpoint(plan, system)}", f"--episodes={plan.episodes}", f"--first-seed={plan.first_seed}",
        f"--workers={plan.workers}", f"--output={folder}", "--tasks", *plan.tasks,
    ]  # fmt: skip
    if system != OURS:
        return module(python(system), "play", f"--system={system}", *common)
    resume = ["--resume"] if (folder / EPISODES_FILE).exists() else []
    only = ["--modes", plan.mode, "--controls", "normal", *resume]
    return [str(our_python()), "-m", "tandem.scripts", "eval", *common, *only]


def _checkpoint(plan: Plan, system: str) -> str:
    return str(json.loads((plan.output / system / "train.json").read_text(encoding="utf-8"))["checkpoint"])


def _episodes(folder: Path) -> int:
    file = folder / EPISODES_FILE
    return len(file.read_text(encoding="utf-8").splitlines()) if file.exists() else 0
