"""Frames of demonstrations and of own episodes in one format: observation, the chunk that followed, and the outcome.

Demonstrations are encoded once by the frozen encoder. Own episodes hold the latents that the agent computed. A frame of
an own episode is a look. Everything stays in memory, with latents in float16 (10 KB a frame). With bf16 the encoded
positions would be off by millimetres.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from ....data.cache import FrameCache
from ....data.windows import unseen
from ...checkpoint.bundle import Bundle
from ...errors import PolicyError
from ...train.latents import encode_all
from .episodes import Trajectory, horizon


@dataclass
class Samples:
    """F frames in columns. Frames of one episode are adjacent and in order."""

    z: Tensor  # (F, N, D) float16, scene tokens
    goal: Tensor  # (F, K, D) float16, subgoal, zeros where there is none
    has_goal: Tensor  # (F,) bool
    instruction: Tensor  # (F, L) word ids
    actions: Tensor  # (F, H, A) normalised
    action_mask: Tensor  # (F, H) bool, which actions of the chunk count
    task: Tensor  # (F,) number of the task
    step: Tensor  # (F,) control step in its episode
    length: Tensor  # (F,) control steps of its episode
    success: Tensor  # (F,) bool, whether its episode succeeded
    horizon: Tensor  # (F,) control steps, horizon of its task
    episode: Tensor  # (F,) number of the episode
    expert: Tensor  # (F,) bool, whether an expert acts

    def __len__(self) -> int:
        return len(self.z)

    def rows(self, index: Tensor) -> "Samples":
        """The frames at `index` (B,), as Samples of B frames."""
        return Samples(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @staticmethod
    def joined(parts: "list[Samples]") -> "Samples":
        """Concatenates the parts. Numbers of episodes continue from part to part."""
        episodes = np.cumsum([0, *(int(part.episode.max()) + 1 for part in parts)])
        columns = {f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Samples)}
        columns["episode"] = torch.cat([p.episode + int(n) for p, n in zip(parts, episodes, strict=False)])
        return Samples(**columns)


def shown(cache: FrameCache, tasks: tuple[str, ...]) -> list[str]:
    """The task of every episode in the cache. PolicyError where one of `tasks` has no episode."""
    names = [str(row.get("sim/task", "")) for row in cache.episodes]
    if missing := sorted(set(tasks) - set(names)):
        raise PolicyError(
            f"the data has no demonstrations of {', '.join(missing)}; pass --data with some, or other --tasks"
        )
    return names


def of_demonstrations(bundle: Bundle, cache: FrameCache, tasks: tuple[str, ...]) -> Samples:
    """Frames of the demonstrations of `tasks`, without the disturbed ones. Each goal is the end of its subtask."""
    names = shown(cache, tasks)
    wanted = np.isin(cache.episode_of, [e for e, name in enumerate(names) if name in tasks])
    pushed = cache.columns.get("perturbed", np.zeros(len(cache), bool)).reshape(-1)
    index = np.flatnonzero(wanted & ~pushed)
    latents = encode_all(bundle, cache, torch.float32, frames=np.flatnonzero(wanted))  # the precision that agents use
    batch = unseen(cache, index, bundle.sizes.chunk, bundle.sizes.ticks, bundle.sizes.tick)
    episode = cache.episode_of[index]
    length = (cache.episode_end - cache.episode_start)[episode]
    tokens = bundle.tokenize(cache.instructions, bundle.sizes.instruction_length)
    task = np.array([tasks.index(names[e]) for e in episode])
    horizons = np.array([horizon(name) for name in tasks])
    full = len(index)
    return Samples(
        z=latents.z[index], goal=latents.g[batch["subgoal_index"]], has_goal=torch.ones(full, dtype=torch.bool),
        instruction=tokens[batch["instruction"]],
        actions=bundle.normalized_actions(batch["actions"]), action_mask=batch["action_mask"],
        task=torch.from_numpy(task), step=torch.from_numpy(index - cache.episode_start[episode]),
        length=torch.from_numpy(length), success=torch.ones(full, dtype=torch.bool),
        horizon=torch.from_numpy(horizons[task]), episode=torch.from_numpy(np.unique(episode, return_inverse=True)[1]),
        expert=torch.ones(full, dtype=torch.bool),
    )  # fmt: skip


def of_trajectory(bundle: Bundle, trajectory: Trajectory, tasks: tuple[str, ...], limit: int) -> Samples:
    """The L looks of one episode as frames. limit: the task's horizon in control steps."""
    arrays, H = trajectory.arrays, bundle.sizes.chunk
    look, T, L = arrays["look"].astype(np.int64), trajectory.steps, len(arrays["look"])
    ahead = look[:, None] + np.arange(H)
    inside = np.minimum(ahead, T - 1)
    # a chunk ends where policy and expert change
    mask = (ahead < T) & (arrays["expert"][inside] == arrays["expert"][look][:, None])
    goal = torch.from_numpy(arrays["goal"])
    none = goal.shape[1] == 0
    K, D = bundle.sizes.goal_tokens, bundle.sizes.width
    words = bundle.tokenize([trajectory.instruction], bundle.sizes.instruction_length)
    full = torch.full
    return Samples(
        z=torch.from_numpy(arrays["z"]), goal=goal.new_zeros(L, K, D) if none else goal,
        has_goal=full((L,), not none), instruction=words.expand(L, -1),
        actions=bundle.normalized_actions(torch.from_numpy(arrays["action"][inside])),
        action_mask=torch.from_numpy(np.logical_and.accumulate(mask, axis=1)),
        task=full((L,), tasks.index(trajectory.task)), step=torch.from_numpy(look), length=full((L,), T),
        success=full((L,), trajectory.success), horizon=full((L,), limit), episode=torch.zeros(L, dtype=torch.int64),
        expert=torch.from_numpy(arrays["expert"][look]),
    )  # fmt: skip


def of_advice(bundle: Bundle, trajectory: Trajectory, looks: Samples) -> Samples:
    """The looks of one episode that have advice, with the advised actions as their chunk."""
    given = torch.from_numpy(trajectory.arrays["advised"])
    actions = bundle.normalized_actions(torch.from_numpy(trajectory.arrays["advice"]))
    mask = torch.arange(actions.shape[1]) < given.unsqueeze(1)
    return replace(looks, actions=actions, action_mask=mask).rows(torch.nonzero(given)[:, 0])
