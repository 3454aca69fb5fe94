"""A flow as a policy with likelihoods: noise at every Euler step makes a Markov chain of Gaussians.

    x_0 ~ N(0, 1);    x_{k+1} ~ N(m_k, s_k^2),    k = 0 .. K-1;    x_K is the chunk;    t = k / K, t' = (k + 1) / K
    m_k = x_k - v / K - (1 - t') (1 - sqrt(1 - ETA^2)) (x_k + t v);    s_k = max((1 - t') ETA, LAST) * what is learned
    log p(chain) = sum over k of log N(x_{k+1}; m_k, s_k), over the steps of the chunk that are executed

"Flow-Noise" of pi_RL (arXiv 2510.25889), ReinFlow (arXiv 2505.22094). At test the noise is left out, which is the
policy as it was: `Controller.sample`.

Notable choices
- x + t v is the flow's own guess of the noise in x. A share of it is taken out where new noise comes in (DDIM's eta,
  arXiv 2010.02502), so that x_k is distributed as it was in training: added on top, noise would be another policy.
- Large at first, small at the end: early noise decides where a chunk goes, and its likelihood is what can be learned
  from; x_0, which has none, is forgotten. The last step keeps a little, or its likelihood would have no bounds.
- Every look has noise of its own: kept for a whole attempt it would be another policy too.
- What runs counts: noise of steps that are not executed reaches the others through attention, and has no likelihood.
"""

import math

import torch
from torch import Tensor, nn

from policy.bundle import Bundle
from policy.controller import Context, Controller
from policy.standardise import Standardise

ETA = 0.7  # share of the noise that is new at every step
LAST = 0.12  # smallest deviation, in normalised actions: one or two millimetres a step
RANGE = 1.5  # factor within which the deviation is learned


class Explorer(nn.Module):
    """s (B, K, A) from what is seen."""

    scale: Tensor

    def __init__(self, features: int, plain: int, steps: int, action_dim: int):
        super().__init__()
        self.steps, self.action_dim = steps, action_dim
        self.standardise = Standardise(features, plain)  # by the first round
        last = nn.Linear(128, steps * action_dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.net = nn.Sequential(nn.Linear(self.standardise.size, 128), nn.SiLU(), last)
        left = 1 - (torch.arange(steps) + 1) / steps
        self.register_buffer("scale", (ETA * left).clamp(min=LAST).unsqueeze(-1), persistent=False)  # (K, 1)

    @classmethod
    def of(cls, bundle: Bundle) -> "Explorer":
        sizes, controller = bundle.feature_sizes, bundle.model.controller.cfg
        return cls(sizes.features, sizes.plain, controller.euler_steps, controller.action_dim)

    def forward(self, features: Tensor) -> Tensor:
        learned = self.net(self.standardise(features)).tanh().unflatten(-1, (self.steps, self.action_dim))
        return self.scale * (math.log(RANGE) * learned).exp()


@torch.no_grad()
def noisy_chain(
    controller: Controller, context: Context, scale: Tensor, start: Tensor, generator: torch.Generator
) -> Tensor:
    """scale (1, K, A), start (1, 1, H, A) the noise x_0 -> chain (K + 1, H, A)."""
    K, x = scale.shape[1], start
    chain = [x]
    for k in range(K):
        mean = next_mean(controller, context, x, torch.full((1, 1, 1), k / K), K)
        x = mean + scale[:, k, None, None] * torch.randn(mean.shape, generator=generator)
        chain.append(x)
    return torch.cat(chain)[:, 0]


def next_mean(controller: Controller, context: Context, x: Tensor, t: Tensor, K: int) -> Tensor:
    """m of x (B, M, H, A) at t (B, M, H) or (B, 1, 1)."""
    velocity, left = controller.velocity(context, x, t), 1 - t.unsqueeze(-1) - 1 / K
    return x - velocity / K - left * (1 - math.sqrt(1 - ETA**2)) * (x + t.unsqueeze(-1) * velocity)


def log_likelihood(
    controller: Controller, context: Context, scale: Tensor, chain: Tensor, executed: Tensor, euler: Tensor
) -> Tensor:
    """Of single steps of a chain, log N(x_{k+1}; m_k, s_k) over the executed steps of the chunk.

    scale (B, K, A), chain (B, K + 1, H, A), executed (B, H), euler (B, M) which k -> (B, M). All in one pass: they are
    draws.
    """
    K, (H, A) = scale.shape[1], chain.shape[2:]
    rows = euler[:, :, None, None].expand(-1, -1, H, A)
    before, after = chain.gather(1, rows), chain.gather(1, rows + 1)
    t = (euler / K).unsqueeze(-1).expand(-1, -1, H)
    deviation = scale.gather(1, rows[:, :, 0]).unsqueeze(2)
    log_p = torch.distributions.Normal(next_mean(controller, context, before, t, K), deviation).log_prob(after)
    return (log_p.sum(-1) * executed.unsqueeze(1)).sum(2)
