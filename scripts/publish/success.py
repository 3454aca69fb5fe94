"""The figures of docs/results that an evaluation gives: means, tables, latencies, and what the training took.

Meta-World's tasks come in four tiers of difficulty. Its `tier_average` is the unweighted mean over the tiers present,
as MT50 is reported in the field, and stands beside the mean over tasks.
"""

import math
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ... import envs
from ...data.files import parse_json
from ...policy.checkpoint import store
from ..shared.errors import UserError

if TYPE_CHECKING:
    import torch

ACTING = ("encoder", "read_out", "grounding", "controller", "planner")  # parts that a rollout runs; the rest teach
TIERS = ("easy", "medium", "hard", "very-hard")
FIRST = {"hierarchical": "", "flat": "_flat"}


def published(results: dict[str, Any], folder: str) -> dict[str, Any]:
    """results: of `tandem eval`.
    folder: its checkpoint, "" for an agent that is none."""
    found, minutes = results["summary"], train_minutes(folder)
    means = {f"success_{'mean' if column == 'hierarchical' else column}": v for column, v in found["mean"].items()}
    others = {k: found[k] for k in ("wrong_instruction_drop", "per_task", "planner_ms", "controller_ms", "errors")}
    trained = {} if minutes is None else {"train_minutes": minutes}
    if not all(task.startswith("metaworld-") for task in found["per_task"]):
        return means | trained | others
    episodes = {"episodes_per_task": results["options"]["episodes"]}
    size = {"params_m": parameters(folder) / 1e6} if folder else {}
    return tiers(found["per_task"]) | size | trained | episodes | others


def tiers(per_task: dict[str, Any]) -> dict[str, float]:
    """tier_average, task_mean, easy, medium, hard and very_hard, as far as tasks of a tier were run, for each mode."""
    metrics: dict[str, float] = {}
    for mode, suffix in FIRST.items():
        rows = {task: row[mode]["success"] for task, row in per_task.items() if mode in row}
        if not rows:
            continue
        groups = {tier: [rows[task] for task in envs.suite(f"metaworld-{tier}") if task in rows] for tier in TIERS}
        means = {tier.replace("-", "_"): fmean(group) for tier, group in groups.items() if group}
        all_of_them = {"tier_average": fmean(means.values()), "task_mean": fmean(rows.values())} | means
        metrics |= {f"{name}{suffix}": round(value, 4) for name, value in all_of_them.items()}
    return metrics


def variant(results: dict[str, Any], folder: str) -> dict[str, Any]:
    """A row of docs/success-per-flop.md: the mean over tasks with its 95% interval, training minutes and rate."""
    per_task, minutes = results["summary"]["per_task"], train_minutes(folder)
    mode = "hierarchical" if "hierarchical" in results["summary"]["mean"] else "flat"
    rows = [row[mode] for row in per_task.values()]
    success = fmean(r["success"] for r in rows)
    # the tasks are fixed, the seeds are drawn
    error = 1.96 * math.sqrt(sum(r["success"] * (1 - r["success"]) / r["n"] for r in rows)) / len(rows)
    recipe = store.recipe(folder)
    samples = sum(recipe[stage]["steps"] * recipe[stage]["batch"] for stage in ("act", "think"))
    return {
        "success": round(success, 4),
        "success_low": round(max(0.0, success - error), 4),
        "success_high": round(min(1.0, success + error), 4),
        "minutes": minutes,
        "samples_per_s": round(samples / (60 * (minutes or math.nan)), 1),
        "mode": mode,
        "episodes": sum(r["n"] for r in rows),
        "code": results["manifest"]["code"],
    }


def train_minutes(folder: str) -> float | None:
    """Minutes that the training of a checkpoint took. None where nothing was trained."""
    if not folder:
        return None
    return round(store.progress(folder)["seconds"] / 60, 1)


def parameters(folder: str) -> int:
    """Numbers in the weights of the parts that act, from the file's header."""
    from ...policy.checkpoint.quantise import SCALE  # it imports torch, which the command line does not wait for

    file = Path(folder) / "pretrained_model" / "model.safetensors"
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = parse_json(stream.read(min(length, store.MAX_HEADER)), str(file))
    try:
        own = [entry for name, entry in header.items() if name.split(".")[0] in ACTING and not name.endswith(SCALE)]
        return sum(math.prod(entry["shape"]) for entry in own)
    except (AttributeError, KeyError, TypeError):
        raise UserError(f"{file}: its header is damaged; use another checkpoint") from None


def named(name: str, device: "torch.device", metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Figures of a GPU are a result of their own, which says of which."""
    import torch

    if device.type == "cpu":
        return {name: metrics}
    return {f"{name}_gpu": metrics | {"device": torch.cuda.get_device_name(device)}}
