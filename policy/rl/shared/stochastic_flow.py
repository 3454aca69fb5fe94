"""A flow as a policy with likelihoods: one of its Euler steps gets a random shift, the same for all steps of the chunk.

    x_0 ~ N(0, 1)
    x_{k+1} = x_k - v(x_k, k / K) / K          and at k = NOISY plus e (A,) with e ~ N(0, s^2)
    x_K is the chunk
    w = mean over the H steps of x_{NOISY + 1}
    log p = log N(w, mean over the H steps of x_k - v / K, s^2)   at k = NOISY

The noise is learned as in ReinFlow (arXiv 2505.22094) and Flow-Noise of pi_RL (arXiv 2510.25889). It enters a single
Euler step as in MixGRPO (arXiv 2507.21802). The likelihood is that of the shift given x before it. The ratio leaves
out the effect of an update on the other steps. At test there is no shift: `Controller.sample` is the policy as it was.

Notable choices
- All steps of a chunk share one shift. Independent noise for each step averages out, and the flow undoes most of the
  rest. On Meta-World's reach such noise of the same deviation moved the hand a seventh as far.
- With one shift a look is a choice of A numbers. With H A numbers, each would add its share to the gradient's variance.
- Only one Euler step is shifted, because all shifted steps share the gradient. Late steps move the hand by a tenth of
  their share of the gradient.
- Every look has a shift of its own. A shift that holds for a whole attempt would be another policy.
"""

import math

import torch
from torch import Tensor, nn

from ...checkpoint.bundle import Bundle
from ...networks.controller import Context, Controller
from ...networks.pca_whitening import Standardise

NOISY = 1  # the Euler step that is shifted
DEVIATION = 0.4  # initial standard deviation of the shift, in normalised actions at that step
RANGE = 1.5  # the learned deviation stays within this factor of DEVIATION


class Explorer(nn.Module):
    """Network for the standard deviation s (B, A) of the shift, given the policy's features."""

    known: Tensor  # bool, whether the standardisation is fitted

    def __init__(self, features: int, plain: int, action_dim: int):
        super().__init__()
        self.standardise = Standardise(features, plain)  # fitted on the first round
        last = nn.Linear(128, action_dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.net = nn.Sequential(nn.Linear(self.standardise.size, 128), nn.SiLU(), last)
        self.register_buffer("known", torch.tensor(False))

    @classmethod
    def of(cls, bundle: Bundle) -> "Explorer":
        """An untrained explorer with the sizes of this policy."""
        sizes = bundle.feature_sizes
        return cls(sizes.features, sizes.plain, bundle.model.controller.cfg.action_dim)

    def forward(self, features: Tensor) -> Tensor:
        """features (B, F) -> standard deviation of the shift (B, A), within a factor RANGE of DEVIATION."""
        return DEVIATION * (math.log(RANGE) * self.net(self.standardise(features)).tanh()).exp()


@torch.no_grad()
def explore(
    controller: Controller, context: Context, scale: Tensor, start: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Samples a chunk with a random shift at Euler step NOISY.

    scale: standard deviation of the shift (1, A).
    start: initial noise x_0 (1, 1, H, A).
    Returns the chunk (H, A), x before the shifted step (H, A), and w (A,).
    """
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
    """Euler step k, without a shift: x_k (B, M, H, A) -> x_{k+1} (B, M, H, A)."""
    K = controller.cfg.euler_steps
    return x - controller.velocity(context, x, torch.full((len(x), 1, 1), k / K)) / K


def log_likelihood(controller: Controller, context: Context, scale: Tensor, before: Tensor, chosen: Tensor) -> Tensor:
    """Log-likelihood (B,) of the shifts under the controller.

    scale: standard deviation of the shift (B, A).
    before: x before the shifted step (B, H, A).
    chosen: w, the mean over the chunk after the shift (B, A).
    """
    mean = step(controller, context, before.unsqueeze(1), NOISY).mean((1, 2))
    return torch.distributions.Normal(mean, scale).log_prob(chosen).sum(-1)
