"""A method of reinforcement learning is a word of the command line, with its own settings as flags and no others."""

from dataclasses import asdict, fields

import pytest
from tandem.policy.rl.dsrl.dsrl import DSRL
from tandem.policy.rl.ppo.baselines import Group, Value
from tandem.policy.rl.recap.recap import Recap
from tandem.scripts.rl import METHODS, parse
from tandem.scripts.shared.errors import UserError


def test_settings_of_a_method_are_flags():
    args = parse(["dsrl", "--checkpoint", "x", "--hold", "3", "--warm-up", "10", "--minutes", "2"])
    assert (args.method, args.checkpoint, args.minutes) == ("dsrl", "x", 2.0)
    assert (args.settings.hold, args.settings.warm_up, args.settings.batch) == (3, 10, DSRL().batch)
    recap = parse(
        ["recap", "--checkpoint", "x", "--data", "d", "--lesson.stage.steps", "5", "--episodes", "7"]
    ).settings
    assert (recap.lesson.stage.steps, recap.episodes, recap.judging) == (5, 7, Recap().judging)


@pytest.mark.parametrize(("method", "baseline"), [("ppo", Value), ("grpo", Group)])
def test_policy_gradients_differ_in_their_baseline(method, baseline):
    settings = parse([method, "--checkpoint", "x", "--learning-rate", "1e-5"]).settings
    assert type(settings.baseline) is baseline and settings.learning_rate == 1e-5


@pytest.mark.parametrize(
    ("method", "flag"),
    [("dsrl", "--data"), ("ppo", "--cache"), ("scratch", "--checkpoint"), ("scratch", "--mode"), ("grpo", "--hold")],
)
def test_a_flag_that_does_nothing_is_refused(method, flag, capsys):
    with pytest.raises(SystemExit) as ended:
        parse([method, flag, "flat"])
    assert ended.value.code == 2 and flag in capsys.readouterr().err


def test_the_old_flag_works_and_says_what_to_write(capsys):
    old = parse(["--method", "recap", "--checkpoint", "x"])
    assert old.method == "recap" and "write `tandem rl recap ...`" in capsys.readouterr().err
    assert parse(["--checkpoint", "x"]).method == "dsrl"
    new = parse(["recap", "--checkpoint", "x"])
    ours = {field.name for field in fields(new)} - {"settings"}
    assert {name: asdict(new)[name] for name in ours} == {name: asdict(old)[name] for name in ours}


def test_a_misspelt_method_is_guessed_and_all_are_listed(capsys):
    with pytest.raises(UserError, match="did you mean 'recap'"):
        parse(["recape"])
    with pytest.raises(SystemExit):
        parse(["--help"])
    said = capsys.readouterr().out
    assert all(method in said for method in METHODS)
