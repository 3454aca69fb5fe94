"""Laws of speculative decoding: the tokens of plain decoding, whatever is drafted and whatever the layers remember."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tandem.backbone import stack
from tandem.backbone.cache import StackCache
from tandem.backbone.engram import EngramConfig
from tandem.backbone.gated_attention import GatedAttentionConfig
from tandem.backbone.language_model import LanguageModel, LanguageModelConfig
from tandem.backbone.moe import MoEConfig
from tandem.backbone.scope import Scope
from tandem.backbone.speculate import REPLAY, Drafter, greedy, speculative
from tandem.backbone.stack import StackConfig
from tandem.scripts.benches.papers import mtp
from tandem.scripts.shared.errors import UserError
from torch import Tensor, nn
from toy import toy_dataset

GATED = GatedAttentionConfig(heads=4, kv_heads=2, head_width=8)
TINY = StackConfig(32, ffn_width=48, gated=GATED, moe=MoEConfig(4, expert_width=16))
VOCABULARY = 13
PATTERNS = ["gated gated", "decay decay gated", "decay gated decay"]  # the last drafts with a recurrent layer


class Decay(nn.Module):
    """The smallest recurrent mixer: s_t = a s_{t-1} + W x_t."""

    def __init__(self, cfg: StackConfig):
        super().__init__()
        self.rate, self.inner = nn.Parameter(torch.zeros(cfg.width)), nn.Linear(cfg.width, cfg.width, bias=False)

    def new_cache(self) -> "DecayCache":
        return DecayCache()

    def forward(self, x: Tensor, scope: Scope, cache: "DecayCache | None" = None) -> Tensor:
        cache, states = cache or DecayCache(), []
        for row in self.inner(x).unbind(1):
            cache.state = self.rate.sigmoid() * cache.state + row
            states.append(cache.state)
        return torch.stack(states, 1)


class DecayCache:
    def __init__(self) -> None:
        self.state: Tensor = torch.zeros(())

    def snapshot(self) -> Tensor:
        return self.state

    def roll_back(self, mark: object) -> None:
        assert isinstance(mark, Tensor)
        self.state = mark


@pytest.fixture(autouse=True)
def recurrent_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stack.MIXERS, "decay", Decay)


def tiny(pattern: str = PATTERNS[1], depth: int = 1, ffn: str = "mlp", seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    cfg = LanguageModelConfig(VOCABULARY, replace(TINY, pattern=pattern, ffn=ffn), depth, tied=False)
    return shaken(LanguageModel(cfg))


def shaken(model: LanguageModel) -> LanguageModel:
    """Weights large enough that every path matters."""
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.2)
    return model.eval()


def prompt(N: int = 4) -> Tensor:
    return torch.randint(VOCABULARY, (1, N))


# -- a language model with its own drafts ----------------------------------------------------------------------------
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_tokens_are_those_of_plain_decoding(pattern: str, depth: int, seed: int) -> None:
    model = tiny(pattern, depth, seed=seed)
    for ids in (prompt(1), prompt(7)):
        tokens, taken = speculative(model, ids, 30)
        assert torch.equal(tokens, greedy(model, ids, 30))
        assert taken.drafted % depth == 0 and taken.accepted <= taken.drafted


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("mixer", sorted(stack.MIXERS))
def test_every_mixer_of_the_stack_can_be_speculated_with(mixer: str, seed: int) -> None:
    model = tiny(f"{mixer} gated {mixer}", 2, "moe", seed)
    ids = prompt(9)
    assert torch.equal(speculative(model, ids, 24)[0], greedy(model, ids, 24))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_whole_hybrid_with_streams_and_memory(seed: int) -> None:
    torch.manual_seed(seed)
    memory = EngramConfig(VOCABULARY, heads=2, rows=31, head_width=8)
    cfg = replace(TINY, pattern="gdn gdn gdn dsa", ffn="mlp mlp mlp moe", streams=2, engram=(1,), memory=memory)
    model = shaken(LanguageModel(LanguageModelConfig(VOCABULARY, cfg, 2)))
    ids = prompt(9)
    assert torch.equal(speculative(model, ids, 24)[0], greedy(model, ids, 24))


@pytest.mark.parametrize("seed", [0, 1])
def test_an_ngram_memory_forgets_rejected_drafts(seed: int) -> None:
    torch.manual_seed(seed)
    memory = EngramConfig(VOCABULARY, heads=2, rows=31, head_width=8)
    cfg = replace(TINY, pattern="decay gated", ffn="mlp", engram=(1,), memory=memory)
    model = shaken(LanguageModel(LanguageModelConfig(VOCABULARY, cfg, 2)))
    ids = prompt(9)
    assert torch.equal(speculative(model, ids, 24)[0], greedy(model, ids, 24))


def test_a_trained_model_takes_fewer_calls_than_tokens() -> None:
    """A cycle is certain: almost every draft is accepted, behind prompts of every length."""
    torch.manual_seed(0)
    cfg = LanguageModelConfig(5, replace(TINY, pattern="decay gated", ffn="mlp"), mtp_depth=2)
    model = LanguageModel(cfg)
    cycles = (torch.arange(20) + torch.arange(5)[:, None]) % 5
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(60):
        loss = model.loss(cycles)["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    for N in (1, 2, 3, 5):
        tokens, taken = speculative(model, cycles[:1, :N], 12)
        assert torch.equal(tokens, cycles[:1, N : N + 12])
        assert taken.accepted >= 0.8 * taken.drafted and taken.trunk_calls <= 6


# -- scripted drafts -------------------------------------------------------------------------------------------------
@dataclass
class Scripted:
    """A decoder whose drafts are right or wrong as `script` says, a row of it a round; it records its calls."""

    model: LanguageModel
    truth: Tensor  # (1, ...) the tokens of plain decoding
    script: list[list[bool]]

    def __post_init__(self) -> None:
        self.sizes: list[int] = []
        self.known = 0

    def new_cache(self) -> StackCache:
        return self.model.new_cache()

    def step(self, ids: Tensor, cache: Any) -> tuple[Tensor, Tensor]:
        self.sizes.append(ids.shape[1])
        return self.model.step(ids, cache)

    def drafter(self) -> Drafter:
        self.known, self.round = 0, 0
        return self

    def draft(self, hidden: Tensor, following: Tensor) -> Tensor:
        assert hidden.shape[:2] == following.shape
        self.known += 1 if self.round == 0 else following.shape[1]
        plan = self.script[self.round % len(self.script)]
        self.round += 1
        wrong = torch.tensor([[not right for right in plan]]).long()
        return (self.truth[:, self.known : self.known + len(plan)] + wrong) % VOCABULARY


def scripted(script: list[list[bool]], pattern: str = PATTERNS[1], seed: int = 0) -> tuple[Scripted, Tensor, Tensor]:
    model = tiny(pattern, seed=seed)
    ids = prompt()
    truth = greedy(model, ids, 60)
    return Scripted(model, truth, script), ids, truth


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_right_drafts_are_all_accepted(depth: int) -> None:
    decoder, ids, truth = scripted([[True] * depth])
    tokens, taken = speculative(decoder, ids, 31)
    assert torch.equal(tokens, truth[:, :31])
    assert taken.accepted == taken.drafted and taken.trunk_calls == 1 + -(-30 // (depth + 1))
    assert decoder.sizes[1:] == [depth + 1] * (taken.trunk_calls - 1)


@pytest.mark.parametrize("depth", [1, 3])
def test_wrong_drafts_cost_calls_but_no_token(depth: int) -> None:
    decoder, ids, truth = scripted([[False] + [True] * (depth - 1)])
    tokens, taken = speculative(decoder, ids, 40)
    assert torch.equal(tokens, truth[:, :40])
    assert taken.accepted == 0 and taken.drafted == 39 * depth
    assert max(decoder.sizes) <= REPLAY + depth and taken.trunk_calls <= 40 + 40 // REPLAY


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("seed", range(4))
def test_any_mixture_of_right_and_wrong_drafts(pattern: str, seed: int) -> None:
    script = (torch.rand(7, 3, generator=torch.Generator().manual_seed(seed)) < 0.6).tolist()
    decoder, ids, truth = scripted(script, pattern, seed)
    tokens, taken = speculative(decoder, ids, 40)
    assert torch.equal(tokens, truth[:, :40])
    assert 0 < taken.accepted < taken.drafted


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_count_is_kept(count: int) -> None:
    decoder, ids, truth = scripted([[True] * 3])
    assert torch.equal(speculative(decoder, ids, count)[0], truth[:, :count])
    assert torch.equal(greedy(decoder.model, ids, count), truth[:, :count])


def test_decoding_ends_behind_the_first_end_token() -> None:
    decoder, ids, truth = scripted([[True] * 3, [False] * 3])
    for end in set(truth[0].tolist()):
        expected = truth[:, : truth[0].tolist().index(end) + 1]
        assert torch.equal(greedy(decoder.model, ids, 60, end=end), expected)
        assert torch.equal(speculative(decoder, ids, 60, end=end)[0], expected)


@pytest.mark.parametrize("pattern", PATTERNS)
@torch.no_grad()
def test_a_cached_prefix_is_continued(pattern: str) -> None:
    """As a planner does: the prefix was read before, and its cache is used again from a mark."""
    model, ids = tiny(pattern, 2), prompt(9)
    expected, cache = greedy(model, ids, 20), model.new_cache()
    model.step(ids[:, :6], cache)
    mark = cache.snapshot()
    assert torch.equal(speculative(model, ids[:, 6:], 20, cache)[0], expected)
    cache.roll_back(mark)
    assert torch.equal(greedy(model, ids[:, 6:], 20, cache), expected)


# -- the benchmark ---------------------------------------------------------------------------------------------------
def test_the_benchmark_holds_texts_out_and_gets_the_same_tokens(tmp_path: Path) -> None:
    root = toy_dataset(tmp_path, episodes=4)
    texts = mtp.episodes(root)
    assert set(texts) == {f"lift toy {i} : approach , grasp , lift" for i in (0, 1)}
    train, held_out = mtp.split(texts, seed=0)
    assert len(train) == 2 and len(held_out) == 1 and held_out[0] not in train
    metrics = mtp.measure(mtp.Args(root, "gated", 1, width=48, steps=3, seeds=2))
    assert metrics["same_tokens"]["mean"] == 1 and 0 <= metrics["acceptance"]["mean"] <= 1
    assert metrics["tokens_per_call"]["n"] == 2
    assert mtp.headline(metrics)["mtp_acceptance"] == metrics["acceptance"]["mean"]


def test_the_benchmark_names_a_missing_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tandem collect"):
        mtp.episodes(tmp_path / "none")
