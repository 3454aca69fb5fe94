"""RECAP: imitation of own experience, with its advantage as an input (pi*0.6, arXiv 2511.14759).

    repeat: own episodes, some with an expert's takeover, all with the expert's advice at every look (expert_labels.py)
            ->  labels good and bad of the chunks (advantage_labels.py)
            ->  the memory, for positions of objects behind the hand, from earlier looks (memory_training.py)
            ->  the controller imitates all chunks, conditioned on the label (update.py)
            ->  the policy acts, conditioned on GOOD

There are no likelihoods and no gradients through episodes. All losses are supervised, so that RECAP is as stable as
imitation. It learns from corrections too, which DSRL cannot.

Notable choices
- In a share of the episodes the expert takes over at some early step. It demonstrates how to continue from a state
  that the policy reached, and it finishes the task.
- Where the policy acts, the expert's actions are recorded as advice. Own successes teach no more than the policy can do
  already. Advice is as fast as the expert, from every state that the policy reaches.
- A round starts from the weights of the last one, and trains on the episodes of all rounds.
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

SLACK = 1.05  # factor by which the training of a round may exceed that of the last one
LEAST = 0.3  # share of the last round's practice for which the time must suffice to begin another round
ROUND = "round.json"  # file of a checkpoint's training state: episodes trained on, and seconds of the round


@dataclass(frozen=True)
class Round:
    """Size and duration of a round of practice and training."""

    episodes: int = 0  # number of all own episodes at its training
    practised: float = 0.0  # seconds of its episodes
    learned: float = 0.0  # seconds of its training


@dataclass(frozen=True)
class Recap:
    """Settings of RECAP."""

    # Own episodes in a round. More episodes give more data and fewer rounds.
    episodes: int = 360
    # Least number of episodes in a round, multiplied by the number of tasks. It counts where there are many tasks.
    each: int = 20
    # Share of the episodes in which the expert takes over. The other episodes train the value function.
    helped: float = 0.5
    # Earliest and latest takeover, as shares of the task's horizon.
    takeover: tuple[float, float] = (0.1, 0.6)
    # Labels good and bad.
    judging: Judging = Judging()
    # Training of the memory.
    recalling: Recalling = Recalling()
    # Training of the controller.
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
    """Runs rounds until `learning` ends, or the time that remains is too short for another one.

    Each round leaves a checkpoint.
    cache: demonstrations, whose contract is the policy's.
    PolicyError where every episode of a round crashes, or a loss or value is not finite.
    """
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
        del ran  # frees its memory before the training
        learned = learn(before, data, learning, settings.lesson, seed + last.episodes)
        del data  # frees its memory before the next round's data
        if learned is None:
            return
        done = Round(len(experience), practised - begin, learning.seconds - practised)
        _save(learning, *learned, memory, done)


def _goes_on(learning: Learning, experience: Experience) -> bool:
    """True where another round may begin. Episodes without training get one even where they used the last steps."""
    practised = len(experience) > _last_round(learning).episodes
    return not learning.ended() or (practised and learning.left > 0 and not learning.run.stop_requested)


def _last_round(learning: Learning) -> Round:
    if (newest := learning.newest()) is None:
        return Round(learned=learning.left / 2)  # reserves half of the time for the first round's training
    return read_round(newest)


def read_round(folder: Path) -> Round:
    """The round of a checkpoint. PolicyError where its file is not a round of RECAP."""
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
    """The episodes that are missing until `experience` counts `goal` episodes, with the tasks in turn.

    crashed: layouts that are skipped, because their episodes crash.
    """
    new, first = unmet(experience, seed, goal - len(experience), frozenset(crashed)), training_seed(seed)
    return [
        Job(spec, tasks[(at - first) % len(tasks)], at, _takeover(settings, seed, at - first), advised=True)
        for at in new
    ]  # fmt: skip


def _practise(jobs: list[Job], enough: float, learning: Learning, experience: Experience, workers: int) -> set[int]:
    """Runs the episodes and stores them. Returns the layouts that crashed.

    enough: second of the run at which practice ends, because the rest of the time is needed for training.
    PolicyError where the first HOPELESS episodes all crash.
    """
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
            # episodes with a planned takeover are left out of the success rate
            alone = result.success if result.takeover == 1 else None
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
    """The trajectory of a stored episode, with the arrays that RECAP uses. It has no reward."""
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
    """The data of a round: demonstrations, all own episodes with labels, and the advice in them."""
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
