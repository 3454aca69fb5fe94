"""Train a policy on recorded demonstrations: `tandem train --preset tabletop --data datasets/tabletop`.

Without --data the preset's demonstrations are recorded first. Ctrl-C saves a checkpoint. --resume continues it.
"""

import shlex
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from .. import envs
from ..data.errors import DataError
from ..data.files import json_bytes, read_object, write_atomic
from ..policy.networks.sizes import Sizes
from ..policy.train.recipe import Recipe, Stage, preset, recipe_from, refuse_sizes
from ..policy.train.run_folder import default_output
from . import collect
from .publish.manifest import say_changes, say_how, this_code
from .shared.errors import UserError

WATCHED_SEED = 100_000  # first layout of what is only watched


@dataclass(frozen=True)
class Args:
    """Flags of `tandem train`."""

    preset: str = "tabletop"  # debug, demo, few, tabletop, tabletop-attention, mt10 or mt50
    # Recipe of another run, instead of a preset: its folder, a checkpoint, or a train_config.json in it.
    recipe: Path | None = None
    data: tuple[Path, ...] = ()  # data sets; none: record the preset's into datasets/<preset>
    output: Path | None = None  # default: outputs/train/<date>/<time>_<preset>
    resume: bool = False  # continue the run in --output, or begin it where there is none
    allow_changed: bool = False  # resume with other processes, threads, precision or device: last digits will differ
    held_out: float | None = None  # share of episodes not learned from, for a loss and an error; default: 0.05, and 0
    # for data that names tasks of the simulator, where success is measured
    act_from: Path | None = None  # take stage `act` over from this run, and train only `think`
    seed: int = 0
    act_steps: int | None = None  # steps of stage `act`, instead of the preset's
    think_steps: int | None = None  # steps of stage `think`, instead of the preset's
    batch: int | None = None  # frames a step, instead of the preset's; a GPU has time for more
    halve_batch: bool = False  # where memory runs out, go on with half of the batch; needs one process
    device: str = "auto"  # cpu, cuda, or auto: a GPU where there is one
    precision: str = "auto"  # fp32, bf16, or auto: what this machine multiplies faster
    processes: int | None = None  # that share every batch, instead of the preset's; 1 on a GPU
    threads: int = 1  # of torch, in each of them
    rename: tuple[str, ...] = ()  # THEIR_NAME=OUR_NAME of --data's features, e.g. actions=action; none: ours already
    cache: Path = Path("cache")  # decoded frames, memory-mapped
    dry_run: bool = False  # print the resolved settings and stop
    act: tyro.conf.Suppress[Stage | None] = None
    think: tyro.conf.Suppress[Stage | None] = None
    sizes: tyro.conf.Suppress[Sizes | None] = None


FROM_RECIPE = ("seed", "device", "precision", "threads", "act", "think", "sizes")  # flags whose defaults are its own


def parse(arguments: list[str]) -> Args:
    """The flags. Their defaults are those of the preset, which may be the first word, or of the recipe."""
    words = ["--preset", *arguments] if arguments and not arguments[0].startswith("-") else list(arguments)
    chosen, _ = tyro.cli(Chosen, args=[w for w in words if w not in ("-h", "--help")], return_unknown_args=True)
    base = _base(chosen)
    usual = {name: getattr(base, name) for name in FROM_RECIPE}
    usual |= {"preset": chosen.preset, "recipe": chosen.recipe}
    return tyro.cli(Flags, prog="tandem train", args=words, description=__doc__, default=Flags(**usual))


@dataclass(frozen=True)
class Flags(Args):
    """Those of `tandem train`: every number of the recipe too."""

    act: Stage = Stage(steps=0)  # Stage act: encoder, goal readout and System 1, from pixels.
    think: Stage = Stage(steps=0)  # Stage think: System 2, world model and System 1, from latents.
    sizes: Sizes = Sizes()  # Widths and lengths of the networks.


@dataclass(frozen=True)
class Chosen:
    """The flags that decide the defaults of the others."""

    preset: str = "tabletop"
    recipe: Path | None = None


def _base(args: Args | Chosen) -> Recipe:
    """The preset or the recipe, before other flags change it."""
    if args.recipe is None:
        return preset(args.preset)
    from ..policy.checkpoint import store

    file = args.recipe
    try:
        return recipe_from(read_object(file) if file.is_file() else store.recipe(file), str(file))
    except DataError as error:
        raise UserError(f"{error}; pass the folder of a run, or its train_config.json") from None


