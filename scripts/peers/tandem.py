"""Tandem's training: `tandem train` for the same minutes, measured in the same way as the peers (train.py).

The preset's steps are scaled by one factor, so that both stages keep their shares. A short run measures the rates. It
also decodes the frames into Tandem's cache, as the peers' short runs convert the frames into theirs.
"""

import json
from pathlib import Path

from ...policy.checkpoint import store
from ...policy.train.recipe import Recipe, preset
from .launch import Ran, our_python, run
from .train import MARGIN, OVERTIME, Budget, Trained, mean

WINDOWS = {"act": 3, "think": 2}  # log lines of each stage in the short run. The first line is not counted.


def train_tandem(name: str, data: Path, folder: Path, budget: Budget) -> Trained:
    """Trains Tandem within the budget, after a short run that measures the rates.

    name: name of the preset.
    folder: folder of Tandem's runs.
    """
    recipe, home = preset(name), folder.parent
    short = {stage: count * recipe.log_every for stage, count in WINDOWS.items()}
    trial = run(_command(name, data, folder / "probe", short, budget), folder / "probe.log", home)
    steps = scaled(recipe, trial, short, step_seconds(folder / "probe", recipe), budget)
    command, limit = _command(name, data, folder / "train", steps, budget), 60 * OVERTIME * budget.minutes
    ran = run(command, folder / "train.log", home, limit)
    made = step_seconds(folder / "train", recipe)
    trained = store.resolve(folder / "train")
    return Trained(
        str(trained), round(ran.seconds / 60, 2), int(trained.name), recipe.act.batch,
        round(recipe.act.batch / made["act"], 2), ran.peak_gb, ran.finished,
    )  # fmt: skip


def scaled(
    recipe: Recipe, trial: Ran, short: dict[str, int], seconds: dict[str, float], budget: Budget
) -> dict[str, int]:
    """Steps of each stage with which the whole run takes the budget's minutes.

    trial: the short run.
    short: steps of each stage in the short run.
    seconds: seconds of a step in each stage.
    """
    whole = {"act": recipe.act.steps, "think": recipe.think.steps}
    start_up = trial.seconds - sum(short[stage] * seconds[stage] for stage in short)
    factor = (MARGIN * 60 * budget.minutes - start_up) / sum(whole[stage] * seconds[stage] for stage in whole)
    return {stage: max(recipe.log_every, int(factor * steps)) for stage, steps in whole.items()}


def step_seconds(output: Path, recipe: Recipe) -> dict[str, float]:
    """Seconds of a step in each stage, from the run's log without each stage's first line, which holds its start-up."""
    batch = {"act": recipe.act.batch, "think": recipe.think.batch}
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    found: dict[str, list[float]] = {}
    for line in lines:
        found.setdefault(line["stage"], []).append(batch[line["stage"]] / line["samples_per_s"])
    return {stage: mean(each[1:] or each) for stage, each in found.items()}


def _command(name: str, data: Path, output: Path, steps: dict[str, int], budget: Budget) -> list[str]:
    lengths = [f"--{stage}-steps={count}" for stage, count in steps.items()]
    return [
        str(our_python()), "-m", "tandem.scripts", "train", f"--preset={name}", f"--data={data}", f"--output={output}",
        f"--seed={budget.seed}", "--device=cpu", *lengths,
    ]  # fmt: skip
