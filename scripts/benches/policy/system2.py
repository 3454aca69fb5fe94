"""System 2's blocks, one at a time: which trunk learns to plan best from the same eyes and the same demonstrations.

The encoder of a checkpoint stays as it is. A fresh planner per trunk and seed learns from four fifths of the episodes,
as in stage `think` but alone. Then it plans for frames of the other episodes: share of plans whose words are all right,
distance (1 - cosine) of the subgoal, error of the progress. `ms_per_step` is one step of training.
"""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....planner.trunk import ATTENTION, Trunk
from ...shared.errors import UserError
from ..frames import frame_cache

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from ....data.cache import FrameCache
    from ....planner.system2 import System2
    from ....policy.train.stage_think import ThinkLearner

PLAIN = replace(ATTENTION, pattern="gated gated gated gated")
TRUNKS = {
    "attention": PLAIN,
    "attention, 3 layers": ATTENTION,
    "dense": replace(PLAIN, ffn="mlp"),  # no mixture of experts
    "linear, 3 of 4": replace(PLAIN, pattern="gdn gdn gdn gated"),
    "two streams": replace(PLAIN, streams=2),
    "memory": replace(PLAIN, engram=(1,)),
    "words ahead": replace(PLAIN, mtp=1),
    "all": Trunk(),
}
EVERY = 5  # of so many episodes, one is held out


@dataclass(frozen=True)
class Args:
    """Flags of `tandem bench system2`."""

    checkpoint: Path = Path("outputs/train/tabletop")  # whose encoder and grounding are used
    data: Path = Path("datasets/tabletop")
    cache: Path = Path("cache")
    trunks: tuple[str, ...] = tuple(TRUNKS)
    steps: int = 400
    batch: int = 32
    frames: int = 2048  # held out, that are planned for
    seeds: int = 2
    threads: int = 2
    publish: bool = False  # write docs/results/bench_system2.json
    dry_run: bool = False


def measure(args: Args) -> dict[str, Any]:
    """Runs the measurement and returns its figures by name."""
    import torch

    from ..intervals import summary

    if unknown := [name for name in args.trunks if name not in TRUNKS]:
        raise UserError(f"bench system2: unknown trunk {unknown[0]!r}; known: {', '.join(TRUNKS)}")
    torch.set_num_threads(args.threads)
    learner = _eyes(args, frame_cache(args.data, args.cache))
    runs = {name: [_run(args, learner, name, seed) for seed in range(args.seeds)] for name in args.trunks}
    return {name: {key: summary([run[key] for run in found]) for key in found[0]} for name, found in runs.items()}


def _eyes(args: Args, cache: "FrameCache") -> "ThinkLearner":
    from ....policy.checkpoint.bundle import Bundle
    from ....policy.compute import fastest_dtype
    from ....policy.train.stage_think import ThinkLearner

    return ThinkLearner(Bundle.load(args.checkpoint), None, cache, args.batch, 0, fastest_dtype())


def _run(args: Args, learner: "ThinkLearner", name: str, seed: int) -> dict[str, float]:
    import torch

    from ....planner.system2 import System2
    from ....policy.compute import fastest_dtype
    from ....policy.train.data_parallel import ALONE
    from ....policy.train.ema import averaged
    from ....policy.train.loop import Progress, fit
    from ....policy.train.recipe import Stage
    from ....policy.train.run_folder import Run

    torch.manual_seed(seed)
    planner = System2(replace(learner.model.planner.cfg, trunk=TRUNKS[name]))
    stage, begin = Stage(steps=args.steps, batch=args.batch, warmup=50, ema=0.99), time.perf_counter()
    average, alone = averaged(planner, stage.ema), PlannerLearner(planner, learner, seed)
    with tempfile.TemporaryDirectory() as folder, Run(Path(folder), resume=True) as run:
        fit(
            alone, planner, average, stage, run, ALONE, seed, fastest_dtype(), lambda step, optimizer: None, Progress(),
            args.steps, args.steps,
        )  # fmt: skip
    seconds = time.perf_counter() - begin
    found = {**judged(average.module, learner, args.frames), "ms_per_step": 1000 * seconds / args.steps}  # type: ignore[arg-type]
    print(f"{name}, seed {seed}: " + ", ".join(f"{key} {value:.4f}" for key, value in found.items()), flush=True)
    return found


class PlannerLearner:
    """A `policy.train.loop.Learner`: System 2 alone, on the samples of stage `think`."""

    name, repeats = "plan", False

    def __init__(self, planner: "System2", think: "ThinkLearner", seed: int):
        from ....data.windows import Sampler

        self.planner, self.think = planner, think
        sizes, episodes = think.bundle.sizes, (~held_out(think.cache)).nonzero()[0]
        self.sampler = Sampler(think.cache, think.batch, seed, sizes.chunk, sizes.ticks, sizes.tick, episodes)

    def parameters(self) -> "list[nn.Parameter]":
        """The trained parameters, in the optimiser's order."""
        return list(self.planner.parameters())

    def batches(self, start_step: int) -> "Iterator[dict[str, Any]]":
        """Endless batches from this step on. They follow from the seed and the step."""
        from ....data.windows import Loader

        with Loader(self.sampler, self.think.cache, start_step=start_step) as loader:
            yield from loader

    def losses(self, batch: "dict[str, Any]") -> "tuple[Tensor, dict[str, Tensor]]":
        """The loss of a batch, and its parts by name."""
        import torch

        from ....policy.train.stage_think import WEIGHTS

        parts, _ = self.planner.loss(self.think.sample(batch))
        return torch.stack([WEIGHTS[name] * part for name, part in parts.items() if name in WEIGHTS]).sum(), parts

    def after_step(self) -> None:
        """Runs after every step of the optimiser."""
        self.planner.balance()


def held_out(cache: "FrameCache") -> "np.ndarray":
    """bool (episodes,)."""
    import numpy as np

    return np.arange(len(cache.episodes)) % EVERY == 0


def judged(planner: "System2", learner: "ThinkLearner", frames: int) -> dict[str, float]:
    """Greedy plans for `frames` frames of held-out episodes, evenly spread."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    from ....data.windows import window

    cache, sizes = learner.cache, learner.bundle.sizes
    rows = np.flatnonzero(held_out(cache)[cache.episode_of])
    rows = rows[np.linspace(0, len(rows) - 1, min(frames, len(rows))).astype(np.int64)]
    right, distance, error = [], [], []
    for part in np.array_split(rows, max(1, len(rows) // 128)):
        s = learner.sample(window(cache, part, sizes.chunk, sizes.ticks, sizes.tick))
        plan = planner.eval().sample(s["instruction"], s["previous"], s["history"], s["history_mask"], s["referents"])
        right.append((plan.subtask == s["subtask"]).all(1).float())
        distance.append(1 - F.cosine_similarity(plan.goal, s["goal"], dim=-1).mean(1))
        error.append((plan.progress - s["progress"]).abs())
    names = ("words_right", "goal_distance", "progress_error")
    return {name: torch.cat(values).mean().item() for name, values in zip(names, (right, distance, error), strict=True)}
