"""What was asked for: numbers that make sense, and settings that do not differ from those a folder was begun with."""

import json
from pathlib import Path
from typing import Any

from ...data.errors import DataError
from ...data.files import json_bytes, read_json, write_atomic
from .errors import UserError

SEEDS = 1 << 32  # numpy's older generators, which some environments use, take no larger one


def same_settings(output: Path, settings: dict[str, Any]) -> None:
    """Keeps them in the folder, with those that others asked for. UserError where it was begun with another value."""
    settings, file = json.loads(json.dumps(settings, default=str)), output / "settings.json"
    stored = _stored(file)
    if differ := [key for key in settings if stored.get(key, settings[key]) != settings[key]]:
        name = differ[0].replace("_", "-")
        raise UserError(f"{output} was made with another --{name} ({stored[differ[0]]}); choose another --output")
    if settings.keys() - stored.keys():
        write_atomic(file, json_bytes(stored | settings))


def _stored(file: Path) -> dict[str, Any]:
    try:
        stored = read_json(file)
    except FileNotFoundError:
        return {}
    except DataError as error:
        raise UserError(f"{error}; choose another --output") from None
    if not isinstance(stored, dict):
        raise UserError(f"{file} holds no settings; choose another --output")
    return stored


def at_least(args: Any, **least: int) -> None:
    """UserError where a flag is less than it may be. `step_deadline` must be more than 0 wherever there is one."""
    for name, value in least.items():
        if getattr(args, name) < value:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}; use {value} or more")
    deadline = getattr(args, "step_deadline", None)
    if deadline is not None and not 0 < deadline < 1e9:
        raise UserError(f"--step-deadline is {deadline}; use seconds above 0, or leave it out")


def layouts(first_seed: int, episodes: int) -> None:
    """UserError where there are no such seeds."""
    if first_seed < 0:
        raise UserError(f"--first-seed is {first_seed}; use 0 or more")
    if first_seed + episodes > SEEDS:
        raise UserError(f"--first-seed is {first_seed}; seeds end at {SEEDS - 1}")
