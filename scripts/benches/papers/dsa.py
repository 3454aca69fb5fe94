"""DeepSeek sparse attention on recall from a long history: what sparsity costs after the two training stages, and what
skipping the first of them costs.

A dense model learns the task. Then, for the same number of steps each:
    dense       goes on as it is
    two stages  its indexers warm up on dense attention, then everything trains with k of L columns a row
    no warm-up  sparse at once, from random indexers
`dsa_loss_points` is the accuracy of the first minus that of the second, in points. arXiv 2512.02556 reports none lost.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...shared.errors import UserError

if TYPE_CHECKING:
    from .needles import Recaller, Task

RESULT = "backbone_papers"


@dataclass(frozen=True)
class Args:
    """Flags of `tandem bench dsa`."""

    needles: int = 96  # pairs in a history
    queries: int = 32  # of them asked for; L = needles + queries
    top_k: int = 16  # k, columns that a row attends to
    seeds: int = 3
    dense_steps: int = 1500  # long enough for attention to be sharp: a diffuse one no k columns recall
    warm_steps: int = 400  # of a round of the warm-up; rounds follow until the indexer is ready
    rounds: int = 4  # at most
    sparse_steps: int = 200
    threads: int = 1
    publish: bool = False  # write docs/results/bench_dsa.json and its headline to backbone_papers.json
    dry_run: bool = False


def measure(args: Args) -> dict[str, Any]:
    """Runs the measurement and returns its figures by name."""
    import torch

    from ..intervals import summary

    torch.set_num_threads(args.threads)
    runs = [_one_seed(args, seed) for seed in range(args.seeds)]
    names = runs[0].keys()
    return {
        "dsa_loss_points": 100 * sum(run["dense"] - run["two_stages"] for run in runs) / len(runs),
        "dsa_k_over_l": args.top_k / (args.needles + args.queries),
        **{name: summary([run[name] for run in runs]) for name in names},
    }


def headline(metrics: dict[str, Any]) -> dict[str, float]:
    """The figures of this topic in the table that the topics of papers share."""
    return {name: metrics[name] for name in ("dsa_loss_points", "dsa_k_over_l")}


def _one_seed(args: Args, seed: int) -> dict[str, float]:
    """Accuracy of the three ways, and the recall of attention that the warm-up reached."""
    import torch

    from ....backbone import dsa_training
    from .needles import Recaller, Task, accuracy, learn

    task = Task(args.needles, args.queries)
    torch.manual_seed(seed)
    model = Recaller(task, _stack(args))
    dsa_training.dense(model)
    learn(model, task, args.dense_steps, seed, rate=5e-3)
    dense, staged, rushed, after = model, deepcopy(model), deepcopy(model), 10_000 + seed
    start = accuracy(model, task)
    warm, recall = _warm_up(args, staged, task, after)
    try:
        dsa_training.sparse(staged, recall)
    except ValueError as error:
        raise UserError(f"bench dsa, seed {seed}: {error}") from error
    learn(staged, task, args.sparse_steps, after, rate=1e-3, extra=dsa_training.sparse_loss)
    learn(dense, task, warm + args.sparse_steps, after, rate=1e-3)
    _at_once(rushed)
    unprepared = accuracy(rushed, task)
    learn(rushed, task, warm + args.sparse_steps, after, rate=1e-3, extra=dsa_training.sparse_loss)
    found = {
        "before": start,
        "dense": accuracy(dense, task),
        "two_stages": accuracy(staged, task),
        "no_warm_up": accuracy(rushed, task),
        "no_warm_up_at_first": unprepared,
        "recall_of_attention": recall,
        "warm_up_steps": float(warm),
    }
    print(f"seed {seed}: " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()), flush=True)
    return found


def _stack(args: Args) -> Any:
    from ....backbone.dsa import DSAConfig
    from ....backbone.gated_deltanet import GatedDeltaNetConfig
    from ....backbone.mla import MLAConfig
    from ....backbone.stack import StackConfig

    mla = MLAConfig(heads=4, query_rank=32, latent=32, plain_width=16, rope_width=16, value_width=16)
    return StackConfig(
        64,
        "gdn dsa",
        ffn="mlp",
        ffn_width=128,
        dsa=DSAConfig(mla, top_k=args.top_k),
        gdn=GatedDeltaNetConfig(2, 2, 8, 16),
    )


def _warm_up(args: Args, model: "Recaller", task: "Task", seed: int) -> tuple[int, float]:
    """Steps taken and recall of attention, once it is enough or the rounds are over."""
    from ....backbone import dsa_training
    from .needles import learn

    dsa_training.dense_warm_up(model)
    steps, recall = 0, 0.0
    while steps < args.rounds * args.warm_steps and not dsa_training.ready(recall):
        learn(model, task, args.warm_steps, seed + steps, rate=3e-3, extra=dsa_training.warm_up_loss)
        steps, recall = steps + args.warm_steps, _recall(model, task)
    return steps, recall


def _recall(model: "Recaller", task: "Task") -> float:
    import torch

    from ....backbone.dsa_training import attention_recall, lessons_of

    generator = torch.Generator().manual_seed(2_000_000)
    with torch.no_grad(), lessons_of(model) as lessons:
        model(task.sample(64, generator)[0])
    return attention_recall(lessons, torch.arange(task.length) >= task.needles)


def _at_once(model: "Recaller") -> None:
    """What `dsa_training.sparse` refuses: sparse attention by indexers that have learned nothing."""
    from ....backbone.dsa_training import sparse_layers

    model.requires_grad_(True)
    for layer in sparse_layers(model):
        layer.dense = False
