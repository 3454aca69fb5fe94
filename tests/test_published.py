"""What an evaluation publishes: tiers of Meta-World, rows of variants, parameters that act."""

import math

import pytest
import torch
from tandem import envs
from tandem.policy.checkpoint import store
from tandem.scripts.publish.success import parameters, published, tiers, variant


def table(success, n=10):
    return {task: {"flat": {"success": value, "low": 0.0, "high": 1.0, "n": n}} for task, value in success.items()}


def test_the_tier_average_weighs_tiers_alike_and_the_task_mean_tasks():
    success = {task: float(task in envs.suite("metaworld-easy")) for task in envs.suite("metaworld-mt50")}
    found = tiers(table(success))
    assert found["easy_flat"] == 1 and found["medium_flat"] == found["hard_flat"] == found["very_hard_flat"] == 0
    assert found["tier_average_flat"] == 0.25 and found["task_mean_flat"] == 28 / 50
    assert set(found) == {
        f"{name}_flat" for name in ("tier_average", "task_mean", "easy", "medium", "hard", "very_hard")
    }


def test_tiers_without_a_task_do_not_count():
    found = tiers(table({"metaworld-reach": 1.0, "metaworld-push": 0.5}))
    assert found == {"tier_average_flat": 0.75, "task_mean_flat": 0.75, "easy_flat": 1.0, "hard_flat": 0.5}


@pytest.fixture
def folder(tmp_path):
    weights = {"encoder.a": torch.zeros(3, 5), "planner.b": torch.zeros(7), "decoder.c": torch.zeros(100)}
    stage = {"steps": 300, "batch": 10}
    files = {
        f"{store.PRETRAINED}/model.safetensors": weights,
        store.RECIPE: {"act": stage, "think": stage},
        store.PROGRESS: {"stage": "think", "step": 300, "seconds": 600.0},
    }
    return str(store.save(tmp_path, 600, files))


def results(per_task):
    summary = {"per_task": per_task, "mean": {"flat": 0.0}, "errors": 0, "wrong_instruction_drop": None}
    summary |= {"planner_ms": None, "controller_ms": 20.0}
    return {"summary": summary, "options": {"episodes": 10}, "manifest": {"code": "abc"}}


def test_only_what_acts_is_counted(folder):
    assert parameters(folder) == 22
    assert published(results(table({"metaworld-reach": 1.0})), folder)["params_m"] == 22e-6
    assert "tier_average_flat" not in published(results(table({"reach": 1.0})), folder)


def test_a_variants_interval_is_that_of_a_mean_over_fixed_tasks(folder):
    row = variant(results(table({"metaworld-reach": 0.5, "metaworld-push": 1.0})), folder)
    assert row["success"] == 0.75 and row["minutes"] == 10 and row["samples_per_s"] == 10 and row["episodes"] == 20
    half = 1.96 * math.sqrt(0.5 * 0.5 / 10) / 2
    assert row["success_low"] == pytest.approx(0.75 - half, abs=1e-3) and row["success_high"] <= 1
