"""Imitation training from start to finish, as a plain function that a test can call.

data -> bundle -> stage act -> stage think -> checkpoints        (see policy/train/recipe.py for what the stages are)
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from ...data.cache import FrameCache
from ..checkpoint import optimizer_state, store
from ..checkpoint.bundle import Bundle, load_weights
from ..compute import fastest_dtype, is_out_of_memory, resolve_device
from ..errors import PolicyError
from .data_parallel import Team, Unanswered, recruit
from .ema import averaged
from .loop import Learner, Progress, fit
from .new_bundle import new_bundle
from .recipe import Recipe, Stage, refuse_sizes
from .run_folder import Run, Silent
from .stage_act import ActLearner
from .stage_think import ThinkLearner
from .warm_start import take_over

STAGES = ("act", "think")


@dataclass
class Training:
    """Everything that a checkpoint holds, while it is alive."""

    recipe: Recipe
    bundle: Bundle  # the weights being trained
    average: AveragedModel  # the weights being evaluated
    data_digest: str
    stage: str = STAGES[0]
    progress: Progress | None = None
    spent: float = 0.0  # seconds before `since`: preparing the data, and runs that were stopped
    since: float = field(default_factory=time.perf_counter)
    ways: dict[str, Any] = field(default_factory=dict)  # see `_ways`


def train(
    recipe: Recipe,
    cache: FrameCache,
    output: Path,
    resume: bool = False,
    prepared: float = 0.0,
    act_from: Path | None = None,
    allow_changed: bool = False,
) -> Path:
    """Trains `recipe` on `cache` and returns the last checkpoint. A signal that asks to stop saves one and raises
    `Stopped`.

    prepared: seconds that recording and decoding took, which the checkpoint's own account of its time includes.
    act_from: a run whose stage `act` is taken over with its time, so that only `think` is trained
    (policy/train/warm_start.py).
    allow_changed: resume though processes, threads, precision or device differ and the
    numbers will too
    """
    refuse_sizes(recipe)
    torch.set_num_threads(recipe.threads)
    stored = resume and store.exists(output)  # it may have died before one
    ways, changed = _ways(recipe, output if stored else None, allow_changed)
    dtype = resolve_dtype(ways["precision"], _device(recipe))
    fresh = None if stored else _start(recipe, cache, act_from)  # what does not fit must leave no output folder behind
    with Run(output, resume) as run:
        training = fresh or _resume(recipe, cache, output)
        training.spent += prepared
        training.ways = ways
        if changed:
            print(f"resumed with other {changed}: the numbers will differ in their last digits", file=sys.stderr)
            run.note({"changed": changed})
        partner = (recipe, cache, output, stored, act_from, dtype)
        with recruit(recipe.processes, _partner, partner, lambda: run.stop_requested) as team:
            try:
                finished = _run_stages(training, cache, run, team, dtype)
            except Unanswered as silence:  # another process hangs, and we were asked to stop
                raise run.stopped(f"{silence}; continue with the same command and --resume --output {output}") from None
            if not finished:
                raise run.stopped(f"continue with the same command and --resume --output {output}")
    return store.resolve(output)


def _ways(recipe: Recipe, stored: Path | None, allow_changed: bool) -> tuple[dict[str, Any], str]:
    """How the numbers are computed, which their last digits depend on. And what of it is not as it was.

    `auto` precision is measured, so that another machine would choose otherwise: a resumed run keeps the first choice.
    PolicyError where something is not as it was and that is not allowed.
    """
    device = _device(recipe)
    before = {} if stored is None else store.progress(stored).get("ways", {})
    precision = recipe.precision
    if precision == "auto":
        names = {torch.float32: "fp32", torch.bfloat16: "bf16"}
        precision = before.get("precision") or names[resolve_dtype("auto", device)]
    ways: dict[str, Any] = {"precision": precision, "processes": recipe.processes, "threads": recipe.threads}
    ways |= {"device": device.type, "batches": before.get("batches", {})}  # batches: of stages whose batch was halved
    differ = [f"{key} (was {before[key]}, now {ways[key]})" for key in ways if before.get(key, ways[key]) != ways[key]]
    if differ and not allow_changed:
        raise PolicyError(
            f"cannot resume {stored} bit for bit: {', '.join(differ)}; pass the old values, or --allow-changed to go "
            "on with numbers that differ in their last digits"
        )
    return ways, ", ".join(differ)


def _partner(
    team: Team,
    recipe: Recipe,
    cache: FrameCache,
    output: Path,
    stored: bool,
    act_from: Path | None,
    dtype: torch.dtype,
) -> None:
    """The same training in another process, on its share of every batch. It saves nothing and says nothing."""
    torch.set_num_threads(recipe.threads)
    training = _resume(recipe, cache, output) if stored else _start(recipe, cache, act_from)
    _run_stages(training, cache, Silent(), team, dtype)


def _run_stages(training: Training, cache: FrameCache, run: Run | Silent, team: Team, dtype: torch.dtype) -> bool:
    """True when all stages are done, False when asked to stop."""
    for stage in STAGES[STAGES.index(training.stage) :]:
        if stage != training.stage:
            _enter(training, stage)
        if not _run_stage(training, cache, run, team, dtype):
            return False
    return True


def _device(recipe: Recipe) -> torch.device:
    device = resolve_device(recipe.device)
    if device.type == "cuda" and recipe.processes > 1:
        raise PolicyError(f"{recipe.processes} processes cannot share a GPU's training; use --processes 1")
    return device


def resolve_dtype(precision: str, device: torch.device) -> torch.dtype:
    """fp32, bf16, or for `auto` the faster one on this device."""
    kinds: dict[str, Callable[[], torch.dtype]] = {
        "fp32": lambda: torch.float32,
        "bf16": lambda: torch.bfloat16,
        "auto": lambda: fastest_dtype(device),
    }
    if precision not in kinds:
        raise PolicyError(f"unknown precision {precision!r}; known: {', '.join(kinds)}")
    return kinds[precision]()


def _start(recipe: Recipe, cache: FrameCache, act_from: Path | None) -> Training:
    torch.manual_seed(recipe.seed)
    bundle = new_bundle(recipe, cache).to(_device(recipe))
    spent = 0.0 if act_from is None else take_over(bundle.model, recipe, cache.digest, act_from)
    stage = STAGES[0] if act_from is None else STAGES[1]
    average = averaged(bundle.model, _settings(recipe, stage).ema)
    return Training(recipe, bundle, average, cache.digest, stage, Progress(), spent)


def _enter(training: Training, stage: str) -> None:
    """The next stage starts from the averaged weights, with an average of its own."""
    training.bundle.model.load_state_dict(training.average.module.state_dict())
    training.average = averaged(training.bundle.model, _settings(training.recipe, stage).ema)
    training.stage, training.progress = stage, Progress()


def _settings(recipe: Recipe, stage: str) -> Stage:
    return {"act": recipe.act, "think": recipe.think}[stage]


def _run_stage(training: Training, cache: FrameCache, run: Run | Silent, team: Team, dtype: torch.dtype) -> bool:
    while True:
        try:
            return _fit_stage(training, cache, run, team, dtype)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            _halve(training, run, str(error))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _batch(training: Training) -> int:
    """Frames a step of the present stage."""
    halved = training.ways.get("batches", {})
    return int(halved.get(training.stage, _settings(training.recipe, training.stage).batch))


def _halve(training: Training, run: Run | Silent, why: str) -> None:
    """Half of the batch from here on, where that was allowed. PolicyError otherwise."""
    batch, stage, progress = _batch(training), training.stage, training.progress
    where = f"stage {stage}: out of memory with batches of {batch} ({why.splitlines()[0][:150]})"
    if not training.recipe.halve_batch or batch % 2 or training.recipe.processes > 1:
        raise PolicyError(f"{where}; use a smaller --batch, or --halve-batch with an even batch and --processes 1")
    training.ways["batches"] = training.ways.get("batches", {}) | {stage: batch // 2}
    if progress is not None and progress.step and progress.adam is not None:
        progress.optimizer = optimizer_state.joined(*optimizer_state.split(progress.adam.state_dict()))
    print(f"{where}; goes on with {batch // 2}", file=sys.stderr)
    if isinstance(run, Run):
        run.note({"stage": stage, "batch": batch // 2})


def _fit_stage(training: Training, cache: FrameCache, run: Run | Silent, team: Team, dtype: torch.dtype) -> bool:
    recipe = training.recipe
    settings = replace(_settings(recipe, training.stage), batch=_batch(training))
    learners: dict[str, Callable[..., Learner]] = {"act": ActLearner, "think": ThinkLearner}
    learner = learners[training.stage](
        training.bundle, training.average, cache, settings.batch, recipe.seed, dtype, team, recipe.held_out
    )
    assert training.progress is not None

    def save(step: int, optimizer: torch.optim.Optimizer) -> None:
        if not isinstance(run, Run):
            return
        total = step + (recipe.act.steps if training.stage == "think" else 0)
        store.save(run.folder / "checkpoints", total, _files(training, step, optimizer), spare=recipe.act.steps)

    return fit(
        learner, training.bundle.model, training.average, settings, run, team, recipe.seed, dtype, save,
        training.progress, recipe.save_every, recipe.log_every,
    )  # fmt: skip


def _files(training: Training, step: int, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A checkpoint's content: the averaged policy, and what resuming needs beside it."""
    moments, groups = optimizer_state.split(optimizer.state_dict())
    about = {
        "stage": training.stage,
        "step": step,
        "averaged": int(training.average.n_averaged),
        "data_digest": training.data_digest,
        "seconds": round(training.spent + time.perf_counter() - training.since, 1),
        "skipped": 0 if training.progress is None else training.progress.skipped,
        "ways": training.ways,
        "param_groups": groups,
    }
    return training.bundle.files(dict(training.average.module.state_dict())) | {
        store.RECIPE: asdict(training.recipe),
        store.PROGRESS: about,
        f"{store.TRAINING}/model.safetensors": dict(training.bundle.model.state_dict()),
        f"{store.TRAINING}/optimizer.safetensors": moments,
    }


