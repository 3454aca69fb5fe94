"""A layer of the backbone of your own: a causal mean of the tokens so far, with a learned decay.

A mixer is called as `mixer(x, scope, cache)` and offers `new_cache()`. One entry in `MIXERS` names it for patterns.
Its method `init_weights` is called after the stack's own initial values, so that they survive.
"""

import torch
from tandem.backbone.cache import LayerCache
from tandem.backbone.scope import Scope
from tandem.backbone.stack import MIXERS, Stack, StackConfig
from torch import Tensor, nn


class DecayedMean(nn.Module):
    """y_i = W sum_{j <= i} d^(i - j) x_j / sum_{j <= i} d^(i - j), without a cache of its own."""

    def __init__(self, width: int):
        super().__init__()
        self.out = nn.Linear(width, width, bias=False)
        self.decay = nn.Parameter(torch.tensor(2.0))  # before the sigmoid

    def init_weights(self) -> None:
        """Begins as the identity."""
        nn.init.eye_(self.out.weight)

    def new_cache(self) -> LayerCache:
        """This layer reads whole sequences only."""
        raise NotImplementedError("DecayedMean has no cache")

    def forward(self, x: Tensor, scope: Scope, cache: LayerCache | None = None) -> Tensor:
        """x (B, N, D) -> (B, N, D)."""
        place = torch.arange(x.shape[1], device=x.device)
        age = (place[:, None] - place).clamp(min=0)
        weight = torch.sigmoid(self.decay) ** age * (place[:, None] >= place)
        return self.out(weight / weight.sum(1, keepdim=True) @ x)


MIXERS["mean"] = lambda cfg: DecayedMean(cfg.width)


def main() -> Tensor:
    """A stack of the new layer and an attention layer."""
    stack = Stack(StackConfig(width=64, pattern="mean gated", ffn="mlp", ffn_width=128))
    assert torch.equal(stack.layers[0].mixer.out.weight, torch.eye(64))
    return stack(torch.randn(2, 10, 64))


if __name__ == "__main__":
    print(main().shape)
