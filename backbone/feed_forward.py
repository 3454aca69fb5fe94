"""SwiGLU feed-forward layer: down(silu(gate(x)) * up(x)) (Shazeer, arXiv 2002.05202).

Notable choice: one autograd node that works through the tokens in tiles, so that the wide hidden rows are activated and
multiplied while they are in the CPU's cache. Only gate(x) and up(x) are kept for backward.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

TILE = 512  # rows


class SwiGLU(nn.Module):
    """A dense feed-forward layer: down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., D) -> (..., D)."""
        return swiglu(x, self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight)


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """x (..., D), gate and up (hidden, D), down (D, hidden) -> (..., D)."""
    if torch.is_autocast_enabled(x.device.type):  # which does not reach into an autograd node
        return _swiglu(x, gate, up, down)
    flat = x.reshape(-1, x.shape[-1])
    if torch.is_grad_enabled():
        return _SwiGLU.apply(flat, gate, up, down).view_as(x)
    return torch.cat([_swiglu(rows, gate, up, down) for rows in flat.split(TILE)]).view_as(x)


def _swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        y = x.new_empty(len(x), len(down))
        g, u = x.new_empty(len(x), len(gate)), x.new_empty(len(x), len(up))
        for rows, g_rows, u_rows, y_rows in zip(*(t.split(TILE) for t in (x, g, u, y)), strict=True):
            torch.mm(rows, gate.t(), out=g_rows)
            torch.mm(rows, up.t(), out=u_rows)
            torch.mm(F.silu(g_rows).mul_(u_rows), down.t(), out=y_rows)
        ctx.save_for_backward(x, gate, up, down, g, u)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        x, gate, up, down, g, u = ctx.saved_tensors
        dx = torch.empty_like(x)
        d_gate, d_up, d_down = torch.zeros_like(gate), torch.zeros_like(up), torch.zeros_like(down)
        for dy, rows, g_rows, u_rows, dx_rows in zip(*(t.split(TILE) for t in (grads[0], x, g, u, dx)), strict=True):
            active = F.silu(g_rows)
            dh = dy @ down
            d_down.addmm_(dy.t(), active * u_rows)
            du = active.mul_(dh)
            dg = torch.ops.aten.silu_backward(dh.mul_(u_rows), g_rows)
            d_gate.addmm_(dg.t(), rows)
            d_up.addmm_(du.t(), rows)
            torch.mm(dg, gate, out=dx_rows).addmm_(du, up)
        return dx, d_gate, d_up, d_down