def refuse_another(recipe: Recipe, output: Path) -> None:
    """PolicyError where the run in `output` was begun with another recipe, and cannot go on with this one."""
    if store.exists(output):
        folder = store.resolve(output)
        _refuse_changes(store.recipe(folder), asdict(recipe), folder)


def _resume(recipe: Recipe, cache: FrameCache, output: Path) -> Training:
    refuse_another(recipe, output)
    folder = store.resolve(output)
    store.verify(folder)
    about = store.training(folder)
    if about["data_digest"] != cache.digest:
        raise PolicyError(f"cannot resume {folder}: the data set is not the one it was trained on; use the same --data")
    bundle = Bundle.load(folder).to(_device(recipe))
    bundle.model.train().requires_grad_(True)
    average = averaged(bundle.model, _settings(recipe, about["stage"]).ema)
    average.n_averaged.fill_(about["averaged"])
    load_weights(bundle.model, store.read_tensors(folder, f"{store.TRAINING}/model.safetensors"), folder)
    optimizer = optimizer_state.joined(
        store.read_tensors(folder, f"{store.TRAINING}/optimizer.safetensors"), about["param_groups"]
    )
    return Training(
        recipe,
        bundle,
        average,
        cache.digest,
        about["stage"],
        Progress(about["step"], optimizer, about.get("skipped", 0)),
        about["seconds"],
    )


def _refuse_changes(stored: dict[str, Any], asked: dict[str, Any], folder: Path, path: str = "") -> None:
    for key, value in asked.items():
        old = stored.get(key, value)  # an older version had no such choice
        if isinstance(value, dict) and isinstance(old, dict):
            _refuse_changes(old, value, folder, f"{path}{key}.")
        elif (list(value) if isinstance(value, tuple) else value) != old and key not in (
            "processes",
            "threads",
            "device",
            "halve_batch",
            "save_every",
            "log_every",
        ):
            raise PolicyError(
                f"cannot resume {folder}: {path}{key} was {old!r}, now {value!r}; resume with the same recipe"
            )
