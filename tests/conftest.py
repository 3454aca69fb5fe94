"""Shared, tiny, real things: recorded demonstrations and a trained (for seconds) policy."""

import os
from dataclasses import replace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from faults import Faults
from tandem.scripts import collect


def pytest_addoption(parser):
    parser.addoption("--publish-faults", action="store_true", help="write docs/results/faults.json at the end")


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "fault(row, injected=1): injects a fault of docs/robustness.md (tests/faults.py)"
    )
    config.pluginmanager.register(Faults(), "faults")


def pytest_sessionfinish(session):
    if session.config.getoption("--publish-faults") and "PYTEST_XDIST_WORKER" not in os.environ:
        from tandem.scripts.publish.figures import write_result

        metrics = session.config.pluginmanager.get_plugin("faults").metrics()
        write_result("faults", "python -m pytest -m fault --publish-faults", metrics)


@pytest.fixture(scope="session")
def demonstrations(tmp_path_factory):
    """A data set of two reach and two button episodes."""
    root = tmp_path_factory.mktemp("demonstrations") / "data"
    collect.main(collect.Args(("reach", "press_button"), episodes=2, output=root, workers=1))
    return root


@pytest.fixture(scope="session")
def frames(demonstrations, tmp_path_factory):
    from tandem.data.cache import FrameCache

    return FrameCache.build(demonstrations, tmp_path_factory.mktemp("cache"), progress=False)


@pytest.fixture(scope="session")
def recipe():
    from tandem.policy.train.recipe import debug

    return replace(debug(), threads=1, device="cpu", precision="fp32", tasks=("reach", "press_button"))


@pytest.fixture(scope="session")
def trained(frames, recipe, tmp_path_factory):
    """The output folder of a finished debug run."""
    from tandem.policy.train.run import train

    output = tmp_path_factory.mktemp("trained") / "run"
    train(recipe, frames, output)
    return output


@pytest.fixture
def stop_once_saved(monkeypatch):
    """stop_once_saved(step): asks the run to stop once it saves this step or a later one; returns the steps saved."""
    from tandem.policy.checkpoint import store
    from tandem.policy.train.run_folder import Run

    def arrange(step):
        saves, original = [], store.save

        def save(root, at, files, keep=2, spare=-1):
            saves.append(at)
            if at >= step:
                monkeypatch.setattr(Run, "stop_requested", True)
            return original(root, at, files, keep, spare)

        monkeypatch.setattr(store, "save", save)
        return saves

    return arrange
