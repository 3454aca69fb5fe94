"""The policies in the clone: whole, small, described, and of the present code's sizes."""

from pathlib import Path

import pytest
from tandem.policy.checkpoint import store
from tandem.policy.checkpoint.bundle import Bundle

MODELS = sorted(path for path in (Path(__file__).parents[1] / "models").iterdir())


@pytest.mark.parametrize("folder", MODELS, ids=lambda path: path.name)
def test_a_policy_in_the_clone_is_whole_and_loads(folder):
    found = store.resolve(folder)
    store.verify(found)
    assert Bundle.load(found).model.controller.cfg.action_dim > 0 and store.tasks(found)
    card = (folder / "README.md").read_text()
    assert (
        "trained by `tandem" in card and "seed" in card and ("| tier_average |" in card or "| success_mean |" in card)
    )


def test_policies_in_the_clone_take_little_room():
    files = [path for folder in MODELS for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert 0 < sum(path.stat().st_size for path in files) <= 30_000_000
