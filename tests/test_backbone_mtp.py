"""Laws of multi-token prediction: parity with transformers, the loss by its definition, causality, cached drafts."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tandem.backbone import stack
from tandem.backbone.attention import Attention, AttentionConfig
from tandem.backbone.gated_attention import GatedAttentionConfig
from tandem.backbone.language_model import LanguageModel, LanguageModelConfig
from tandem.backbone.moe import MoEConfig
from tandem.backbone.mtp import MTPDrafter, MTPLayer
from tandem.backbone.stack import StackConfig
from tandem.scripts.benches.speed.pairs.mtp import renamed
from torch import Tensor, nn

GATED = GatedAttentionConfig(heads=4, kv_heads=2, head_width=8)
TINY = StackConfig(32, "gated gated", ffn="mlp", ffn_width=48, gated=GATED, moe=MoEConfig(4, expert_width=16))
VOCABULARY = 17


def shaken(module: nn.Module, seed: int = 0) -> Any:
    """Weights large enough that every path matters."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(std=0.2)
    return module.eval()


def tiny(depth: int, ffn: str = "mlp", seed: int = 0) -> LanguageModel:
    return shaken(LanguageModel(LanguageModelConfig(VOCABULARY, replace(TINY, ffn=ffn), depth)), seed)


# -- parity ----------------------------------------------------------------------------------------------------------
def glm(width: int, heads: int, depth: int = 1) -> Any:
    from transformers import Glm4MoeConfig

    return Glm4MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=48,
        num_hidden_layers=depth,
        num_mtp_layers=depth,
        first_k_dense_replace=depth,  # all layers are dense
        num_attention_heads=heads,
        num_key_value_heads=2,
        head_dim=8,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0},
        attn_implementation="eager",
    )


def glm_block(monkeypatch: pytest.MonkeyPatch, width: int, heads: int) -> StackConfig:
    monkeypatch.setitem(stack.MIXERS, "plain", lambda cfg: Attention(cfg.width, AttentionConfig(heads, 2, 8)))
    return replace(TINY, width=width, pattern="plain")


def causal_bias(N: int) -> Tensor:
    return torch.full((1, 1, N, N), -torch.inf).triu(1)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("width", "heads", "N"), [(32, 4, 7), (24, 2, 12), (40, 6, 1)])
@torch.no_grad()
def test_parity_on_a_glm4_moe_block(monkeypatch: pytest.MonkeyPatch, width: int, heads: int, N: int, seed: int) -> None:
    modeling = pytest.importorskip("transformers.models.glm4_moe.modeling_glm4_moe")
    from transformers.modeling_layers import MtpLayer

    config = glm(width, heads)
    theirs = shaken(MtpLayer(config, modeling.Glm4MoeDecoderLayer, modeling.Glm4MoeRMSNorm, 0), seed)
    ours = MTPLayer(glm_block(monkeypatch, width, heads))
    ours.load_state_dict(renamed(theirs.state_dict()))
    embedded, hidden = torch.randn(2, N, width), torch.randn(2, N, width)
    angles = modeling.Glm4MoeRotaryEmbedding(config)(hidden, torch.arange(1, N + 1)[None])  # row i reads token i + 1
    expected = theirs(embedded, hidden, angles, causal_bias(N), None, None)
    torch.testing.assert_close(ours(embedded, hidden), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("width", "N"), [(32, 9), (48, 5)])
