"""Exponential moving average of weights: the copy that evaluation uses and that labels subgoals in training.

torch's AveragedModel with a decay that warms up, min(decay, (1 + n) / (10 + n)), so that the average of a short run is
not an average with its random start (the rule of diffusers' EMAModel, that one keeps a bare list of tensors, and here
the average is itself run as a model).
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """A frozen running average of `model`. Call `update_parameters(model)` after every optimiser step."""
    average = AveragedModel(model, multi_avg_fn=_warming(decay), use_buffers=True)
    return cast(AveragedModel, average.requires_grad_(False).eval())


def _warming(decay: float) -> Callable[..., None]:
    @torch.no_grad()
    def update(average: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        n = float(count)
        weight = 1 - min(decay, (1 + n) / (10 + n))
        if average[0].is_floating_point():  # tensors of one type at a time
            torch._foreach_lerp_(average, current, weight)  # as torch's own averages do: few launches on a GPU
        else:
            torch._foreach_copy_(average, current)

    return update
