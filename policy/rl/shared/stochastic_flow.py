"""A flow as a policy with likelihoods: one of its Euler steps is shifted at random, all steps of the chunk alike.

    x_0 ~ N(0, 1);  x_{k+1} = x_k - v(x_k, k / K) / K, and at k = NOISY + e (A,), e ~ N(0, s^2);  x_K is the chunk
    w = mean over the H steps of x_{NOISY + 1};   log p = log N(w; mean over the H steps of x_k - v / K, s^2)

Learned noise as in ReinFlow (arXiv 2505.22094) and Flow-Noise of pi_RL (arXiv 2510.25889), in a single Euler step as in
MixGRPO (arXiv 2507.21802): the likelihood is that of the shift, given x before it. What an update changes in the other
steps is left out of the ratio. At test it is left out, which is the policy as it was: `Controller.sample`.

Notable choices
- One shift for all steps of a chunk. Noise of each step's own averages out, and the flow takes back most of what is
  left: on Meta-World's reach the same deviation moved the hand a seventh as far. And a look is a choice of A numbers,
  not of H A, of which each has a share in the gradient's variance.
- One Euler step, for the gradient is shared by all that are drawn: late ones move the hand by a tenth of what the
  gradient spends on them.
- Every look has a shift of its own: kept for a whole attempt it would be another policy.
"""

import math

import torch
from torch import Tensor, nn

from ...checkpoint.bundle import Bundle
from ...networks.controller import Context, Controller
from ...networks.pca_whitening import Standardise

NOISY = 1  # the Euler step that is shifted
DEVIATION = 0.4  # of the shift, in normalised actions at that step
RANGE = 1.5  # factor within which it is learned


class Explorer(nn.Module):
    """s (B, A) from what is seen."""

    known: Tensor  # is the scale of what is seen known

    def __init__(self, features: int, plain: int, action_dim: int):
        super().__init__()
        self.standardise = Standardise(features, plain)  # by the first round
        last = nn.Linear(128, action_dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.net = nn.Sequential(nn.Linear(self.standardise.size, 128), nn.SiLU(), last)
        self.register_buffer("known", torch.tensor(False))

    @classmethod
    def of(cls, bundle: Bundle) -> "Explorer":
        """A fresh explorer of this policy's sizes."""
        sizes = bundle.feature_sizes
        return cls(sizes.features, sizes.plain, bundle.model.controller.cfg.action_dim)

    def forward(self, features: Tensor) -> Tensor:
        return DEVIATION * (math.log(RANGE) * self.net(self.standardise(features)).tanh()).exp()


@torch.no_grad()
def explore(
    controller: Controller, context: Context, scale: Tensor, start: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """scale (1, A), start (1, 1, H, A) the noise x_0 -> the chunk (H, A), x before the shifted step (H, A), w (A,)."""
    x = start
    for k in range(controller.cfg.euler_steps):
        if k == NOISY:
            before, x = x, step(controller, context, x, k)
            x = x + scale * torch.randn(scale.shape, generator=generator)
            chosen = x.mean(2)
        else:
            x = step(controller, context, x, k)
    return x[0, 0], before[0, 0], chosen[0, 0]


def step(controller: Controller, context: Context, x: Tensor, k: int) -> Tensor:
    """Euler step k of x (B, M, H, A)."""
    K = controller.cfg.euler_steps
    return x - controller.velocity(context, x, torch.full((len(x), 1, 1), k / K)) / K


def log_likelihood(controller: Controller, context: Context, scale: Tensor, before: Tensor, chosen: Tensor) -> Tensor:
    """scale (B, A), before (B, H, A), chosen (B, A) -> (B,)."""
    mean = step(controller, context, before.unsqueeze(1), NOISY).mean((1, 2))
    return torch.distributions.Normal(mean, scale).log_prob(chosen).sum(-1)
