"""The commands on the pages are commands: those of the README and docs/ parse, and the files that they name exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tandem.scripts.__main__ import VERBS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PARSED = """
import importlib, sys
from tandem.scripts.__main__ import parse
for line in sys.stdin.read().splitlines():
    verb, *arguments = line.split("\\x00")
    try:
        parse(verb, importlib.import_module(f"tandem.scripts.{verb}"), arguments)
    except BaseException as error:
        print(repr(line.replace("\\x00", " ")), type(error).__name__, error)
"""


def prose(page):
    """Without what commands wrote themselves: tables of results name the command that measured them."""
    return re.sub(r"<!-- results:.*?<!-- /results", "", page.read_text(), flags=re.DOTALL)


def commands(page):
    """`tandem ...` of code blocks, and of code within sentences where it is whole."""
    found = []
    for block in re.findall(r"```[a-z]*\n(.*?)```", prose(page), flags=re.DOTALL):
        lines = block.replace("\\\n", " ").splitlines()
        found += [line.split("  #")[0].strip() for line in lines if line.startswith(("tandem ", ".venv/bin/tandem "))]
    return [shlex.split(line)[1:] for line in found]


def test_there_are_commands_to_check():
    assert sum(len(commands(page)) for page in PAGES) > 25


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_the_pages_parse(page):
    lines = ["\x00".join(words) for words in commands(page) if not any(word.isupper() for word in words[:1])]
    assert all(line.split("\x00")[0] in VERBS for line in lines)
    done = subprocess.run([sys.executable, "-c", PARSED], input="\n".join(lines), capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "", done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_on_the_pages_exist(page):
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose(page)) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    paths = re.findall(
        r"`((?:backbone|data|envs|planner|policy|scripts|tests|examples|requirements)/[\w./-]+\.\w+)`", prose(page)
    )
    assert not missing and not [path for path in paths if not (ROOT / path).exists()]
