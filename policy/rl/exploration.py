"""A flow as a policy with likelihoods: one of its Euler steps is drawn from a Gaussian.

    x_0 ~ N(0, 1);   t = k / K, t' = (k + 1) / K
    x_{k+1} = x_k - v / K                        as at test (`Controller.sample`), but for k = NOISY:
    x_{k+1} ~ N(m, s^2),  m = t' (x_k - (1 - t) v),  s = (1 - t') * what is learned;      x_K is the chunk
    log p = log N(x_{k+1}; m, s) at k = NOISY, over the steps of the chunk that are executed

Learned noise as in ReinFlow (arXiv 2505.22094) and Flow-Noise of pi_RL (arXiv 2510.25889), in a single step as in
MixGRPO (arXiv 2507.21802). At test it is left out, which is the policy as it was.

Notable choices
- x - (1 - t) v is the chunk that the flow is heading for: at t', m and s are what imitation has there, with new noise.
- One step, for the gradient is shared by all that are drawn, and they say little: early ones are mended by those that
  follow, late ones move the hand by a tenth of what the gradient spends on them. On `few` the second of four explains
  90% of where the hand goes.
- Every look has noise of its own: kept for a whole attempt it would be another policy.
- What runs counts: noise of steps that are not executed reaches the others through attention, and has no likelihood.
"""

import math

import torch
from torch import Tensor, nn

from policy.bundle import Bundle
from policy.controller import Context, Controller
from policy.standardise import Standardise

NOISY = 1  # the Euler step that is drawn
RANGE = 1.5  # factor within which its deviation is learned


class Explorer(nn.Module):
    """s (B, A) from what is seen."""

    def __init__(self, features: int, plain: int, steps: int, action_dim: int):
        super().__init__()
        self.scale = 1 - (NOISY + 1) / steps
        self.standardise = Standardise(features, plain)  # by the first round
        last = nn.Linear(128, action_dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.net = nn.Sequential(nn.Linear(self.standardise.size, 128), nn.SiLU(), last)

    @classmethod
    def of(cls, bundle: Bundle) -> "Explorer":
        sizes, controller = bundle.feature_sizes, bundle.model.controller.cfg
        return cls(sizes.features, sizes.plain, controller.euler_steps, controller.action_dim)

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * (math.log(RANGE) * self.net(self.standardise(features)).tanh()).exp()


@torch.no_grad()
def explore(
    controller: Controller, context: Context, scale: Tensor, start: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """scale (1, A), start (1, 1, H, A) the noise x_0 -> the chunk (H, A), and x before and after the step that is drawn
    (2, H, A)."""
    K, x = controller.cfg.euler_steps, start
    for k in range(K):
        if k == NOISY:
            before, mean = x, drawn_mean(controller, context, x)
            x = after = mean + scale[:, None, None] * torch.randn(mean.shape, generator=generator)
        else:
            x = x - controller.velocity(context, x, torch.full((1, 1, 1), k / K)) / K
    return x[0, 0], torch.cat([before, after])[:, 0]


def drawn_mean(controller: Controller, context: Context, x: Tensor) -> Tensor:
    """m of x (B, 1, H, A)."""
    K = controller.cfg.euler_steps
    velocity = controller.velocity(context, x, torch.full((len(x), 1, 1), NOISY / K))
    return (NOISY + 1) / K * (x - (1 - NOISY / K) * velocity)


def log_likelihood(controller: Controller, context: Context, scale: Tensor, drawn: Tensor, executed: Tensor) -> Tensor:
    """scale (B, A), drawn (B, 2, H, A) x before and after, executed (B, H) -> (B,), over the executed steps."""
    mean = drawn_mean(controller, context, drawn[:, :1])[:, 0]
    log_p = torch.distributions.Normal(mean, scale[:, None]).log_prob(drawn[:, 1])
    return (log_p.sum(-1) * executed).sum(1)
