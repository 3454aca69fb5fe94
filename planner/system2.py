"""System 2, P: from the instruction and what was seen to the current subtask in words, a latent subgoal, and progress.

One sequence through the shared backbone. Rows may see:
    prefix   [its own previous words | instruction | pooled older ticks | newest tick, all N + R tokens]     the prefix
    text     [<bos> subtask words]                                                          the prefix, earlier words
    queries  [K goal queries | progress query]                           the prefix, the whole text, each other
So the planner says in words what is being done and then, informed by the words, where that leads. Training is teacher
forced. At inference the words are decoded greedily over a cached prefix, then words and queries run once more, exactly
as in training. Mostly the subtask is still what it was: one scene tries its previous words first, and decodes only
where they are not what greedy decoding would say.

Previous words and older ticks are hidden at random in training: a planner that may lean on its own past copies it.
Loss of g*: smooth L1 and cosine distance to the averaged encoder's read-out of the frame where the subtask ends.
"""

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbone.cache import StackCache
from ..backbone.engram import EngramConfig
from ..backbone.gated_attention import GatedAttentionConfig
from ..backbone.mtp import MultiTokenPrediction
from ..backbone.stack import Stack, StackConfig
from .losses import cross_entropy
from .speech import say
from .tokenizer import BOS, EOS, PAD
from .trunk import Trunk

MTP_WEIGHT = 0.3  # of multi-token prediction beside the next word's loss (DeepSeek-V3)


@dataclass(frozen=True)
class System2Config:
    """Sizes of `System2`."""

    width: int = 192  # D
    words: int = 64  # size of the vocabulary
    instruction_length: int = 16  # L
    subtask_length: int = 12  # W
    goal_tokens: int = 4  # K
    ticks: int = 4  # P, planner ticks in the history, the newest included
    tick_tokens: int = 4  # tokens that an older tick is pooled to
    trunk: Trunk = field(default_factory=Trunk)
    heads: int = 6
    hide_words: float = 0.5  # share of samples whose previous words are hidden in training
    hide_tick: float = 0.3  # share of older ticks that are hidden in training


@dataclass(frozen=True)
class Tokens:
    """A piece of the sequence."""

    x: Tensor  # (B, N, D)
    real: Tensor  # (B, N) bool, False: padding
    ids: Tensor  # (B, N) int64 word ids, -1 where a token is no word


@dataclass
class Plan:
    """What the planner thought, for B scenes."""

    subtask: Tensor  # (B, W) word ids, padded
    goal: Tensor  # (B, K, D) latent subgoal, unit-variance tokens like the read-out's
    progress: Tensor  # (B,) in [0, 1], share of the subtask that is done


