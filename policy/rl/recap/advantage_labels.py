"""Which chunks of own episodes were good: advantages by a value function (RECAP, pi*0.6, arXiv 2511.14759).

    V from what came of the episodes that nobody was to help;   A = -n / horizon + V(n steps later) - V(now)
    GOOD: the chunks of a task's successes with the highest A, and what an expert did who succeeded;   BAD: the others

Notable choices
- Only successes have good chunks: what failed may look like progress to eyes that misjudged it. Neither does an expert
  who fails.
- What the policy did before the expert took over is nobody's merit: it is UNKNOWN, and not learned from. Episodes that
  ended before that teach nothing either: the fast ones are among them, the slow and the failed ones are not.
- V of a frame comes from a network that has not seen its episode.
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
    """Settings."""

    good: float = 0.6  # share of the chunks of a task's successes that are judged good
    ahead: int = 32  # control steps over which a chunk is judged
    value_steps: int = 200  # updates of the value function


def judge(own: Samples, helped: Tensor, features: Tensor, plain: int, settings: Judging, seed: int) -> Tensor:
    """helped (F,): frames of episodes in which the expert was to take over -> what to tell of every frame, (F,).

    GOOD where an expert acts that succeeds, and for the `good` share of the chunks of each task's successes with the
    highest advantage. BAD for the other chunks. UNKNOWN in episodes with help otherwise.
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
    """What the next `ahead` control steps changed, (F,): -n / horizon + V(then) - V(now)."""
    reached = torch.searchsorted(_clock(samples), _clock(samples) + ahead)
    inside = reached.clamp(max=len(samples) - 1)
    same = (reached < len(samples)) & (samples.episode[inside] == samples.episode)
    end = torch.where(samples.success, 0.0, LOW)
    passed = torch.where(same, samples.step[inside], samples.length) - samples.step
    then = torch.where(same, value[inside], end)
    return -passed / samples.horizon + then - value


def _clock(samples: Samples) -> Tensor:
    """Control steps counted on over all episodes, so that one sorted array finds a frame of any of them."""
    longest = int(samples.length.max()) + 1_000
    return samples.episode * longest + samples.step
