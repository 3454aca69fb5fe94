"""Measures milliseconds per chunk on one core, the loader's frames per second, and parameters of one system.

Tandem is measured in .venv, a peer in .venv-peers.

A chunk is timed from the observation to the action, with everything between. It is the first action of an episode, for
which Tandem's planner runs too. Each loader runs as in the training of its system, without computation beside it.
LeRobot's data loader has two processes. Tandem's has its thread and the decoded frames that it keeps.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
import tyro

from ... import envs
from ...policy.act.agents import Agent, load_agent
from ...policy.act.runtime import AgentSpec

UNCOUNTED = 2  # first chunks, left out because memory is touched for the first time
SECONDS = 20.0  # longest measurement of LeRobot's loader
BATCHES = 50  # largest measurement of LeRobot's loader


@dataclass(frozen=True)
class Args:
    """Flags of the measurement of one system."""

    # Name of the system: tandem, act, diffusion or smolvla.
    system: str
    # Checkpoint of the system. For a peer: the folder `pretrained_model` of a LeRobot checkpoint.
    checkpoint: str
    # Task whose first observation is used for the timing of chunks.
    task: str
    # Data set for the measurement of Tandem's loader. A peer's checkpoint names its own.
    data: Path
    # JSON file for the result. An existing file is overwritten.
    output: Path
    # Mode of Tandem: with its planner (hierarchical) or with the controller alone (flat).
    mode: Literal["hierarchical", "flat"] = "hierarchical"
    # Chunks whose time is measured. The result is their median in milliseconds.
    repeats: int = 20
    # Folder of Tandem's cache of decoded frames. It is built where it is missing.
    cache: Path = Path("cache")


def main(args: Args) -> None:
    """Measures one system and writes the result as JSON."""
    found = _tandem(args) if args.system == "tandem" else _peer(args)
    args.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def latency(agent: Agent, task: str, repeats: int) -> float:
    """Median time of an episode's first action on one core, in milliseconds, over `repeats` resets of the agent."""
    torch.set_num_threads(1)
    env = envs.make(task, agent.image_size)
    obs, _ = env.reset(seed=0)
    agent.bind(env)
    times = []
    for repeat in range(repeats + UNCOUNTED):
        agent.reset(obs["task"], repeat)
        begin = time.perf_counter()
        agent.act(obs)
        times.append(1e3 * (time.perf_counter() - begin))
    env.close()
    return round(median(times[UNCOUNTED:]), 2)


def _tandem(args: Args) -> dict[str, float]:
    from ...data.bench import loader_rate
    from ...data.cache import FrameCache
    from ...policy.act.runtime import Runtime
    from ...policy.checkpoint import store
    from ..publish.success import parameters

    folder = str(store.resolve(args.checkpoint))
    frames = FrameCache.build(args.data, args.cache)
    return {
        "load_frames_per_s": round(loader_rate(frames, at=("subgoal",))["frames_per_s"], 1),
        "ms_per_chunk": latency(
            load_agent(AgentSpec("checkpoint", folder, Runtime(mode=args.mode))), args.task, args.repeats
        ),
        "params_m": round(parameters(folder) / 1e6, 2),
    }


def _peer(args: Args) -> dict[str, float]:
    from .agent import load

    agent = load(args.checkpoint)
    return {
        "load_frames_per_s": round(_lerobot_loader(args.checkpoint), 1),
        "ms_per_chunk": latency(agent, args.task, args.repeats),
        "params_m": round(sum(p.numel() for p in agent.policy.parameters()) / 1e6, 2),
    }


def _lerobot_loader(checkpoint: str) -> float:
    """Frames per second of the data set and loader with which `lerobot-train` made this checkpoint."""
    from lerobot.configs.train import TrainPipelineConfig
    from lerobot.datasets.factory import make_dataset

    config: Any = TrainPipelineConfig.from_pretrained(checkpoint)
    loader = torch.utils.data.DataLoader(
        make_dataset(config), batch_size=config.batch_size, shuffle=True, num_workers=2
    )
    frames, begin = 0, 0.0
    for number, batch in enumerate(loader):
        if number == 0:  # timing begins after the start of the loader's processes
            begin = time.perf_counter()
            continue
        frames += len(batch["index"])
        if number == BATCHES or time.perf_counter() - begin > SECONDS:
            break
    return frames / (time.perf_counter() - begin) if frames else float("nan")


if __name__ == "__main__":
    main(tyro.cli(Args))
