"""What a round of RECAP learns: System 1 imitates demonstrations, corrections, advice and own chunks, told how good
each was.

    loss = flow matching of the chunk that was acted, or advised, given the judgement
    (policy/networks/advantage_token.py)

Notable choices
- The encoder stays as it is: latents are stored as the agent saw them, and a step costs what the controller costs.
- At test a chunk begins with less noise than while it practises. On layouts of training a policy that had practised for
  an hour was as often successful and a few steps faster for it. One that has only imitated was not.
- Every kind of data has its share of a batch, demonstrations too, however much there is of it. A few rows are told
  nothing, for guidance.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...checkpoint.bundle import Bundle
from ...compute import fastest_dtype
from ...networks.advantage_token import BAD, GOOD, UNKNOWN, Judgement, JudgementConfig
from ...networks.controller import Controller
from ...train.data_parallel import ALONE
from ...train.ema import averaged
from ...train.loop import Progress, fit
from ...train.recipe import Stage
from ..shared.frames import Samples
from ..shared.learning_run import Learning


@dataclass(frozen=True)
class Shares:
    """Of a batch. What there is none of leaves its share to the others."""

    demonstrations: float = 0.2
    corrections: float = 0.15
    advice: float = 0.4
    good: float = 0.1
    bad: float = 0.15


@dataclass(frozen=True)
class Lesson:
    """Settings."""

    untold: float = 0.1  # share of rows that are told nothing
    shares: Shares = Shares()
    stage: Stage = Stage(steps=800, learning_rate=3e-4, warmup=50, ema=0.995)
    guidance: float = 1.0
    noise: float = 0.3  # at test


DEMONSTRATION, CORRECTION, ADVICE, PRAISED, BLAMED, UNUSED = range(6)


def kinds_of(own: Samples, judged: Tensor) -> Tensor:
    """Of every frame of own episodes, (F,)."""
    kind = torch.full((len(own),), UNUSED)
    kind[judged == BAD] = BLAMED
    kind[judged == GOOD] = PRAISED
    kind[own.expert & own.success] = CORRECTION
    return kind


@dataclass
class Judged:
    """What a round learns from, F frames."""

    samples: Samples
    judged: Tensor  # (F,)
    kind: Tensor  # (F,)

    def weights(self, shares: Shares) -> Tensor:
        """(F,): how often each frame is drawn, so that kinds have their shares."""
        counts = torch.bincount(self.kind, minlength=UNUSED + 1)
        wanted = torch.tensor([shares.demonstrations, shares.corrections, shares.advice, shares.good, shares.bad, 0.0])
        return (wanted / counts.clamp(min=1))[self.kind]


class _Parts(nn.Module):
    """What learns."""

    def __init__(self, controller: Controller, judgement: Judgement):
        super().__init__()
        self.controller, self.judgement = controller, judgement


class _Learner:
    """A `policy.train.loop.Learner`: System 1 on judged frames."""

    name, repeats = "recap", False

    def __init__(
        self, bundle: Bundle, parts: _Parts, data: Judged, settings: Lesson, seed: int, tick: Callable[[], None]
    ):
        self.bundle, self.parts, self.data, self.settings = bundle, parts, data, settings
        self.seed, self.tick = seed, tick

    def parameters(self) -> list[nn.Parameter]:
        return list(self.parts.parameters())

    def batches(self, start_step: int) -> Iterator[dict[str, Any]]:
        B, step, weights = self.settings.stage.batch, start_step, self.data.weights(self.settings.shares)
        while True:
            rng = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
            yield {"index": torch.multinomial(weights, B, replacement=True, generator=rng)}
            step += 1

    def losses(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        rows, judged = self.data.samples.rows(batch["index"]), self.data.judged[batch["index"]]
        z, goal = rows.z.float(), rows.goal.float()
        with torch.no_grad():
            referents, _ = self.bundle.model.grounding(rows.instruction, z)
        told = torch.where(torch.rand(len(z)) < self.settings.untold, UNKNOWN, judged)
        aims = rows.has_goal & (torch.rand(len(z)) < 0.5)
        sample = {"instruction": rows.instruction, "actions": rows.actions, "action_mask": rows.action_mask}
        loss = self.parts.controller.loss(sample, z, referents, goal, aims, self.parts.judgement(told))
        return loss, {"flow": loss}

    def after_step(self) -> None:
        self.tick()


def learn(
    bundle: Bundle, data: Judged, learning: Learning, settings: Lesson, seed: int
) -> tuple[Controller, Judgement] | None:
    """bundle: what the last round left. None: the run was asked to stop."""
    torch.manual_seed(seed)
    controller = Controller(bundle.model.controller.cfg)
    controller.load_state_dict(bundle.model.controller.state_dict())
    judgement = Judgement(JudgementConfig(bundle.sizes.width, settings.guidance, settings.noise))
    if bundle.judgement is not None:
        judgement.load_state_dict(bundle.judgement.state_dict())
    parts, steps = _Parts(controller, judgement), settings.stage.steps
    average, learner = averaged(parts, settings.stage.ema), _Learner(bundle, parts, data, settings, seed, learning.tick)
    ended = fit(
        learner, parts, average, settings.stage, learning.run, ALONE, seed, fastest_dtype(),
        lambda step, optimizer: None, Progress(), steps, 50,
    )  # fmt: skip
    learned = cast(_Parts, average.module)
    return (learned.controller, learned.judgement) if ended else None
