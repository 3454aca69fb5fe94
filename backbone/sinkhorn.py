"""Doubly stochastic matrices (entries >= 0, every row and column sums to 1) from unconstrained logits R.

    sinkhorn:  K = softmax_rows(R) + eps, then rows and columns are normalised in turns. Ends on columns
    birkhoff:  M = sum_P p(P) P over all n! permutation matrices P,  p = softmax(sum_i R[i, P(i)] / 2)

`sinkhorn` is what mHC trains with (arXiv 2512.24880, transformers' `DeepseekV4HyperConnection`): columns are exact,
rows are off by up to a few percent where logits are large. `birkhoff` is exact for all logits, after mHC-lite (arXiv
2601.05732), which has n! free logits. Notable choice: here n^2 logits score the permutations, so both maps read the
same weights. Nothing is lost: such scores reach every doubly stochastic matrix with positive entries (the mean
parameters of an exponential family fill the interior of the hull of its statistics). The half makes it agree with
Sinkhorn's limit to first order near the identity, and exactly for n = 2, where M = [[a, 1 - a], [1 - a, a]] with
a = sigmoid((R[0, 0] + R[1, 1] - R[0, 1] - R[1, 0]) / 2).

Tokens are the last axis: rows and columns of tiny matrices are then summed as long vectors.
"""

from functools import cache
from itertools import permutations

import torch
from torch import Tensor

LARGEST = 4  # n of the exact form: n! permutations are cheap up to here


def sinkhorn(logits: Tensor, iterations: int = 20, eps: float = 1e-6) -> Tensor:
    """logits (n, n, T) -> (n, n, T), columns (axis 0) summing to 1 and rows nearly so."""
    matrix = logits.softmax(1) + eps
    matrix = matrix / (matrix.sum(0, keepdim=True) + eps)
    for _ in range(iterations - 1):
        matrix = matrix / (matrix.sum(1, keepdim=True) + eps)
        matrix = matrix / (matrix.sum(0, keepdim=True) + eps)
    return matrix


def birkhoff(logits: Tensor) -> Tensor:
    """logits (n, n, T) -> (n, n, T), doubly stochastic up to rounding. n <= 4."""
    n = len(logits)
    if n > LARGEST:
        raise ValueError(f"birkhoff: {n} streams have {n}! permutations; {LARGEST} is the most, use sinkhorn beyond")
    matrices = _permutation_matrices(n).to(logits)
    shares = (matrices @ logits.flatten(0, 1) / 2).softmax(0)  # (n!, T)
    return (matrices.t() @ shares).unflatten(0, (n, n))


@cache
def _permutation_matrices(n: int) -> Tensor:
    """(n!, n * n)."""
    return torch.stack([torch.eye(n)[list(order)].flatten() for order in permutations(range(n))])
