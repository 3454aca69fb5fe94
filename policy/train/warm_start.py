"""A run that begins where stage `act` of another ended: the same eyes and hands, another System 2.

Stage `think` leaves the encoder alone, so runs that differ only in it, or in the planner's layers, share stage `act`
exactly: with equal settings the result is, bit for bit, that of training both stages.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..checkpoint import store
from ..checkpoint.bundle import load_weights
from ..checkpoint.store import PRETRAINED
from ..errors import PolicyError
from ..networks.tandem import Tandem
from .recipe import Recipe
from .stage_act import learned_parts


def take_over(model: Tandem, recipe: Recipe, data_digest: str, source: Path) -> float:
    """Gives `model` what stage `act` of the run (or checkpoint) `source` learned. Returns the seconds it took.

    PolicyError where `source` does not hold the end of that stage, or was trained on other data or another recipe.
    """
    folder = act_end(source, recipe.act.steps)
    about = store.progress(folder)
    stored = store.recipe(folder)
    if about["stage"] != "act" or about["step"] != stored["act"]["steps"]:
        raise PolicyError(f"{folder} is not the end of stage act; train on, or pass a run that has passed it")
    if about["data_digest"] != data_digest:
        raise PolicyError(f"cannot take over {folder}: it was trained on other data; use the same --data")
    refuse_other_act(stored, asdict(recipe), folder)
    weights = store.read_tensors(folder, f"{PRETRAINED}/model.safetensors")
    for name, part in learned_parts(model).items():
        own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
        load_weights(part, own, folder)
    return float(about["seconds"])


def act_end(source: Path, steps: int) -> Path:
    """The checkpoint at the end of stage `act` that `source` means: a run's output folder, or that checkpoint."""
    kept = source / "checkpoints" / f"{steps:06d}"
    folder = kept if kept.exists() else store.resolve(source)
    store.verify(folder)
    return folder


def refuse_other_act(stored: dict[str, Any], asked: dict[str, Any], folder: Path) -> None:
    """PolicyError where two recipes (as JSON) would not give the same stage `act`."""

    def of(raw: dict[str, Any]) -> dict[str, Any]:
        sizes = {f"sizes.{key}": value for key, value in raw["sizes"].items() if key != "planner"}
        return {f"act.{key}": value for key, value in raw["act"].items()} | sizes | {"seed": raw["seed"]}

    old = of(stored)
    for key, value in of(asked).items():
        if old.get(key) != value:
            raise PolicyError(f"cannot take over {folder}: {key} was {old.get(key)!r}, now {value!r}")