def recipe_of(args: Args) -> Recipe:
    """The recipe that the flags ask for."""
    from ..policy.compute import resolve_device

    recipe = replace(_base(args), seed=args.seed, device=args.device, precision=args.precision)
    given = {name: getattr(args, name) for name in ("act", "think", "sizes") if getattr(args, name) is not None}
    recipe = replace(recipe, **given)
    usual = 1 if resolve_device(args.device).type == "cuda" else recipe.processes
    processes = usual if args.processes is None else args.processes
    recipe = replace(recipe, processes=processes, threads=args.threads, halve_batch=args.halve_batch)
    act, think = _stage(recipe.act, args.act_steps, args.batch), _stage(recipe.think, args.think_steps, args.batch)
    refuse_sizes(replace(recipe, act=act, think=think))
    for name, stage in (("act", act), ("think", think)):
        if stage.batch % recipe.processes:
            raise UserError(
                f"--processes {recipe.processes} cannot share {name}'s batch of {stage.batch}; use a divisor"
            )
    return replace(recipe, act=act, think=think)


def _stage(preset: Stage, steps: int | None, batch: int | None) -> Stage:
    return replace(
        preset, steps=preset.steps if steps is None else steps, batch=preset.batch if batch is None else batch
    )


def resolve(args: Args) -> dict[str, Any]:
    """What --dry-run shows beside the flags."""
    recipe = recipe_of(args)
    return {"recipe": asdict(recipe), "tasks": envs.resolve(recipe.tasks)}


def main(args: Args) -> int:
    """Runs the command and returns its exit code."""
    from ..data.cache import FrameCache
    from ..data.rename import parse_rename
    from ..policy.checkpoint.bundle import Bundle
    from ..policy.train.held_out import measure, report, split
    from ..policy.train.run import refuse_another, train

    begin = time.perf_counter()
    recipe = recipe_of(args)
    output = args.output or default_output("train", recipe.name)
    if args.resume and not args.data:
        refuse_another(recipe, output)  # before its data is recorded
    data = args.data or ensure_data(recipe)
    cache = FrameCache.build(
        list(data), args.cache, rename=parse_rename(args.rename), image_size=recipe.sizes.image_size
    )
    recipe = replace(recipe, tasks=tasks_of(cache.episodes, recipe.tasks))
    recipe = replace(recipe, held_out=split(cache, args.held_out, recipe.seed))
    if not any(cache.subtasks):
        print("the data has no subtask words: the planner learns subgoals and progress, and will say nothing")
    print(f"training {recipe.name!r} on {len(cache)} frames of {len(cache.episodes)} episodes; output {output}")
    this_code()
    fresh = not output.exists() or not any(output.iterdir())
    if args.resume:
        say_changes(output)
    try:
        prepared = time.perf_counter() - begin
        checkpoint = train(recipe, cache, output, args.resume, prepared, args.act_from, args.allow_changed)
    finally:
        if fresh:
            say_how(output)
    print(f"checkpoint: {checkpoint}")
    if recipe.held_out:
        measured = measure(Bundle.load(checkpoint), cache, recipe.held_out)
        write_atomic(output / "held_out.json", json_bytes(measured))
        print(report(measured))
    print(f"next: tandem eval --checkpoint {output}{_on_data(args, recipe)}")
    return 0


def _on_data(args: Args, recipe: Recipe) -> str:
    """Flags of an evaluation that works: on tasks of the simulator, or on the data where it names none."""
    if recipe.tasks:
        return ""
    rename = f" --rename {shlex.join(args.rename)}" if args.rename else ""
    return f" --data {shlex.join(map(str, args.data))}{rename}"


def tasks_of(episodes: list[dict[str, Any]], usual: tuple[str, ...]) -> tuple[str, ...]:
    """The tasks that the data shows, which evaluation will ask for: `usual`, where these are they. () where it does not
    say."""
    found = tuple(dict.fromkeys(str(row["sim/task"]) for row in episodes if "sim/task" in row))
    return usual if set(found) == set(envs.resolve(usual)) else found


def ensure_data(recipe: Recipe) -> tuple[Path, ...]:
    """The preset's demonstrations, and what it only watches, recorded where they are not complete yet."""
    folder = Path("datasets") / recipe.name
    for tasks, episodes in demonstrations(recipe):
        _ensure(recipe, folder, collect.Args(tasks, episodes))
    if not recipe.watched:
        return (folder,)
    watched = folder.with_name(f"{recipe.name}-watched")
    _ensure(recipe, watched, collect.Args(recipe.tasks, recipe.watched, first_seed=WATCHED_SEED, watched=True))
    return folder, watched


def demonstrations(recipe: Recipe) -> list[tuple[tuple[str, ...], int]]:
    """What is recorded together: tasks, and how many of each."""
    if isinstance(recipe.episodes, int):
        return [(recipe.tasks, recipe.episodes)]
    return [((task,), episodes) for task, episodes in zip(recipe.tasks, recipe.episodes, strict=True)]


def _ensure(recipe: Recipe, folder: Path, args: collect.Args) -> None:
    started = (folder / "meta" / "info.json").exists()
    collect.main(replace(args, output=folder, image_size=recipe.sizes.image_size, resume=started))
