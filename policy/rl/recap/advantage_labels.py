"""Labels the chunks of own episodes as good or bad, by their advantage (RECAP, pi*0.6, arXiv 2511.14759).

    V is trained on the outcomes of the episodes that were run without help
    A = -n / horizon + V(n steps later) - V(now)
    GOOD: the chunks with the highest A of a task's successes, and the actions of an expert who succeeded
    BAD: the other chunks of episodes without help

Notable choices
- Only successes have good chunks. Failed episodes may seem to make progress where the value function misjudges them.
  The actions of an expert who fails are not good either.
- The policy's actions before a takeover are UNKNOWN, and are not learned from, because their own outcome is unknown.
  Episodes that end before the planned takeover are UNKNOWN too. They are the fast ones, so that labelling them would
  bias the data: the slow and failed ones are missing.
- V of a frame comes from a network that was not trained on the frame's episode.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import PolicyError
from ...networks.advantage_token import BAD, GOOD, UNKNOWN
from ...networks.pca_whitening import Standardise
from ..shared.frames import Samples
from .value import LOW, held_out_values, returns_of


@dataclass(frozen=True)
class Judging:
    """Settings of the labels good and bad."""

    # Share of the chunks of a task's successes that are labelled good: those with the highest advantage.
    good: float = 0.6
    # Control steps over which the advantage of a chunk is measured.
    ahead: int = 32
    # Updates of each value function. More updates fit better and take longer.
    value_steps: int = 200


def judge(own: Samples, helped: Tensor, features: Tensor, plain: int, settings: Judging, seed: int) -> Tensor:
    """The label of every frame (F,): GOOD, BAD or UNKNOWN.

    GOOD: frames at which an expert acts that succeeds.
    GOOD: the share `good` of each task's successes without help, by the highest advantage.
    BAD: the other frames without help.
    UNKNOWN: the other frames of episodes with help.

    own: the frames of all own episodes.
    helped: bool (F,), frames of episodes in which a takeover was planned.
    features: features of the frames (F, number of features).
    plain: number of leading features that are not projected (pca_whitening.py).
    seed: seed of the value functions.
    PolicyError where a value is not finite.
    """
    judged = torch.where(own.expert & own.success, GOOD, UNKNOWN)
    alone = torch.nonzero(~helped)[:, 0]
    if not len(alone):
        return judged
    rows = own.rows(alone)
    standardise = Standardise(features.shape[1], plain)
    standardise.fit(features[alone])
    returns = returns_of(rows.step, rows.length, rows.success, rows.horizon)
    value = held_out_values(standardise(features[alone]), returns, rows.episode, settings.value_steps, seed)
    if not torch.isfinite(value).all():
        raise PolicyError("recap: a value is not finite; --resume goes on from the last round")
    gain = advantages(rows, value, settings.ahead)
    judged[alone] = BAD
    for task in rows.task.unique():
        mine = rows.success & (rows.task == task)
        if mine.any():
            good = mine & (gain >= gain[mine].quantile(1 - settings.good))
            judged[alone[good]] = GOOD
    return judged


def advantages(samples: Samples, value: Tensor, ahead: int) -> Tensor:
    """Advantages (F,) over the next `ahead` control steps: -n / horizon + V(then) - V(now).

    Beyond the end of an episode V(then) is 0 for a success and LOW for a failure.
    value: V of every frame (F,).
    """
    reached = torch.searchsorted(_clock(samples), _clock(samples) + ahead)
    inside = reached.clamp(max=len(samples) - 1)
    same = (reached < len(samples)) & (samples.episode[inside] == samples.episode)
    end = torch.where(samples.success, 0.0, LOW)
    passed = torch.where(same, samples.step[inside], samples.length) - samples.step
    then = torch.where(same, value[inside], end)
    return -passed / samples.horizon + then - value


def _clock(samples: Samples) -> Tensor:
    """Control steps (F,) that continue from episode to episode, so that one sorted array finds any frame."""
    longest = int(samples.length.max()) + 1_000
    return samples.episode * longest + samples.step
