"""A flow as a policy with likelihoods: learned noise at every Euler step makes a Markov chain of Gaussians.

    x_0 ~ N(0, 1);    x_{k+1} ~ N(x_k - v(x_k, t_k) / K, s_k^2),  k = 0 .. K-1;    x_K is the chunk
    log p(chain) = sum over k of log N(x_{k+1}; ...), over the steps of the chunk that are executed

ReinFlow (arXiv 2505.22094), "Flow-Noise" of pi_RL (arXiv 2510.25889). At test the noise is left out, which is the
policy as it was: `Controller.sample`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from policy.controller import Context, Controller


@dataclass(frozen=True)
class ExplorerConfig:
    features: int  # F, length of Situation.pooled
    steps: int  # K, Euler steps
    action_dim: int  # A
    hidden: int = 128
    low: float = 0.03  # bounds of s, in units of normalised actions: below, likelihoods are too sharp to learn from
    high: float = 0.3


class Explorer(nn.Module):
    """s (B, K, A) from what is seen."""

    def __init__(self, cfg: ExplorerConfig):
        super().__init__()
        self.cfg = cfg
        self.net = nn.Sequential(
            nn.Linear(cfg.features, cfg.hidden), nn.SiLU(), nn.Linear(cfg.hidden, cfg.steps * cfg.action_dim)
        )
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, features: Tensor) -> Tensor:
        low, high = math.log(self.cfg.low), math.log(self.cfg.high)
        share = self.net(features).sigmoid().unflatten(-1, (self.cfg.steps, self.cfg.action_dim))
        return (low + (high - low) * share).exp()


def times(steps: int) -> Tensor:
    """t of the Euler steps, (K,): 0, 1 / K, ..."""
    return torch.arange(steps) / steps


@torch.no_grad()
def noisy_chain(controller: Controller, context: Context, scale: Tensor, generator: torch.Generator) -> Tensor:
    """scale (1, K, A) -> chain (K + 1, H, A)."""
    K, cfg = scale.shape[1], controller.cfg
    x = torch.randn(1, 1, cfg.chunk, cfg.action_dim, generator=generator)
    chain = [x]
    for k, t in enumerate(times(K)):
        mean = x - controller.velocity(context, x, t.expand(1, 1, 1)) / K
        x = mean + scale[:, k, None, None] * torch.randn(mean.shape, generator=generator)
        chain.append(x)
    return torch.cat(chain)[:, 0]


def log_likelihood(controller: Controller, context: Context, scale: Tensor, chain: Tensor, executed: Tensor) -> Tensor:
    """scale (B, K, A), chain (B, K + 1, H, A), executed (B, H) -> (B,). All Euler steps in one pass: they are draws."""
    B, K = scale.shape[:2]
    before, after = chain[:, :-1], chain[:, 1:]
    t = times(K).to(chain).expand(B, K).unsqueeze(-1).expand(-1, -1, chain.shape[2])
    mean = before - controller.velocity(context, before, t) / K
    log_p = torch.distributions.Normal(mean, scale.unsqueeze(2)).log_prob(after)
    return (log_p.sum(-1) * executed.unsqueeze(1)).sum((1, 2))
