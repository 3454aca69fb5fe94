"""Measure how easy the code is to find one's way in: `python -m tandem.scripts.house`, kept true by a test.

A room is a folder of code. Its arrows are the imports of its files, those inside functions too. FLOORS lists the rooms
from the bottom up: a room may import from rooms that stand before it, and nothing else. Modules that register
themselves (`importlib.import_module` of a name) are no arrows.
"""

import argparse
import ast
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("backbone", "envs", "data", "planner", "policy", "scripts")
FLOORS = (
    "backbone", "backbone/interop", "envs", "envs/tasks", "envs/metaworld", "data", "planner", "policy",
    "policy/networks", "policy/checkpoint", "policy/act", "policy/train", "policy/evaluate", "policy/rl",
    "policy/rl/shared", "policy/rl/dsrl", "policy/rl/recap", "policy/rl/ppo", "scripts/shared", "scripts/machine",
    "scripts/film", "scripts/publish", "scripts/benches", "scripts/benches/speed/pairs", "scripts/benches/speed",
    "scripts/benches/papers", "scripts/benches/policy", "scripts/benches/rl", "scripts/benches/fuzz", "scripts",
    "scripts/peers",
)  # fmt: skip
APART = ("policy/rl/dsrl", "policy/rl/recap", "policy/rl/ppo")  # rooms that import nothing of each other
Graph = dict[str, set[str]]


# -- imports -----------------------------------------------------------------------------------------------------------
@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file, of all code outside tests."""
    files = [file for layer in LAYERS for file in sorted((ROOT / layer).rglob("*.py"))]
    return {".".join(_parts(file)): file for file in files}


def _parts(file: Path) -> tuple[str, ...]:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported(file: Path) -> Iterator[str]:
    """Modules of ours that a file imports."""
    inside = file.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*inside[: len(inside) - node.level + 1], *(node.module or "").split(".")]
            name = ".".join(part for part in base if part)
            for alias in node.names:
                longer = f"{name}.{alias.name}".lstrip(".")
                yield longer if longer in modules() else name


@cache
def module_graph() -> Graph:
    """Module -> the modules that it imports."""
    return {
        name: {other for other in imported(file) if other in modules() and other != name}
        for name, file in modules().items()
    }


def room(module: str) -> str:
    """The folder of a module."""
    return modules()[module].parent.relative_to(ROOT).as_posix()


@cache
def room_graph() -> Graph:
    """Room -> the rooms that it imports from."""
    found: Graph = {floor: set() for floor in FLOORS}
    for name, others in module_graph().items():
        found.setdefault(room(name), set()).update(room(other) for other in others if room(other) != room(name))
    return found


def circles(graph: Graph) -> list[list[str]]:
    """Groups of nodes that reach each other (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = lowest[node] = len(index)
        path.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
            if other in path:
                lowest[node] = min(lowest[node], lowest[other])
        if lowest[node] == index[node]:
            group = path[path.index(node) :]
            del path[path.index(node) :]
            found.extend([sorted(group)] if len(group) > 1 else [])

    for node in graph:
        if node not in index:
            visit(node)
    return found


def arrows_back(graph: Graph) -> list[str]:
    """Imports that lead up, or between rooms that stand apart, or of a room that FLOORS does not name."""
    floors = {name: i for i, name in enumerate(FLOORS)}
    return [
        f"{source} -> {target}"
        for source, targets in graph.items()
        for target in sorted(targets)
        if source not in floors
        or target not in floors
        or floors[target] >= floors[source]
        or (source in APART and target in APART)
    ]


def train_closure() -> list[str]:
    """Files with code that `tandem train` imports in its own process, where its data is recorded already."""
    lines = ["import sys", "import tandem.scripts.train"]
    tree = ast.parse((ROOT / "scripts/train.py").read_text(encoding="utf-8"))
    main = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    for node in main.body:
        if isinstance(node, ast.ImportFrom):
            lines.append(f"import tandem.{'.'.join((*_above(node.level), *(node.module or '').split('.')))}")
    lines.append("print(*(name for name in sys.modules if name.startswith('tandem.')))")
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, capture_output=True, encoding="utf-8")
    names = (name.removeprefix("tandem.") for name in done.stdout.split())
    return sorted(name for name in names if name in modules() and _has_code(modules()[name]))


def _above(level: int) -> tuple[str, ...]:
    return ("scripts",)[: 2 - level]


def _has_code(file: Path) -> bool:
    """More than a docstring."""
    return len(ast.parse(file.read_text(encoding="utf-8")).body) > 1


# -- words and lengths -------------------------------------------------------------------------------------------------
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def trees() -> dict[Path, ast.Module]:
    """File -> its syntax tree."""
    return {file: ast.parse(file.read_text(encoding="utf-8")) for file in modules().values()}


