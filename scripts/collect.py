"""Record demonstrations: scripted experts act in MuJoCo, worker processes encode, one writer stores in seed order.

The bytes on disk do not depend on the number of workers. An episode that fails is counted, reported and left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tqdm import tqdm

from .. import envs
from ..data.contract import Contract
from ..data.encode import EncodedEpisode, EpisodeEncoder
from ..data.progress import progress_bar
from ..data.reader import Dataset
from ..data.writer import Recorder
from ..policy.pool import Crash, Pool
from .errors import UserError

# Recorded beyond the first success [s]: without it the data never shows how a goal is held, and policies that arrive
# slightly off have seen nothing like it: they stop a hair before the threshold at which every demonstration ends.
SETTLE = 0.3
# Chance a step that a perturbation starts in an episode that is only watched. A policy that still errs gets itself
# where no demonstration was, and eyes that were never there misplace things by centimetres.
RESTLESS = 0.15
PATIENCE = 10  # failed attempts per wanted episode after which an expert that never succeeded is given up


@dataclass(frozen=True)
class Args:
    # task or suite names
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--suite"])] = ("tabletop",)
    episodes: int = 100  # successful demonstrations per task
    first_seed: int = 0  # seeds first_seed, first_seed + 1, … per task; evaluation uses seeds from 1,000,000
    output: Path | None = None  # folder of the data set; default: datasets/<first of the tasks>
    image_size: int | None = None  # side of the square images in pixels; default: the tasks' own
    mode: Literal["image", "video"] = "image"  # PNG frames, lossless; or H.264, smaller
    watched: bool = False  # as video without actions, of a clumsy expert: it teaches the encoder, nothing is imitated
    workers: int = 2  # processes
    resume: bool = False  # continue the data set in `output`
    dry_run: bool = False  # print the resolved settings and stop


@dataclass(frozen=True)
class Job:
    task: str
    seed: int
    mode: str
    image_size: int | None
    watched: bool


def resolve(args: Args) -> dict[str, Any]:
    return {"tasks": envs.resolve(args.tasks), "contract": _contract(args.tasks, args.image_size).digest()}


def main(args: Args) -> int:
    tasks = envs.resolve(args.tasks)
    if args.episodes < 1:
        raise UserError(f"--episodes is {args.episodes}; ask for at least 1")
    contract = _contract(tasks, args.image_size)
    output, failed = args.output or Path("datasets") / args.tasks[0], 0
    with (
        Recorder(output, contract, mode=args.mode, resume=args.resume) as recorder,
        Pool(record, args.workers) as pool,
    ):
        have = _recorded(output) if args.resume else {}
        with progress_bar(total=len(tasks) * args.episodes, unit="episode", desc="collect") as bar:
            bar.update(sum(min(args.episodes, len(have.get(task, ()))) for task in tasks))
            for task in tasks:
                failed += _collect_task(task, args, pool, recorder, have.get(task, []), bar)
    print(f"{recorder_summary(output)} in {output}; {failed} failed attempts left out")
    return 0


def _contract(tasks: Sequence[str], image_size: int | None) -> Contract:
    return Contract.from_fields(envs.contract_fields(tasks, image_size))


def recorder_summary(root: Path) -> str:
    dataset = Dataset(root)
    return f"{len(dataset.episodes)} episodes, {len(dataset)} frames"


def _recorded(root: Path) -> dict[str, list[int]]:
    have: dict[str, list[int]] = {}
    for row in Dataset(root).episodes:
        have.setdefault(str(row["sim/task"]), []).append(int(row["sim/seed"]))
    return have


def _collect_task(task: str, args: Args, pool: Pool, recorder: Recorder, have: list[int], bar: tqdm) -> int:
    """Records until `task` has its episodes; returns how many attempts failed."""
    done, failed = len(have), 0
    seed = max(have, default=args.first_seed - 1) + 1
    while done < args.episodes:
        if failed >= PATIENCE * args.episodes and not done:
            raise UserError(f"the expert of {task} failed in all of {failed} attempts; watch it: --agent expert")
        wanted = args.episodes - done
        jobs = [Job(task, seed + i, args.mode, args.image_size, args.watched) for i in range(wanted)]
        seed += wanted
        waiting: dict[int, EncodedEpisode | Crash | None] = {}
        position = 0
        for index, result in pool.run(jobs):
            waiting[index] = result
            while position in waiting:
                episode = waiting.pop(position)
                position += 1
                if isinstance(episode, Crash):
                    raise UserError(
                        f"recording {task} seed {jobs[position - 1].seed}: {episode.reason}; run `tandem doctor`"
                    )
                if episode is None:
                    failed += 1
                    continue
                recorder.save_encoded(episode)
                done += 1
                bar.update()
    return failed


@lru_cache(maxsize=1)
def _environment(task: str, image_size: int | None) -> Any:
    return envs.make(task, image_size)


def record(job: Job) -> EncodedEpisode | None:
    """One expert episode, or None where the expert failed and is to be imitated. Runs in a worker."""
    env = _environment(job.task, job.image_size)
    obs, _ = env.reset(seed=job.seed)
    instruction, expert = obs["task"], envs.expert(env, job.seed, RESTLESS if job.watched else None)
    encoder = EpisodeEncoder(_contract((job.task,), job.image_size), job.mode)
    left, succeeded = round(SETTLE * encoder.contract.fps), False
    for step in range(env.unwrapped.horizon):
        action, subtask, perturbed = expert.act()
        frame = {key: value for key, value in obs.items() if key != "task"} | env.unwrapped.privileged()
        obs, reward, _, _, info = env.step(action)
        succeeded |= info["success"]
        left -= succeeded
        done = left == 0 or step == env.unwrapped.horizon - 1
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
    return encoder.finish(instruction, meta)
