"""The table of results: one row per system, from the results of its stages."""

from pathlib import Path
from typing import Any

from ...policy.evaluate.outcome import FAILED
from ...policy.evaluate.statistics import Proportion
from ..publish.comparison import Outcomes, compare, load, points
from ..publish.results_file import read_results
from ..shared.errors import UserError

OURS = "tandem"


def metrics(folder: Path, systems: list[str], mode: str, stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The rows of the table: system -> column -> value.

    folder: holds `<system>/eval/results.json`.
    systems: names of the complete systems.
    mode: mode of Tandem.
    stages: system -> results of its stages.
    UserError where two systems were evaluated on different first states.
    """
    modes = {system: mode if system == OURS else system for system in systems}
    same_starts({system: read_results(folder / system / "eval", ("first_state",))["episodes"] for system in systems})
    outcomes = {system: load(folder / system / "eval", modes[system], "normal") for system in systems}
    return {system: success(outcomes, system) | rates(stages[system]) for system in systems}


def success(outcomes: dict[str, Outcomes], system: str) -> dict[str, Any]:
    """Success over all episodes with Wilson's 95% interval, and Tandem's lead on the same episodes."""
    mine = outcomes[system]
    found = Proportion(sum(mine.values()), len(mine)).as_dict()
    names = {"success": "success", "success_low": "low", "success_high": "high", "episodes": "n"}
    return {name: found[key] for name, key in names.items()} | _ahead(outcomes, system)


def rates(stages: dict[str, Any]) -> dict[str, Any]:
    """The columns of speed and size, in the order of the table.

    stages: merged results of training, measuring and evaluating.
    """
    return {
        "ms_per_chunk": stages["ms_per_chunk"],
        "train_samples_per_s": stages["samples_per_s"],
        "load_frames_per_s": stages["load_frames_per_s"],
        "eval_episodes_per_min": stages["episodes_per_min"],
        "memory_gb": stages["memory_gb"],
        "params_m": stages["params_m"],
        "train_minutes": stages["minutes"],
        "train_steps": stages["steps"],
        "batch": stages["batch"],
    }


def same_starts(episodes: dict[str, list[dict[str, Any]]]) -> None:
    """Checks that all systems were evaluated on the same episodes, by digests of the simulator's first states.

    episodes: system -> its episodes of results.json. Failed ones are skipped.
    UserError where two digests of a task and seed differ.
    """
    seen: dict[tuple[str, int], tuple[str, str]] = {}
    for system, found in episodes.items():
        for e in found:
            if e["status"] in FAILED:
                continue
            first, digest = seen.setdefault((e["task"], e["seed"]), (system, e["first_state"]))
            if digest != e["first_state"]:
                where = f"{e['task']}, seed {e['seed']}"
                raise UserError(f"{where} started otherwise for {first} than for {system}; are the packages the same?")


def _ahead(outcomes: dict[str, Outcomes], system: str) -> dict[str, str]:
    if system == OURS or OURS not in outcomes:
        return {"tandem_ahead": "–", "significant": "–"}
    found = compare(outcomes[system], outcomes[OURS])
    return {"tandem_ahead": f"{points(found)} points", "significant": "yes" if found.significant else "no"}
