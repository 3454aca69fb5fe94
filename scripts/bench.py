"""Measure rates on this machine: environments, data loading, training, inference latency."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import tyro

from scripts.errors import UserError
from scripts.results import write_result


@dataclass(frozen=True)
class Env:
    """Control steps per second on one core, without images and with two 96x96 images."""

    seconds: float = 5.0
    publish: bool = False  # write docs/results/bench_env.json
    dry_run: bool = False


@dataclass(frozen=True)
class Data:
    """Frames per second of the training loader."""

    root: Path = Path("datasets/tabletop")
    cache: Path = Path("cache")
    publish: bool = False  # write docs/results/bench_data.json
    dry_run: bool = False


@dataclass(frozen=True)
class Train:
    """Samples/s, FLOP/s, share of the machine's GEMM rate, and time waiting for data, of stage `act`."""

    root: Path = Path("datasets/tabletop")
    preset: str = "tabletop"
    cache: Path = Path("cache")
    steps: int = 30
    precision: str = "auto"
    publish: bool = False  # write docs/results/bench_train.json
    dry_run: bool = False


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a controller inference and of a planner tick at the median, on one core."""

    checkpoint: str = ""  # empty: random weights of the tabletop size
    repeats: int = 50
    publish: bool = False  # write docs/results/bench_latency.json
    dry_run: bool = False


Args = (
    Annotated[Env, tyro.conf.subcommand("env")]
    | Annotated[Data, tyro.conf.subcommand("data")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Latency, tyro.conf.subcommand("latency")]
)


def main(args: Env | Data | Train | Latency) -> int:
    measures: dict[type, tuple[str, Callable[[Any], dict[str, Any]]]] = {
        Env: ("bench_env", env),
        Data: ("bench_data", data),
        Train: ("bench_train", train),
        Latency: ("bench_latency", latency),
    }
    name, measure = measures[type(args)]
    metrics = measure(args)
    print("\n".join(f"{key:24} {value:,.4g}" for key, value in metrics.items()))
    if args.publish:
        write_result(name, "tandem " + " ".join(sys.argv[1:]), metrics)
    return 0


def env(args: Env) -> dict[str, Any]:
    from envs.bench import measure

    return measure(args.seconds)


def _cache(root: Path, cache: Path) -> Any:
    from data.cache import FrameCache

    if not root.exists():
        raise UserError(f"no data set at {root}; record one with `tandem collect --output {root}`")
    return FrameCache.build(root, cache)


def data(args: Data) -> dict[str, Any]:
    from data.bench import loader_rate

    return loader_rate(_cache(args.root, args.cache), at=("subgoal",))


def train(args: Train) -> dict[str, Any]:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from policy.ema import averaged
    from policy.learn_act import ActLearner
    from policy.new_bundle import new_bundle
    from policy.precision import autocast, gemm_rate
    from policy.recipe import preset
    from policy.train import resolve_dtype

    recipe, cache = preset(args.preset), _cache(args.root, args.cache)
    torch.set_num_threads(recipe.threads)
    dtype = resolve_dtype(args.precision)
    bundle = new_bundle(recipe, cache)
    learner = ActLearner(bundle, averaged(bundle.model, 0.999), cache, recipe.act.batch, 0, dtype)
    optimizer = torch.optim.AdamW(learner.parameters(), 1e-5, fused=True)
    batches, waits = learner.batches(0), 0.0

    def step() -> None:
        nonlocal waits
        begin = time.perf_counter()
        batch = next(batches)
        waits += time.perf_counter() - begin
        with autocast(torch.device("cpu"), dtype):
            loss, _ = learner.losses(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    with FlopCounterMode(display=False) as counter:
        step()
    flops = counter.get_total_flops()
    for _ in range(3):
        step()
    peak, waits, begin = gemm_rate(torch.float32, seconds=1.0), 0.0, time.perf_counter()
    for _ in range(args.steps):
        step()
    seconds = time.perf_counter() - begin
    peak = max(peak, gemm_rate(torch.float32, seconds=1.0))
    achieved = flops * args.steps / seconds
    return {
        "samples_per_s": recipe.act.batch * args.steps / seconds,
        "gflop_per_sample": flops / recipe.act.batch / 1e9,
        "gflop_per_s": achieved / 1e9,
        "gemm_fp32_gflop_per_s": peak / 1e9,
        "gemm_used_gflop_per_s": gemm_rate(dtype, seconds=1.0) / 1e9,
        "share_of_peak": achieved / peak,
        "data_wait": waits / seconds,
    }


def latency(args: Latency) -> dict[str, Any]:
    import torch

    import envs
    from policy.agent import Runtime, TandemAgent
    from policy.bundle import Bundle

    torch.set_num_threads(1)
    if not args.checkpoint:
        raise UserError("bench latency needs --checkpoint; train one with `tandem train --preset demo`")
    bundle = Bundle.load(args.checkpoint)
    environment = envs.make("pick_place")
    obs, _ = environment.reset(seed=0)
    agent = TandemAgent(bundle, Runtime(execute=1))
    times: dict[str, list[float]] = {"controller_ms": [], "planner_ms": []}
    for _ in range(args.repeats):
        agent.reset(obs["task"], 0)
        agent.act(obs)
        for name, values in times.items():
            values.append(agent.trace[-1][name])
    environment.close()
    return {name: median(values[3:]) for name, values in times.items()}
