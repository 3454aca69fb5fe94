"""Stage `act`: scene encoder, goal read-out and System 1, from pixels.

    z = E(images, state);  g = G(z);  g* = G'(E'(frame at the end of the subtask))        ' = averaged weights
    loss = flow(F(z, g* or nothing, instruction)) + keypoints(E) + ways(E) + probe(G)

Only the first half of a batch carries a goal (the rest trains the flat policy), so only that half's goal frames are
encoded. The goal's labels come from the averaged encoder and carry no gradient.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ...data.cache import FrameCache
from ...data.windows import Extras, Loader, Sampler
from ...planner.grounding import grounding_loss
from ..compute import to_device
from ..networks.scene_encoder import keypoint_loss, way_loss
from ..networks.tandem import Tandem
from .data_parallel import ALONE, Team

if TYPE_CHECKING:
    from ..checkpoint.bundle import Bundle

WEIGHTS = {
    "keypoint_heat": 0.1, "keypoint_offset": 1.0, "keypoint_visible": 0.1, "probe_entities": 1.0, "probe_state": 0.1,
    "grounding": 0.3,
}  # fmt: skip


def learned_parts(model: Tandem) -> dict[str, nn.Module]:
    """What this stage trains, by name, in the optimiser's order."""
    return {name: getattr(model, name) for name in ("encoder", "read_out", "probe", "grounding", "controller")}


class ActLearner:
    """A `policy.train.loop.Learner`."""

    name, repeats = "act", True

    def __init__(
        self,
        bundle: "Bundle",
        average: AveragedModel,
        cache: FrameCache,
        batch: int,
        seed: int,
        dtype: torch.dtype,
        team: Team = ALONE,
        held_out: Sequence[int] = (),
    ):
        """held_out: episodes of which nothing is learned."""
        self.bundle, self.model, self.cache = bundle, bundle.model, cache
        self.average = cast(Tandem, average.module)
        sizes = bundle.config.sizes
        self.sampler = Sampler(
            cache, batch, seed, sizes.chunk, sizes.ticks, sizes.tick, frames=frames_to_learn(cache, held_out),
            share=(team.rank, team.size),
        )  # fmt: skip
        self.words = bundle.tokenize(cache.instructions, sizes.instruction_length).to(bundle.device)
        self.privileged = tuple(key for key in bundle.privileged_keys if key in cache.columns)

    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters, in the optimiser's order."""
        return [p for part in learned_parts(self.model).values() for p in part.parameters()]

    def batches(self, start_step: int) -> Iterator[dict[str, Any]]:
        """Endless batches from this step on. They follow from the seed and the step."""
        extras = Extras(at=("subgoal",), share=0.5, columns=self.privileged)
        with Loader(self.sampler, self.cache, start_step=start_step, extras=extras) as loader:
            yield from loader

    def losses(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and its parts by name."""
        batch = to_device(batch, self.bundle.device)
        state = self.bundle.normalized_state(batch["state"])
        scene = self.model.encoder(batch["images"], state)
        goal, has_goal = self._goals(batch, scene.z)
        sample = {
            "instruction": self.words[batch["instruction"]],
            "actions": self.bundle.normalized_actions(batch["actions"]),
            "action_mask": batch["action_mask"],
        }
        referents, named = self.model.grounding(sample["instruction"], scene.z)
        parts = {"flow": self.model.controller.loss(sample, scene.z, referents, goal, has_goal)}
        if "referents" in self.privileged:
            parts["grounding"] = grounding_loss(named, batch["columns"]["referents"])
        if self.bundle.config.entities:
            keypoints, entities = self.bundle.entity_targets(batch["columns"])
            parts |= keypoint_loss(scene, keypoints)
            parts["way"] = way_loss(scene, entities, self.bundle.hand(batch["state"]))
            parts |= self.model.probe.loss(self.model.read_out(scene.z), entities, state)
        return torch.stack([WEIGHTS.get(name, 1.0) * part for name, part in parts.items()]).sum(), parts

    @torch.no_grad()
    def _goals(self, batch: dict[str, Any], z: Tensor) -> tuple[Tensor, Tensor]:
        """Goals (B, K, D) of the first half of the batch, zeros elsewhere, and which rows have one (B,)."""
        state = self.bundle.normalized_state(batch["subgoal"]["state"])
        goal = self.average.read_out(self.average.encoder(batch["subgoal"]["images"], state).z)
        nothing = goal.new_zeros(len(z) - len(goal), *goal.shape[1:])
        return torch.cat([goal, nothing]), torch.arange(len(z), device=z.device) < len(goal)

    def after_step(self) -> None:
        """Nothing to do between steps."""


def frames_to_learn(cache: FrameCache, held_out: Sequence[int] = ()) -> np.ndarray:
    """Frames whose own action is worth imitating. Where there are episodes that are only watched, of which the encoder
    alone learns, they are half of the frames: the others are repeated, for there are few."""
    seen = ~np.isin(cache.episode_of, held_out)
    imitated = seen & ~cache.columns.get("perturbed", np.zeros(len(cache), bool)).reshape(-1)
    watched = np.flatnonzero(seen & is_watched(cache)[cache.episode_of])
    shown = np.flatnonzero(imitated)
    return np.concatenate([np.tile(shown, max(1, round(len(watched) / max(1, len(shown))))), watched])


def is_watched(cache: FrameCache) -> np.ndarray:
    """bool (episodes,): nothing in it is to be imitated."""
    if "perturbed" not in cache.columns:
        return np.zeros(len(cache.episode_start), bool)
    perturbed = cache.columns["perturbed"].reshape(-1)
    return np.array([perturbed[s:e].all() for s, e in zip(cache.episode_start, cache.episode_end, strict=True)])
