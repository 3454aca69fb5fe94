"""results.json of `tandem eval`, as anybody may have written it: what is used is checked, or named in one line."""

from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from ...data.errors import DataError
from ...data.files import read_json
from ...policy.act.runtime import Runtime
from ...policy.errors import PolicyError
from ...policy.evaluate.outcome import CONTROLS, IDENTITY, checked, is_bool, is_count, is_name, is_number, is_text
from ..shared.errors import UserError

NAME = "results.json"
MODES, AGENTS = ("hierarchical", "flat"), ("checkpoint", "expert", "random")
LARGEST = 1 << 30  # bytes


def read_results(path: Path, more: tuple[str, ...] = ()) -> dict[str, Any]:
    """The content of a results.json, or of the one in a folder: a manifest, and episodes of which each has what
    `policy.evaluate.outcome.IDENTITY` names, and `more`, each once. UserError otherwise."""
    file = path / NAME if path.is_dir() else path
    try:
        results = read_json(file, limit=LARGEST)
    except (OSError, DataError) as error:
        raise _refused(file, str(error)) from None
    if not isinstance(results, dict):
        raise _refused(file, f"it holds {type(results).__name__}")
    for name, kind in (("episodes", list), ("manifest", dict)):
        if not isinstance(results.get(name), kind):
            raise _refused(file, f"it has no {name}")
    minutes = results.setdefault("train_minutes", None)
    if minutes is not None and not (is_number(minutes) and minutes >= 0):
        raise _refused(file, f"train_minutes is {str(minutes)[:40]!r}")
    for number, episode in enumerate(results["episodes"]):
        try:
            checked(episode, (*IDENTITY, *more))
        except PolicyError as error:
            raise _refused(file, f"episode {number}: {error}") from None
    counts = Counter(key_of(episode) for episode in results["episodes"])
    if twice := [key for key, count in counts.items() if count > 1]:
        raise _refused(file, f"{' '.join(map(str, twice[0]))} is in it {counts[twice[0]]} times")
    return results


def key_of(episode: dict[str, Any]) -> tuple[str, int, str, str]:
    """Task, seed, mode and control of an episode."""
    return episode["task"], episode["seed"], episode["mode"], episode["control"]


def read_evaluation(path: Path) -> dict[str, Any]:
    """As `read_results`, of `tandem eval` itself: with the options that would run the same episodes again."""
    results = read_results(path, ("steps", "reward", "first_state"))
    options = results.get("options")
    if not isinstance(options, dict):
        raise _refused(path, "it has no options, with which its episodes could run again")
    checks = {
        "checkpoint": is_text,
        "agent": lambda value: value in AGENTS,
        "tasks": lambda value: _are(value, is_name),
        "episodes": is_count,
        "first_seed": is_count,
        "modes": lambda value: _are(value, lambda mode: mode in MODES),
        "controls": lambda value: _are(value, lambda control: control in CONTROLS),
        "runtime": lambda value: isinstance(value, dict),
    }
    for name, check in checks.items():
        if not check(options.get(name)):
            raise _refused(path, f"its option {name} is {str(options.get(name))[:40]!r}")
    options["runtime"] = _runtime(path, options["runtime"])
    if not results["episodes"] or options["episodes"] * len(options["tasks"]) > len(results["episodes"]):
        raise _refused(path, f"its options are not those of its {len(results['episodes'])} episodes")
    return results


def _runtime(path: Path, stored: dict[str, Any]) -> Runtime:
    hints = get_type_hints(Runtime)
    for name, value in stored.items():
        if name not in {field.name for field in fields(Runtime)} or not _fits(value, hints[name]):
            raise _refused(path, f"its runtime's {name[:40]} is {str(value)[:40]!r}")
    return Runtime(**stored)


def _fits(value: Any, kind: Any) -> bool:
    """kind: a plain type, a Literal, or a union of them."""
    if kind is type(None):
        return value is None
    if options := get_args(kind):
        return any(value == option if isinstance(option, str) else _fits(value, option) for option in options)
    if kind is float:
        return is_number(value)
    return is_bool(value) if kind is bool else isinstance(value, kind) and not isinstance(value, bool)


def _are(value: Any, check: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(check(each) for each in value)


def _refused(path: Path, why: str) -> UserError:
    return UserError(f"{path} is no evaluation ({why}); pass the {NAME} of `tandem eval`")