def functions() -> list[int]:
    """Lines of every function, its signature and docstring left out."""
    found = []
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, FUNCTION):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                found.append((body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0)
    return sorted(found)


def public_names() -> Iterator[tuple[str, bool]]:
    """Every public module, class, function and method of the six folders, and whether it has a docstring."""
    for file, tree in trees().items():
        where = ".".join(_parts(file))
        yield where, ast.get_docstring(tree) is not None
        yield from _public(tree.body, where)


def _public(body: list[ast.stmt], where: str) -> Iterator[tuple[str, bool]]:
    for node in body:
        if isinstance(node, (ast.ClassDef, *FUNCTION)) and not node.name.startswith("_"):
            yield f"{where}.{node.name}", ast.get_docstring(node) is not None
            if isinstance(node, ast.ClassDef):
                yield from _public(node.body, f"{where}.{node.name}")


def docstrings() -> Iterator[str]:
    """All docstrings."""
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTION)) and (text := ast.get_docstring(node)):
                yield text


def semicolons_per_100_words() -> float:
    """Semicolons in docstrings, by their words."""
    texts = list(docstrings())
    return 100 * sum(text.count(";") for text in texts) / sum(len(text.split()) for text in texts)


def readme_sentences() -> list[int]:
    """Words of every sentence of prose: code, tables, headings, comments and links' targets left out."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"```.*?```|<!--.*?-->|<details>.*?</details>", "\n\n", text, flags=re.DOTALL)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    found = []
    for block in re.split(r"\n\s*\n|\n(?=[-*|#>]|\d+\. )", text):
        block = block.strip()
        if block and not re.match(r"[|#<!`]", block):
            sentences = re.split(r"(?<=[.!?:])\s+(?=[A-Z`*\[])", " ".join(block.split()))
            found += [len(sentence.split()) for sentence in sentences if len(sentence.split()) > 2]
    return found


def any_at_border() -> list[str]:
    """Parameters and attributes called `env` whose type says nothing."""
    found = []
    for file, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.arg):
                name, kind = node.arg, node.annotation
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, (ast.Name, ast.Attribute)):
                name = node.target.id if isinstance(node.target, ast.Name) else node.target.attr
                kind = node.annotation
            else:
                continue
            if name in ("env", "environment") and isinstance(kind, ast.Name) and kind.id == "Any":
                found.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    return found


def help_seconds() -> float:
    """CPU seconds of the slowest `tandem VERB --help`."""
    from .__main__ import VERBS

    lines = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
    lines += "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_utime + used.ru_stime)"
    found = []
    for verb in VERBS:
        command = [sys.executable, "-c", lines, sys.executable, "-m", "tandem.scripts", verb, "--help"]
        found.append(float(subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout))
    return max(found)


# -- the whole ---------------------------------------------------------------------------------------------------------
def measure() -> dict[str, Any]:
    """Runs the measurement and returns its figures by name."""
    lengths, named, sentences = functions(), list(public_names()), readme_sentences()
    return {
        "circles": len(circles(module_graph())) + len(circles(room_graph())),
        "arrows_back": len(arrows_back(room_graph())),
        "policy_entries": _entries("policy"),
        "scripts_entries": _entries("scripts"),
        "train_closure": len(train_closure()),
        "function_p90": lengths[int(0.9 * len(lengths))],
        "function_max": lengths[-1],
        "docstring_share": round(sum(has for _, has in named) / len(named), 4),
        "semicolons_per_100_words": round(semicolons_per_100_words(), 3),
        "readme_words_per_sentence": round(statistics.mean(sentences), 1),
        "readme_kb": round((ROOT / "README.md").stat().st_size / 1000, 1),
        "any_at_border": len(any_at_border()),
        "lines": sum(file.read_text(encoding="utf-8").count("\n") for file in modules().values()),
        "help_s": round(help_seconds(), 2),
    }


def _entries(folder: str) -> int:
    return sum(path.suffix == ".py" or (path / "__init__.py").exists() for path in (ROOT / folder).iterdir())


def main() -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--publish", action="store_true", help="write docs/results/house.json")
    parser.add_argument("--show", action="store_true", help="name what is counted: circles, arrows, missing docstrings")
    args = parser.parse_args()
    if args.show:
        bare = [name for name, has in public_names() if not has]
        arrows = arrows_back(room_graph())
        print(json.dumps({"circles": circles(module_graph()) + circles(room_graph()), "arrows": arrows}, indent=1))
        print(json.dumps({"no docstring": bare, "any": any_at_border(), "train": train_closure()}, indent=1))
        return 0
    metrics = measure()
    print("\n".join(f"{name:26} {value}" for name, value in metrics.items()))
    if args.publish:
        from .publish.figures import write_result

        write_result("house", "python -m tandem.scripts.house --publish", metrics)
    return 0


if __name__ == "__main__":
    sys.exit(main())
