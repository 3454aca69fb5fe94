"""Laws of the stack: cached equals full, causality, masks, roll-back, parity with transformers' Qwen3-Next."""

from dataclasses import replace

import pytest
import torch
from laws import CLOSE, prefix_mask, shaken
from tandem.backbone import stack
from tandem.backbone.cache import KeyValueCache
from tandem.backbone.dsa import DSAConfig
from tandem.backbone.engram import EngramConfig
from tandem.backbone.gated_attention import GatedAttention, GatedAttentionConfig
from tandem.backbone.mla import MLAConfig
from tandem.backbone.moe import MoEConfig
from tandem.backbone.norms import ZeroCentredRMSNorm
from tandem.backbone.rope import angles, rotate
from tandem.backbone.scope import Scope, scope
from tandem.backbone.stack import Stack, StackConfig
from torch import Tensor, nn

GATED = GatedAttentionConfig(heads=4, kv_heads=2, head_width=8)
TINY = StackConfig(32, "gated gated", ffn_width=64, gated=GATED, moe=MoEConfig(experts=4, expert_width=16))


VARIANTS = {
    "moe": TINY,
    "mlp": replace(TINY, ffn="mlp"),
    "mixed ffn": replace(TINY, ffn="mlp moe"),
    "ladder": replace(TINY, pattern="attn mla"),
    "linear": replace(TINY, pattern="gdn gdn", ffn="mlp"),
    "hybrid": replace(TINY, pattern="gdn gdn gdn gated"),
    "everything": replace(
        TINY,
        pattern="gdn dsa",
        dsa=DSAConfig(top_k=4),
        streams=2,
        engram=(1,),
        memory=EngramConfig(vocabulary=20, rows=64),
    ),
    "sparse attention": replace(TINY, pattern="mla dsa", dsa=DSAConfig(top_k=4)),
    "streams": replace(TINY, streams=2),
    "streams, Sinkhorn": replace(TINY, streams=3, residual="mhc-sinkhorn"),
    "unconstrained streams": replace(TINY, streams=2, residual="hc"),
    "engram": replace(TINY, engram=(0, 1), memory=EngramConfig(vocabulary=20, rows=64)),
    "engram, streams": replace(TINY, engram=(1,), memory=EngramConfig(vocabulary=20, rows=64), streams=2),
}


def tiny(variant: str = "moe", seed: int = 0) -> Stack:
    torch.manual_seed(seed)
    return shaken(Stack(VARIANTS[variant])).eval()


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_cached_equals_full(variant: str) -> None:
    model, x, ids = tiny(variant), torch.randn(3, 11, 32), torch.randint(-1, 20, (3, 11))
    full, cache = model(x, ids=ids), model.new_cache()
    parts = [model(x[:, :6], cache=cache, ids=ids[:, :6])]
    mark = cache.snapshot()
    model(torch.randn(3, 2, 32), cache=cache, ids=ids[:, :2])
    cache.roll_back(mark)
    parts += [model(x[:, i : i + 1], cache=cache, ids=ids[:, i : i + 1]) for i in range(6, 11)]
    amplified = variant == "unconstrained streams"  # rounding grows with the signal
    torch.testing.assert_close(torch.cat(parts, 1), full, **({"atol": 1e-4, "rtol": 1e-3} if amplified else CLOSE))
    assert cache.length == 11


@torch.no_grad()
def test_roll_back_returns_to_the_mark() -> None:
    model, x = tiny(), torch.randn(2, 9, 32)
    cache = model.new_cache()
    model(x[:, :5], cache=cache)
    mark = cache.snapshot()
    wrong = model(torch.randn(2, 3, 32), cache=cache)
    cache.roll_back(mark)
    again = model(x[:, 5:], cache=cache)
    assert not torch.allclose(wrong, again[:, :3])
    torch.testing.assert_close(again, model(x)[:, 5:], **CLOSE)


@torch.no_grad()
def test_roll_back_to_the_empty_cache() -> None:
    model, x = tiny(), torch.randn(1, 4, 32)
    cache = model.new_cache()
    mark = cache.snapshot()
    first = model(x, cache=cache)
    cache.roll_back(mark)
    torch.testing.assert_close(model(x, cache=cache), first)


@torch.no_grad()
def test_prefix_mask_cached_equals_full() -> None:
    model, x = tiny(), torch.randn(2, 8, 32)
    mask = prefix_mask(5, 8)
    cache = model.new_cache()
    prefix = model(x[:, :5], mask[:5, :5], cache)
    rest = model(x[:, 5:], mask[5:], cache)
    torch.testing.assert_close(torch.cat([prefix, rest], 1), model(x, mask), **CLOSE)


def touched(model: Stack, x: Tensor, mask: Tensor | None, token: int) -> list[int]:
    """Which outputs change when one token does, by more than rounding (experts multiply other rows together then)."""
    other = x.clone()
    other[:, token] += 1
    return ((model(x, mask) - model(other, mask)).abs() > 1e-5).any(-1).any(0).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("variant", [name for name, cfg in VARIANTS.items() if not cfg.engram])
@torch.no_grad()
def test_causal_by_default(variant: str) -> None:
    model, x = tiny(variant), torch.randn(1, 6, 32)
    assert [touched(model, x, None, i) for i in range(6)] == [list(range(i, 6)) for i in range(6)]


