"""Who may import whom, what the wheel holds, and what the command line promises."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scripts.__main__ import VERBS

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "backbone": set(),
    "envs": set(),
    "data": set(),
    "planner": {"backbone"},
    "policy": {"backbone", "planner", "data", "envs"},
    "scripts": {"backbone", "planner", "data", "envs", "policy"},
}


def imports(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", ALLOWED)
def test_import_table(package):
    for file in (ROOT / package).rglob("*.py"):
        foreign = set(imports(file)) & (ALLOWED.keys() - {package}) - ALLOWED[package]
        assert not foreign, f"{file.relative_to(ROOT)} imports {foreign}"


def test_every_package_folder_is_listed():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {".".join(f.parent.relative_to(ROOT).parts) for p in ALLOWED for f in (ROOT / p).rglob("__init__.py")}
    assert folders == listed


def tandem(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "scripts", *arguments], capture_output=True, text=True, cwd=ROOT, **options
    )


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb):
    done = tandem(verb, "--help")
    assert (
        done.returncode == 0
        and "dry-run" in done.stdout + tandem(verb, "check", "--help").stdout + tandem(verb, "env", "--help").stdout
    )


def test_unknown_verb_and_unknown_flag_exit_with_2():
    assert tandem("fly").returncode == 2
    assert tandem("train", "--wings", "2").returncode == 2


BAD = {
    "unknown task": (("collect", "--tasks", "reachh", "--output", "{tmp}/d"), "did you mean 'reach'"),
    "missing checkpoint": (("eval", "--checkpoint", "{tmp}/none"), "does not exist"),
    "no data set": (("data", "check", "{tmp}/none"), "no data set at"),
    "existing output folder": (("train", "--preset", "debug", "--data", "{tmp}", "--output", "{tmp}"), "{tmp}"),
    "unknown preset": (("train", "--preset", "giant"), "unknown preset"),
    "not an evaluation": (("compare", "{tmp}/a", "{tmp}/b"), "no evaluation"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(case, tmp_path):
    (tmp_path / "occupied").write_text("mine")
    arguments, message = BAD[case]
    done = tandem(*(a.format(tmp=tmp_path) for a in arguments))
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("tandem: error:")]
    assert len(lines) == 1 and message.format(tmp=tmp_path) in lines[0]
    assert "Traceback" not in done.stderr
    assert (tmp_path / "occupied").read_text() == "mine"
