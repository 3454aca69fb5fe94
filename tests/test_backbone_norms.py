"""RMS normalisation: values and gradients of PyTorch's own, scale invariance, and gains that are folded in."""

import pytest
import torch
import torch.nn.functional as F
from tandem.backbone.norms import RMSNorm, ZeroCentredRMSNorm, rms_norm


@pytest.mark.parametrize("shape", [(5,), (3, 32), (2, 7, 48), (2, 3, 5, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_are_pytorchs(shape, dtype):
    torch.manual_seed(0)
    x, weight = (3 * torch.randn(shape)).to(dtype), torch.randn(shape[-1])
    seed = torch.randn(shape)

    def run(norm):
        leaf, gain = x.clone().requires_grad_(), weight.clone().requires_grad_()
        y = norm(leaf, gain)
        return y, *torch.autograd.grad(y, (leaf, gain), seed)

    ours = run(lambda a, w: rms_norm(a, w, 1e-6))
    theirs = run(lambda a, w: F.rms_norm(a.float(), shape[-1:], w, 1e-6))
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.dtype == reference.dtype
        torch.testing.assert_close(mine, reference, atol=1e-5, rtol=1e-5 if dtype == torch.float32 else 1e-2)


def test_the_scale_of_the_input_does_not_matter():
    x, weight = torch.randn(4, 16), torch.rand(16)
    torch.testing.assert_close(rms_norm(1000 * x, weight), rms_norm(x, weight), atol=1e-5, rtol=1e-5)
    zero = torch.zeros(1, 16, requires_grad=True)
    rms_norm(zero, weight).sum().backward()
    assert torch.isfinite(zero.grad).all()


def test_autocast_changes_nothing():
    x, weight = torch.randn(4, 16), torch.rand(16)
    plain = rms_norm(x, weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rms_norm(x, weight), plain)


@pytest.mark.parametrize("shape", [(1, 1, 16), (16,), (2, 5, 16)])
def test_a_gain_multiplies_the_output(shape):
    norm, x, gain = RMSNorm(16), torch.randn(2, 5, 16), torch.randn(shape)
    torch.nn.init.normal_(norm.weight)
    torch.testing.assert_close(norm(x, gain), norm(x) * gain)


def test_zero_centred_starts_as_the_plain_norm():
    x = torch.randn(3, 16)
    torch.testing.assert_close(ZeroCentredRMSNorm(16)(x), RMSNorm(16)(x))
