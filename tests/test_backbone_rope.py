"""Laws of rotary positions: relative, isometric, partial; the two pairings; gradients; parity with two references."""

import pytest
import torch
from tandem.backbone.rope import angles, rotate, rotate_halves, rotate_pairs
from torch import Tensor

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
TURNS = [rotate_halves, rotate_pairs]


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("channels", [4, 8, 16])
def test_relative_isometric_and_partial(turn, channels):
    torch.manual_seed(channels)
    q, k = torch.randn(1, 2, 1, 16), torch.randn(1, 2, 1, 16)

    def at(x: Tensor, position: int) -> Tensor:
        return turn(x, angles(torch.tensor([position]), channels))

    def score(m: int, n: int) -> Tensor:
        return (at(q, m) * at(k, n)).sum(-1)

    torch.testing.assert_close(score(3, 1), score(13, 11), **CLOSE)
    assert (score(3, 1) - score(3, 2)).abs().max() > 1e-2
    torch.testing.assert_close(at(q, 7).norm(dim=-1), q.norm(dim=-1), **CLOSE)
    assert torch.equal(at(q, 7)[..., channels:], q[..., channels:])
    assert torch.equal(at(q, 0), q)


def test_pairs_are_halves_in_another_order():
    x, turn = torch.randn(2, 3, 5, 16), angles(torch.arange(5), 12)
    order = torch.cat([torch.arange(0, 12, 2), torch.arange(1, 12, 2), torch.arange(12, 16)])
    torch.testing.assert_close(rotate_pairs(x, turn)[..., order], rotate_halves(x[..., order], turn), **CLOSE)


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("channels", [4, 8])
def test_gradient(turn, channels):
    """Against finite differences, through the strides of a projection's heads; angles carry no gradient."""
    x = torch.randn(2, 3, 2, 8, requires_grad=True)
    turning = angles(torch.arange(3) + 5, channels)

    def weighted(x: Tensor) -> Tensor:
        return (turn(x.transpose(1, 2), turning).double() * weights).sum()

    weights = torch.randn(2, 2, 3, 8, dtype=torch.float64)
    (grad,) = torch.autograd.grad(weighted(x), x)
    direction, step = torch.randn_like(x), 1e-2  # the rotation is linear: any step is exact
    with torch.no_grad():
        slope = (weighted(x + step * direction) - weighted(x - step * direction)) / (2 * step)
    torch.testing.assert_close((grad * direction).sum().double(), slope, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("turn", TURNS)
def test_every_sample_may_have_its_own_positions(turn):
    x, positions = torch.randn(3, 2, 4, 8), torch.randint(0, 50, (3, 4))
    together = turn(x, angles(positions, 8))
    for i in range(3):
        torch.testing.assert_close(together[i], turn(x[i : i + 1], angles(positions[i], 8))[0], **CLOSE)


@pytest.mark.parametrize("channels", [8, 16])
@pytest.mark.parametrize("seed", [0, 1])
def test_parity_with_llama_and_deepseek(channels, seed):
    """DeepSeek reads pairs and writes halves; products of queries and keys are all that matters, and the same."""
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    deepseek = pytest.importorskip("transformers.models.deepseek_v3.modeling_deepseek_v3")
    from transformers import LlamaConfig

    torch.manual_seed(seed)
    q, k, positions = torch.randn(2, 3, 40, channels), torch.randn(2, 1, 40, channels), torch.arange(40)
    config = LlamaConfig(hidden_size=channels, num_attention_heads=1, head_dim=channels)
    cos_sin = llama.LlamaRotaryEmbedding(config)(q, positions[None])
    expected = llama.apply_rotary_pos_emb(q, k, *cos_sin)
    for x, theirs in zip((q, k), expected, strict=True):
        torch.testing.assert_close(rotate(x, positions, channels), theirs, atol=1e-5, rtol=0)
    turned, key = (rotate_pairs(x, angles(positions, channels)) for x in (q, k))
    theirs, their_key = deepseek.apply_rotary_pos_emb_interleave(q, k, *cos_sin)
    halves = torch.cat([turned[..., 0::2], turned[..., 1::2]], dim=-1)
    torch.testing.assert_close(halves, theirs, atol=1e-5, rtol=0)
    torch.testing.assert_close(turned @ key.mT, theirs @ their_key.mT, atol=1e-5, rtol=1e-5)
