"""Samples/s, FLOP/s, share of the machine's GEMM rate, and time waiting for data, of stage `act`."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.benches.frames import frame_cache

if TYPE_CHECKING:
    import torch

    from data.cache import FrameCache
    from policy.recipe import Recipe
    from policy.team import Team


@dataclass(frozen=True)
class Args:
    root: Path = Path("datasets/tabletop")
    preset: str = "tabletop"
    cache: Path = Path("cache")
    steps: int = 30
    precision: str = "auto"
    publish: bool = False  # write docs/results/bench_train.json
    dry_run: bool = False


def measure(args: Args) -> dict[str, Any]:
    import torch

    from policy.precision import gemm_rate
    from policy.recipe import preset
    from policy.team import recruit
    from policy.train import resolve_dtype

    recipe, cache = preset(args.preset), frame_cache(args.root, args.cache)
    torch.set_num_threads(recipe.processes * recipe.threads)
    dtype, peak = resolve_dtype(args.precision), gemm_rate(torch.float32, seconds=1.0)
    used = gemm_rate(dtype, seconds=1.0)
    with recruit(recipe.processes, train, (args, recipe, cache, dtype)) as team:
        flops, seconds, waits = train(team, args, recipe, cache, dtype)
    torch.set_num_threads(recipe.processes * recipe.threads)
    peak = max(peak, gemm_rate(torch.float32, seconds=1.0))
    achieved = flops * args.steps / seconds
    return {
        "samples_per_s": recipe.act.batch * args.steps / seconds,
        "gflop_per_sample": flops / recipe.act.batch / 1e9,
        "gflop_per_s": achieved / 1e9,
        "gemm_fp32_gflop_per_s": peak / 1e9,
        "gemm_used_gflop_per_s": used / 1e9,
        "share_of_peak": achieved / peak,
        "data_wait": waits / seconds,
    }


def train(
    team: "Team", args: Args, recipe: "Recipe", cache: "FrameCache", dtype: "torch.dtype"
) -> tuple[int, float, float]:
    """-> FLOPs of one step of all processes; seconds of all steps, and of them waiting for data, in this one."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from policy.ema import averaged
    from policy.learn_act import ActLearner
    from policy.new_bundle import new_bundle
    from policy.precision import autocast

    torch.set_num_threads(recipe.threads)
    torch.manual_seed(0)
    bundle = new_bundle(recipe, cache)
    learner = ActLearner(bundle, averaged(bundle.model, 0.999), cache, recipe.act.batch, 0, dtype, team)
    parameters = learner.parameters()
    optimizer = torch.optim.AdamW(parameters, 1e-5, fused=True)
    batches, waits = learner.batches(0), 0.0

    def step() -> None:
        nonlocal waits
        begin = time.perf_counter()
        batch = next(batches)
        waits += time.perf_counter() - begin
        with autocast(torch.device("cpu"), dtype):
            loss, _ = learner.losses(batch)
        loss.backward()
        team.average([p.grad for p in parameters if p.grad is not None])
        optimizer.step()
        optimizer.zero_grad()

    with FlopCounterMode(display=False) as counter:
        step()
    for _ in range(3):
        step()
    waits, begin = 0.0, time.perf_counter()
    for _ in range(args.steps):
        step()
    return counter.get_total_flops() * team.size, time.perf_counter() - begin, waits
