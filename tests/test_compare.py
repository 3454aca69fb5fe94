"""`tandem compare`: what it publishes about two evaluations of the same seeds."""

import json

import pytest
from tandem.scripts import compare


def evaluation(folder, outcomes, minutes):
    folder.mkdir()
    common = {"task": "reach", "mode": "hierarchical", "control": "normal", "status": "done"}
    episodes = [common | {"seed": seed, "success": success} for seed, success in enumerate(outcomes)]
    made = {"code": "abc", "checkpoint": folder.name}
    (folder / "results.json").write_text(json.dumps({"episodes": episodes, "manifest": made, "train_minutes": minutes}))
    return folder


def test_what_only_one_of_them_ran_is_left_out_of_the_pairs(tmp_path, capsys):
    a, b = {("reach", i): i < 20 for i in range(40)}, {("reach", i): i < 21 for i in range(39)}
    assert compare.compare(a, b).test == compare.compare({k: a[k] for k in b}, b).test != compare.unpaired.__name__
    folders = [evaluation(tmp_path / "a", a.values(), None), evaluation(tmp_path / "b", b.values(), None)]
    compare.main(compare.Args(*folders))
    assert "paired on the 39 episodes of both; A alone has 1, B alone 0" in capsys.readouterr().out


@pytest.mark.parametrize("minutes, ratio", [((10.0, 12.5), 1.25), ((None, 12.5), None)])
def test_before_and_after_are_published_with_interval_and_times(tmp_path, monkeypatch, minutes, ratio):
    monkeypatch.setattr("tandem.scripts.results._folder", lambda: tmp_path)
    a = evaluation(tmp_path / "a", [True] * 6 + [False] * 34, minutes[0])
    b = evaluation(tmp_path / "b", [True] * 30 + [False] * 10, minutes[1])
    compare.main(compare.Args(a, b, result="backbone"))
    stored = json.loads((tmp_path / "backbone.json").read_text())
    found = stored["metrics"]
    assert (found["success_before"], found["success_after"]) == (0.15, 0.75)
    assert found["success_change"] == pytest.approx(0.6)
    assert found["success_change_low"] < 0.6 < found["success_change_high"]
    assert found.get("time_ratio") == ratio
    assert stored["manifest"]["after"] == {"code": "abc", "checkpoint": "b"}
