"""RECAP: learn from own experience by being told which of it was good (pi*0.6, arXiv 2511.14759).

    repeat: own episodes, in part with an expert taking over, with what it would do at every look (advice.py)
            ->  which chunks were good (judging.py)
            ->  where things are that the hand hides, from earlier looks (recalling.py)
            ->  the controller learns from all, told the judgement (lesson.py)  ->  it acts, told GOOD

No likelihoods and no gradients through rollouts: supervised losses alone, so that it is as stable as imitation, and it
learns from corrections too, which DSRL cannot.

Notable choices
- In a share of the episodes the expert takes over at some early step: it shows how to go on from where the policy got
  itself, and it finishes.
- Where the policy acts, the expert is asked what it would do. Own successes teach no more than what the policy can do
  already. Advice is as fast as the expert from wherever the policy is.
- A round begins where the last one ended, and learns from the episodes of all rounds.
"""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch

from ....data.cache import FrameCache
from ....data.files import is_count
from ...act.runtime import AgentSpec
from ...checkpoint import store
from ...checkpoint.bundle import Bundle
from ...errors import PolicyError
from ...evaluate.pool import Crash, Pool
from ...networks.advantage_token import GOOD, Judgement
from ...networks.controller import Controller
from ...networks.object_memory import Memory
from ..shared.episodes import HOPELESS, Job, Trajectory, horizon, roll_out
from ..shared.experience import Episode, Experience
from ..shared.frames import Samples, of_advice, of_demonstrations, of_trajectory
from ..shared.learning_run import Learning
from ..shared.seeds import training_seed, unmet
from .advantage_labels import Judging, judge
from .memory_training import Recalling, recall
from .update import ADVICE, DEMONSTRATION, Judged, Lesson, kinds_of, learn

SLACK = 1.05  # a round may take as much longer than the last one
LEAST = 0.3  # share of a round's episodes that make a last one worth its while
ROUND = "round.json"  # in a checkpoint's training state: how many episodes it learned from, and how long it took


@dataclass(frozen=True)
class Round:
    """What the last round of practice and learning took."""

    episodes: int = 0  # ever, when it learned
    practised: float = 0.0  # seconds
    learned: float = 0.0  # seconds


@dataclass(frozen=True)
class Recap:
    """Settings."""

    episodes: int = 360  # own, per round; at least `each` of every task
    each: int = 20
    helped: float = 0.5  # share of episodes in which the expert takes over
    takeover: tuple[float, float] = (0.1, 0.6)  # after which share of the horizon
    judging: Judging = Judging()
    recalling: Recalling = Recalling()
    lesson: Lesson = Lesson()


def recap(
    spec: AgentSpec,
    cache: FrameCache,
    tasks: tuple[str, ...],
    learning: Learning,
    settings: Recap,
    workers: int,
    seed: int,
) -> None:
    """Rounds until `learning` ends, or no other one fits. A checkpoint after each. cache: demonstrations, whose
    contract is the policy's."""
    bundle, experience = learning.bundle, Experience.open(learning.folder / "experience")
    learning.resume(experience, settings)
    demonstrations, crashed = of_demonstrations(bundle, cache, tasks), set[int]()
    while _goes_on(learning, experience):
        newest, begin, last = learning.newest(), learning.seconds, _last_round(learning)
        if learning.left < SLACK * last.learned + LEAST * last.practised:
            return
        practising = replace(spec, runtime=replace(spec.runtime, noise=1.0))
        actor = practising if newest is None else replace(practising, checkpoint=str(newest))
        goal = last.episodes + max(settings.episodes, settings.each * len(tasks))
        jobs = [] if learning.ended() else _jobs(actor, tasks, goal, experience, crashed, settings, seed)
        enough = begin + learning.left - SLACK * last.learned
        crashed |= _practise(jobs, enough, learning, experience, workers)
        if learning.run.stop_requested:
            return
        if len(experience) == last.episodes:
            why = "; ".join(learning.left_out)
            raise PolicyError(f"recap: every episode of a round crashed ({why}); run `tandem doctor`, then --resume")
        practised = learning.seconds
        before, ran = bundle if newest is None else Bundle.load(newest), [stored(episode) for episode in experience]
        memory, errors = recall(before, ran, settings.recalling, seed + last.episodes, learning.tick)
        learning.run.log("recall", experience.steps, errors)
        data = _data(bundle, demonstrations, ran, tasks, settings.judging, seed)
        del ran  # or it would lie beside the data
        learned = learn(before, data, learning, settings.lesson, seed + last.episodes)
        del data  # or the next round's would lie beside it
        if learned is None:
            return
        done = Round(len(experience), practised - begin, learning.seconds - practised)
        _save(learning, *learned, memory, done)


def _goes_on(learning: Learning, experience: Experience) -> bool:
    """A round that was practised is learned from, even where it took the last of the steps that were asked for."""
    practised = len(experience) > _last_round(learning).episodes
    return not learning.ended() or (practised and learning.left > 0 and not learning.run.stop_requested)


