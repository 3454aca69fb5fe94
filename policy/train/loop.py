"""The one training loop: steps, average, curves, checkpoints, stop. What is learned is the stage's business.

Every step seeds torch from (seed, step, process), and the loader's batch is a function of the step, so a run that was
killed and resumed computes what an uninterrupted run computes.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from ...backbone.engram import memory_parameters
from ...data.progress import progress_bar
from ..checkpoint import optimizer_state
from ..errors import PolicyError
from .cuda_graph import Losses, step_of
from .data_parallel import Team
from .recipe import Stage
from .run_folder import Run, Silent

MAX_SKIPPED = 5  # consecutive steps with a non-finite loss or gradient before the run stops


class Learner(Losses, Protocol):
    """A stage's wiring: which parameters learn, where batches come from, what the losses are."""

    name: str

    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters, in the optimiser's order."""

    def batches(self, start_step: int) -> Iterator[dict[str, Any]]:
        """Endless batches from this step on. They follow from the seed and the step."""

    def after_step(self) -> None:
        """Runs after every step of the optimiser."""


@dataclass
class Progress:
    """Where a stage stands. What a checkpoint must hold beside the weights."""

    step: int = 0
    optimizer: dict[str, Any] | None = None  # state dict to resume from
    adam: torch.optim.Optimizer | None = None  # at work
    skipped: int = 0  # steps without an update, as their loss or gradient was not finite
    in_a_row: int = 0  # of these, the last ones
    metrics: dict[str, float] = field(default_factory=dict)  # means since the last log
    wait_s: float = 0.0  # waiting for data, since the last log
    since: float = field(default_factory=time.perf_counter)
    steps_since: int = 0


def fit(
    learner: Learner,
    model: nn.Module,
    average: AveragedModel,
    stage: Stage,
    run: Run | Silent,
    team: Team,
    seed: int,
    dtype: torch.dtype,
    save: Callable[[int, torch.optim.Optimizer], None],
    progress: Progress,
    save_every: int,
    log_every: int,
) -> bool:
    """Trains from progress.step to stage.steps. True when done, False when asked to stop (a checkpoint is saved)."""
    parameters = learner.parameters()
    optimizer = torch.optim.AdamW(_groups(parameters, model, stage), betas=(0.9, 0.95), fused=True)
    schedule = cosine(optimizer, stage.warmup, stage.steps)
    progress.adam = optimizer
    if progress.optimizer is not None:
        optimizer_state.load_into(optimizer, progress.optimizer)
        _like_parameters(optimizer)
        schedule.last_epoch = progress.step
    take_step = step_of(learner, parameters, dtype)
    batches = learner.batches(progress.step)
    bar = progress_bar(total=stage.steps, initial=progress.step, desc=learner.name, unit="step", disable=team.rank > 0)
    with bar:
        while progress.step < stage.steps:
            batch = _next(batches, progress)
            torch.manual_seed((seed * 1_000_003 + progress.step * 2 + 1) * team.size + team.rank)
            loss, metrics = take_step(batch)
            numbers = metrics | {"loss": loss, "stop": torch.tensor(float(run.stop_requested))}
            _agree(parameters, numbers, team)
            stop = bool(numbers.pop("stop"))
            norm = nn.utils.clip_grad_norm_(parameters, stage.clip)
            if _finite(numbers["loss"], norm, progress, batch, run):
                optimizer.step()
                average.update_parameters(model)
            schedule.step()
            learner.after_step()
            progress.step += 1
            _collect(progress, numbers | {"gradient_norm": norm})
            bar.update()
            if progress.step % log_every == 0 or progress.step == stage.steps:
                _report(learner.name, progress, stage.batch, float(schedule.get_last_lr()[0]), run, bar)
            if progress.step == stage.steps:
                _refuse_nothing_learned(learner.name, progress)
            if stop or progress.step % save_every == 0 or progress.step == stage.steps:
                save(progress.step, optimizer)
            if stop:
                return False
    if progress.skipped and team.rank == 0:
        print(f"stage {learner.name}: {_skips(progress)}")
    return True


