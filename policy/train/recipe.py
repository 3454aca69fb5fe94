"""What a training run is made of: data, sizes and two stages. Presets are functions that return one.

Stage `act` learns to see and to move from pixels: scene encoder, goal read-out, System 1. Stage `think` freezes the
encoder, encodes every frame once, and trains on those latents what needs no pixels: System 2, the world model, the
image decoder, and System 1 further, now on the planner's own subgoals too. Convolutions dominate the cost, so a sample
of `think` is cheap, and the labels of a frozen encoder do not move.
"""

import difflib
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from ...planner.trunk import ATTENTION
from ..errors import PolicyError
from ..networks.sizes import Sizes


@dataclass(frozen=True)
class Stage:
    """How long and how fast one stage learns."""

    steps: int  # optimiser steps
    batch: int = 64  # B, frames a step
    learning_rate: float = 1e-3  # peak, after the warm-up; cosine to zero
    warmup: int = 200  # steps
    weight_decay: float = 0.02
    clip: float = 1.0  # largest gradient norm
    ema: float = 0.999  # decay of the averaged weights


@dataclass(frozen=True)
class Recipe:
    """What a training run is made of."""

    name: str
    tasks: tuple[str, ...]  # short names of registered tasks, or a suite
    episodes: int | tuple[int, ...]  # demonstrations per task: of every one, or of each of `tasks`
    act: Stage
    think: Stage
    watched: int = 0  # episodes per task of which the encoder learns, and nothing is imitated
    held_out: tuple[int, ...] = ()  # episodes of the data of which nothing is learned (policy/train/held_out.py)
    sizes: Sizes = field(default_factory=Sizes)
    seed: int = 0
    processes: int = 2  # that share every batch in training (policy/train/data_parallel.py)
    threads: int = 1  # of torch, in each of them
    device: str = "auto"  # cpu, cuda, or auto: a GPU where there is one
    precision: str = "auto"  # fp32, bf16, or auto: what this machine multiplies faster
    halve_batch: bool = False  # where memory runs out, go on with half of the batch
    save_every: int = 1000  # steps
    log_every: int = 50  # steps


