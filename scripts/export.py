"""Make a small copy of a trained policy to keep or send: packed weights, nothing for training on, and a model card.

`tandem eval`, `watch` and `rl` take it as any checkpoint. What acts is stored in 8 bits a number, the rest in 4:
measure the copy, not only the original (`tandem compare`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.files import read_object, write_atomic
from ..policy.checkpoint import store
from .publish.figures import read_result, result_file, shown
from .publish.success import ACTING
from .publish.tables import render
from .shared.errors import UserError

KEPT = ("stage", "step", "seconds", "data_digest", "rl")  # of what a checkpoint says about its training


@dataclass(frozen=True)
class Args:
    """Flags of `tandem export`."""

    checkpoint: str  # output folder of `tandem train` or `tandem rl`, or a checkpoint in it
    output: Path  # folder of the copy
    results: tuple[str, ...] = ()  # names of measured figures (docs/results) that its card shows
    dry_run: bool = False  # print the resolved settings and stop


def main(args: Args) -> int:
    """Runs the command and returns its exit code."""
    from ..policy.checkpoint.bundle import Bundle
    from ..policy.checkpoint.quantise import pack

    if args.output.exists():
        raise UserError(f"{args.output} exists; remove it or choose another --output")
    folder = store.resolve(args.checkpoint)
    figures = [_figure(name) for name in args.results]
    bundle = Bundle.load(folder)
    weights = dict(bundle.model.state_dict())
    rest = {name.split(".")[0] for name in weights} - set(ACTING)
    about = store.progress(folder)
    recipe = store.recipe(folder)
    files = bundle.files(pack(weights, coarse=tuple(f"{name}." for name in sorted(rest))))
    files |= {
        store.RECIPE: recipe,
        store.PROGRESS: {key: about[key] for key in KEPT if key in about},
    }
    copy = store.save(args.output / "checkpoints", int(folder.name), files)
    write_atomic(args.output / "README.md", card(args, folder, recipe, about, figures).encode())
    size = sum(file.stat().st_size for file in args.output.rglob("*") if file.is_file() and not file.is_symlink())
    print(f"{copy}: {size / 1e6:.1f} MB\nnext: tandem eval --checkpoint {args.output}")
    return 0


def card(args: Args, folder: Path, recipe: dict[str, Any], about: dict[str, Any], figures: list[dict[str, Any]]) -> str:
    """The model card: what it was trained on and how, and what was measured of it."""
    data_digest = str(about.get("data_digest", "unknown"))[:16]
    made, tasks = _made(folder), ", ".join(map(str, recipe.get("tasks") or ())) or "the tasks of its data"
    lines = [
        f"# {args.output.name}",
        "",
        f"A Tandem policy for {tasks}: from pixels, proprioception and words to actions.",
        "",
        f"- trained by `{made.get('command', 'unknown')}`, code `{made.get('code', 'unknown')}`",
        f"- seed {recipe.get('seed', 'unknown')}, {about['seconds'] / 60:.1f} minutes, data digest `{data_digest}`",
        f"- packed: 8 bits a number, 4 where nothing acts on it; its original: `{store.digest(folder)[:16]}`",
        "- no pretrained weights",
        "- for simulation; it knows the tasks, the cameras and the words of its demonstrations, and nothing else",
    ]
    for figure in figures:
        lines += ["", f"## {figure['name']}", "", render(figure)]
    return "\n".join(lines) + "\n"


def _figure(name: str) -> dict[str, Any]:
    file = result_file(name)
    if not file.exists():
        raise UserError(f"no result {name} in {file.parent}; measure it with `tandem eval --result {name}`")
    shown(file, [])  # refuses one that the card could not show
    return read_result(file)


def _made(folder: Path) -> dict[str, Any]:
    """The command and the code that the run was made with, where its folder says so."""
    file = folder.parent.parent / "made_with.json"
    return read_object(file) if file.exists() else {}
