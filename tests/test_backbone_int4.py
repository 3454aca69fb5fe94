"""Laws of INT4 experts: rounding, straight-through gradients, packed equals fake-quantised, files fit any machine."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from tandem.backbone.int4 import (
    GROUP,
    FusedInt4Matrices,
    Int4Experts,
    Int4Matrices,
    dequantise,
    fake_quantise,
    from_kernel,
    has_kernel,
    pack,
    quantise,
    quantise_aware,
    to_kernel,
)
from tandem.backbone.moe import MixtureOfExperts, MoEConfig
from tandem.backbone.stack import Stack, StackConfig
from torch import Tensor

MATRICES = [Int4Matrices, pytest.param(FusedInt4Matrices, marks=pytest.mark.skipif(not has_kernel(), reason="kernel"))]
BF16 = 0.01  # relative root mean square that bf16 activations may cost; three roundings of 2^-9 give about 0.003


def random_moe(width: int = 64, experts: int = 4, hidden: int = 32, seed: int = 0) -> MixtureOfExperts:
    torch.manual_seed(seed)
    moe = MixtureOfExperts(width, MoEConfig(experts=experts, top_k=2, expert_width=hidden)).eval()
    for p in moe.parameters():
        torch.nn.init.normal_(p, std=0.2)
    torch.nn.init.normal_(moe.bias, std=0.1)
    return moe


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def test_rounding_stays_within_half_a_step() -> None:
    """Except at the positive end: 7.5 steps are asked for and 7 exist. A bf16 scale moves the ends by another 2^-9."""
    weight = torch.randn(5, 4 * GROUP)
    codes, scales = quantise(weight)
    assert codes.min() >= -8 and codes.max() <= 7 and torch.equal(codes, codes.round())
    error = (dequantise(codes, scales) - weight).unflatten(-1, (-1, GROUP)).abs() / scales.float().unsqueeze(-1)
    assert error.max() <= 0.5 + 7.5 * 2**-8
    assert relative(dequantise(codes, scales), weight) < 0.11  # Gaussian weights: 9.5 %


def test_groups_do_not_influence_each_other() -> None:
    weight = torch.randn(3, 2 * GROUP)
    louder = weight.clone()
    louder[:, GROUP:] *= 100
    assert torch.equal(fake_quantise(weight)[:, :GROUP], fake_quantise(louder)[:, :GROUP])


def test_zeros_stay_zeros_and_bad_widths_are_named() -> None:
    assert not fake_quantise(torch.zeros(2, GROUP)).any()
    with pytest.raises(ValueError, match="multiples of 32, got 40"):
        quantise(torch.randn(2, 40))


def test_values_on_the_grid_do_not_move() -> None:
    codes = torch.randint(-7, 8, (6, GROUP)).float()
    codes[:, 0] = -7.5  # the largest value is 7.5 steps: scale 1 is found again
    assert torch.equal(fake_quantise(codes)[:, 1:], codes[:, 1:])


def test_the_gradient_goes_straight_through() -> None:
    weight, g = torch.randn(2, 3, 2 * GROUP, requires_grad=True), torch.randn(2, 3, 2 * GROUP)
    (fake_quantise(weight) * g).sum().backward()
    assert weight.grad is not None and torch.equal(weight.grad, g)


def test_quantise_aware_rounds_experts_only_and_can_be_undone() -> None:
    moe, x = random_moe(), torch.randn(9, 64)
    plain = moe(x)
    assert quantise_aware(moe) == 1
    aware = moe(x)
    quantise_aware(moe, on=False)
    assert torch.equal(moe(x), plain)
    assert 0.01 < relative(aware, plain) < 0.3
    rounded = copy.deepcopy(moe)
    with torch.no_grad():
        rounded.gate_up.copy_(fake_quantise(moe.gate_up))
        rounded.down.copy_(fake_quantise(moe.down))
    torch.testing.assert_close(aware, rounded(x))


def test_training_under_quantisation_beats_rounding_afterwards() -> None:
    """The point of it all, where inputs are correlated; for white ones, rounding to the nearest is already the best."""
    teacher, student = random_moe(), random_moe()
    quantise_aware(student)
    factors = torch.randn(8, 64) / 8**0.5

    def loss() -> Tensor:
        x = torch.randn(256, 8) @ factors
        return F.mse_loss(student(x), teacher(x).detach())

    rounded_once = float(loss())
    optimizer = torch.optim.Adam([student.gate_up, student.down], 1e-3)
    for step in range(60):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / 60)
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert float(loss()) < 0.7 * rounded_once


@pytest.mark.parametrize("matrices", MATRICES)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("sizes", [(32, 2, 32), (64, 8, 96), (256, 16, 64)])
@torch.no_grad()
def test_packed_equals_fake_quantised(matrices: type[Int4Matrices], sizes: tuple[int, int, int], seed: int) -> None:
    moe = random_moe(*sizes, seed=seed)
    packed = Int4Experts(moe, matrices)
    quantise_aware(moe)
    for T in (1, 2, 33):
        x = torch.randn(T, sizes[0])
        experts, gates = moe.route(x)
        routed = packed.mix(x, experts, gates)
        assert relative(routed, moe(x) - moe.shared(x)) < BF16
        torch.testing.assert_close(packed(x), routed + moe.shared(x))


@pytest.mark.skipif(not has_kernel(), reason="kernel")
@pytest.mark.parametrize("out", [16, 48, 64, 80])
def test_the_kernel_order_is_undone_exactly(out: int) -> None:
    codes = torch.randint(0, 256, (3, out, 2 * GROUP), dtype=torch.uint8)
    assert torch.equal(from_kernel(to_kernel(codes)), codes)


@torch.no_grad()
def test_a_state_dict_goes_to_a_file_and_to_the_other_kind_of_matrices() -> None:
    moe, other, x = random_moe(seed=0), random_moe(seed=1), torch.randn(7, 64)
    packed, file = pack(moe), io.BytesIO()
    torch.save(packed.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert torch.equal(loaded["down.codes"], Int4Matrices(moe.down).codes)  # plain order whatever the machine
    again, plain = pack(other), Int4Experts(copy.deepcopy(other), Int4Matrices)
    assert not torch.allclose(again(x), packed(x), atol=0.1)
    again.load_state_dict(loaded)
    assert torch.equal(again(x), packed(x))
    plain.load_state_dict(loaded)
    assert relative(plain(x), packed(x)) < BF16


def test_packed_is_six_times_smaller() -> None:
    moe = random_moe(256, 4, 128)
    packed = pack(moe)
    small = [*packed.gate_up.buffers(), *packed.down.buffers()]
    assert moe.gate_up.nbytes + moe.down.nbytes >= 6 * sum(tensor.nbytes for tensor in small)
    assert not [*packed.gate_up.parameters(), *packed.down.parameters()]


@torch.no_grad()
def test_the_layers_of_a_stack_can_be_packed() -> None:
    torch.manual_seed(0)
    model = Stack(StackConfig(64, "gated gated", moe=MoEConfig(experts=4, expert_width=32))).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x = torch.randn(2, 6, 64)
    assert quantise_aware(model) == 2
    expected = model(x)
    for layer in model.layers:
        layer.ffn = pack(layer.ffn)
    assert relative(model(x), expected) < 2 * BF16
    assert model.balance() == 1.0
