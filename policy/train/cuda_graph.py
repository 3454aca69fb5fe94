"""Losses and gradients of a training step. On a GPU recorded once, as a CUDA graph, and replayed.

A step of a small policy is two thousand kernels of a few microseconds each, and to launch them one by one takes several
times as long as to run them. A recorded step reads its batch from the same memory every time and leaves its gradients
in the same place. Random numbers are drawn anew: a replay starts from the generator's present seed.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..compute import autocast, to_device

WARM_UP = 3  # steps before recording: libraries choose and allocate in their first ones


class Losses(Protocol):
    """What gives a loss for a batch."""

    # Does every step launch the same operations on batches of the same shapes, and never wait for the GPU?
    repeats: bool

    def losses(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and its parts by name."""


class Step:
    """step(batch) -> loss and metrics. The parameters have its gradients, and none of an earlier step."""

    def __init__(self, learner: Losses, parameters: list[nn.Parameter], dtype: torch.dtype):
        self.learner, self.parameters, self.dtype = learner, parameters, dtype
        self.device = parameters[0].device

    def __call__(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        for parameter in self.parameters:
            parameter.grad = None
        with autocast(self.device, self.dtype):
            loss, metrics = self.learner.losses(batch)
        loss.backward()
        return loss.detach(), {name: value.detach() for name, value in metrics.items()}  # nothing keeps the graph alive


class RecordedStep(Step):
    """The same numbers. What it returns is overwritten by the next call."""

    graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        if self.graph is None:
            self._record(batch)
        _fill(self.inputs, batch)
        self.graph.replay()  # type: ignore[union-attr]
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.outputs

    def _record(self, batch: dict[str, Any]) -> None:
        seeded = torch.cuda.get_rng_state(self.device)
        self.inputs, main, aside = to_device(batch, self.device), torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(main)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                super().__call__(self.inputs)
        main.wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = super().__call__(self.inputs)
        self.gradients = [parameter.grad for parameter in self.parameters]
        torch.cuda.set_rng_state(seeded, self.device)


def step_of(learner: Losses, parameters: list[nn.Parameter], dtype: torch.dtype) -> Step:
    """Recorded where that is possible."""
    recorded = parameters[0].is_cuda and learner.repeats
    return (RecordedStep if recorded else Step)(learner, parameters, dtype)


def _fill(memory: dict[str, Any], batch: dict[str, Any]) -> None:
    for name, value in batch.items():
        _fill(memory[name], value) if isinstance(value, dict) else memory[name].copy_(value)
