"""The routed experts of a mixture: sort tokens by expert, run each expert once, add up what every token chose.

    y_t = sum_j gate_tj * D_e (silu(G_e x_t) * U_e x_t),  e = expert_tj                      (arXiv 2401.06066)

Notable choice: one autograd node for all experts. Each expert's rows are gathered, multiplied and activated while they
are in the CPU's cache, only the chosen experts' matrices are touched, and gradients are written into place. With 8 to
32 experts, `F.grouped_mm` or `unbind` and autograd's own operations take 1.1 times as long. With 128, where nearly all
is matrix products, about as long. A loop that indexes the stacked parameter takes many times as long, for every index
allocates a gradient of the whole stack. A gate's gradient is taken in front of D_e, <D_e^T dy, h>, so that expert
outputs need not be kept. Dropless. Left out: second derivatives, a kernel for accelerators (it runs there, expert by
expert).
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Dispatch:
    """T tokens with k experts each, as T * k rows sorted by expert.

    Example: choices [[1, 0], [1, 2]] -> order (1, 0, 2, 3), tokens (0, 0, 1, 1), inverse ((1, 0), (2, 3)),
    experts [0, 1, 2], sizes [1, 2, 1]
    """

    order: Tensor  # (T * k,) which of the flattened choices a row is
    tokens: Tensor  # (T * k,) which token a row belongs to
    inverse: Tensor  # (T, k) the row of every choice
    experts: list[int]  # those that were chosen
    sizes: list[int]  # rows of each of them

    def split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """rows (T * k, ...) -> those of each chosen expert."""
        return rows.split(self.sizes)


def dispatch(experts: Tensor, count: int) -> Dispatch:
    """experts (T, k), ids below `count`."""
    chosen, order = experts.flatten().sort(stable=True)
    rows = torch.arange(len(order), device=order.device)
    inverse = torch.empty_like(order).scatter_(0, order, rows).view_as(experts)
    sizes = chosen.bincount(minlength=count).tolist()
    visited = [expert for expert, size in enumerate(sizes) if size]
    return Dispatch(order, order // experts.shape[1], inverse, visited, [sizes[expert] for expert in visited])


def combine(rows: Tensor, gates: Tensor, inverse: Tensor) -> Tensor:
    """rows (T * k, D) in the order of a dispatch, gates (T, k) -> (T, D) in fp32."""
    return F.embedding_bag(inverse, rows.float(), mode="sum", per_sample_weights=gates)


def mix(x: Tensor, gate_up: Tensor, down: Tensor, experts: Tensor, gates: Tensor) -> Tensor:
    """x (T, D), gate_up (E, 2w, D), down (E, D, w), experts and fp32 gates (T, k) -> (T, D) in fp32.

    Follows autocast, which does not reach into an autograd node by itself.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, gate_up, down = x.to(dtype), gate_up.to(dtype), down.to(dtype)
    plan = dispatch(experts, len(gate_up))
    if torch.is_grad_enabled():
        return _Experts.apply(x, gate_up, down, gates, plan)
    return combine(_outputs(x, gate_up, down, plan)[0], gates, plan.inverse)


def _outputs(x: Tensor, gate_up: Tensor, down: Tensor, plan: Dispatch) -> tuple[Tensor, Tensor, Tensor]:
    """Expert outputs (T * k, D), and what backward needs: G x and U x side by side, and silu(G x)."""
    rows, width = len(plan.tokens), down.shape[2]
    out, hidden, active = x.new_empty(rows, x.shape[1]), x.new_empty(rows, 2 * width), x.new_empty(rows, width)
    gate, up = hidden.chunk(2, dim=-1)
    each = zip(plan.experts, *map(plan.split, (plan.tokens, out, hidden, gate, up, active)), strict=True)
    for e, tokens, out_e, hidden_e, gate_e, up_e, active_e in each:
        torch.mm(x.index_select(0, tokens), gate_up[e].t(), out=hidden_e)
        torch.ops.aten.silu.out(gate_e, out=active_e)
        torch.mm(active_e * up_e, down[e].t(), out=out_e)
    return out, hidden, active


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate_up: Tensor, down: Tensor, gates: Tensor, plan: Dispatch) -> Tensor:
        out, hidden, active = _outputs(x, gate_up, down, plan)
        ctx.save_for_backward(x, gate_up, down, gates, hidden, active)
        ctx.plan = plan
        return combine(out, gates, plan.inverse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, gate_up, down, gates, hidden, active = ctx.saved_tensors
        plan, dy = ctx.plan, grads[0].to(x.dtype)
        make = torch.empty_like if len(plan.experts) == len(down) else torch.zeros_like
        d_gate_up, d_down = make(gate_up), make(down)
        d_rows, d_gates = x.new_empty(len(plan.tokens), x.shape[1]), x.new_empty(gates.numel())
        gains = gates.flatten().index_select(0, plan.order).unsqueeze(-1).to(x.dtype)
        gate, up = hidden.chunk(2, dim=-1)
        each = zip(plan.experts, *map(plan.split, (plan.tokens, gains, gate, up, active, d_rows, d_gates)), strict=True)
        for e, tokens, gain, gate_e, up_e, active_e, d_rows_e, d_gates_e in each:
            d_out = dy.index_select(0, tokens)
            d_inner = torch.mm(d_out, down[e])  # of silu(G x) * U x, before the gate
            inner = active_e * up_e
            torch.linalg.vecdot(d_inner, inner, out=d_gates_e)
            torch.mm(d_out.t(), inner.mul_(gain), out=d_down[e])
            d_hidden = _swiglu_backward(d_inner.mul_(gain), gate_e, up_e, active_e)
            torch.mm(d_hidden, gate_up[e], out=d_rows_e)
            torch.mm(d_hidden.t(), x.index_select(0, tokens), out=d_gate_up[e])
        dx = F.embedding_bag(plan.inverse, d_rows.float(), mode="sum").to(x.dtype)
        d_gates = d_gates.index_select(0, plan.inverse.flatten()).view_as(gates).to(gates.dtype)
        return dx, d_gate_up, d_down, d_gates, None


def _swiglu_backward(grad: Tensor, gate: Tensor, up: Tensor, active: Tensor) -> Tensor:
    """Gradients of gate and up side by side (n, 2w). Overwrites grad, the gradient of silu(gate) * up."""
    n, width = gate.shape
    both = grad.new_empty(n, 2 * width)
    torch.mul(grad, active, out=both[:, width:])
    torch.ops.aten.silu_backward.grad_input(grad.mul_(up), gate, grad_input=both[:, :width])
    return both
