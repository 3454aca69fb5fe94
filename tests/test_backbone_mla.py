"""Laws of latent attention: parity with DeepSeek-V3's, absorbed equals expanded, cached equals full, a small cache."""

import pytest
import torch
from laws import all_later, cached_equals_full, mask_is_followed, prefix_mask, rows_reached, shaken
from tandem.backbone.mla import LatentAttention, MLAConfig
from tandem.backbone.scope import scope

TINY = MLAConfig(heads=4, query_rank=16, latent=12, plain_width=8, rope_width=4, value_width=8)
SIZES = [TINY, MLAConfig(2, 8, 24, 8, 8, 4), MLAConfig(3, 20, 10, 6, 6, 12), MLAConfig(4, 16, 4, 16, 4, 16)]


def tiny(cfg: MLAConfig = TINY) -> LatentAttention:
    torch.manual_seed(0)
    layer = LatentAttention(32, cfg)
    shaken(layer)
    return layer


@pytest.mark.parametrize("cfg", SIZES)
@pytest.mark.parametrize("seed", [0, 1])
@torch.no_grad()
def test_parity_with_deepseek_v3(cfg, seed):
    reference = pytest.importorskip("transformers.models.deepseek_v3.modeling_deepseek_v3")
    from transformers import DeepseekV3Config

    torch.manual_seed(seed)
    config = DeepseekV3Config(
        hidden_size=32,
        num_attention_heads=cfg.heads,
        num_key_value_heads=cfg.heads,
        q_lora_rank=cfg.query_rank,
        kv_lora_rank=cfg.latent,
        qk_nope_head_dim=cfg.plain_width,
        qk_rope_head_dim=cfg.rope_width,
        v_head_dim=cfg.value_width,
        attn_implementation="eager",
    )
    theirs = shaken(reference.DeepseekV3Attention(config, 0))
    ours = LatentAttention(32, cfg)
    ours.load_state_dict(theirs.state_dict())
    x, N = torch.randn(2, 17, 32), 17
    bias = torch.zeros(1, 1, N, N).masked_fill(~prefix_mask(0, N), -torch.inf)
    expected, _ = theirs(x, reference.DeepseekV3RotaryEmbedding(config)(x, torch.arange(N)[None]), bias)
    torch.testing.assert_close(ours(x, scope(N)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("cfg", SIZES)
@pytest.mark.parametrize("masked", [False, True])
def test_absorbed_equals_expanded(cfg, masked, monkeypatch):
    """Values and gradients."""
    layer, x = tiny(cfg), torch.randn(2, 9, 32, requires_grad=True)
    here = scope(9, 0, prefix_mask(4, 9) if masked else None)
    leaves, results = [x, *layer.parameters()], []
    for absorbs in (False, True):
        monkeypatch.setattr(layer, "absorbs", lambda N, total, answer=absorbs: answer)
        y = layer(x, here)
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    for expanded, absorbed in zip(*results, strict=True):
        torch.testing.assert_close(absorbed, expanded, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("cfg", SIZES)
def test_cached_equals_full_and_rolls_back(cfg):
    cached_equals_full(tiny(cfg), 24, 18)


def test_a_mask_is_followed_in_full_and_in_steps():
    mask_is_followed(tiny(), 8, 5)


def test_causal():
    assert rows_reached(tiny(), 6) == all_later(6)


@torch.no_grad()
def test_a_token_costs_the_latent_and_the_rope_key():
    layer = tiny()
    cache = layer.new_cache()
    layer(torch.randn(2, 7, 32), scope(7), cache)
    assert [part.room.shape for part in cache.parts] == [(2, 7, TINY.latent + TINY.rope_width)]


def test_a_step_absorbs_and_a_prefill_expands():
    layer = tiny()
    assert layer.absorbs(1, 1000) and not layer.absorbs(1000, 1000)
