"""RECAP: learn from own experience by being told which of it was good (pi*0.6, arXiv 2511.14759).

    repeat: own episodes, in part with an expert taking over  ->  V from what came of those that nobody was to help
            ->  advantages  ->  the fastest chunks of successes are GOOD, the other ones BAD, an expert's GOOD
            ->  the controller learns from all, told the judgement  ->  it acts, told GOOD

No likelihoods and no gradients through rollouts: supervised losses alone, so that it is as stable as imitation, and it
learns from corrections too, which DSRL cannot.

Notable choices
- The encoder stays as it is: latents are stored as the agent saw them, and a step costs what the controller costs.
- In a share of the episodes the expert takes over at some early step: it shows how to go on from where the policy got
  itself, and it finishes. What the policy did before is nobody's merit and is not learned from.
- Only successes have good chunks: what failed may look like progress to eyes that misjudged it. Neither does an expert
  who fails.
- Episodes that ended before the expert was to take over teach nothing: the fast ones are among them, the slow and the
  failed ones are not.
- Every kind of data has its share of a batch, demonstrations too, however much there is of it; a few rows are told
  nothing, for guidance. A round begins where the last one ended.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import count, islice
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from data.cache import FrameCache
from policy import checkpoint
from policy.agents import AgentSpec
from policy.bundle import Bundle
from policy.controller import Controller
from policy.ema import averaged
from policy.errors import PolicyError
from policy.fit import Progress, fit
from policy.judgement import BAD, GOOD, UNKNOWN, Judgement, JudgementConfig
from policy.pool import Crash, Pool
from policy.precision import fastest_dtype
from policy.recipe import Stage
from policy.rl.experience import Episode, Experience
from policy.rl.progress import Learning, training_seed
from policy.rl.rollouts import Job, Trajectory, horizon, roll_out
from policy.rl.samples import Samples, of_demonstrations, of_trajectory
from policy.rl.value import LOW, held_out_values, returns_of
from policy.standardise import Standardise
from policy.team import ALONE

SLACK = 1.05  # a round may take as much longer than the last one
LEAST = 0.3  # share of a round's episodes that make a last one worth its while
ROUND = "round.json"  # in a checkpoint's training state: how many episodes it learned from, and how long it took


@dataclass(frozen=True)
class Round:
    episodes: int = 0  # ever, when it learned
    practised: float = 0.0  # seconds
    learned: float = 0.0  # seconds


@dataclass(frozen=True)
class Shares:
    """Of a batch; what there is none of leaves its share to the others."""

    demonstrations: float = 0.25
    corrections: float = 0.35
    good: float = 0.25
    bad: float = 0.15


@dataclass(frozen=True)
class Recap:
    """Settings."""

    episodes: int = 400  # own, per round; at least `each` of every task
    each: int = 20
    helped: float = 0.5  # share of episodes in which the expert takes over
    takeover: tuple[float, float] = (0.1, 0.6)  # after which share of the horizon
    good: float = 0.6  # share of the chunks of a task's successes that are judged good
    ahead: int = 32  # control steps over which a chunk is judged
    untold: float = 0.1  # share of rows that are told nothing
    shares: Shares = Shares()
    value_steps: int = 200
    stage: Stage = Stage(steps=600, learning_rate=3e-4, warmup=50, ema=0.995)
    guidance: float = 1.0


def recap(
    spec: AgentSpec,
    cache: FrameCache,
    tasks: tuple[str, ...],
    learning: Learning,
    settings: Recap,
    workers: int,
    seed: int,
) -> None:
    """Rounds until `learning` ends, or no other one fits; a checkpoint after each."""
    bundle, experience = learning.bundle, Experience.open(learning.folder / "experience", limit=8 << 30)
    learning.resume(experience, settings)
    demonstrations = of_demonstrations(bundle, cache, tasks)
    while not learning.ended():
        newest, begin = learning.newest(), learning.seconds
        last = Round(learned=learning.left / 2)  # the first one takes half of the time at most
        if newest is not None:
            last = Round(**checkpoint.read_json(newest, f"{checkpoint.TRAINING}/{ROUND}"))
        if learning.left < SLACK * last.learned + LEAST * last.practised:
            return
        actor = spec if newest is None else replace(spec, checkpoint=str(newest))
        goal = last.episodes + max(settings.episodes, settings.each * len(tasks))
        enough = begin + learning.left - SLACK * last.learned
        _practise(actor, tasks, goal, enough, learning, experience, settings, workers, seed)
        if learning.run.stop_requested:
            return
        practised = learning.seconds
        ran = [stored(episode) for episode in experience]
        own = Samples.joined([of_trajectory(bundle, t, tasks, horizon(t.task)) for t in ran])
        features = torch.from_numpy(np.concatenate([t.arrays["features"] for t in ran])).float()
        helped = torch.from_numpy(np.concatenate([np.full(len(t.arrays["look"]), t.takeover < 1) for t in ran]))
        judged = judge(own, helped, features, bundle.feature_sizes.plain, settings, seed)
        kinds = kinds_of(len(demonstrations), own, judged)
        judged = torch.cat([torch.full((len(demonstrations),), GOOD), judged])
        data = Judged(Samples.joined([demonstrations, own]), judged, kinds)
        before = bundle if newest is None else Bundle.load(newest)
        learned = _learn(before, data, learning, settings, seed + last.episodes)
        if learned is None:
            return
        controller, judgement = learned
        weights = {k: v for k, v in bundle.model.state_dict().items() if not k.startswith("controller.")}
        weights |= {f"controller.{k}": v for k, v in controller.state_dict().items()}
        done = Round(len(experience), practised - begin, learning.seconds - practised)
        learning.save({ROUND: asdict(done)}, judgement=judgement, weights=weights)


def _practise(
    spec: AgentSpec,
    tasks: tuple[str, ...],
    goal: int,
    enough: float,
    learning: Learning,
    experience: Experience,
    settings: Recap,
    workers: int,
    seed: int,
) -> None:
    """Episodes of the newest policy, tasks in turn, until `experience` has had `goal`, or it is `enough`: the second of
    the run from which the time that is left is for learning."""
    first, crashed = training_seed(seed), 0
    new = unmet({int(met) - first for met in experience.column("seed")}, goal - len(experience))
    jobs = [Job(spec, tasks[i % len(tasks)], first + i, _takeover(settings, seed, i)) for i in new]
    with Pool(roll_out, workers) as pool:
        for _, result in pool.run(jobs):
            if isinstance(result, Crash):
                crashed += 1
                continue
            names = ("task", "seed", "draw", "takeover", "instruction")
            about = {name: np.array(getattr(result, name)) for name in names}
            experience.add(result.steps, result.success, result.arrays | about)
            alone = result.success if result.takeover == 1 else None  # not those that were done before help came
            learning.episode(alone, result.steps, experience.steps)
            if learning.ended() or learning.seconds > enough:
                return
    if crashed:
        learning.run.log("recap", experience.steps, {"crashed": crashed})
        if crashed == len(jobs):
            raise PolicyError("recap: every episode of a round crashed its worker; run `tandem doctor`, then --resume")


def unmet(met: set[int], many: int) -> list[int]:
    """The next numbers of layouts. Workers end out of order, so that a kill leaves gaps, which come first; what is
    older than all that is kept was forgotten."""
    return list(islice((i for i in count(min(met, default=0)) if i not in met), many))


def _takeover(settings: Recap, seed: int, number: int) -> float:
    rng = np.random.default_rng([seed, number])
    return float(rng.uniform(*settings.takeover)) if rng.random() < settings.helped else 1.0


def stored(episode: Episode) -> Trajectory:
    arrays = {name: episode[name] for name in ("z", "state", "goal", "features", "look", "action", "expert")}
    return Trajectory(
        str(episode["task"]), int(episode["seed"]), int(episode["draw"]), float(episode["takeover"]),
        str(episode["instruction"]), bool(episode["success"]), int(episode["steps"]), arrays,
    )  # fmt: skip


def judge(own: Samples, helped: Tensor, features: Tensor, plain: int, settings: Recap, seed: int) -> Tensor:
    """helped (F,): frames of episodes in which the expert was to take over -> what to tell of every frame, (F,).

    GOOD where an expert acts that succeeds, and for the `good` share of the chunks of each task's successes with the
    highest advantage; BAD for the other chunks; UNKNOWN in episodes with help otherwise.
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


