"""INT4 weights for routed experts: trained for by fake quantisation, then packed (Kimi K2 Thinking's recipe).

    per 32 inputs of a row:  s = bf16(max|w| / 7.5);  q = clamp(round(w / s), -8, 7);  w' = q s;  dw = dw'

Routed experts hold most weights, and a step of one token is bound by reading them. Router, shared expert and attention
stay as they are. `quantise_aware(model)` in the last 5 to 20 % of a run, at a falling learning rate, lets the master
weights settle where rounding hurts least (rounding Gaussian weights afterwards costs 9.5 % of their size). `pack` then
makes a mixture of 5 bits a weight, scales included, for inference with bf16 activations on PyTorch's CPU kernel, or by
dequantising where that kernel is missing. Left out: packed weights in training, calibration data, MXFP4.

Notable choice: the kernel's byte order depends on the CPU, so state dicts hold plain codes, converted on save and load.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .experts import combine, dispatch
from .moe import MixtureOfExperts, unchanged

GROUP = 32  # inputs that share a scale


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight (..., in) -> codes -8 .. 7 (..., in / 32, 32) in weight's type, and bf16 scales (..., in / 32)."""
    if weight.shape[-1] % GROUP:
        raise ValueError(f"int4: widths must be multiples of {GROUP}, got {weight.shape[-1]}")
    groups = weight.detach().unflatten(-1, (-1, GROUP))
    scales = (groups.abs().amax(-1) / 7.5).clamp_(min=1e-20).bfloat16()
    return (groups / scales.to(weight.dtype).unsqueeze(-1)).round_().clamp_(-8, 7), scales


def dequantise(codes: Tensor, scales: Tensor) -> Tensor:
    """The inverse of `quantise`, up to rounding -> (..., in), in the codes' type."""
    return (codes * scales.to(codes.dtype).unsqueeze(-1)).flatten(-2)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return dequantise(*quantise(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def fake_quantise(weight: Tensor) -> Tensor:
    """weight (..., in) rounded to INT4. The gradient passes as if nothing had happened."""
    return _StraightThrough.apply(weight)


def quantise_aware(model: nn.Module, on: bool = True) -> int:
    """Shows every mixture its expert weights rounded to INT4, or as they are again. Returns how many there are."""
    mixtures = [module for module in model.modules() if isinstance(module, MixtureOfExperts)]
    for mixture in mixtures:
        mixture.quantise = fake_quantise if on else unchanged
    return len(mixtures)


class Int4Matrices(nn.Module):
    """E matrices (out, in), two codes a byte, multiplied by dequantising one matrix."""

    codes: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor):
        """weight (E, out, in)."""
        super().__init__()
        codes, scales = quantise(weight)
        pairs = (codes.flatten(-2) + 8).to(torch.uint8).unflatten(-1, (-1, 2))
        zeros = torch.zeros_like(scales)  # the kernel adds an offset per group; symmetric weights have none
        self.register_buffer("codes", pairs[..., 0] | pairs[..., 1] << 4)  # (E, out, in / 2)
        self.register_buffer("scales", torch.stack([scales, zeros], -1).transpose(1, 2).contiguous())

    def multiply(self, expert: int, x: Tensor) -> Tensor:
        """x (n, in) in bf16 -> (n, out)."""
        codes = unpacked(self.codes[expert]).to(x.dtype).unflatten(-1, (-1, GROUP)) - 8
        return F.linear(x, dequantise(codes, self.scales[expert, ..., 0].t()))


class FusedInt4Matrices(Int4Matrices):
    """The same on PyTorch's CPU kernel. `codes` is in the kernel's order here and in plain order in state dicts."""

    def __init__(self, weight: Tensor):
        super().__init__(weight)
        self.codes = to_kernel(self.codes)
        self.register_state_dict_post_hook(_plain_codes)
        self.register_load_state_dict_pre_hook(_kernel_codes)

    def multiply(self, expert: int, x: Tensor) -> Tensor:
        return torch._weight_int4pack_mm_for_cpu(x, self.codes[expert], GROUP, self.scales[expert])


def _plain_codes(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    state[prefix + "codes"] = from_kernel(state[prefix + "codes"])


def _kernel_codes(module: nn.Module, state: dict[str, Any], prefix: str, *unused: Any) -> None:
    if prefix + "codes" in state:
        state[prefix + "codes"] = to_kernel(state[prefix + "codes"])


def unpacked(codes: Tensor) -> Tensor:
    """codes (..., in / 2) uint8, two a byte, the first in the low half -> (..., in), 0 .. 15."""
    return torch.stack([codes & 15, codes >> 4], -1).flatten(-2)


def to_kernel(codes: Tensor) -> Tensor:
    """codes (E, out, in / 2) in plain order -> in this CPU's order."""
    return torch.stack([torch._convert_weight_to_int4pack_for_cpu(unpacked(each).int(), 1) for each in codes])


def from_kernel(codes: Tensor) -> Tensor:
    """Back to plain order on any CPU: times the identity, the kernel itself tells what it reads."""
    _, out, half = codes.shape
    identity = torch.eye(2 * half, dtype=torch.bfloat16)
    ones = torch.tensor([1.0, 0.0]).bfloat16().expand(2 * half // GROUP, out, 2).contiguous()
    read = [torch._weight_int4pack_mm_for_cpu(identity, each, GROUP, ones).t() for each in codes]
    pairs = (torch.stack(read) + 8).to(torch.uint8).unflatten(-1, (-1, 2))
    return pairs[..., 0] | pairs[..., 1] << 4


def has_kernel() -> bool:
    """Does this machine have PyTorch's INT4 kernel?"""
    return hasattr(torch, "_weight_int4pack_mm_for_cpu") and hasattr(torch, "_convert_weight_to_int4pack_for_cpu")


class Int4Experts(nn.Module):
    """A mixture of experts with packed routed experts, for inference. Router and shared expert are the original's."""

    bias: Tensor

    def __init__(self, moe: MixtureOfExperts, matrices: type[Int4Matrices]):
        super().__init__()
        self.router, self.shared = moe.router, moe.shared
        self.register_buffer("bias", moe.bias)
        self.gate_up, self.down = matrices(moe.gate_up), matrices(moe.down)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """x (..., D) -> (..., D)."""
        flat = x.reshape(-1, x.shape[-1])
        experts, gates = self.router.choose(flat, self.bias)
        return (self.mix(flat, experts, gates) + self.shared(flat)).view_as(x)

    def mix(self, flat: Tensor, experts: Tensor, gates: Tensor) -> Tensor:
        """The routed experts alone, as `experts.mix`."""
        plan = dispatch(experts, len(self.bias))
        rows = flat.bfloat16().index_select(0, plan.tokens)
        outputs = []
        for expert, own in zip(plan.experts, plan.split(rows), strict=True):
            gate, up = self.gate_up.multiply(expert, own).chunk(2, dim=-1)
            outputs.append(self.down.multiply(expert, F.silu(gate) * up))
        return combine(torch.cat(outputs), gates, plan.inverse)


def pack(moe: MixtureOfExperts) -> Int4Experts:
    """Equal to the mixture under `quantise_aware`, up to bf16 activations. State dicts fit whatever the machine."""
    fused = has_kernel() and moe.down.device.type == "cpu"
    return Int4Experts(moe, FusedInt4Matrices if fused else Int4Matrices)