@torch.no_grad()
def test_prefix_is_bidirectional_and_blind_to_what_follows() -> None:
    model, x, mask = tiny("mlp"), torch.randn(1, 6, 32), prefix_mask(3, 6)
    assert touched(model, x, mask, 2) == [0, 1, 2, 3, 4, 5]
    assert touched(model, x, mask, 4) == [4, 5]


@torch.no_grad()
def test_a_mask_may_differ_between_samples() -> None:
    """(B, N, N): every sample gets its own; B equal to the number of heads must not be mistaken for them."""
    model, x = tiny(), torch.randn(4, 5, 32)
    masks = torch.stack([prefix_mask(i, 5) for i in range(4)])
    together = model(x, masks)
    for i in range(4):
        torch.testing.assert_close(together[i], model(x[i : i + 1], masks[i])[0], **CLOSE)


@torch.no_grad()
def test_rotation_is_relative_and_partial() -> None:
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def score(m: int, n: int) -> Tensor:
        return (rotate(q, torch.tensor([m]), 8) * rotate(k, torch.tensor([n]), 8)).sum()

    torch.testing.assert_close(score(3, 1), score(13, 11), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(score(3, 1), score(3, 2))
    assert torch.equal(rotate(q, torch.tensor([7]), 8)[..., 8:], q[..., 8:])


def test_norm_starts_with_gain_one() -> None:
    x = torch.randn(5, 16) * 7
    norm = ZeroCentredRMSNorm(16)
    torch.testing.assert_close(norm(x).pow(2).mean(-1), torch.ones(5), atol=1e-4, rtol=1e-4)


def test_unknown_layer_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'mamba'.*gated"):
        Stack(replace(TINY, pattern="gated mamba"))
    with pytest.raises(ValueError, match="'dense'.*moe"):
        Stack(replace(TINY, ffn="dense"))
    with pytest.raises(ValueError, match="3 feed-forward layers for 2"):
        Stack(replace(TINY, ffn="moe mlp moe"))
    with pytest.raises(ValueError, match="engram"):
        Stack(replace(TINY, engram=(2,)))


@torch.no_grad()
def test_equal_streams_start_as_a_plain_residual() -> None:
    """Zero logits everywhere: every stream stays a plain residual, but for the norms' eps."""
    torch.manual_seed(0)
    plain, streams = Stack(replace(TINY, ffn="mlp")).eval(), Stack(replace(TINY, ffn="mlp", streams=2)).eval()
    streams.load_state_dict(plain.state_dict(), strict=False)
    for name, p in streams.named_parameters():
        if name.split(".")[-1] in ("fn", "base", "scale"):
            p.zero_()
    x = torch.randn(2, 5, 32)
    torch.testing.assert_close(streams(x), plain(x), atol=1e-4, rtol=1e-4)


class Averaging(nn.Module):
    """A mixer from outside: it mixes nothing, and its cache counts tokens."""

    def __init__(self, cfg: StackConfig):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(cfg.width))

    def new_cache(self) -> KeyValueCache:
        return KeyValueCache()

    def forward(self, x: Tensor, scope: Scope, cache: object) -> Tensor:
        return x * self.scale


@torch.no_grad()
def test_a_layer_type_plugs_in_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stack.MIXERS, "avg", Averaging)
    model = Stack(replace(TINY, pattern="avg gated"))
    x = torch.randn(1, 5, 32)
    cache = model.new_cache()
    halves = torch.cat([model(x[:, :2], cache=cache), model(x[:, 2:], cache=cache)], 1)
    torch.testing.assert_close(halves, model(x), **CLOSE)


@torch.no_grad()
def test_parity_with_qwen3_next_attention() -> None:
    """Same weight names, same outputs, on random weights; needs the dev dependency transformers."""
    modeling = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    from transformers import Qwen3NextConfig

    config = Qwen3NextConfig(
        hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=16, attn_implementation="eager"
    )
    theirs = shaken(modeling.Qwen3NextAttention(config, 0)).eval()
    ours = GatedAttention(32, replace(GATED, head_width=16))
    ours.load_state_dict(theirs.state_dict())
    x, N = torch.randn(2, 7, 32), 7
    causal = torch.ones(N, N, dtype=torch.bool).tril()
    bias = torch.zeros(1, 1, N, N).masked_fill(~causal, -torch.inf)
    angles = modeling.Qwen3NextRotaryEmbedding(config)(x, torch.arange(N)[None])
    base = config.rope_parameters["rope_theta"]
    assert base == 10_000.0 and config.rope_parameters["partial_rotary_factor"] == GATED.rope_share
    expected, _ = theirs(x, angles, bias)
    torch.testing.assert_close(ours(x, scope(N)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rank", [16, 64])
@torch.no_grad()
def test_fresh_latent_attention_can_tell_tokens_apart(rank: int) -> None:
    """Logits of a fresh layer spread whatever the rank; N(0, 0.02) everywhere left them flat."""
    torch.manual_seed(0)
    stack = Stack(StackConfig(64, "mla", mla=MLAConfig(heads=4, query_rank=rank, latent=rank)))
    layer, x = stack.layers[0].mixer, torch.randn(1, 50, 64)
    turn = angles(torch.arange(50), layer.cfg.rope_width)
    q, (k, _) = layer.queries(layer.query_latent(x), turn), layer.expand(layer.rows(x, turn))
    assert (q @ k.mT * layer.cfg.head_width**-0.5).std() > 0.5