DEMONSTRATION, CORRECTION, PRAISED, BLAMED, UNUSED = range(5)


def kinds_of(demonstrations: int, own: Samples, judged: Tensor) -> Tensor:
    """Of every frame, demonstrations first, (F,)."""
    kind = torch.full((len(own),), UNUSED)
    kind[judged == BAD] = BLAMED
    kind[judged == GOOD] = PRAISED
    kind[own.expert & own.success] = CORRECTION
    return torch.cat([torch.full((demonstrations,), DEMONSTRATION), kind])


@dataclass
class Judged:
    """What a round learns from, F frames."""

    samples: Samples
    judged: Tensor  # (F,)
    kind: Tensor  # (F,)

    def weights(self, shares: Shares) -> Tensor:
        """(F,): how often each frame is drawn, so that kinds have their shares."""
        counts = torch.bincount(self.kind, minlength=UNUSED + 1)
        wanted = torch.tensor([shares.demonstrations, shares.corrections, shares.good, shares.bad, 0.0])
        return (wanted / counts.clamp(min=1))[self.kind]


class _Parts(nn.Module):
    """What learns."""

    def __init__(self, controller: Controller, judgement: Judgement):
        super().__init__()
        self.controller, self.judgement = controller, judgement


class _Learner:
    """A `policy.fit.Learner`: System 1 on judged frames."""

    name, repeats = "recap", False

    def __init__(
        self, bundle: Bundle, parts: _Parts, data: Judged, settings: Recap, seed: int, tick: Callable[[], None]
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


def _learn(
    bundle: Bundle, data: Judged, learning: Learning, settings: Recap, seed: int
) -> tuple[Controller, Judgement] | None:
    """bundle: what the last round left. None: the run was asked to stop."""
    torch.manual_seed(seed)
    controller = Controller(bundle.model.controller.cfg)
    controller.load_state_dict(bundle.model.controller.state_dict())
    judgement = Judgement(JudgementConfig(bundle.sizes.width, settings.guidance))
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
