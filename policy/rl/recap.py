"""RECAP: learn from own experience by being told which of it was good (pi*0.6, arXiv 2511.14759).

    repeat: own episodes, an expert taking over where they fail  ->  V from what came of them  ->  advantages
            -> the chunks with the highest are GOOD, the others BAD, an expert's always GOOD
            -> the controller learns from all data, told the judgement  ->  it acts, told GOOD

No likelihoods and no gradients through rollouts: supervised losses alone, so that it is as stable as imitation, and it
learns from corrections too, which DSRL cannot.

Notable choices
- The encoder stays as it is: latents are stored as the agent saw them, and a step costs what the controller costs.
- Every round begins from the imitation policy with all experience so far: nothing drifts, and rounds can be repeated.
- A share of rows is told nothing, for guidance, and demonstrations stay in every batch.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from data.cache import FrameCache
from policy.agents import AgentSpec
from policy.bundle import Bundle
from policy.controller import Controller
from policy.ema import averaged
from policy.fit import Progress, fit
from policy.judgement import BAD, GOOD, UNKNOWN, Judgement, JudgementConfig
from policy.pool import Crash, Pool
from policy.precision import fastest_dtype
from policy.recipe import Stage
from policy.rl.experience import Episode, Experience
from policy.rl.progress import Learning, training_seed
from policy.rl.rollouts import Job, Trajectory, horizon, roll_out
from policy.rl.samples import Samples, of_demonstrations, of_trajectory, pooled
from policy.rl.value import LOW, held_out_values, returns_of
from policy.team import ALONE

KNOWN = "episodes.json"  # in a checkpoint's training state: how many it learned from


@dataclass(frozen=True)
class Recap:
    """Settings."""

    episodes: int = 200  # own, per round; at least `each` of every task
    each: int = 10
    takeover: float = 0.6  # share of the horizon after which the expert takes over
    good: float = 0.4  # share of a task's own chunks that are judged good
    ahead: int = 16  # control steps over which a chunk is judged
    untold: float = 0.2  # share of rows that are told nothing
    demonstrations: float = 0.25  # share of rows from demonstrations
    value_steps: int = 300
    stage: Stage = Stage(steps=1000, learning_rate=3e-4, warmup=50, ema=0.995)
    guidance: float = 1.0
    workers: int = 2


def recap(
    spec: AgentSpec, cache: FrameCache, tasks: tuple[str, ...], learning: Learning, settings: Recap, seed: int
) -> None:
    """Rounds until `learning` ends; a checkpoint after each."""
    bundle, experience = learning.bundle, Experience.open(learning.folder / "experience", limit=8 << 30)
    learning.resume(experience.steps)
    horizons = [horizon(task) for task in tasks]
    demonstrations = of_demonstrations(bundle, cache, tasks, fastest_dtype())
    while not learning.ended():
        newest, known = learning.newest(), json.loads(learning.state(KNOWN) or b"0")
        actor = spec if newest is None else replace(spec, checkpoint=str(newest))
        goal = known + max(settings.episodes, settings.each * len(tasks))
        _practise(actor, tasks, goal, learning, experience, settings, seed)
        if learning.run.stop_requested:
            return
        own = [of_trajectory(bundle, stored(e), tasks, horizons[tasks.index(str(e["task"]))]) for e in experience]
        samples = Samples.joined([demonstrations, *own])
        samples.judged = judge(bundle, samples, len(demonstrations), settings, seed)
        learned = _learn(bundle, samples, len(demonstrations), learning, settings, seed)
        if learned is None:
            return
        controller, judgement = learned
        weights = {k: v for k, v in bundle.model.state_dict().items() if not k.startswith("controller.")}
        weights |= {f"controller.{k}": v for k, v in controller.state_dict().items()}
        learning.save({KNOWN: len(experience)}, judgement=judgement, weights=weights)


def _practise(
    spec: AgentSpec,
    tasks: tuple[str, ...],
    goal: int,
    learning: Learning,
    experience: Experience,
    settings: Recap,
    seed: int,
) -> None:
    """Episodes of the newest policy, tasks in turn, until `experience` has had `goal`; half of the time that is left is
    for learning from them."""
    enough = learning.seconds + (60 * learning.limits.minutes - learning.seconds) / 2
    first = training_seed(seed)
    jobs = [
        Job(spec, tasks[i % len(tasks)], first + i, settings.takeover) for i in range(len(experience), goal)
    ]  # fmt: skip
    with Pool(roll_out, settings.workers) as pool:
        for _, result in pool.run(jobs):
            if isinstance(result, Crash):
                continue
            about = {"task": np.array(result.task), "seed": np.array(result.seed), "draw": np.array(result.draw)}
            about |= {"instruction": np.array(result.instruction)}
            experience.add(result.steps, result.success, result.arrays | about)
            alone = result.success and not result.arrays["expert"].any()
            learning.episode(alone, result.steps, experience.steps)
            if learning.run.stop_requested or learning.seconds > enough:
                return


def stored(episode: Episode) -> Trajectory:
    arrays = {name: episode[name] for name in ("z", "state", "goal", "look", "action", "expert", "pushed")}
    return Trajectory(
        str(episode["task"]), int(episode["seed"]), int(episode["draw"]), str(episode["instruction"]),
        bool(episode["success"]), int(episode["steps"]), arrays,
    )  # fmt: skip


def judge(bundle: Bundle, samples: Samples, demonstrations: int, settings: Recap, seed: int) -> Tensor:
    """(F,): GOOD for the `good` share of each task's own chunks with the highest advantage, and for every expert's."""
    features = pooled(bundle, replace(samples, has_goal=torch.zeros_like(samples.has_goal)))  # seen, not planned
    returns = returns_of(samples.step, samples.length, samples.success & ~corrected(samples), samples.horizon)
    value = held_out_values(features, returns, samples.episode, settings.value_steps, seed)
    advantage = advantages(samples, value, settings.ahead)
    judged = samples.judged.clone()
    own = torch.arange(len(samples)) >= demonstrations
    for task in samples.task.unique():
        mine = own & (samples.task == task) & (samples.judged == UNKNOWN)
        if mine.any():
            edge = advantage[mine].quantile(1 - settings.good)
            judged[mine] = torch.where(advantage[mine] > edge, GOOD, BAD)
    return judged


def corrected(samples: Samples) -> Tensor:
    """(F,): frames of the policy's own that an expert had to mend later: for them the episode failed."""
    by_expert = torch.zeros(int(samples.episode.max()) + 1, dtype=torch.bool)
    by_expert[samples.episode[samples.judged == GOOD]] = True
    return by_expert[samples.episode] & (samples.judged != GOOD)