def refuse_sizes(recipe: Recipe) -> None:
    """PolicyError where numbers do not fit each other or cannot be: before anything is recorded or decoded."""
    s = recipe.sizes
    least = {
        "seed": (recipe.seed, 0), "processes": (recipe.processes, 1), "threads": (recipe.threads, 1),
        "save_every": (recipe.save_every, 1), "log_every": (recipe.log_every, 1), "chunk": (s.chunk, 4),
        "width": (s.width, 32), "image_size": (s.image_size, 16), "ticks": (s.ticks, 1), "tick": (s.tick, 1),
        "goal_tokens": (s.goal_tokens, 1), "keypoints": (s.keypoints, 1), "draws": (s.draws, 1),
    }  # fmt: skip
    for name, stage in (("act", recipe.act), ("think", recipe.think)):
        least |= {f"steps of stage {name}": (stage.steps, 0), f"batch of stage {name}": (stage.batch, 1)}
    for name, (value, lowest) in least.items():
        if value < lowest:
            raise PolicyError(f"recipe {recipe.name!r}: {name} is {value}; use {lowest} or more")
    heads = max(1, s.width // 32)
    multiples = {"chunk": (s.chunk, 4), "image_size": (s.image_size, 8), "width": (s.width, 2 * heads)}
    for name, (value, unit) in multiples.items():
        if value % unit:
            near = max(unit, round(value / unit) * unit)
            raise PolicyError(f"recipe {recipe.name!r}: {name} is {value}; use a multiple of {unit}, e.g. {near}")


def debug() -> Recipe:
    """Seconds on a CPU: does every part run, save and resume. Learns nothing."""
    stage = Stage(steps=4, batch=4, warmup=1)
    return Recipe(
        "debug", ("reach",), 2, stage, stage, sizes=Sizes(width=48, draws=2), processes=1, save_every=2, log_every=1
    )


def demo() -> Recipe:
    """Three tasks in under 15 minutes on two cores, from recording to the report."""
    tasks = ("reach", "pick_place", "open_drawer")
    act = Stage(steps=2200, batch=32, warmup=50)  # narrow model, small batch: more steps in the time
    return Recipe("demo", tasks, 240, act, Stage(steps=180, warmup=20, ema=0.99), sizes=Sizes(width=128))


def few() -> Recipe:
    """Three tasks from so few demonstrations that about half of the episodes fail, three quarters of an hour on two
    cores: where `tandem rl` begins. The eyes are not what is to be short: the encoder sees 300 more episodes a task,
    without their actions."""
    tasks = ("push", "pick_place", "stack")
    return Recipe("few", tasks, (40, 7, 13), Stage(steps=3500), Stage(steps=300), watched=300)


def tabletop() -> Recipe:
    """All seven tasks, 100 demonstrations each, at most 90 minutes on two cores."""
    return Recipe("tabletop", ("tabletop",), 100, Stage(steps=5200), Stage(steps=1000))


def tabletop_attention() -> Recipe:
    """`tabletop`, and System 2 thinks with attention alone: what docs/backbone.md compares with."""
    return replace(tabletop(), name="tabletop-attention", sizes=Sizes(planner=ATTENTION))


def mt10() -> Recipe:
    """Meta-World's ten, 50 demonstrations each, about half an hour on two cores."""
    sizes = Sizes(image_size=128, keypoints=8, instruction_length=10, tick=20)
    return Recipe("mt10", ("metaworld-mt10",), 50, Stage(steps=3000), Stage(steps=500), sizes=sizes)


def mt50() -> Recipe:
    """All of Meta-World, 50 demonstrations a task, some six hours on two cores."""
    return replace(mt10(), name="mt50", tasks=("metaworld-mt50",), act=Stage(steps=30_000), think=Stage(steps=5000))


PRESETS: dict[str, Callable[[], Recipe]] = {
    "debug": debug,
    "demo": demo,
    "few": few,
    "tabletop": tabletop,
    "tabletop-attention": tabletop_attention,
    "mt10": mt10,
    "mt50": mt50,
}


def preset(name: str) -> Recipe:
    """A recipe by its name. PolicyError where there is none."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, 1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise PolicyError(f"unknown preset {name!r}; {guess}known: {', '.join(PRESETS)}")
    return PRESETS[name]()


def recipe_from(raw: Any, where: str) -> Recipe:
    """A recipe from JSON as a run keeps it (train_config.json). PolicyError, which names `where`, for anything else."""
    recipe: Recipe = _built(Recipe, raw, where)
    refuse_sizes(recipe)
    return recipe


def _built(kind: Any, raw: Any, where: str) -> Any:
    """A value of a type that recipes have: a number, a text, a switch, a tuple, a dataclass, or one of several."""
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        known = {field.name: field.default is MISSING and field.default_factory is MISSING for field in fields(kind)}
        given = raw if isinstance(raw, dict) else {}
        for name in [*(given.keys() - known.keys()), *(name for name in known if known[name] and name not in given)]:
            raise PolicyError(f"{where}: {name[:40]!r} is {'unknown' if name in given else 'missing'}")
        return kind(**{name: _built(hints[name], value, f"{where}: {name}") for name, value in given.items()})
    if get_origin(kind) is tuple and isinstance(raw, list):
        return tuple(_built(get_args(kind)[0], value, where) for value in raw)
    if get_origin(kind) is UnionType:
        fitting = [one for one in get_args(kind) if isinstance(raw, list) == (get_origin(one) is tuple)]
        return _built(fitting[0], raw, where)
    accepted = (int, float) if kind is float else (kind,)
    if get_origin(kind) is not None or not isinstance(raw, accepted) or (isinstance(raw, bool) and kind is not bool):
        raise PolicyError(f"{where} is {str(raw)[:40]!r}; expected {getattr(kind, '__name__', kind)}")
    return raw
