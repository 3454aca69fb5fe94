"""Who may import whom, what the wheel holds, and what the command line promises."""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tandem.scripts import house
from tandem.scripts.__main__ import VERBS

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
    """Folders of ours that `file` imports."""
    inside = file.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = inside[: len(inside) - node.level + 1]
            names = [(*base, *(node.module or "").split(".")), *((*base, alias.name) for alias in node.names)]
            yield from (parts[0] for parts in names if parts and parts[0] in ALLOWED)


@pytest.mark.parametrize("package", ALLOWED)
def test_import_table(package):
    for file in (ROOT / package).rglob("*.py"):
        foreign = set(imports(file)) & (ALLOWED.keys() - {package}) - ALLOWED[package]
        assert not foreign, f"{file.relative_to(ROOT)} imports {foreign}"


def test_inside_the_package_imports_of_ours_are_relative():
    for file in (file for package in ALLOWED for file in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not {name.split(".")[0] for name in names} & {"tandem", *ALLOWED}, file


@pytest.mark.parametrize("kind", ["folder", "package"])
@pytest.mark.parametrize("name", ALLOWED)
def test_a_users_own_folder_of_the_same_name_is_his(name, kind, tmp_path):
    (tmp_path / name).mkdir()
    if kind == "package":
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "mine.py").write_text("from tandem import envs\nenvs.register('mine')(envs.TASKS['reach'])\n")
    arguments = ["-m", "tandem.scripts", "collect", "--tasks", "mine", "--dry-run"]
    mine = os.environ | {"TANDEM_TASKS": "mine", "PYTHONPATH": "."}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=tmp_path, env=mine)
    assert done.returncode == 0, done.stderr


def test_every_package_folder_is_listed():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    files = [f for p in ALLOWED for f in (ROOT / p).rglob("__init__.py")]
    found = {"tandem", *(".".join(("tandem", *f.parent.relative_to(ROOT).parts)) for f in files)}
    assert found - {"tandem.scripts.peers", "tandem.scripts.benches.papers"} == listed  # these are for the checkout


def test_rooms_import_downwards_only_and_in_no_circle():
    assert house.circles(house.module_graph()) == house.circles(house.room_graph()) == []
    assert house.arrows_back(house.room_graph()) == []
    assert set(house.room_graph()) == set(house.FLOORS)


def test_a_circle_and_an_arrow_back_up_would_be_noticed():
    graph = {"envs": {"data"}, "data": {"backbone"}, "backbone": {"envs"}, "policy/rl/ppo": {"policy/rl/dsrl"}}
    assert house.circles(graph) == [["backbone", "data", "envs"]]
    arrows = ["envs -> data", "backbone -> envs", "policy/rl/ppo -> policy/rl/dsrl"]
    assert house.arrows_back(graph) == arrows and house.arrows_back({"policy/new": set(), "envs": {"policy/new"}})


def tandem(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "tandem.scripts", *arguments], capture_output=True, text=True, cwd=ROOT, **options
    )


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb):
    done, second = tandem(verb, "--help"), {"data": ["check"], "bench": ["env"], "rl": ["ppo"]}.get(verb, [])
    assert done.returncode == 0 and "dry-run" in tandem(verb, *second, "--help").stdout


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


HEAVY = ("torch", "diffusers", "scipy", "transformers", "stable_baselines3", "tensorboard")


@pytest.mark.parametrize("verb", VERBS)
def test_a_help_text_waits_for_no_large_package(verb):
    script = f"import sys, tandem.scripts.{verb}; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.strip() == "", done.stderr + done.stdout


def test_a_reader_that_ends_early_ends_a_verb_quietly():
    line = (
        f"{sys.executable} -m tandem.scripts bench | head -1; {sys.executable} -m tandem.scripts eval --help | head -1"
    )
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == "" and done.stdout.startswith("usage: tandem bench")


@pytest.mark.parametrize(("wrong", "meant"), [(("trian",), "train"), (("bench", "latencyy"), "latency")])
def test_a_misspelt_verb_or_topic_is_guessed(wrong, meant):
    done = tandem(*wrong)
    assert done.returncode == 2 and f"did you mean '{meant}'?" in done.stderr


def test_the_house_stays_as_it_was_measured():
    lengths, named, sentences = house.functions(), list(house.public_names()), house.readme_sentences()
    bare = [name for name, has in named if not has]
    assert len(bare) <= 0.05 * len(named), bare
    assert lengths[int(0.9 * len(lengths))] <= 20 and lengths[-1] <= 60
    assert house.semicolons_per_100_words() <= 0.2 and house.any_at_border() == []
    assert sum(sentences) / len(sentences) <= 18 and (ROOT / "README.md").stat().st_size <= 9000