def advantages(samples: Samples, value: Tensor, ahead: int) -> Tensor:
    """What the next `ahead` control steps changed, (F,): -n / horizon + V(then) - V(now)."""
    reached = torch.searchsorted(_clock(samples), _clock(samples) + ahead)
    inside = reached.clamp(max=len(samples) - 1)
    same = (reached < len(samples)) & (samples.episode[inside] == samples.episode)
    same &= samples.judged[inside] == samples.judged  # where an expert takes over, nothing better was reached
    failed = ~samples.success | corrected(samples)
    end = torch.where(failed, LOW, 0.0)
    passed = torch.where(same, samples.step[inside] - samples.step, (samples.length - samples.step).clamp(max=ahead))
    then = torch.where(same, value[inside], end)
    return -passed / samples.horizon + then - value


def _clock(samples: Samples) -> Tensor:
    """Control steps counted on over all episodes, so that one sorted array finds a frame of any of them."""
    longest = int(samples.length.max()) + 1_000
    return samples.episode * longest + samples.step


class _Parts(nn.Module):
    """What learns."""

    def __init__(self, controller: Controller, judgement: Judgement):
        super().__init__()
        self.controller, self.judgement = controller, judgement


class _Learner:
    """A `policy.fit.Learner`: System 1 on judged frames."""

    name = "recap"

    def __init__(self, bundle: Bundle, parts: _Parts, samples: Samples, first: int, settings: Recap, seed: int):
        """first: frames before it are demonstrations."""
        self.bundle, self.parts, self.samples, self.first = bundle, parts, samples, first
        self.settings, self.seed = settings, seed

    def parameters(self) -> list[nn.Parameter]:
        return list(self.parts.parameters())

    def batches(self, start_step: int) -> Iterator[dict[str, Any]]:
        B, step = self.settings.stage.batch, start_step
        shown = round(B * self.settings.demonstrations)
        while True:
            rng = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
            index = torch.cat([
                torch.randint(self.first, (shown,), generator=rng),
                torch.randint(self.first, len(self.samples), (B - shown,), generator=rng),
            ])  # fmt: skip
            yield {"index": index}
            step += 1

    def losses(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        rows = self.samples.rows(batch["index"])
        z, goal = rows.z.float(), rows.goal.float()
        with torch.no_grad():
            referents, _ = self.bundle.model.grounding(rows.instruction, z)
        told = torch.where(torch.rand(len(z)) < self.settings.untold, UNKNOWN, rows.judged)
        aims = rows.has_goal & (torch.rand(len(z)) < 0.5)
        sample = {"instruction": rows.instruction, "actions": rows.actions, "action_mask": rows.action_mask}
        loss = self.parts.controller.loss(sample, z, referents, goal, aims, self.parts.judgement(told))
        return loss, {"flow": loss}

    def after_step(self) -> None:
        """Nothing to do between steps."""


def _learn(
    bundle: Bundle, samples: Samples, first: int, learning: Learning, settings: Recap, seed: int
) -> tuple[Controller, Judgement] | None:
    """None: the run was asked to stop."""
    torch.manual_seed(seed)
    controller = Controller(bundle.model.controller.cfg)
    controller.load_state_dict(bundle.model.controller.state_dict())
    parts = _Parts(controller, Judgement(JudgementConfig(bundle.sizes.width, settings.guidance)))
    average, learner = averaged(parts, settings.stage.ema), _Learner(bundle, parts, samples, first, settings, seed)
    steps = settings.stage.steps
    ended = fit(
        learner, parts, average, settings.stage, learning.run, ALONE, seed, fastest_dtype(),
        lambda step, optimizer: None, Progress(), steps, 50,
    )  # fmt: skip
    learned = cast(_Parts, average.module)
    return (learned.controller, learned.judgement) if ended else None
