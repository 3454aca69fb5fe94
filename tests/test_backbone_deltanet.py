"""Laws of Gated DeltaNet: parity with Qwen3-Next's, chunks equal the recurrence, padding, caches, memory's span."""

import math

import pytest
import torch
import torch.nn.functional as F
from laws import CLOSE, cached_equals_full, shaken
from tandem.backbone.delta_rule import chunked, recurrent, unit_lower_inverse
from tandem.backbone.gated_deltanet import GatedDeltaNet, GatedDeltaNetConfig
from tandem.backbone.scope import Scope, scope
from tandem.backbone.short_conv import Tail, short_conv
from tandem.scripts.benches.speed.pairs.deltanet import reference_config
from torch import Tensor, nn

TINY = GatedDeltaNetConfig(key_heads=2, value_heads=4, key_width=8, value_width=6, kernel=4)
SIZES = [TINY, GatedDeltaNetConfig(1, 1, 4, 4), GatedDeltaNetConfig(2, 2, 16, 8, 2), GatedDeltaNetConfig(2, 6, 8, 8, 3)]


def tiny(cfg: GatedDeltaNetConfig = TINY, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return shaken(GatedDeltaNet(32, cfg))


def both(cfg: GatedDeltaNetConfig, seed: int) -> tuple[nn.Module, nn.Module, object]:
    """Our layer and Qwen3-Next's with the same state dict, and the latter's configuration."""
    reference = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    from transformers import Qwen3NextConfig

    config = reference_config(Qwen3NextConfig, 32, cfg)
    ours, theirs = tiny(cfg, seed), reference.Qwen3NextGatedDeltaNet(config, 0)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs, config


@pytest.mark.parametrize("cfg", SIZES)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("N", [1, 19, 70])
def test_parity_with_qwen3_next(cfg, seed, N):
    ours, theirs, _ = both(cfg, seed)
    x = torch.randn(3, N, 32)
    weight, results = torch.randn(3, N, 32), []
    for layer in (lambda x: ours(x, scope(N)), theirs):
        leaf = x.clone().requires_grad_()
        out = layer(leaf)
        (out * weight).sum().backward()
        results.append((out, leaf.grad))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=0)
    torch.testing.assert_close(results[0][1], results[1][1], atol=2e-5, rtol=1e-4)
    for name, p in theirs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name).grad, p.grad, atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize("seed", [0, 1])
@torch.no_grad()
def test_cached_parity_with_qwen3_next(seed):
    ours, theirs, config = both(TINY, seed)
    from transformers import DynamicCache

    cache, past = ours.new_cache(), DynamicCache(config=config)
    for i, N in enumerate((9, 1, 1, 5, 1)):
        x = torch.randn(2, N, 32)
        expected = theirs(x, cache_params=past)
        torch.testing.assert_close(ours(x, scope(N, i), cache), expected, atol=1e-5, rtol=0)


def inputs(N: int, seed: int = 0, B: int = 2, H: int = 2, G: int = 3, d_k: int = 8, d_v: int = 5) -> list[Tensor]:
    """q, k, v, beta, log_decay, state."""
    torch.manual_seed(seed)
    q, k = F.normalize(torch.randn(2, B, N, H, d_k), dim=-1)
    numbers = torch.rand(B, N, H, G), -torch.rand(B, N, H, G)
    return [q, k, torch.randn(B, N, H, G, d_v), *numbers, torch.randn(B, H, G, d_k, d_v)]


