"""The gated delta rule: a linear-attention state that forgets, and replaces what it held under a key.

    S <- exp(g) S;   u = beta (v - k S);   S <- S + k^T u;   o = q S                    S (d_k, d_v), row vectors

`recurrent` is this definition, for one or a few tokens. `chunked` computes the same for many. In a chunk of C tokens
that begins with state S, with G the running sum of g and D_ij = exp(G_i - G_j) for i >= j, else 0:

    A = beta K K^T * D, strictly lower;   U = (I + A)^-1 beta (V - e^G K S)
    O = e^G Q S + (Q K^T * D) U;          S' = e^G_C S + (e^(G_C - G) K)^T U

Source: arXiv 2412.06464, and transformers' `torch_chunk_gated_delta_rule` and `torch_recurrent_gated_delta_rule`.
Notable choices: the state is read before the triangular system is solved, which leaves one operand instead of two.
`chunked` is one autograd node and goes through a chunk while it is in the CPU's cache. Composed of operations on whole
sequences, the same spends its time on fresh memory. D needs no gradient of its own: G enters as e^G with every row (a
query, or a key that erases) and as e^-G with every column (a key that writes), so that dG is <row, its gradient> less
<column, its gradient>. A token with beta = 0 and g = 0 leaves the state as it is: padding costs nothing more.
Callers normalise and scale q and k. All in fp32. Left out: a decay per key channel (KDA), second derivatives.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 32  # tokens of a chunk; the state's share of the work falls with it, the triangle's grows
BASE = 16  # triangles up to this size are left to LAPACK, larger ones are inverted by halves


def recurrent(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """H key heads with G value heads each: q and k (B, N, H, d_k), v (B, N, H, G, d_v), beta and log_decay <= 0
    (B, N, H, G), state (B, H, G, d_k, d_v) or None for zero -> outputs like v, the state after them."""
    state = _zero_state(k, v) if state is None else state
    G, S, out = v.shape[3], state.flatten(0, 2).float(), []
    numbers = beta[..., None], log_decay.exp()[..., None]
    folded = (_fold(x.float()) for x in (_repeat(q, G), _repeat(k, G), v, *numbers))
    with torch.autocast(v.device.type, enabled=False):
        for q_t, k_t, v_t, beta_t, decay in zip(*(x.split(1, 1) for x in folded), strict=True):  # (M, 1, .)
            S = decay * S
            S = torch.baddbmm(S, k_t.mT, beta_t * (v_t - torch.bmm(k_t, S)))
            out.append(torch.bmm(q_t, S))
    return _unfold(torch.cat(out, 1), v), S.view_as(state)


def chunked(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor | None = None, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """As `recurrent`, `chunk` tokens at a time."""
    inputs = [x.float() for x in (q, k, v, beta, log_decay, _zero_state(k, v) if state is None else state)]
    with torch.autocast(v.device.type, enabled=False):
        return _Chunked.apply(*inputs, chunk)


def _zero_state(k: Tensor, v: Tensor) -> Tensor:
    B, _, H, G, d_v = v.shape
    return torch.zeros(B, H, G, k.shape[-1], d_v, device=v.device)


class _Chunked(torch.autograd.Function):
    """(I + A)^-1, U and S are kept for backward, which forms the rest again."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        *inputs, state, C = args
        S, out, kept = state.flatten(0, 2), torch.empty(inputs[2].shape, device=state.device), []
        for *parts, out_part in zip(*(x.split(C, 1) for x in (*inputs, out)), strict=True):
            c = _Chunk(*parts)
            P, A = c.products()
            T = unit_lower_inverse(A)
            read, erased = torch.bmm(c.rows, S).chunk(2, 1)
            U = torch.bmm(T, torch.addcmul(c.beta * c.V, c.grown, erased, value=-1))
            out_part.copy_(_unfold((c.grown * read).baddbmm_(P, U), out_part))
            kept += [T, U, S]
            S = (c.grown[:, -1:] * S).baddbmm_((c.left * c.K).mT, U)
        ctx.save_for_backward(*inputs, S, *kept)
        ctx.C = C
        return out, S.view_as(state)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, S_next = ctx.saved_tensors[:6]
        kept, d_inputs = ctx.saved_tensors[6:], [torch.empty(x.shape, device=x.device) for x in inputs]
        d_out, dS = grads[0], grads[1].flatten(0, 2)
        spans = [list(zip(*(x.split(ctx.C, 1) for x in xs), strict=True)) for xs in (inputs, [d_out], d_inputs)]
        for i in reversed(range(len(spans[0]))):
            T, U, S = kept[3 * i : 3 * i + 3]
            d_parts, dS = _Chunk(*spans[0][i]).backward(_fold(spans[1][i][0]), dS, T, U, S, S_next)
            dQ, dK, *others = (_unfold(d, spans[1][i][0]) for d in d_parts)
            for target, d in zip(spans[2][i], (dQ.sum(3), dK.sum(3), *others), strict=True):
                target.view(d.shape).copy_(d)
            S_next = S
        return *d_inputs, dS.view_as(grads[1]), None


