"""Stage `think`: System 2, the world model and the image decoder on the latents of a frozen encoder. And System 1
further, on the planner's subgoals (a half of a batch, detached: knowledge insulation), true ones and none (a quarter
each). The planner learns from a half and the picture from a quarter of a batch: they cost most and are learned first.

    words, g*, progress = P(instruction, past ticks)       g* learns G(z at the end of the subtask)
    z' = W(z, actions)                                     learns z after the chunk
    picture = decoder(G(z))                                learns the front camera's image
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ...backbone.moe import expert_loads
from ...data.cache import FrameCache
from ...data.windows import Extras, Loader, Sampler
from ..checkpoint.bundle import Bundle
from ..compute import to_device
from .data_parallel import ALONE, Team
from .latents import encode_all
from .stage_act import is_watched

WEIGHTS = {"flow": 1.0, "text": 0.3, "goal": 1.0, "progress": 0.3, "future": 1.0, "picture": 1.0}
JUDGEMENT = 0.1  # weight of the world model's progress and success losses
METRICS = ("subtask_accuracy", "explained")  # reported, not learned


class ThinkLearner:
    """A `policy.train.loop.Learner`."""

    name, repeats = "think", False  # batches of latents are gathered, and experts chosen, on the processor

    def __init__(
        self,
        bundle: Bundle,
        average: AveragedModel | None,
        cache: FrameCache,
        batch: int,
        seed: int,
        dtype: torch.dtype,
        team: Team = ALONE,
        held_out: Sequence[int] = (),
    ):
        """average: not used by this stage.
        held_out: episodes of which nothing is learned."""
        self.team = team
        self.bundle, self.model, self.cache, self.batch = bundle, bundle.model, cache, batch
        sizes = bundle.sizes
        shown = np.setdiff1d(np.flatnonzero(~is_watched(cache)), held_out)
        self.sampler = Sampler(
            cache, batch, seed + 1, sizes.chunk, sizes.ticks, sizes.tick, episodes=shown, share=(team.rank, team.size)
        )
        self.instructions = bundle.tokenize(cache.instructions, sizes.instruction_length)
        blank = torch.zeros(1, sizes.subtask_length, dtype=torch.int64)
        self.subtasks = torch.cat([bundle.tokenize(cache.subtasks, sizes.subtask_length), blank])  # row -1: none yet
        self.succeeds = torch.from_numpy(_succeeds_within(cache, sizes.chunk))
        self.latents = encode_all(bundle, cache, dtype, team, np.flatnonzero(np.isin(cache.episode_of, shown)))
        self.front = bundle.cameras[0]

    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters, in the optimiser's order."""
        parts = (self.model.controller, self.model.planner, self.model.world, self.model.decoder)
        return [p for part in parts for p in part.parameters()]

    def batches(self, start_step: int) -> Iterator[dict[str, Any]]:
        """Endless batches from this step on. They follow from the seed and the step."""
        with Loader(self.sampler, self.cache, start_step=start_step, extras=Extras()) as loader:
            yield from loader

    def losses(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and its parts by name."""
        sample = self.sample(batch)
        half, quarter = (max(1, len(sample["z"]) // n) for n in (2, 4))
        parts, plan = self.model.planner.loss({name: value[:half] for name, value in sample.items()})
        parts |= {"flow": self.flow_loss(sample, plan.goal)}
        parts |= self.model.world.loss(sample)
        now, seen = self.latents.goals(batch["index"][:quarter]), batch["images"][self.front][:quarter]
        device = self.bundle.device
        parts["picture"] = self.model.decoder.loss(now.to(device), seen.to(device))
        total = [WEIGHTS.get(name, JUDGEMENT) * part for name, part in parts.items() if name not in METRICS]
        return torch.stack(total).sum(), parts

    def flow_loss(self, sample: dict[str, Tensor], planned: Tensor) -> Tensor:
        """System 1's loss. planned (B / 2, K, D): goals of the first half of the batch, which get no gradient. Of the
        other half, half the rows have true goals and half have none."""
        goal = torch.cat([planned.detach(), sample["goal"][len(planned) :]])
        has_goal = torch.arange(len(goal), device=planned.device) < len(planned) + (len(goal) - len(planned)) // 2
        return self.model.controller.loss(sample, sample["z"], sample["referents"], goal, has_goal)

    def sample(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """A batch of `data.windows` -> what the parts of this stage learn from, (B, ...) each."""
        scenes, goals = self.latents.scenes, self.latents.goals
        history = scenes(batch["history_index"])
        sample = {
            "instruction": self.instructions[batch["instruction"]],
            "subtask": self.subtasks[batch["subtask"]],
            "previous": self.subtasks[batch["previous_subtask"]],
            "history": history,
            "history_mask": batch["history_mask"],
            "z": history[:, -1],
            "goal": goals(batch["subgoal_index"]),
            "progress": batch["progress"],
            "future": scenes(batch["future_index"]),
            "future_progress": self._progress_at(batch),
            "future_success": self.succeeds[batch["index"]],
            "actions": self.bundle.normalized_actions(batch["actions"]),
            "action_mask": batch["action_mask"],
        }
        sample = to_device(sample, self.bundle.device)
        with torch.no_grad():  # grounding is frozen with the encoder
            sample["referents"], _ = self.model.grounding(sample["instruction"], sample["z"])
        return sample

    def _progress_at(self, batch: dict[str, Any]) -> Tensor:
        """Progress of the present subtask after the chunk: 1 once its end is passed."""
        end, future, index = batch["subgoal_index"], batch["future_index"], batch["index"]
        left = (end - index).clamp(min=0).float()
        gained = (future - index).float() / left.clamp(min=1.0)
        return (batch["progress"] + (1 - batch["progress"]) * gained).clamp(0, 1)

    def after_step(self) -> None:
        """Runs after every step of the optimiser."""
        self.team.add(expert_loads(self.model.planner))
        self.model.planner.balance()


def _succeeds_within(cache: FrameCache, chunk: int) -> np.ndarray:
    """float32 (F,): 1 where the episode has succeeded `chunk` steps later. Where the data does not say, it has at its
    end: demonstrations do."""
    success = cache.columns.get("next.success", np.ones(len(cache))).astype("float32").reshape(-1)
    last = cache.episode_end[cache.episode_of] - 1
    reaches_end = np.arange(len(success)) + chunk >= last
    return (success[last] * reaches_end).astype("float32")
