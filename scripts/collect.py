"""Record demonstrations: scripted experts act in MuJoCo, worker processes encode, one writer stores in seed order.

The bytes on disk do not depend on the number of workers. An episode that fails is counted, reported and left out, and
so is one in which something raised, hung or crashed. Where the first ones all did, nothing is recorded.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import tyro
from tqdm import tqdm

from .. import envs
from ..data.contract import Contract
from ..data.encode import EncodedEpisode, EpisodeEncoder
from ..data.errors import DataError
from ..data.progress import progress_bar
from ..data.reader import Dataset
from ..data.stopping import Stop
from ..data.writer import Recorder
from ..policy.errors import CannotBegin, PolicyError
from ..policy.evaluate.faults import EVERYONES, described
from ..policy.evaluate.pool import Crash, Pool
from ..policy.evaluate.worker import SLOW, beat, pace
from .shared.errors import UserError
from .shared.settings import at_least, layouts

# Recorded beyond the first success [s]: without it the data never shows how a goal is held, and policies that arrive
# slightly off have seen nothing like it: they stop a hair before the threshold at which every demonstration ends.
SETTLE = 0.3
# Chance a step that a perturbation starts in an episode that is only watched. A policy that still errs gets itself
# where no demonstration was, and eyes that were never there misplace things by centimetres.
RESTLESS = 0.15
PATIENCE = 10  # failed attempts in a row, per wanted episode, after which an expert is given up
HOPELESS = 10  # first attempts of a task that may raise or crash: if all did, the others would too
NAMED = 5  # attempts that raised which the last line names


@dataclass(frozen=True)
class Args:
    """Flags of `tandem collect`."""

    # task or suite names
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--suite"])] = ("tabletop",)
    episodes: int = 100  # successful demonstrations per task
    first_seed: int = 0  # seeds first_seed, first_seed + 1, … per task; evaluation uses seeds from 1,000,000
    output: Path | None = None  # folder of the data set; default: datasets/<first of the tasks>
    image_size: int | None = None  # side of the square images in pixels; default: the tasks' own
    mode: Literal["image", "video"] = "image"  # PNG frames, lossless; or H.264, smaller
    watched: bool = False  # as video without actions, of a clumsy expert: it teaches the encoder, nothing is imitated
    workers: int = 2  # processes
    step_deadline: float | None = None  # seconds a step may take; default: 30, or 600 control periods if longer
    resume: bool = False  # continue the data set in `output`, or begin it
    dry_run: bool = False  # print the resolved settings and stop


@dataclass(frozen=True)
class Job:
    """One attempt to record."""

    task: str
    seed: int
    mode: str
    image_size: int | None
    watched: bool


def resolve(args: Args) -> dict[str, Any]:
    """What --dry-run shows beside the flags."""
    return {"tasks": envs.resolve(args.tasks), "contract": _contract(args.tasks, args.image_size).digest()}


@dataclass(frozen=True)
class Broken:
    """An attempt in which something raised."""

    reason: str


@dataclass
class Attempts:
    """Those of all tasks that are not recorded."""

    failed: int = 0  # the expert did not succeed
    broken: list[str] = field(default_factory=list)  # what raised, hung or crashed, with task and seed

    def __str__(self) -> str:
        said = f"{self.failed + len(self.broken)} failed attempts left out"
        if not self.broken:
            return said
        more = f"; and {len(self.broken) - NAMED} more" if len(self.broken) > NAMED else ""
        return f"{said}, {len(self.broken)} raised: {'; '.join(self.broken[:NAMED])}{more}"


def main(args: Args) -> int:
    """Runs the command and returns its exit code."""
    tasks = envs.resolve(args.tasks)
    at_least(args, episodes=1, workers=1)
    layouts(args.first_seed, args.episodes)
    contract = _contract(tasks, args.image_size)
    output, attempts = args.output or Path("datasets") / args.tasks[0], Attempts()
    with (
        Stop() as stop,
        Recorder(output, contract, mode=args.mode, resume=args.resume) as recorder,
        Pool(record, args.workers, args.step_deadline, lambda: stop.requested) as pool,
    ):
        have = _recorded(output) if args.resume else {}
        with progress_bar(total=len(tasks) * args.episodes, unit="episode", desc="collect") as bar:
            bar.update(sum(min(args.episodes, len(have.get(task, ()))) for task in tasks))
            for task in tasks:
                _collect_task(task, args, pool, recorder, have.get(task, []), bar, attempts)
        stop.finish(f"continue with the same command, --resume and --output {output}")
    stop.finish("everything was recorded already")
    print(f"{recorder_summary(output)} in {output}; {attempts}")
    return 0


def _contract(tasks: Sequence[str], image_size: int | None) -> Contract:
    return Contract.from_fields(envs.contract_fields(tasks, image_size))


def recorder_summary(root: Path) -> str:
    """Episodes and frames of a data set, in words."""
    dataset = Dataset(root)
    return f"{len(dataset.episodes)} episodes, {len(dataset)} frames"


def _recorded(root: Path) -> dict[str, list[int]]:
    have: dict[str, list[int]] = {}
    for row in Dataset(root).episodes:
        have.setdefault(str(row["sim/task"]), []).append(int(row["sim/seed"]))
    return have


def _collect_task(
    task: str, args: Args, pool: Pool, recorder: Recorder, have: list[int], bar: tqdm, attempts: Attempts
) -> None:
    """Records until `task` has its episodes, or the pool is asked to stop."""
    done, tried, in_vain, broken = len(have), 0, 0, 0
    seed = max(have, default=args.first_seed - 1) + 1
    while done < args.episodes and not pool.stopped():
        wanted = args.episodes - done
        jobs = [Job(task, seed + i, args.mode, args.image_size, args.watched) for i in range(wanted)]
        seed += wanted
        waiting: dict[int, EncodedEpisode | Broken | Crash | None] = {}
        position = 0
        for index, result in pool.run(jobs):
            waiting[index] = result
            while position in waiting:
                episode = waiting.pop(position)
                at, position, tried = jobs[position].seed, position + 1, tried + 1
                if isinstance(episode, EncodedEpisode):
                    recorder.save_encoded(episode)
                    done, in_vain = done + 1, 0
                    bar.update()
                    continue
                in_vain += 1
                if episode is None:
                    attempts.failed += 1
                else:
                    broken += 1
                    attempts.broken.append(f"{task} seed {at}: {episode.reason}")
                    if broken == tried == HOPELESS:
                        raise UserError(f"the first {HOPELESS} attempts at {task} all failed; {attempts.broken[-1]}")
                if in_vain >= PATIENCE * args.episodes:
                    _give_up(task, in_vain, have or done, attempts)


def _give_up(task: str, in_vain: int, some: object, attempts: Attempts) -> NoReturn:
    how_many = f"the last {in_vain}" if some else f"all of {in_vain}"
    raised = f"; {attempts.broken[-1]}" if attempts.broken else ""
    raise UserError(f"the expert of {task} failed in {how_many} attempts{raised}; watch it: --agent expert")


@lru_cache(maxsize=1)
def _environment(task: str, image_size: int | None) -> envs.TaskEnv:
    env = envs.make(task, image_size)
    with suppress(RuntimeError):  # what one layout raises is the business of its own episode
        envs.seed_is_heard(env)
    return env


def record(job: Job) -> EncodedEpisode | Broken | None:
    """One expert episode, or None where the expert failed and is to be imitated. Runs in a worker."""
    try:
        env = _environment(job.task, job.image_size)
    except (envs.EnvError, DataError, PolicyError, MemoryError):
        raise
    except Exception as error:  # somebody's environment, whose packages may be missing: it may raise anything
        raise CannotBegin(f"task {job.task} cannot be made: {described(error)}") from error
    try:
        return _record(env, job)
    except EVERYONES:
        raise
    except Exception as error:  # of an environment or an expert: they may raise anything
        _environment.cache_clear()  # this one may be broken, and bytes do not depend on what ran before
        return Broken(described(error))


def _record(env: envs.TaskEnv, job: Job) -> EncodedEpisode | None:
    pace(env.metadata.get("render_fps", 20))
    beat(SLOW)
    obs, _ = env.reset(seed=job.seed)
    beat(SLOW)
    instruction, expert = obs["task"], _expert(env, job)
    encoder = EpisodeEncoder(_contract((job.task,), job.image_size), job.mode)
    left, succeeded = round(SETTLE * encoder.contract.fps), False
    for step in range(env.unwrapped.horizon):
        action, subtask, perturbed = expert.act()
        frame = {key: value for key, value in obs.items() if key != "task"} | env.unwrapped.privileged()
        obs, reward, _, _, info = env.step(action)
        succeeded |= info["success"]
        left -= succeeded
        done = left == 0 or step == env.unwrapped.horizon - 1
        beat()
        encoder.add(
            frame
            | {"action": action, "subtask": subtask, "perturbed": perturbed or job.watched}
            | {"next.reward": float(reward), "next.success": bool(info["success"]), "next.done": done}
        )
        if done:
            break
    if not succeeded and not job.watched:
        return None
    meta = {"sim/seed": job.seed, "sim/success": succeeded, "sim/task": job.task, "source": "expert"}
    beat(SLOW)  # a film takes a while to encode
    return encoder.finish(instruction, meta)


def _expert(env: envs.TaskEnv, job: Job) -> envs.Script:
    """CannotBegin where the task has none."""
    try:
        return envs.expert(env, job.seed, RESTLESS if job.watched else None)
    except envs.EnvError as error:
        raise CannotBegin(str(error)) from error
