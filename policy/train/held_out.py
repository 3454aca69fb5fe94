"""What a policy makes of episodes that it has not learned from: its loss, and the error of its actions.

For data that was recorded elsewhere there is no simulator to succeed in. The open-loop error says how well the recorded
actions are predicted from the recorded observations: a number to compare policies by, no promise of success.

    open-loop error of an entry = mean |predicted - recorded|, in the entry's own unit, over the first action of a chunk
    and over all its steps. Beside it the errors of two policies that see nothing: always the mean action, and standing
    still (0, for an absolute target the action before)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.cache import FrameCache
from ...data.contract import entry_name
from ...data.kinds import ABSOLUTE
from ...data.windows import window
from ..checkpoint.bundle import ACTION, Bundle

SHARE = 0.05  # of the episodes, by default, where the data names no task of ours
FRAMES, BATCH = 512, 32  # measured at most, evenly over the episodes; at once


def split(cache: FrameCache, share: float | None, seed: int) -> tuple[int, ...]:
    """Episodes to hold out, in ascending order. share: of all. None: SHARE, or none where a simulator can measure."""
    episodes = len(cache.episode_start)
    if share is None:
        share = 0.0 if any("sim/task" in row for row in cache.episodes) else SHARE
    if share <= 0 or episodes < 2:
        return ()
    count = min(episodes - 1, max(1, round(share * episodes)))
    return tuple(sorted(np.random.default_rng([seed, 5]).choice(episodes, count, replace=False).tolist()))


@torch.no_grad()
def measure(bundle: Bundle, cache: FrameCache, episodes: Sequence[int]) -> dict[str, Any]:
    """{"episodes", "frames", "flow_loss", "entries": {name: {"first", "chunk", "mean_action", "stay"}}}.

    The policy runs flat, on its instruction alone.
    """
    bundle.model.eval()
    frames = np.flatnonzero(np.isin(cache.episode_of, episodes))
    frames = frames[np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).astype(int)]
    batches = np.array_split(frames, -(-len(frames) // BATCH))
    parts = [_predict(bundle, cache, rows, i) for i, rows in enumerate(batches)]
    predicted, recorded, still = (np.concatenate([part[i] for part in parts]) for i in (0, 1, 2))
    mask = np.concatenate([part[3] for part in parts])
    flow = float(np.average([part[4] for part in parts], weights=[len(part[0]) for part in parts]))
    learned = ~np.isin(cache.episode_of, episodes)
    mean = cache.columns[ACTION][learned if learned.any() else ~learned].mean(0)
    feature, entries = bundle.contract.features[ACTION], {}
    for i in range(recorded.shape[-1]):
        error = np.abs(predicted[..., i] - recorded[..., i])
        entries[entry_name("action", feature, i)] = {
            "first": float(error[:, 0].mean()),
            "chunk": float(error[mask].mean()),
            "mean_action": float(np.abs(mean[i] - recorded[..., i])[mask].mean()),
            "stay": float(np.abs(still[:, None, i] - recorded[..., i])[mask].mean()),
        }
    return {"episodes": [int(e) for e in episodes], "frames": len(frames), "flow_loss": flow, "entries": entries}


def _predict(bundle: Bundle, cache: FrameCache, rows: np.ndarray, part: int) -> tuple[np.ndarray, ...]:
    """Chunks (n, H, A) predicted and recorded, standing still (n, A), mask (n, H), and the flow loss."""
    model, sizes, device = bundle.model, bundle.sizes, bundle.device
    batch = window(cache, rows, sizes.chunk, sizes.ticks, sizes.tick)
    words = bundle.tokenize([cache.instructions[i] for i in batch["instruction"].tolist()], sizes.instruction_length)
    images = {camera: image.to(device) for camera, image in batch["images"].items()}
    z = model.encoder(images, bundle.normalized_state(batch["state"].to(device))).z
    words = words.to(device)
    referents, _ = model.grounding(words, z)
    generator = torch.Generator().manual_seed(part)
    noise = torch.randn(len(rows), 1, sizes.chunk, bundle.config.action_dim, generator=generator).to(device)
    context = model.controller.context(words, z, referents, None)
    chunks = bundle.normalizer.denormalize(ACTION, model.controller.sample(context, noise)[:, 0]).cpu().numpy()
    return chunks, batch["actions"].numpy(), _still(bundle, cache, rows), batch["action_mask"].numpy(), _flow(
        bundle, batch, words, z, referents, part
    )  # fmt: skip


def _flow(bundle: Bundle, batch: dict[str, Any], words: Tensor, z: Tensor, referents: Tensor, part: int) -> Any:
    torch.manual_seed(part)
    sample = {
        "instruction": words,
        "actions": bundle.normalized_actions(batch["actions"].to(bundle.device)),
        "action_mask": batch["action_mask"].to(bundle.device),
    }
    goal = z.new_zeros(len(z), bundle.sizes.goal_tokens, bundle.sizes.width)
    nothing = torch.zeros(len(z), dtype=torch.bool, device=z.device)
    return bundle.model.controller.loss(sample, z, referents, goal, nothing).item()


def _still(bundle: Bundle, cache: FrameCache, rows: np.ndarray) -> np.ndarray:
    """(n, A): what keeps the robot where it is."""
    kinds = bundle.contract.features[ACTION].kind or ()
    before = np.maximum(rows - 1, cache.episode_start[cache.episode_of[rows]])
    absolute = np.array([kind == ABSOLUTE for kind in kinds] or [False] * bundle.config.action_dim)
    return np.where(absolute, cache.columns[ACTION][before], 0.0)


def report(measured: dict[str, Any]) -> str:
    """As a table for people."""
    entries = measured["entries"]
    width = max(map(len, entries))
    lines = [
        f"held out: {len(measured['episodes'])} episodes, {measured['frames']} frames",
        f"flow loss {measured['flow_loss']:.4g}",
        f"{'open-loop error, own units':{width}}  first  chunk  mean action  stay",
    ]
    for name, row in entries.items():
        numbers = "  ".join(f"{row[key]:.4g}" for key in ("first", "chunk", "mean_action", "stay"))
        lines.append(f"{name:{width}}  {numbers}")
    return "\n".join(lines)
