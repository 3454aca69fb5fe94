"""Write the measured figures into README.md and docs/*.md: tables between `<!-- results:NAME -->` markers, and plots,
come from docs/results/. `<!-- results:NAME KEY KEY -->` shows these numbers alone.

docs/results/NAME.json = {"name", "command", "manifest", "metrics"}, written by the command that measured it
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.errors import DataError
from ..data.files import read_object, write_atomic
from .errors import UserError
from .manifest import manifest
from .plot import Band, Line, curves, linear, logarithmic
from .tables import render

ROOT = Path(__file__).parent.parent
FOLDER = Path("docs/results")


@dataclass(frozen=True)
class Args:
    check: bool = False  # change nothing; exit code 1 if a page is out of date
    root: Path = ROOT  # checkout whose pages and docs/results are meant
    dry_run: bool = False


def main(args: Args) -> int:
    if not (args.root / "README.md").exists():
        raise UserError(f"{args.root / 'README.md'} does not exist; run inside a checkout, or pass --root")
    pages = [args.root / "README.md", *sorted((args.root / "docs").glob("*.md"))]
    new = {page: fill(_text(page), args.root / FOLDER) for page in pages}
    new |= plots(args.root / FOLDER)
    stale = [file for file, text in new.items() if not file.exists() or _text(file) != text]
    if args.check:
        names = ", ".join(str(file.relative_to(args.root)) for file in stale)
        print(f"out of date: {names}; run `tandem results`" if stale else "the pages are up to date")
        return int(bool(stale))
    for file in stale:
        write_atomic(file, new[file].encode())
    return 0


def _text(page: Path) -> str:
    try:
        return page.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{page} is not UTF-8 ({error.reason}); restore it") from None


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


def fill(text: str, folder: Path) -> str:
    def table(match: re.Match[str]) -> str:
        name, keys = match[1], match[2].split()
        file = folder / f"{name}.json"
        body = shown(file, keys) if file.exists() else "_not measured yet_"
        return f"<!-- results:{name}{match[2]} -->\n{body}\n<!-- /results:{name} -->"

    return re.sub(r"<!-- results:(\w+)((?: \w+)*) -->.*?<!-- /results:\1 -->", table, text, flags=re.DOTALL)


def _only(result: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    """The result with these of its numbers; all where none are named."""
    missing = [key for key in keys if key not in result["metrics"]]
    if missing:
        raise UserError(f"docs/results/{result['name']}.json has no {', '.join(missing)}, which a page asks for")
    return result | {"metrics": {key: result["metrics"][key] for key in keys}} if keys else result


def plots(folder: Path) -> dict[Path, str]:
    """SVG files beside the results they show, and their content."""
    try:
        return _decoding(folder) | _learning(folder)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, StopIteration) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder} holds results that cannot be drawn ({error!r}); measure them again") from None


def _decoding(folder: Path) -> dict[Path, str]:
    if not (file := folder / "bench_backbone.json").exists():
        return {}
    table = read_result(file)["metrics"]["decode"]["tokens in the cache"]
    names = next(iter(table.values()))
    lines: dict[str, Line] = {
        name.removesuffix("_ms"): {int(n): row[name] for n, row in table.items()} for name in names
    }
    x, y = logarithmic("tokens in the cache"), logarithmic("milliseconds a token", padded=True)
    return {folder / "decode.svg": curves(lines, x, y)}


def _learning(folder: Path) -> dict[Path, str]:
    """Curves of reinforcement learning: of every group of runs that learned the same, method by method, and of learning
    from nothing, task by task."""
    groups = _metrics(folder / "rl_curves.json") | {"scratch": _metrics(folder / "rl_scratch.json")}
    drawn = {folder / f"rl_{group}.svg": _successes(found) for group, found in groups.items()}
    return {file: plot for file, plot in drawn.items() if plot}


def _metrics(file: Path) -> dict[str, Any]:
    return dict(read_result(file)["metrics"]) if file.exists() else {}


def _successes(found: dict[str, Any]) -> str:
    """found: name -> {environment steps: success with its interval}; "" where there is nothing to draw."""
    x, y = linear("environment steps"), linear("success of the last 100 episodes, %", padded=True)
    shown = {name: curve for name, curve in found.items() if curve}
    lines: dict[str, Line] = {name: {int(n): 100 * row["success"] for n, row in c.items()} for name, c in shown.items()}
    bands: dict[str, Band] = {
        name: {int(n): (100 * row["low"], 100 * row["high"]) for n, row in c.items()} for name, c in shown.items()
    }
    return curves(lines, x, y, bands) if lines else ""


def write_result(name: str, command: str, metrics: dict[str, Any], folder: Path | None = None, **more: Any) -> Path:
    """Stores one published figure; successes and drops are fractions."""
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
    return (folder or _folder()) / f"{name}.json"


def _folder() -> Path:
    checkout = (ROOT / "pyproject.toml").exists()  # an installed package has no docs/ to write to
    return ROOT / FOLDER if checkout else Path("results")
