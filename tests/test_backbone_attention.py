"""Laws of attention: parity with LLaMA's, cached equals full, masks, causality, head sharing, gradients."""

from dataclasses import replace

import pytest
import torch
from laws import CLOSE, all_later, cached_equals_full, mask_is_followed, prefix_mask, rows_reached, shaken
from tandem.backbone.attention import ROWS, Attention, AttentionConfig, attend
from tandem.backbone.scope import scope
from torch import Tensor, nn

TINY = AttentionConfig(heads=4, kv_heads=2, head_width=8)


def tiny(kv_heads: int = 2) -> nn.Module:
    torch.manual_seed(kv_heads)
    return shaken(Attention(32, replace(TINY, kv_heads=kv_heads)))


def plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """The definition, each query head beside its own copy of a key head."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    logits = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
    return logits.softmax(-1) @ v


@pytest.mark.parametrize("heads, kv_heads, head_width", [(4, 4, 8), (4, 2, 16), (4, 1, 8), (6, 2, 4)])
@pytest.mark.parametrize("seed", [0, 1])
@torch.no_grad()
def test_parity_with_llama(heads, kv_heads, head_width, seed):
    """Multi-head, grouped and multi-query: the same weight names, the same outputs."""
    reference = pytest.importorskip("transformers.models.llama.modeling_llama")
    from transformers import LlamaConfig

    torch.manual_seed(seed)
    sizes = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_width}
    config = LlamaConfig(hidden_size=24, **sizes, attn_implementation="eager")
    theirs = shaken(reference.LlamaAttention(config, 0))
    ours = Attention(24, AttentionConfig(heads, kv_heads, head_width))
    ours.load_state_dict(theirs.state_dict())
    x, N = torch.randn(2, 19, 24), 19
    bias = torch.zeros(1, 1, N, N).masked_fill(~prefix_mask(0, N), -torch.inf)
    expected, _ = theirs(x, reference.LlamaRotaryEmbedding(config)(x, torch.arange(N)[None]), bias)
    torch.testing.assert_close(ours(x, scope(N)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_cached_equals_full_and_rolls_back(kv_heads):
    cached_equals_full(tiny(kv_heads), 11, 6)


@torch.no_grad()
def test_a_mask_is_followed_in_full_and_in_steps():
    mask_is_followed(tiny(), 8, 5)
    layer, x = tiny(), torch.randn(2, 8, 32)
    torch.testing.assert_close(layer(x, scope(8, 0, prefix_mask(0, 8))), layer(x, scope(8)), **CLOSE)


def test_causal():
    assert rows_reached(tiny(), 6) == all_later(6)


@pytest.mark.parametrize("N", [1, 7, ROWS, ROWS + 1, 2 * ROWS + 37])
@pytest.mark.parametrize("heads, value_width", [(1, 8), (2, 5), (4, 8)])
def test_values_and_gradients_are_the_definitions(N, heads, value_width):
    """Blocks of rows, shared key heads and narrow values change nothing."""
    torch.manual_seed(N)
    q, k, v = torch.randn(2, 4, N, 8), torch.randn(2, heads, N, 8), torch.randn(2, heads, N, value_width)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    ours, expected = attend(q, k, v, scope(N)), plain(q, k, v, prefix_mask(0, N))
    torch.testing.assert_close(ours, expected, **CLOSE)
    seed = torch.randn_like(ours)
    for a, b in zip(torch.autograd.grad(ours, leaves, seed), torch.autograd.grad(expected, leaves, seed), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_attention_stays_in_fp32_under_autocast():
    q = torch.randn(1, 2, 9, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attend(q.bfloat16(), q, q, scope(9)), attend(q.bfloat16().float(), q, q, scope(9)))
        assert tiny()(torch.randn(1, 3, 32), scope(3)).isfinite().all()


def test_heads_must_share_evenly():
    with pytest.raises(ValueError, match="5 heads cannot share 2"):
        Attention(32, AttentionConfig(5, 2, 8))
