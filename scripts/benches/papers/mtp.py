"""Multi-token prediction as a drafter, on the suite's own text: how often its guesses hold, and what they save.

A text is an episode: the instruction, then the subtasks in the order the expert went through them. The model decodes
the subtasks behind instructions of texts that it never saw, plainly and by drafting. Both give the same tokens.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..frames import recorded

if TYPE_CHECKING:
    from torch import Tensor

    from ....backbone.language_model import LanguageModel
    from ....planner.tokenizer import WordTokenizer

RESULT = "backbone_papers"
LENGTH = 96  # words of a text; a longer one is cut


@dataclass(frozen=True)
class Args:
    """Flags of `tandem bench mtp`."""

    root: Path = Path("datasets/tabletop")
    pattern: str = "gated gated gated gated"  # layers of the trunk
    repeats: int = 2  # of the pattern: what drafting saves grows with the trunk's depth
    width: int = 96
    depth: int = 1  # tokens drafted a round
    steps: int = 300
    batch: int = 16
    prompts: int = 40  # held-out texts decoded
    seeds: int = 3
    threads: int = 1
    publish: bool = False  # write docs/results/bench_mtp.json and its headline to backbone_papers.json
    dry_run: bool = False


def measure(args: Args) -> dict[str, Any]:
    """Runs the measurement and returns its figures by name."""
    import torch

    from ..intervals import summary

    torch.set_num_threads(args.threads)
    texts = episodes(args.root)
    runs = [_run(args, texts, seed) for seed in range(args.seeds)]
    return {"texts": len(set(texts)), **{key: summary([run[key] for run in runs]) for key in runs[0]}}


def headline(metrics: dict[str, Any]) -> dict[str, Any]:
    """The figures of this topic in the table that the topics of papers share."""
    return {"mtp_acceptance": metrics["acceptance"]["mean"], "mtp_speedup": metrics["speed_up"]["mean"]}


def episodes(root: Path) -> list[str]:
    """One text an episode: "put the red cube in the bowl : move above the red cube , lower to the red cube , ..."."""
    from ....data.reader import Dataset

    dataset, texts = Dataset(recorded(root)), []
    for i, row in enumerate(dataset.episodes):
        words = dataset.columns(i)["subtask_index"].tolist()
        runs = [word for t, word in enumerate(words) if t == 0 or word != words[t - 1]]
        texts.append(f"{row['tasks'][0]} : " + " , ".join(dataset.subtasks[word] for word in runs))
    return texts


def split(texts: list[str], seed: int) -> tuple[list[str], list[str]]:
    """Four fifths and one fifth of the different texts, each as often as it was recorded. No text is in both."""
    import random

    different = sorted(set(texts))
    held_out = set(random.Random(seed).sample(different, max(1, len(different) // 5)))
    return [text for text in texts if text not in held_out], sorted(held_out)


def _run(args: Args, texts: list[str], seed: int) -> dict[str, float]:
    import torch

    from ....backbone.gated_attention import GatedAttentionConfig
    from ....backbone.language_model import LanguageModel, LanguageModelConfig
    from ....backbone.stack import StackConfig
    from ....planner.tokenizer import WordTokenizer

    torch.manual_seed(seed)
    train, held_out = split(texts, seed)
    tokenizer = WordTokenizer.of(texts)
    gated = GatedAttentionConfig(args.width // 24, args.width // 48, head_width=24)
    stack = StackConfig(args.width, args.pattern, args.repeats, ffn="mlp", ffn_width=2 * args.width, gated=gated)
    model = LanguageModel(LanguageModelConfig(tokenizer.size, stack, mtp_depth=args.depth))
    _learn(model, encode(tokenizer, train), args, seed)
    prompts = [text.split(":")[0] + ":" for text in held_out[: args.prompts]]
    result = decode(model.eval(), [prompt_ids(tokenizer, prompt) for prompt in prompts])
    print(f"seed {seed}: " + ", ".join(f"{key} {value:.3f}" for key, value in result.items()))
    return result


def encode(tokenizer: "WordTokenizer", texts: list[str]) -> "Tensor":
    """int64 (len(texts), LENGTH + 2): <bos>, words, <eos>, padding."""
    import torch.nn.functional as F

    from ....planner.system2 import with_eos
    from ....planner.tokenizer import BOS

    return F.pad(with_eos(tokenizer.encode(texts, LENGTH)), (1, 0), value=BOS)


def prompt_ids(tokenizer: "WordTokenizer", prompt: str) -> "Tensor":
    """(1, N), from <bos>."""
    from ....planner.tokenizer import EOS

    row = encode(tokenizer, [prompt])
    return row[:, : row[0].tolist().index(EOS)]


def _learn(model: "LanguageModel", ids: "Tensor", args: Args, seed: int, rate: float = 2e-3) -> None:
    import torch

    from ....planner.tokenizer import PAD

    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=args.steps, pct_start=0.1)
    for _ in range(args.steps):
        rows = ids[torch.randint(len(ids), (args.batch,), generator=generator)]
        rows = rows[:, : max(args.depth + 2, int((rows != PAD).sum(1).max()))]
        loss = model.loss(rows, rows != PAD)["total"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def decode(model: "LanguageModel", prompts: "list[Tensor]") -> dict[str, float]:
    """Every prompt both ways in turn, so that a noisy machine disturbs both alike."""
    import torch

    from ....backbone.speculate import greedy, speculative
    from ....planner.tokenizer import EOS

    seconds, tokens, drafted, accepted, calls, same = [0.0, 0.0], 0, 0, 0, 0, 0
    for ids in prompts:
        begin = time.perf_counter()
        plain = greedy(model, ids, LENGTH, end=EOS)
        middle = time.perf_counter()
        ours, taken = speculative(model, ids, LENGTH, end=EOS)
        seconds = [seconds[0] + middle - begin, seconds[1] + time.perf_counter() - middle]
        tokens, calls, same = tokens + plain.shape[1], calls + taken.trunk_calls, same + torch.equal(plain, ours)
        drafted, accepted = drafted + taken.drafted, accepted + taken.accepted
    return {
        "acceptance": accepted / max(1, drafted),
        "tokens_per_call": tokens / calls,
        "speed_up": seconds[0] / seconds[1],
        "same_tokens": same / len(prompts),
        "tokens_per_s": tokens / seconds[1],
    }
