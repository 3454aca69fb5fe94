"""Every choice of a training run reaches the command line, and a run's own recipe is one."""

import json
from dataclasses import asdict

import pytest
from tandem.policy.checkpoint import store
from tandem.policy.errors import PolicyError
from tandem.policy.train.recipe import PRESETS, preset, recipe_from
from tandem.scripts.shared.errors import UserError
from tandem.scripts.train import parse, recipe_of


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_without_flags_is_itself_and_comes_back_from_json(name):
    recipe = preset(name)
    assert recipe_of(parse([name, "--device", "cpu"])).sizes == recipe.sizes
    assert recipe_of(parse(["--preset", name, "--device", "cpu"])).act == recipe.act
    assert recipe_from(json.loads(json.dumps(asdict(recipe))), "here") == recipe


def test_flags_reach_stages_sizes_and_layers():
    flags = "demo --act.learning-rate 3e-4 --think.steps 7 --sizes.width 256 --sizes.planner.pattern gated --device cpu"
    recipe = recipe_of(parse(flags.split()))
    assert (recipe.act.learning_rate, recipe.think.steps, recipe.sizes.width) == (3e-4, 7, 256)
    assert recipe.sizes.planner.pattern == "gated" and recipe.act.steps == preset("demo").act.steps


def test_short_flags_win_over_the_preset():
    recipe = recipe_of(parse(["debug", "--act-steps", "9", "--batch", "2", "--device", "cpu"]))
    assert (recipe.act.steps, recipe.act.batch, recipe.think.batch) == (9, 2, 2)


def test_the_recipe_of_a_run_is_one(trained, tmp_path):
    stored = store.recipe(trained)
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(stored))
    for place in (trained, file):
        recipe = recipe_of(parse(["--recipe", str(place)]))
        assert json.loads(json.dumps(asdict(recipe))) == stored
    changed = recipe_of(parse(["--recipe", str(file), "--act.steps", "5", "--seed", "3"]))
    assert (changed.act.steps, changed.seed, changed.think) == (5, 3, recipe.think)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seeds": 1}, "'seeds' is unknown"),
        ({"act": {"steps": "many"}}, "act: steps is 'many'"),
        ({"act": None}, "'steps' is missing"),
        ({"tasks": "reach"}, "tasks"),
        ({"seed": True}, "seed is 'True'"),
        ({"sizes": {"width": 7}}, "width is 7"),
        ({"episodes": [1, "x"]}, "episodes"),
    ],
)
def test_a_recipe_that_is_none_is_one_line(change, said, tmp_path):
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(asdict(preset("debug")) | change))
    with pytest.raises(PolicyError, match=said):
        parse(["--recipe", str(file)])
    file.write_text("[")
    with pytest.raises(UserError, match="is not JSON"):
        parse(["--recipe", str(file)])


def test_a_misspelt_preset_is_guessed():
    with pytest.raises(PolicyError, match="did you mean 'tabletop'"):
        parse(["tabletob"])
