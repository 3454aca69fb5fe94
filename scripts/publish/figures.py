"""Published figures: small files under docs/results/, each written by the command that measured it.

docs/results/NAME.json = {"name", "command", "manifest", "metrics"}
"""

import json
from pathlib import Path
from typing import Any

from ...data.errors import DataError
from ...data.files import read_object, write_atomic
from ..shared.errors import UserError
from .manifest import ROOT, manifest
from .tables import render

FOLDER = Path("docs/results")


def read_result(file: Path) -> dict[str, Any]:
    """A published figure: name, command, manifest and metrics. UserError where the file is damaged."""
    try:
        result = read_object(file)
    except DataError as error:
        raise UserError(f"{error}; restore it or measure it again") from None
    kinds = {"name": str, "command": str, "manifest": dict, "metrics": dict}
    wrong = [key for key, kind in kinds.items() if not isinstance(result.get(key), kind)]
    if wrong:
        raise UserError(f"{file} has no {', '.join(wrong)}; restore it or measure it again")
    return result


def shown(file: Path, keys: list[str]) -> str:
    """A published figure as Markdown, or these of its numbers. UserError where the file has no such numbers."""
    result = _only(read_result(file), keys)
    try:
        return render(result)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration, OverflowError) as error:
        # tables are of any shape: what cannot be drawn as one is a file that no command of ours wrote
        raise UserError(f"{file} cannot be shown ({error!r}); restore it or measure it again") from None


def _only(result: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    """The result with these of its numbers. All where none are named."""
    missing = [key for key in keys if key not in result["metrics"]]
    if missing:
        raise UserError(f"docs/results/{result['name']}.json has no {', '.join(missing)}, which a page asks for")
    return result | {"metrics": {key: result["metrics"][key] for key in keys}} if keys else result


def write_result(name: str, command: str, metrics: dict[str, Any], folder: Path | None = None, **more: Any) -> Path:
    """Stores one published figure. Successes and drops are fractions."""
    for key, value in metrics.items():
        if ("success" in key or "drop" in key) and isinstance(value, float) and not -1 <= value <= 1:
            raise UserError(f"result {name}: {key} is {value}; give a fraction, not a percentage")
    folder = folder or _folder()
    file = result_file(name, folder)
    content = {"name": name, "command": command, "manifest": manifest(**more), "metrics": metrics}
    write_atomic(file, (json.dumps(content, indent=1) + "\n").encode())
    print(f"wrote {file}")
    return file


def add_to_result(name: str, command: str, metrics: dict[str, Any], folder: Path | None = None) -> Path:
    """As `write_result`, for a file that several commands fill: what the others measured stays."""
    folder = folder or _folder()
    file = result_file(name, folder)
    old: dict[str, Any] = read_result(file) if file.exists() else {"command": "", "metrics": {}}
    commands = [c for c in old["command"].split("; ") if c and c.split()[:3] != command.split()[:3]]
    return write_result(name, "; ".join(sorted([*commands, command])), old["metrics"] | metrics, folder)


def result_file(name: str, folder: Path | None = None) -> Path:
    """The file of a published figure."""
    return (folder or _folder()) / f"{name}.json"


def _folder() -> Path:
    checkout = (ROOT / "pyproject.toml").exists()  # an installed package has no docs/ to write to
    return ROOT / FOLDER if checkout else Path("results")
