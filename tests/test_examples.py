"""Every example runs as its text says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def python(*arguments, **more):
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tandem(module, folder, *arguments):
    mine = os.environ | {"TANDEM_TASKS": module, "PYTHONPATH": str(EXAMPLES)}
    return python("-m", "tandem.scripts", *arguments, cwd=folder, env=mine)


def test_every_example_is_run_here():
    tested = Path(__file__).read_text()
    assert all(file.stem in tested for file in EXAMPLES.glob("*.py"))
    assert all(file.name in (EXAMPLES / "README.md").read_text() for file in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize(("module", "task"), [("my_task", "lift"), ("gym_task", "ball")])
def test_a_task_of_ones_own_is_recorded_and_its_expert_succeeds(module, task, tmp_path):
    flags = ["--tasks", task, "--episodes", "2", "--workers", "1"]
    assert "2 episodes" in tandem(module, tmp_path, "collect", *flags, "--output", "set")
    said = tandem(module, tmp_path, "eval", "--agent", "expert", *flags, "--controls", "normal", "--output", "eval")
    assert "100%" in said


def test_a_layer_of_ones_own_keeps_its_initial_weights():
    assert "torch.Size([2, 10, 64])" in python(EXAMPLES / "my_layer.py")


def test_a_policy_acts_in_a_loop_of_ones_own(trained):
    assert "success" in python(EXAMPLES / "policy_in_a_loop.py", trained)


def test_a_published_language_model_is_loaded(tmp_path):
    transformers = pytest.importorskip("transformers")
    from test_backbone_interop import reference

    torch.manual_seed(0)
    theirs = reference("V3")
    theirs.save_pretrained(tmp_path)
    expected = theirs(torch.tensor([[1, 2, 3, 4]])).logits.argmax(-1).tolist()
    assert python(EXAMPLES / "load_language_model.py", tmp_path).strip() == str(expected) and transformers
