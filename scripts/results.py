"""Write the measured figures into README.md and docs/*.md: tables between `<!-- results:NAME -->` markers, and plots,
come from docs/results/. `<!-- results:NAME KEY KEY -->` shows these numbers alone.

docs/results/NAME.json = {"name", "command", "manifest", "metrics"}, written by the command that measured it
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.files import write_atomic
from .publish.figures import FOLDER, read_result, shown
from .publish.manifest import ROOT
from .publish.plot import Band, Line, curves, linear, logarithmic
from .shared.errors import UserError


@dataclass(frozen=True)
class Args:
    """Flags of `tandem results`."""

    check: bool = False  # change nothing; exit code 1 if a page is out of date
    root: Path = ROOT  # checkout whose pages and docs/results are meant
    dry_run: bool = False


def main(args: Args) -> int:
    """Runs the command and returns its exit code."""
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


def fill(text: str, folder: Path) -> str:
    """The page with its tables from docs/results/."""

    def table(match: re.Match[str]) -> str:
        name, keys = match[1], match[2].split()
        file = folder / f"{name}.json"
        body = shown(file, keys) if file.exists() else "_not measured yet_"
        return f"<!-- results:{name}{match[2]} -->\n{body}\n<!-- /results:{name} -->"

    return re.sub(r"<!-- results:(\w+)((?: \w+)*) -->.*?<!-- /results:\1 -->", table, text, flags=re.DOTALL)


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
    """found: name -> {environment steps: success with its interval}. "" where there is nothing to draw."""
    x, y = linear("environment steps"), linear("success of the last 100 episodes, %", padded=True)
    shown = {name: curve for name, curve in found.items() if curve}
    lines: dict[str, Line] = {name: {int(n): 100 * row["success"] for n, row in c.items()} for name, c in shown.items()}
    bands: dict[str, Band] = {
        name: {int(n): (100 * row["low"], 100 * row["high"]) for n, row in c.items()} for name, c in shown.items()
    }
    return curves(lines, x, y, bands) if lines else ""
