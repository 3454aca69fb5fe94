"""Milliseconds of a controller inference and of a planner tick at the median, on one core or on a GPU."""

from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Args:
    """Flags of `tandem bench latency`."""

    checkpoint: str  # path of a training run or of one of its checkpoints
    repeats: int = 50
    device: str = "cpu"  # or cuda
    publish: bool = False  # write docs/results/bench_latency.json, or bench_latency_gpu.json
    dry_run: bool = False


def measure(args: Args) -> dict[str, Any]:
    """Runs the measurement and returns its figures by name."""
    import torch

    from .... import envs
    from ....policy.act.agent import TandemAgent
    from ....policy.act.runtime import Runtime
    from ....policy.checkpoint import store
    from ....policy.checkpoint.bundle import Bundle
    from ....policy.compute import resolve_device

    torch.set_num_threads(1)
    bundle = Bundle.load(args.checkpoint).to(resolve_device(args.device))
    environment = envs.make(envs.resolve(store.tasks(args.checkpoint))[0], bundle.sizes.image_size)
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


def results(args: Args, metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The published figures by the name of their file."""
    from ....policy.compute import resolve_device
    from ...publish.success import named

    return named("bench_latency", resolve_device(args.device), metrics)