def definition(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """The equations as they are written, for one sequence and one head: q, k, v (N, d), beta and log_decay (N,)."""
    out = []
    for t in range(len(v)):
        S = log_decay[t].exp() * S
        S = S + torch.outer(k[t], beta[t] * (v[t] - k[t] @ S))
        out.append(q[t] @ S)
    return torch.stack(out), S


@pytest.mark.parametrize("rule", [recurrent, chunked])
def test_rule_is_its_definition(rule):
    q, k, v, beta, log_decay, state = inputs(40)
    out, last = rule(q, k, v, beta, log_decay, state)
    for b, h, g in ((0, 0, 0), (1, 0, 2), (0, 1, 1)):
        numbers = beta[b, :, h, g], log_decay[b, :, h, g]
        one, S = definition(q[b, :, h], k[b, :, h], v[b, :, h, g], *numbers, state[b, h, g])
        torch.testing.assert_close(out[b, :, h, g], one, **CLOSE)
        torch.testing.assert_close(last[b, h, g], S, **CLOSE)


@pytest.mark.parametrize("N, chunk", [(1, 32), (2, 32), (31, 32), (32, 32), (33, 32), (64, 64), (77, 32), (20, 7)])
@pytest.mark.parametrize("seed", [0, 1])
def test_chunked_equals_recurrent_with_gradients(N, chunk, seed):
    given = inputs(N, seed)
    weights, results = (torch.randn_like(given[2]), torch.randn_like(given[5])), []
    for rule in (recurrent, lambda *x: chunked(*x, chunk=chunk)):
        leaves = [x.clone().requires_grad_() for x in given]
        found = rule(*leaves)
        loss = sum((f * w).sum() for f, w in zip(found, weights, strict=True))
        results.append([*found, *torch.autograd.grad(loss, leaves)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_no_state_is_a_zero_state():
    *given, state = inputs(40)
    for rule in (recurrent, chunked):
        torch.testing.assert_close(rule(*given), rule(*given, torch.zeros_like(state)))


@pytest.mark.parametrize("decay", [0.0, -60.0])
def test_chunks_bear_extremes(decay):
    """One key again and again, each time overwritten entirely; nothing or everything forgotten at each token."""
    q, k, v, beta, log_decay, state = inputs(70)
    k = k[:, :1].expand_as(k)
    given = [q, k, v, torch.ones_like(beta), torch.full_like(log_decay, decay), state]
    out, last = chunked(*given)
    expected, last_expected = recurrent(*given)
    torch.testing.assert_close(out, expected, **CLOSE)
    torch.testing.assert_close(last, last_expected, **CLOSE)
    leaves = [x.clone().requires_grad_() for x in given]
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(chunked(*leaves)[0].sum(), leaves))


@pytest.mark.parametrize("C", [1, 7, 16, 32, 48, 64])
def test_unit_lower_inverse(C):
    A = torch.randn(5, C, C) * 0.3
    expected = torch.linalg.inv((A.tril(-1) + torch.eye(C)).double()).float()
    torch.testing.assert_close(unit_lower_inverse(A), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kernel, dilation", [(4, 1), (4, 3), (2, 1), (3, 2)])
@pytest.mark.parametrize("N", [1, 2, 21])
def test_short_conv_is_conv1d(kernel, dilation, N):
    torch.manual_seed(N)
    conv = nn.Conv1d(10, 10, kernel, groups=10, bias=False, dilation=dilation)
    x, g = torch.randn(3, N, 10, requires_grad=True), torch.randn(3, N, 10)
    margin = (kernel - 1) * dilation
    expected = F.silu(conv(F.pad(x.mT, (margin, 0)))).mT
    ours = short_conv(Tail(margin).join(x), conv.weight, dilation)
    torch.testing.assert_close(ours, expected, **CLOSE)
    for one, other in zip(*(torch.autograd.grad(y, (x, conv.weight), g) for y in (ours, expected)), strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("cfg", SIZES)
@pytest.mark.parametrize("prefill", [1, 2, 37])
def test_cached_equals_full(cfg, prefill):
    cached_equals_full(tiny(cfg), 45, prefill)


@torch.no_grad()
def test_roll_back_to_the_empty_cache_and_constant_memory():
    layer, x = tiny(), torch.randn(2, 50, 32)
    cache = layer.new_cache()
    empty = cache.snapshot()
    layer(x[:, :1], scope(1), cache)
    mark = cache.snapshot()
    copies = [part.clone() for part in mark]
    full = layer(x[:, 1:], scope(49, 1), cache)
    assert [part.shape for part in cache.snapshot()] == [part.shape for part in mark]
    assert all(torch.equal(part, copy) for part, copy in zip(mark, copies, strict=True)), "a mark was written to"
    assert all(part.untyped_storage().nbytes() == part.numel() * 4 for part in cache.snapshot())
    cache.roll_back(empty)
    torch.testing.assert_close(layer(x, scope(50), cache)[:, 1:], full, **CLOSE)


@torch.no_grad()
def test_causal():
    layer, x = tiny(), torch.randn(1, 40, 32)
    before = layer(x, scope(40))
    for i in (0, 5, 31, 32, 39):
        other = x.clone()
        other[:, i] += 1
        touched = (layer(other, scope(40)) - before).abs().amax(-1)[0]
        assert (touched[:i] == 0).all() and touched[i] > 1e-4 and (touched[i:] > 0).float().mean() > 0.9


def padded(real: Tensor, past: int = 0) -> Scope:
    return Scope(torch.arange(past, past + real.shape[1]), past, real=real)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_padding_is_as_if_absent(seed):
    """Anywhere in a sequence, one call or several, prefill or steps: real tokens see what they see without padding."""
    layer = tiny(seed=seed)
    x, real = torch.randn(4, 45, 32), torch.rand(4, 45) < torch.tensor([0.2, 0.5, 0.9, 1.0])[:, None]
    real[0, :5] = False  # a call without any real token in this row
    with torch.no_grad():
        alone = [layer(row[keep][None], scope(int(keep.sum())))[0] for row, keep in zip(x, real, strict=True)]
        cache, calls = layer.new_cache(), [0, 5, 38, 39, 40, 41, 45]
        cached = [layer(x[:, i:j], padded(real[:, i:j], i), cache) for i, j in zip(calls, calls[1:], strict=False)]
        for out in (layer(x, padded(real)), torch.cat(cached, 1)):
            for row, keep, expected in zip(out, real, alone, strict=True):
                torch.testing.assert_close(row[keep], expected, **CLOSE)


def test_no_gradient_from_or_to_padding():
    layer, x, real = tiny(), torch.randn(2, 40, 32, requires_grad=True), torch.rand(2, 40) < 0.5
    (grad,) = torch.autograd.grad(layer(x, padded(real))[real].sum(), x)
    assert (grad[~real] == 0).all() and (grad[real].abs().amax(-1) > 0).all()


@torch.no_grad()
def test_half_lives_span_an_episode():
    """Measured on the state: inputs of zero write nothing, so that it only decays."""
    cfg = GatedDeltaNetConfig(8, 64, 4, 4, half_lives=(1.0, 500.0))
    layer, N = GatedDeltaNet(32, cfg), 40
    cache = layer.new_cache()
    layer(torch.zeros(1, 1, 32), scope(1), cache)
    cache.state = torch.ones_like(cache.state)
    layer(torch.zeros(1, N, 32), scope(N, 1), cache)
    measured = -N * math.log(2) / cache.state[0, :, :, 0, 0].flatten().log()
    found = measured.quantile(torch.tensor([0.1, 0.5, 0.9]))
    torch.testing.assert_close(found, torch.tensor([1.86, 22.4, 269.0]), rtol=0.05, atol=0)
    assert measured.min() > 1 and measured.max() < 500


@pytest.mark.parametrize("N", [1, 40])
def test_bf16_autocast_trains_and_keeps_an_fp32_state(N):
    layer, x, cache = tiny(), torch.randn(2, N, 32), tiny().new_cache()
    full = layer(x, scope(N))
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x, scope(N), cache)
    half.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())
    assert (half.float() - full).abs().max() < 0.05 * full.abs().max()
    fine = cache.state - cache.state.bfloat16()
    assert cache.state.dtype == torch.float32 and fine.abs().max() > 0


def test_heads_must_divide():
    with pytest.raises(ValueError, match="5 value heads"):
        GatedDeltaNet(32, GatedDeltaNetConfig(key_heads=2, value_heads=5))