def cosine(optimizer: torch.optim.Optimizer, warmup: int, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """The learning rate's schedule: up from 0 over `warmup` steps, then down to 0 along half of a cosine."""

    def factor(step: int) -> float:
        if step < warmup:
            return step / max(1, warmup)
        passed = (step - warmup) / max(1, steps - warmup)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * passed)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _skips(progress: Progress) -> str:
    return f"{progress.skipped} of {progress.step} steps were skipped (loss or gradient not finite)"


def _refuse_nothing_learned(name: str, progress: Progress) -> None:
    if progress.skipped and progress.skipped >= progress.step:
        raise PolicyError(f"stage {name} learned nothing: {_skips(progress)}; run `tandem data check`")


def _agree(parameters: list[nn.Parameter], numbers: dict[str, Tensor], team: Team) -> None:
    """Gradients and numbers become their means over the processes. A process may lack a gradient that others have."""
    if team.size == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    means = torch.stack([number.detach().float() for number in numbers.values()])
    team.average([*(p.grad for p in parameters if p.grad is not None), means])
    numbers |= dict(zip(numbers, means, strict=True))


def _groups(parameters: list[nn.Parameter], model: nn.Module, stage: Stage) -> list[dict[str, Any]]:
    """Tables of n-gram memories learn five times as fast and never decay: a row is asked for rarely (Engram)."""
    tables = {id(table) for table in memory_parameters(model)}
    rest = [p for p in parameters if id(p) not in tables]
    memory = [p for p in parameters if id(p) in tables]
    groups = [
        {"params": rest, "lr": stage.learning_rate, "weight_decay": stage.weight_decay},
        {"params": memory, "lr": 5 * stage.learning_rate, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _like_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Gives loaded moments the memory layout of their parameters: the fused kernel pairs them by place in memory, and
    files hold rows first where convolutions hold channels last."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _next(batches: Iterator[dict[str, Any]], progress: Progress) -> dict[str, Any]:
    begin = time.perf_counter()
    batch = next(batches)
    progress.wait_s += time.perf_counter() - begin
    return batch


def _finite(loss: Tensor, norm: Tensor, progress: Progress, batch: dict[str, Any], run: Run | Silent) -> bool:
    if math.isfinite(loss.item()) and math.isfinite(norm.item()):
        progress.in_a_row = 0
        return True
    progress.skipped += 1
    progress.in_a_row += 1
    if progress.in_a_row > MAX_SKIPPED:
        frames = batch["index"].tolist()
        where = run.keep("not_finite.json", {"step": progress.step, "frames": frames})
        raise PolicyError(
            f"loss or gradient is not finite {progress.in_a_row} steps in a row at step {progress.step} "
            f"(frames {frames[:8]} …{where}); {_cause(loss, batch)}; the last checkpoint is good"
        )
    return False


def _cause(loss: Tensor, batch: dict[str, Any]) -> str:
    """What is not finite: a number of the data, or what the weights make of it."""
    names = [key for key in ("state", "actions") if key in batch and not bool(batch[key].isfinite().all())]
    if names:
        return f"the data's {names[0]} is not finite there: run `tandem data check`"
    what = "gradient" if math.isfinite(loss.item()) else "loss"
    return f"the data is finite there, the {what} is not: lower the learning rate"


def _collect(progress: Progress, metrics: dict[str, Tensor]) -> None:
    progress.steps_since += 1
    for name, value in metrics.items():
        progress.metrics[name] = progress.metrics.get(name, 0.0) + value.item()


def _report(name: str, progress: Progress, batch: int, rate: float, run: Run | Silent, bar: tqdm) -> None:
    seconds = time.perf_counter() - progress.since
    means = {key: value / progress.steps_since for key, value in progress.metrics.items()}
    if progress.skipped:
        means["skipped"] = float(progress.skipped)
    speed = {"samples_per_s": batch * progress.steps_since / seconds, "data_wait": progress.wait_s / seconds}
    run.log(name, progress.step, means | speed | {"learning_rate": rate})
    skips = f", {progress.skipped} steps skipped" if progress.skipped else ""
    bar.set_postfix_str(f"loss {means['loss']:.3f}, {speed['samples_per_s']:.0f} samples/s{skips}", refresh=False)
    progress.metrics, progress.steps_since, progress.wait_s = {}, 0, 0.0
    progress.since = time.perf_counter()