class System2(nn.Module):
    """P of policy/networks/tandem.py."""

    def __init__(self, cfg: System2Config):
        super().__init__()
        self.cfg = cfg
        D = cfg.width
        self.words = nn.Embedding(cfg.words, D)
        # kinds of token: previous words, instruction, older tick, newest tick, text, referents
        self.kind = nn.Parameter(torch.randn(6, D) * 0.02)
        self.age = nn.Parameter(torch.randn(cfg.ticks, D) * 0.02)
        self.pool = nn.Parameter(torch.randn(cfg.tick_tokens, D) * 0.02)
        self.scene_in = nn.Linear(D, D)
        self.queries = nn.Parameter(torch.randn(cfg.goal_tokens + 1, D) * 0.02)
        self.stack = Stack(stack_config(cfg))
        self.ahead = MultiTokenPrediction(
            replace(stack_config(cfg), pattern="gated", streams=1, engram=()), cfg.trunk.mtp
        )
        self.goal_out = nn.Sequential(nn.Linear(D, 2 * D), nn.SiLU(), nn.Linear(2 * D, D))
        self.progress_out = nn.Linear(D, 1)
        nn.init.normal_(self.words.weight, std=0.02)

    # -- pieces of the sequence --------------------------------------------------------------------------------------
    def prefix(self, instruction: Tensor, previous: Tensor, history: Tensor, mask: Tensor, referents: Tensor) -> Tokens:
        """instruction (B, L), previous (B, W), history (B, P, N, D) oldest first, mask (B, P), referents (B, R, D) (the
        newest scene's tokens that the words mean)."""
        B, P, N, D = history.shape
        scene = self.scene_in(history)
        older = scene[:, :-1]
        weights = (older @ self.pool.T).softmax(dim=2)  # (B, P - 1, N, tick_tokens)
        pooled = weights.transpose(2, 3) @ older + self.age[:-1, None]
        seen = mask[:, :-1].repeat_interleave(self.cfg.tick_tokens, dim=1)
        return join(
            self._words(previous, 0),
            self._words(instruction, 1),
            continuous((pooled + self.kind[2]).flatten(1, 2), seen),
            continuous(scene[:, -1] + self.kind[3]),
            continuous(self.scene_in(referents) + self.kind[5]),
        )

    def tail(self, subtask: Tensor) -> Tokens:
        """subtask (B, W) -> [<bos>, words, queries]."""
        text = self.text(F.pad(subtask, (1, 0), value=BOS))
        return join(text, continuous(self.queries.expand(len(subtask), -1, -1)))

    def text(self, ids: Tensor) -> Tokens:
        """Words of the subtask."""
        return self._words(ids, 4)

    def _words(self, ids: Tensor, kind: int) -> Tokens:
        return Tokens(self.words(ids) + self.kind[kind], ids != PAD, ids)

    def _tail_mask(self, prefix_real: Tensor, tail_real: Tensor) -> Tensor:
        """(B, 1, tail, prefix + tail): words see earlier words, queries see everything that is real."""
        size, words = tail_real.shape[1], self.cfg.subtask_length + 1
        row, column = torch.arange(size)[:, None], torch.arange(size)
        allowed = ((column <= row) | (row >= words)).to(tail_real.device)
        inside = tail_real[:, None] & allowed
        outside = prefix_real[:, None].expand(-1, size, -1)
        return torch.cat([outside, inside], dim=2)[:, None]

    def think(self, prefix: Tokens, subtask: Tensor) -> tuple[Tensor, Plan]:
        """Teacher-forced pass -> logits of the words (B, W + 1, words) and the plan for these words, with gradients."""
        out = self._think(prefix, subtask)
        return self.logits(out[:, : subtask.shape[1] + 1]), self._read(out, subtask)

    def logits(self, hidden: Tensor) -> Tensor:
        """States (..., D) -> logits of the next word (..., words)."""
        return F.linear(hidden, self.words.weight).float()

    def _think(self, prefix: Tokens, subtask: Tensor) -> Tensor:
        """States of the tail, (B, W + 1 + K + 1, D)."""
        tail = self.tail(subtask)
        blind = prefix.real.new_zeros(prefix.real.shape[0], prefix.real.shape[1], tail.real.shape[1])
        top = torch.cat([prefix.real[:, None].expand(-1, prefix.real.shape[1], -1), blind], dim=2)[:, None]
        mask = torch.cat([top, self._tail_mask(prefix.real, tail.real)], dim=2)
        whole = join(prefix, tail)
        return self.stack(whole.x, mask, real=whole.real, ids=whole.ids)[:, prefix.x.shape[1] :]

    def _read(self, out: Tensor, subtask: Tensor) -> Plan:
        words = self.cfg.subtask_length + 1
        goal = F.layer_norm(self.goal_out(out[:, words:-1]).float(), (self.cfg.width,))
        progress = self.progress_out(out[:, -1]).squeeze(-1).float().sigmoid()
        return Plan(subtask, goal, progress)

    # -- training ----------------------------------------------------------------------------------------------------
    def loss(self, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Plan]:
        """batch: instruction (B, L), previous and subtask (B, W), history (B, P, N, D), history_mask (B, P),
        referents (B, R, D), goal (B, K, D) target, progress (B,). Returns losses, the words' accuracy, and the plan.
        """
        previous, mask = self._hide(batch["previous"], batch["history_mask"])
        prefix = self.prefix(batch["instruction"], previous, batch["history"], mask, batch["referents"])
        out, target = self._think(prefix, batch["subtask"]), with_eos(batch["subtask"])
        hidden, plan = out[:, : target.shape[1]], self._read(out, batch["subtask"])
        logits = self.logits(hidden)
        goal = batch["goal"]
        cosine = 1 - F.cosine_similarity(plan.goal, goal, dim=-1)
        right = (logits.argmax(-1) == target) | (target == PAD)
        return {
            "text": word_loss(logits, target) + self._ahead_loss(hidden, target),
            "goal": F.smooth_l1_loss(plan.goal, goal) + 0.1 * cosine.mean(),
            "progress": F.l1_loss(plan.progress, batch["progress"]),
            "subtask_accuracy": right.all(dim=1).float().mean().detach(),
        }, plan

    def _ahead_loss(self, hidden: Tensor, target: Tensor) -> Tensor:
        """Multi-token prediction: from a state and the word behind it, the word after that."""
        spoken = F.pad(target, (1, 0), value=BOS)
        states = self.ahead(self.text(spoken).x, hidden) if self.cfg.trunk.mtp else []
        losses = [word_loss(self.logits(h), spoken[:, k:]) for k, h in enumerate(states, start=2)]
        return MTP_WEIGHT * sum(losses, start=hidden.new_zeros(())) / max(1, len(losses))

    def _hide(self, previous: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.rand(len(previous), 1, device=mask.device) < self.cfg.hide_words
        ticks = torch.rand(mask.shape, device=mask.device) < self.cfg.hide_tick
        return previous.masked_fill(hidden, PAD), mask & ~ticks

    def balance(self) -> float:
        """Balances every mixture of experts after an optimiser step. Returns the worst busiest-to-mean load."""
        return max(self.stack.balance(), self.ahead.balance())

    # -- inference ---------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def sample(self, instruction: Tensor, previous: Tensor, history: Tensor, mask: Tensor, referents: Tensor) -> Plan:
        """Greedy words, then goal and progress. Shapes as in `prefix`."""
        prefix = self.prefix(instruction, previous, history, mask, referents)
        real, cache = prefix.real, self.stack.new_cache()
        self.stack(prefix.x, real[:, None, None].expand(-1, 1, real.shape[1], -1), cache, real, prefix.ids)
        mark = cache.snapshot()
        if len(real) == 1 and bool((previous != PAD).any()):
            out = self._finish(previous, real, cache)
            cache.roll_back(mark)
            if self._would_say(previous, out):
                return self._read(out, previous)
        alone = len(real) == 1 and self.cfg.trunk.mtp > 0
        subtask = say(self, real, cache) if alone else self._greedy(real, cache)
        cache.roll_back(mark)
        return self._read(self._finish(subtask, real, cache), subtask)

    def _finish(self, subtask: Tensor, real: Tensor, cache: StackCache) -> Tensor:
        """States of the tail behind a cached prefix, as `_think` has them."""
        tail = self.tail(subtask)
        return self.stack(tail.x, self._tail_mask(real, tail.real), cache, tail.real, tail.ids)

    def _would_say(self, subtask: Tensor, out: Tensor) -> bool:
        """Are these words what greedy decoding says? out: states of their tail."""
        W = self.cfg.subtask_length  # the word behind a full sentence is never asked for
        said, meant = self.logits(out[:, :W])[..., EOS:].argmax(-1) + EOS, with_eos(subtask)[:, :W]
        return bool(((said == meant) | (meant == PAD)).all())

    def _greedy(self, real: Tensor, cache: StackCache) -> Tensor:
        B, W = len(real), self.cfg.subtask_length
        subtask = torch.full((B, W), PAD, dtype=torch.int64, device=real.device)
        word = torch.full((B, 1), BOS, dtype=torch.int64, device=real.device)
        ended = torch.zeros(B, dtype=torch.bool, device=real.device)
        for i in range(W):
            seen = torch.cat([real, real.new_ones(B, i + 1)], dim=1)[:, None, None]
            token = self.text(word)
            out = self.stack(token.x, seen, cache, token.real, token.ids)
            word = self.logits(out)[..., EOS:].argmax(-1) + EOS  # <pad> and <bos> are no words
            ended |= word[:, 0] == EOS
            if bool(ended.all()):
                break
            subtask[:, i] = word[:, 0].masked_fill(ended, PAD)
        return subtask


def stack_config(cfg: System2Config) -> StackConfig:
    """The trunk at the planner's width and vocabulary."""
    return StackConfig(
        cfg.width,
        cfg.trunk.pattern,
        ffn=cfg.trunk.ffn,
        streams=cfg.trunk.streams,
        engram=cfg.trunk.engram,
        gated=GatedAttentionConfig(cfg.heads, max(1, cfg.heads // 3)),
        memory=EngramConfig(vocabulary=cfg.words, rows=512),
    )


def word_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy over the words that are no padding. logits (B, N, words), target (B, N)."""
    return cross_entropy(logits.flatten(0, 1), target.flatten(), ignored=PAD)


def with_eos(subtask: Tensor) -> Tensor:
    """(B, W) words, padded -> (B, W + 1) targets: the words, then <eos>, then padding."""
    target = F.pad(subtask, (0, 1), value=PAD)
    length = (subtask != PAD).sum(dim=1, keepdim=True)
    return target.scatter(1, length, EOS)


def continuous(x: Tensor, real: Tensor | None = None) -> Tokens:
    """Tokens that are no words."""
    B, N, _ = x.shape
    everything = torch.ones(B, N, dtype=torch.bool, device=x.device)
    return Tokens(x, everything if real is None else real, torch.full((B, N), -1, device=x.device))


def join(*pieces: Tokens) -> Tokens:
    return Tokens(
        torch.cat([piece.x.float() for piece in pieces], dim=1),
        torch.cat([piece.real for piece in pieces], dim=1),
        torch.cat([piece.ids for piece in pieces], dim=1),
    )