@torch.no_grad()
def test_parity_on_a_qwen3_next_block(width: int, N: int, seed: int) -> None:
    modeling = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    from transformers import Qwen3NextConfig
    from transformers.modeling_layers import MtpLayer

    config = Qwen3NextConfig(
        hidden_size=width,
        intermediate_size=48,
        num_hidden_layers=1,
        layer_types=["full_attention"],
        mlp_only_layers=[0],
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        attn_implementation="eager",
    )
    theirs = shaken(MtpLayer(config, modeling.Qwen3NextDecoderLayer, modeling.Qwen3NextRMSNorm, 0), seed)
    ours = MTPLayer(replace(TINY, width=width, pattern="gated"))
    ours.load_state_dict(renamed(theirs.state_dict(), shift=0.0))
    embedded, hidden = torch.randn(2, N, width), torch.randn(2, N, width)
    angles = modeling.Qwen3NextRotaryEmbedding(config)(hidden, torch.arange(1, N + 1)[None])
    expected = theirs(embedded, hidden, angles, causal_bias(N), None, None)
    torch.testing.assert_close(ours(embedded, hidden), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", [0, 1, 2])
@torch.no_grad()
def test_drafts_are_those_of_transformers(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Three depths behind a prompt, against `MtpModel` with its own cache."""
    modeling = pytest.importorskip("transformers.models.glm4_moe.modeling_glm4_moe")
    from transformers.cache_utils import MtpCache
    from transformers.modeling_layers import MtpLayer, MtpModel

    config = glm(32, 4, depth=3)
    theirs = MtpModel(modeling.Glm4MoeForCausalLM(config), 3)
    norm, block = modeling.Glm4MoeRMSNorm, modeling.Glm4MoeDecoderLayer
    theirs.layers = nn.ModuleList(MtpLayer(config, block, norm, k) for k in range(3))  # dense ones
    shaken(theirs, seed)
    ours = LanguageModel(LanguageModelConfig(VOCABULARY, glm_block(monkeypatch, 32, 4), 3, tied=False)).eval()
    for own, other in zip(ours.mtp.layers, theirs.layers, strict=True):
        own.load_state_dict(renamed(other.state_dict()))
    ours.embedding.weight.copy_(theirs.embed_tokens.weight)
    ours.head.weight.copy_(theirs.shared_head.weight)
    hidden, following = torch.randn(1, 9, 32), torch.randint(VOCABULARY, (1, 9))
    positions = torch.arange(1, 10)[None]
    expected, _, _ = theirs(following, hidden, None, positions, MtpCache(config=config))
    assert torch.equal(ours.drafter().draft(hidden, following), expected)


# -- the loss --------------------------------------------------------------------------------------------------------
def defined_loss(model: LanguageModel, ids: Tensor, counts: Tensor) -> dict[str, Tensor]:
    """Equation by equation, depth by depth, a token at a time."""
    N, losses = ids.shape[1], {}
    h, _ = model(ids)
    for k in range(model.cfg.mtp_depth + 1):
        if k:
            h = model.mtp.each()[k - 1](model.embedding(ids[:, k:]), h[:, : N - k])
        each = [
            F.cross_entropy(model.head(h[b, i]), ids[b, i + k + 1])
            for b in range(len(ids))
            for i in range(N - k - 1)
            if counts[b, i + k + 1]
        ]
        losses["lm" if k == 0 else f"mtp{k}"] = torch.stack(each).mean()
    further = [value for name, value in losses.items() if name != "lm"]
    return {**losses, "total": losses["lm"] + model.cfg.mtp_weight * torch.stack(further).mean()}


@pytest.mark.parametrize(("depth", "seed"), [(1, 0), (2, 1), (3, 2)])
def test_loss_and_gradients_are_those_of_the_definition(depth: int, seed: int) -> None:
    model = tiny(depth, seed=seed)
    ids, counts = torch.randint(VOCABULARY, (2, 10)), torch.rand(2, 10) < 0.7
    counts[:, -1] = True
    ours, defined = model.loss(ids, counts), defined_loss(model, ids, counts)
    assert ours.keys() == defined.keys()
    for name, value in defined.items():
        torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=1e-5)
    weights = list(model.parameters())
    pairs = zip(
        torch.autograd.grad(ours["total"], weights), torch.autograd.grad(defined["total"], weights), strict=True
    )
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_padding_behind_a_text_changes_no_loss() -> None:
    model = tiny(2)
    ids = torch.randint(VOCABULARY, (1, 8))
    counts = torch.arange(12)[None] < 8
    padded = model.loss(F.pad(ids, (0, 4), value=3), counts)
    for name, value in model.loss(ids).items():
        torch.testing.assert_close(padded[name], value)


@torch.no_grad()
def test_a_text_that_is_too_short_is_refused() -> None:
    model = tiny(3)
    assert model.loss(torch.randint(VOCABULARY, (2, 5)))["mtp3"] > 0
    with pytest.raises(AssertionError, match="too short"):
        model.loss(torch.randint(VOCABULARY, (2, 4)))


@torch.no_grad()
def test_depth_k_sees_k_tokens_ahead_and_no_further() -> None:
    model, ids = tiny(2), torch.randint(VOCABULARY, (1, 9))

    def states(ids: Tensor) -> list[Tensor]:
        return model.mtp(model.embedding(ids), model(ids)[0])

    before = states(ids)
    for token in range(9):
        other = ids.clone()
        other[0, token] = (other[0, token] + 1) % VOCABULARY
        for k, (old, new) in enumerate(zip(before, states(other), strict=True), start=1):
            touched = (old != new).any(-1)[0].nonzero()[:, 0].tolist()
            assert touched == list(range(max(0, token - k), old.shape[1]))


def test_training_lowers_every_depth() -> None:
    """A cycle of five tokens is certain at any distance."""
    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig(5, replace(TINY, ffn="moe"), 2))
    ids = (torch.arange(12) + torch.arange(5)[:, None]) % 5
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(60):
        losses = model.loss(ids)
        optimizer.zero_grad()
        losses["total"].backward()
        optimizer.step()
        assert model.balance() >= 1
    assert max(float(value) for value in losses.values()) < 0.1


# -- drafting --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("sizes", [(7, 1, 1, 3, 2), (1, 1, 1, 1, 1, 4), (2, 5)])
@torch.no_grad()
def test_drafts_over_a_cache_are_those_of_the_whole_text(sizes: tuple[int, ...], seed: int) -> None:
    """However the text arrives; guesses of earlier rounds, most of them wrong here, leave no trace."""
    model = tiny(3, "moe", seed)
    ids = torch.randint(VOCABULARY, (1, sum(sizes) + 1))
    hidden, _ = model(ids[:, :-1])
    drafter, end = model.drafter(), 0
    for size in sizes:
        begin, end = end, end + size
        drafts = drafter.draft(hidden[:, begin:end], ids[:, begin + 1 : end + 1])
        assert torch.equal(drafts, model.drafter().draft(hidden[:, :end], ids[:, 1 : end + 1]))
        assert torch.equal(drafts, definition(model, hidden[:, :end], ids[:, : end + 1]))


def definition(model: LanguageModel, hidden: Tensor, ids: Tensor) -> Tensor:
    """No cache: depth k over all rows, reading what is known and the guesses of the depths before."""
    n = hidden.shape[1]
    for k, layer in enumerate(model.mtp.each(), start=1):
        hidden = layer(model.embedding(ids[:, k : k + n]), hidden)
        ids = torch.cat([ids, model.head(hidden[:, -1:]).argmax(-1)], dim=1)
    return ids[:, n + 1 :]


@torch.no_grad()
def test_without_depths_nothing_is_drafted() -> None:
    model = tiny(0)
    assert isinstance(model.drafter(), MTPDrafter)
    assert model.drafter().draft(torch.randn(1, 4, 32), torch.zeros(1, 4, dtype=torch.int64)).shape == (1, 0)
    losses = model.loss(torch.randint(VOCABULARY, (2, 6)))
    assert losses.keys() == {"lm", "total"} and losses["lm"] == losses["total"]
