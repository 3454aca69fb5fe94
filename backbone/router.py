"""Which experts a token visits, and with what weight.

    s = score(W x);  experts = top-k of s + b;  gates = scale * s / sum of the chosen s

`SigmoidRouter` scores every expert by itself (DeepSeek-V3, arXiv 2412.19437, transformers' `DeepseekV3TopkRouter`),
`SoftmaxRouter` all of them together (`Qwen3NextTopKRouter`). The bias b only chooses, it never weighs, and it belongs
to whoever balances the load: parity with Qwen3-Next needs b = 0. Scores are fp32: near-ties feel rounding.
Left out: auxiliary balance losses, hash routing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Routing:
    """How scores become weights: scaling, normalising, groups."""

    scale: float = 1.0  # of all gates (DeepSeek-V3: 2.5)
    renormalise: bool = True  # gates of a token sum to `scale`; False: they are the scores themselves
    groups: int = 1  # experts are divided into so many groups of neighbours, e.g. one a machine
    kept_groups: int = 1  # a token chooses from these many groups, those with the best two experts


class Router(nn.Linear):
    """Called, it gives logits (T, E). A subclass says how they become scores."""

    def __init__(self, width: int, experts: int, top_k: int, routing: Routing):
        super().__init__(width, experts, bias=False)
        self.top_k, self.routing = top_k, routing

    def score(self, logits: Tensor) -> Tensor:
        """Scores of the experts for every token, (tokens, experts)."""
        raise NotImplementedError

    def choose(self, flat: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """flat (T, D), bias (E,) -> expert ids and gates, (T, k) each."""
        with torch.autocast(flat.device.type, enabled=False):
            scores = self.score(self(flat.float()))
        experts = self._allowed(scores + bias).topk(self.top_k, dim=-1).indices
        gates = scores.gather(-1, experts)
        if self.routing.renormalise:
            gates = gates / (gates.sum(-1, keepdim=True) + 1e-20)
        return experts, gates if self.routing.scale == 1 else gates * self.routing.scale

    def _allowed(self, scores: Tensor) -> Tensor:
        """-inf outside the kept groups. A group is as good as the sum of its two best experts."""
        groups, kept = self.routing.groups, self.routing.kept_groups
        if kept == groups:
            return scores
        grouped = scores.unflatten(-1, (groups, -1))
        best = grouped.topk(2, dim=-1).values.sum(-1).topk(kept, dim=-1).indices
        dropped = torch.ones_like(grouped[..., 0], dtype=torch.bool).scatter(-1, best, False)
        return grouped.masked_fill(dropped.unsqueeze(-1), -torch.inf).flatten(-2)


class SigmoidRouter(Router):
    """Independent scores by a sigmoid (DeepSeek-V3)."""

    def score(self, logits: Tensor) -> Tensor:
        """Scores of the experts for every token, (tokens, experts)."""
        return logits.sigmoid()


class SoftmaxRouter(Router):
    """Scores by a softmax over all experts."""

    def score(self, logits: Tensor) -> Tensor:
        """Scores of the experts for every token, (tokens, experts)."""
        return logits.softmax(-1)


ROUTERS: dict[str, type[Router]] = {"sigmoid": SigmoidRouter, "softmax": SoftmaxRouter}
