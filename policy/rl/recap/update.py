"""The training of a round of RECAP: System 1 imitates demonstrations, corrections, advice and own chunks.

    loss = flow matching of the chunk that was executed or advised, given the label (policy/networks/advantage_token.py)

Notable choices
- The encoder stays frozen. The latents that the agent computed are stored, so that a step costs what the controller
  costs.
- At test a chunk starts from less noise than in practice. After an hour of practice, a policy was a few steps faster
  with it on layouts of training, at equal success. A policy after imitation alone was not faster.
- Every kind of data has a fixed share of a batch, whatever its amount. That includes demonstrations.
- A few rows of a batch get no label, for classifier-free guidance.
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
    """Shares of a batch. The share of a kind without data goes to the others."""

    demonstrations: float = 0.2  # Share of demonstrations in a batch.
    corrections: float = 0.15  # Share of a successful expert's actions after a takeover.
    advice: float = 0.4  # Share of the expert's advice at looks at which the policy acted.
    good: float = 0.1  # Share of the policy's own chunks with the label good.
    bad: float = 0.15  # Share of the policy's own chunks with the label bad.


@dataclass(frozen=True)
class Lesson:
    """Settings of the controller's training."""

    # Share of a batch's rows without a label good or bad. Guidance needs such rows.
    untold: float = 0.1
    # Share of each kind of data in a batch.
    shares: Shares = Shares()
    # Steps, learning rate and batch of a round's training.
    stage: Stage = Stage(steps=800, learning_rate=3e-4, warmup=50, ema=0.995)
    # Weight of the label at test. 1 follows the label as trained, more moves away from the unlabelled behaviour.
    guidance: float = 1.0
    # Standard deviation of the noise from which a chunk starts at test. In practice it is 1.
    noise: float = 0.3


# kinds of frames, in the order of `Shares`. PRAISED: labelled good. BLAMED: labelled bad. UNUSED: never drawn.
DEMONSTRATION, CORRECTION, ADVICE, PRAISED, BLAMED, UNUSED = range(6)


def kinds_of(own: Samples, judged: Tensor) -> Tensor:
    """The kind of every frame of own episodes (F,). judged: their labels (F,)."""
    kind = torch.full((len(own),), UNUSED)
    kind[judged == BAD] = BLAMED
    kind[judged == GOOD] = PRAISED
    kind[own.expert & own.success] = CORRECTION
    return kind


@dataclass
class Judged:
    """The data of a round: F frames with label and kind."""

    samples: Samples
    judged: Tensor  # (F,) label: GOOD, BAD or UNKNOWN
    kind: Tensor  # (F,) from DEMONSTRATION to UNUSED

    def weights(self, shares: Shares) -> Tensor:
        """Sampling weights (F,), not normalised, with which each kind has its share of a batch."""
        counts = torch.bincount(self.kind, minlength=UNUSED + 1)
        wanted = torch.tensor([shares.demonstrations, shares.corrections, shares.advice, shares.good, shares.bad, 0.0])
        return (wanted / counts.clamp(min=1))[self.kind]


class _Parts(nn.Module):
    """The trained parameters: controller and label vectors."""

    def __init__(self, controller: Controller, judgement: Judgement):
        super().__init__()
        self.controller, self.judgement = controller, judgement


class _Learner:
    """A `policy.train.loop.Learner` that trains System 1 on labelled frames."""

    name, repeats = "recap", False

    def __init__(
        self, bundle: Bundle, parts: _Parts, data: Judged, settings: Lesson, seed: int, tick: Callable[[], None]
    ):
        self.bundle, self.parts, self.data, self.settings = bundle, parts, data, settings
        self.seed, self.tick = seed, tick

    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters."""
        return list(self.parts.parameters())

    def batches(self, start_step: int) -> Iterator[dict[str, Any]]:
        """Yields a batch of frame indices for every step, seeded by the step."""
        B, step, weights = self.settings.stage.batch, start_step, self.data.weights(self.settings.shares)
        while True:
            rng = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
            yield {"index": torch.multinomial(weights, B, replacement=True, generator=rng)}
            step += 1

    def losses(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The flow-matching loss of a batch, and its parts by name."""
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
        """Notes the time of the run."""
        self.tick()


def learn(
    bundle: Bundle, data: Judged, learning: Learning, settings: Lesson, seed: int
) -> tuple[Controller, Judgement] | None:
    """Trains a copy of the controller and of the label vectors on `data`.

    bundle: the policy of the last round.
    Returns their exponential moving averages, or None where the run is asked to stop.
    """
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
