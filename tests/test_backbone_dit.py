"""Parity of the single-stream block with Z-Image's: without positions, with 3-D positions, with two times at once."""

from typing import Any

import pytest
import torch
from tandem.backbone.dit import DiTBlock, DiTConfig
from tandem.backbone.rope import Angles, rotate_pairs
from tandem.scripts.benches.speed.pairs.residuals import load_z_image
from torch import Tensor, nn

CLOSE = {"atol": 1e-5, "rtol": 0.0}
every_size = pytest.mark.parametrize(("heads", "D"), [(2, 24), (4, 48), (6, 96)])
every_seed = pytest.mark.parametrize("seed", [0, 1, 2])


class Turning(DiTBlock):
    """Our block, queries and keys turned by the tokens' positions, as in Z-Image."""

    def turned_by(self, angles: Angles) -> "Turning":
        self.angles = angles
        return self

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super()._project(x)
        return rotate_pairs(q, self.angles), rotate_pairs(k, self.angles), v


def both(block: type[DiTBlock], heads: int, D: int, seed: int) -> tuple[Any, Any]:
    z_image = pytest.importorskip("diffusers.models.transformers.transformer_z_image")
    torch.manual_seed(seed)
    theirs = z_image.ZImageTransformerBlock(0, D, heads, heads, 1e-6, True).eval()
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.2)
    ours = block(DiTConfig(D, heads, ffn_width=int(D / 3 * 8), time_width=min(D, 256)))
    load_z_image(ours, theirs)
    return ours, theirs


@every_seed
@every_size
def test_parity_with_z_image(heads: int, D: int, seed: int) -> None:
    """Outputs, and gradients of the tokens and of the time."""
    ours, theirs = both(DiTBlock, heads, D, seed)
    x, c = torch.randn(2, 7, D, requires_grad=True), torch.randn(2, D, requires_grad=True)
    out, expected, g = ours(x, c[:, None])[0], theirs(x, None, None, c), torch.randn(2, 7, D)
    torch.testing.assert_close(out, expected, **CLOSE)
    for ours_grad, theirs_grad in zip(
        torch.autograd.grad(out, [x, c], g), torch.autograd.grad(expected, [x, c], g), strict=True
    ):
        torch.testing.assert_close(ours_grad, theirs_grad, atol=1e-4, rtol=1e-4)


@every_seed
@every_size
@torch.no_grad()
def test_parity_where_every_token_has_its_own_time(heads: int, D: int, seed: int) -> None:
    """Z-Image knows two times a sample, noisy and clean; ours one a token."""
    ours, theirs = both(DiTBlock, heads, D, seed)
    x, clean, noisy = torch.randn(2, 7, D), torch.randn(2, D), torch.randn(2, D)
    is_noisy = torch.rand(2, 7) < 0.5
    c = torch.where(is_noisy[..., None], noisy[:, None], clean[:, None])
    expected = theirs(x, None, None, noise_mask=is_noisy.long(), adaln_noisy=noisy, adaln_clean=clean)
    torch.testing.assert_close(ours(x, c)[0], expected, **CLOSE)


@every_seed
@torch.no_grad()
def test_parity_with_positions_on_three_axes(seed: int) -> None:
    z_image = pytest.importorskip("diffusers.models.transformers.transformer_z_image")
    ours, theirs = both(Turning, 3, 72, seed)
    embedder = z_image.RopeEmbedder(theta=256.0, axes_dims=[8, 8, 8], axes_lens=[16, 16, 16])
    turns = embedder(torch.randint(0, 16, (7, 3)))  # complex (N, channels / 2)
    x, c = torch.randn(2, 7, 72), torch.randn(2, 72)
    expected = theirs(x, None, turns[None], c)
    out = ours.turned_by((turns.real, turns.imag))(x, c[:, None])[0]
    torch.testing.assert_close(out, expected, **CLOSE)
    assert (out - theirs(x, None, None, c)).abs().max() > 1e-2


@torch.no_grad()
def test_context_is_read_once() -> None:
    """Cached keys and values and new tokens give what one pass with a mask gives."""
    torch.manual_seed(0)
    block = DiTBlock(DiTConfig(24, 2, ffn_width=32, time_width=8))
    for p in block.parameters():
        nn.init.normal_(p, std=0.2)
    x, c = torch.randn(2, 9, 24), torch.randn(2, 9, 8)
    mask = torch.ones(9, 9, dtype=torch.bool)
    mask[:5, 5:] = False
    joint = block(x, c, mask=mask)[0]
    context, cached = block(x[:, :5], c[:, :5])
    torch.testing.assert_close(context, joint[:, :5], **CLOSE)
    torch.testing.assert_close(block(x[:, 5:], c[:, 5:], cached)[0], joint[:, 5:], **CLOSE)
