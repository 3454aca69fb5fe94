"""Mixture of experts beside a shared expert, balanced by a bias instead of an auxiliary loss (DeepSeek-V3).

    experts, gates = router(x);  y = sum gate expert(x) + shared(x)
    after every optimiser step:  b += rate * sign(mean load - load)                       (arXiv 2408.15664)

Parity: transformers' `DeepseekV3MoE` (sigmoid router) and `Qwen3NextSparseMoeBlock` (softmax router, gated shared
expert). The bias b stands here and not in the router, for balancing it is this block's work. Routing is in router.py,
the fast part in experts.py. Left out: DeepSeek-V3's tiny sequence-wise loss and Qwen3-Next's auxiliary one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .experts import mix
from .feed_forward import SwiGLU
from .router import ROUTERS, Routing


@dataclass(frozen=True)
class MoEConfig:
    """Sizes of `MoE`."""

    experts: int = 8  # E, routed experts
    top_k: int = 2  # experts a token visits
    expert_width: int = 128  # hidden width of one routed expert
    balance_rate: float = 1e-2  # step of the routing bias, on the scale of scores: about 1 / E fits a softmax router
    router: str = "sigmoid"  # by name (ROUTERS)
    routing: Routing = field(default_factory=Routing)
    shared_width: int | None = None  # hidden width of the shared expert; None: that of a routed one
    shared_gate: bool = False  # a sigmoid weighs the shared expert, per token


class GatedSwiGLU(SwiGLU):
    """y = sigmoid(x w) * SwiGLU(x): tokens that routed experts serve well can close the shared one (Qwen3-Next)."""

    def __init__(self, width: int, hidden: int):
        super().__init__(width, hidden)
        self.output_gate = nn.Linear(width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.output_gate(x).sigmoid() * super().forward(x)


def unchanged(weight: Tensor) -> Tensor:
    return weight


def expert_loads(model: nn.Module) -> list[Tensor]:
    """The counters (E,) that `balance` of every mixture in `model` will read."""
    return [part.load for part in model.modules() if isinstance(part, MixtureOfExperts)]


class MixtureOfExperts(nn.Module):
    """Routed experts beside a shared one, with balanced loads."""

    bias: Tensor
    load: Tensor

    def __init__(self, width: int, cfg: MoEConfig):
        super().__init__()
        if cfg.router not in ROUTERS:
            raise ValueError(f"moe: unknown router {cfg.router!r}; known: {[*ROUTERS]}")
        E, hidden = cfg.experts, cfg.expert_width
        self.balance_rate = cfg.balance_rate
        self.router = ROUTERS[cfg.router](width, E, cfg.top_k, cfg.routing)
        self.gate_up = nn.Parameter(torch.empty(E, 2 * hidden, width))  # the gate is the first half
        self.down = nn.Parameter(torch.empty(E, width, hidden))
        self.shared = (GatedSwiGLU if cfg.shared_gate else SwiGLU)(width, cfg.shared_width or hidden)
        self.register_buffer("bias", torch.zeros(E))
        self.register_buffer("load", torch.zeros(E), persistent=False)  # tokens per expert since the last balancing
        self.quantise: Callable[[Tensor], Tensor] = unchanged  # how forward sees expert weights: int4.quantise_aware

    def forward(self, x: Tensor) -> Tensor:
        """x (..., D) -> (..., D)."""
        flat = x.reshape(-1, x.shape[-1])
        experts, gates = self.route(flat)
        routed = mix(flat, self.quantise(self.gate_up), self.quantise(self.down), experts, gates)
        return (routed + self.shared(flat)).view_as(x)

    def route(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """flat (T, D) -> expert ids and gates, (T, k) each. Counts the load while training."""
        experts, gates = self.router.choose(flat, self.bias)
        if self.training:
            self.load += experts.flatten().bincount(minlength=len(self.load)).to(self.load)
        return experts, gates

    @torch.no_grad()
    def balance(self) -> float:
        """Moves the routing bias against the load since the last call. Returns the busiest load over the mean, 1 .. E
        (0 where there was none)."""
        share = self.load.double() / self.load.sum().clamp(min=1)
        self.bias += self.balance_rate * torch.sign(self.load.mean() - self.load)
        self.load.zero_()
        return float(share.max() * len(share))