def _last_round(learning: Learning) -> Round:
    if (newest := learning.newest()) is None:
        return Round(learned=learning.left / 2)  # the first one takes half of the time at most
    return read_round(newest)


def read_round(folder: Path) -> Round:
    """PolicyError where a checkpoint does not say what its round was."""
    stored = store.read_json(folder, f"{store.TRAINING}/{ROUND}")
    names = {field.name for field in fields(Round)}
    if not isinstance(stored, dict) or stored.keys() - names or not all(is_count(value) for value in stored.values()):
        raise PolicyError(f"checkpoint {folder}: {ROUND} is no round of recap; use an older checkpoint")
    return Round(**stored)


def _jobs(
    spec: AgentSpec,
    tasks: tuple[str, ...],
    goal: int,
    experience: Experience,
    crashed: set[int],
    settings: Recap,
    seed: int,
) -> list[Job]:
    """Episodes until `experience` has had `goal`, tasks in turn. crashed: layouts that give none."""
    new, first = unmet(experience, seed, goal - len(experience), frozenset(crashed)), training_seed(seed)
    return [
        Job(spec, tasks[(at - first) % len(tasks)], at, _takeover(settings, seed, at - first), advised=True)
        for at in new
    ]  # fmt: skip


def _practise(jobs: list[Job], enough: float, learning: Learning, experience: Experience, workers: int) -> set[int]:
    """Runs and keeps the episodes, or as many until it is `enough`: the second of the run from which the time that is
    left is for learning. Returns the layouts that crashed their worker."""
    crashed, before = set[int](), len(experience)
    with Pool(roll_out, workers, learning.limits.step, learning.stopped) as pool:
        for index, result in pool.run(jobs):
            if isinstance(result, Crash):
                crashed.add(jobs[index].seed)
                learning.leave_out(f"{jobs[index].task} seed {jobs[index].seed}", result.reason)
                if len(crashed) >= HOPELESS and len(experience) == before:
                    raise PolicyError(f"recap: the first {HOPELESS} episodes failed; {result.reason}")
                continue
            names = ("task", "seed", "draw", "takeover", "instruction")
            about = {name: np.array(getattr(result, name)) for name in names}
            experience.add(result.steps, result.success, result.arrays | about)
            alone = result.success if result.takeover == 1 else None  # not those that were done before help came
            learning.episode(alone, result.steps, experience.steps)
            if learning.ended() or learning.seconds > enough:
                break
    if crashed:
        learning.run.log("recap", experience.steps, {"crashed": len(crashed)})
    return crashed


def _takeover(settings: Recap, seed: int, number: int) -> float:
    rng = np.random.default_rng([seed, number])
    return float(rng.uniform(*settings.takeover)) if rng.random() < settings.helped else 1.0


def stored(episode: Episode) -> Trajectory:
    seen, done = ("z", "state", "goal", "features", "way", "looked"), ("look", "action", "expert")
    arrays = {name: episode[name] for name in (*seen, *done, "places", "advice", "advised")}
    return Trajectory(
        str(episode["task"]), int(episode["seed"]), int(episode["draw"]), float(episode["takeover"]),
        str(episode["instruction"]), bool(episode["success"]), int(episode["steps"]), arrays,
    )  # fmt: skip


def _data(
    bundle: Bundle,
    demonstrations: Samples,
    ran: list[Trajectory],
    tasks: tuple[str, ...],
    judging: Judging,
    seed: int,
) -> Judged:
    """Demonstrations, all own episodes, judged, and the advice given in them."""
    episodes = [of_trajectory(bundle, t, tasks, horizon(t.task)) for t in ran]
    advice = [of_advice(bundle, t, looks) for t, looks in zip(ran, episodes, strict=True)]
    own = Samples.joined(episodes)
    features = torch.from_numpy(np.concatenate([t.arrays["features"] for t in ran])).float()
    helped = torch.from_numpy(np.concatenate([np.full(len(t.arrays["look"]), t.takeover < 1) for t in ran]))
    judged = judge(own, helped, features, bundle.feature_sizes.plain, judging, seed)
    shown, advised = len(demonstrations), sum(map(len, advice))
    kinds = [torch.full((shown,), DEMONSTRATION), kinds_of(own, judged), torch.full((advised,), ADVICE)]
    judged = torch.cat([torch.full((shown,), GOOD), judged, torch.full((advised,), GOOD)])
    samples = Samples.joined([demonstrations, own, *(part for part in advice if len(part))])
    return Judged(samples, judged, torch.cat(kinds))


def _save(learning: Learning, controller: Controller, judgement: Judgement, memory: Memory | None, done: Round) -> None:
    weights = {k: v for k, v in learning.bundle.model.state_dict().items() if not k.startswith("controller.")}
    weights |= {f"controller.{k}": v for k, v in controller.state_dict().items()}
    learning.save({ROUND: asdict(done)}, judgement=judgement, memory=memory, weights=weights)
