"""Samples/s, FLOP/s, share of the machine's GEMM rate, and time waiting for data, of stage `act`."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..frames import frame_cache

if TYPE_CHECKING:
    import torch

    from ....data.cache import FrameCache
    from ....policy.train.data_parallel import Team
    from ....policy.train.recipe import Recipe


@dataclass(frozen=True)
class Args:
    """Flags of `tandem bench train`."""

    root: Path = Path("datasets/tabletop")
    preset: str = "tabletop"
    cache: Path = Path("cache")
    steps: int = 30
    batch: int | None = None  # frames a step, instead of the preset's
    device: str = "auto"  # cpu, cuda, or auto: a GPU where there is one
    precision: str = "auto"
    publish: bool = False  # write docs/results/bench_train.json, or bench_train_gpu.json
    dry_run: bool = False


def measure(args: Args) -> dict[str, Any]:
    """Runs the measurement and returns its figures by name."""
    import torch

    from ....policy.compute import gemm_rate, resolve_device
    from ....policy.train.data_parallel import recruit
    from ....policy.train.recipe import preset
    from ....policy.train.run import resolve_dtype

    recipe, cache, device = preset(args.preset), frame_cache(args.root, args.cache), resolve_device(args.device)
    recipe = replace(recipe, act=replace(recipe.act, batch=args.batch or recipe.act.batch))
    recipe = recipe if device.type == "cpu" else replace(recipe, processes=1)
    torch.set_num_threads(recipe.processes * recipe.threads)
    dtype, peak = resolve_dtype(args.precision, device), gemm_rate(torch.float32, device, seconds=1.0)
    used = gemm_rate(dtype, device, seconds=1.0)
    with recruit(recipe.processes, train, (args, recipe, cache, dtype, device)) as team:
        flops, seconds, waits = train(team, args, recipe, cache, dtype, device)
    torch.set_num_threads(recipe.processes * recipe.threads)
    peak = max(peak, gemm_rate(torch.float32, device, seconds=1.0))
    achieved = flops * args.steps / seconds
    return {
        "samples_per_s": recipe.act.batch * args.steps / seconds,
        "gflop_per_sample": flops / recipe.act.batch / 1e9,
        "gflop_per_s": achieved / 1e9,
        "gemm_fp32_gflop_per_s": peak / 1e9,
        "gemm_used_gflop_per_s": used / 1e9,
        "share_of_peak": achieved / peak,  # of the fp32 rate
        "share_of_used_peak": achieved / used,
        "data_wait": waits / seconds,
    }


def train(
    team: "Team", args: Args, recipe: "Recipe", cache: "FrameCache", dtype: "torch.dtype", device: "torch.device"
) -> tuple[int, float, float]:
    """-> FLOPs of one step of all processes. Seconds of all steps, and of them waiting for data, in this one."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from ....policy.compute import finish
    from ....policy.train.cuda_graph import Step, step_of
    from ....policy.train.ema import averaged
    from ....policy.train.new_bundle import new_bundle
    from ....policy.train.stage_act import ActLearner

    torch.set_num_threads(recipe.threads)
    torch.manual_seed(0)
    bundle = new_bundle(recipe, cache).to(device)
    average = averaged(bundle.model, 0.999)
    learner = ActLearner(bundle, average, cache, recipe.act.batch, 0, dtype, team)
    parameters = learner.parameters()
    optimizer = torch.optim.AdamW(parameters, 1e-5, fused=True)
    batches, waits, take_step = learner.batches(0), 0.0, step_of(learner, parameters, dtype)

    def step() -> None:
        nonlocal waits
        begin = time.perf_counter()
        batch = next(batches)
        waits += time.perf_counter() - begin
        take_step(batch)
        team.average([p.grad for p in parameters if p.grad is not None])
        torch.nn.utils.clip_grad_norm_(parameters, recipe.act.clip).item()
        optimizer.step()
        average.update_parameters(bundle.model)

    with FlopCounterMode(display=False) as counter:
        Step(learner, parameters, dtype)(next(batches))
    for _ in range(3):
        step()
    finish(device)
    waits, begin = 0.0, time.perf_counter()
    for _ in range(args.steps):
        step()
    finish(device)
    return counter.get_total_flops() * team.size, time.perf_counter() - begin, waits


def results(args: Args, metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The published figures by the name of their file."""
    from ....policy.compute import resolve_device
    from ...publish.success import named

    return named("bench_train", resolve_device(args.device), metrics)