class _Chunk:
    """C tokens of M = B H G states. Rows meet the state with e^G: queries, and below them keys that erase."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor):
        C, G = v.shape[1], v.shape[3]
        self.K, self.V, self.beta = _fold(_repeat(k, G)), _fold(v), _fold(beta[..., None])  # (M, C, .)
        self.rows = torch.cat([_fold(_repeat(q, G)), self.beta * self.K], 1)  # (M, 2 C, d_k)
        sums = _fold(log_decay[..., None]).cumsum(1)
        self.grown, self.left = sums.exp(), (sums[:, -1:] - sums).exp()  # (M, C, 1)
        lower = torch.ones(C, C, device=v.device).tril_()
        self.D = (sums - sums.mT).clamp_(max=0).exp_().mul_(lower)  # (M, C, C); exp above the diagonal would overflow

    def products(self) -> tuple[Tensor, Tensor]:
        """Q K^T * D and beta K K^T * D, (M, C, C) each."""
        P, A = self._decayed(torch.bmm(self.rows, self.K.mT)).chunk(2, 1)
        return P, A

    def _decayed(self, x: Tensor) -> Tensor:
        """x (M, 2 C, C) times D, in place."""
        x.unflatten(1, (2, -1)).mul_(self.D[:, None])
        return x

    def backward(
        self, dO: Tensor, dS_next: Tensor, T: Tensor, U: Tensor, S: Tensor, S_next: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Gradients of q, k, v, beta and log_decay, folded, and that of S."""
        C = U.shape[1]
        P = torch.bmm(self.rows[:, :C], self.K.mT).mul_(self.D)
        dU = torch.bmm(self.K, dS_next).mul_(self.left).baddbmm_(P.mT, dO)
        dR = torch.bmm(T.mT, dU)  # of beta (V - e^G K S)
        d_read = torch.cat([dO, -dR], 1)  # of what rows read, (M, 2 C, d_v)
        weights = self._decayed(torch.bmm(d_read, U.mT))
        weights[:, C:].diagonal(dim1=1, dim2=2).zero_()
        d_read.unflatten(1, (2, C)).mul_(self.grown[:, None])
        dS = (self.grown[:, -1:] * dS_next).baddbmm_(self.rows.mT, d_read)
        d_rows = torch.bmm(d_read, S.mT).baddbmm_(weights, self.K)
        d_columns = torch.bmm(U, dS_next.mT).mul_(self.left).baddbmm_(weights.mT, self.rows)
        dG = _dots(d_rows, self.rows).view(-1, 2, C, 1).sum(1) - _dots(d_columns, self.K)
        dG[:, -1:] += (S_next * dS_next).sum((1, 2), keepdim=True)
        dQ, d_erase = d_rows.chunk(2, 1)
        d_beta = _dots(dR, self.V) + _dots(d_erase, self.K)
        dK = d_columns.addcmul_(self.beta, d_erase)
        return (dQ, dK, self.beta * dR, d_beta, dG.flip(1).cumsum(1).flip(1)), dS


def unit_lower_inverse(A: Tensor) -> Tensor:
    """(I + A)^-1 of A (M, C, C), of which only the part below the diagonal is read.

    ((I + A11, 0), (A21, I + A22))^-1 = ((T1, 0), (-T2 A21 T1, T2))
    """
    C = A.shape[-1]
    if C <= BASE or C % 2:
        eye = torch.eye(C, device=A.device).expand_as(A)
        return torch.linalg.solve_triangular(A, eye, upper=False, unitriangular=True)
    h, T = C // 2, torch.zeros(A.shape, device=A.device)
    first, second = unit_lower_inverse(torch.cat([A[:, :h, :h], A[:, h:, h:]])).chunk(2)
    T[:, :h, :h], T[:, h:, h:] = first, second
    T[:, h:, :h] = torch.bmm(second, torch.bmm(A[:, h:, :h], -first))
    return T


def _dots(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True)


def _repeat(x: Tensor, G: int) -> Tensor:
    """(B, C, H, d) -> (B, C, H, G, d), without a copy."""
    return x[:, :, :, None].expand(-1, -1, -1, G, -1)


def _fold(x: Tensor) -> Tensor:
    """(B, C, H, G, d) -> (B H G, C, d), contiguous: batched products of anything else are a loop of single ones."""
    return x.permute(0, 2, 3, 1, 4).flatten(0, 2).contiguous()


def _unfold(x: Tensor, like: Tensor) -> Tensor:
    """(B H G, C, d) -> (B, C, H, G, d), without a copy."""
    B, _, H, G, _ = like.shape
    return x.unflatten(0, (B, H, G)).permute(0, 3, 1, 2, 4)
