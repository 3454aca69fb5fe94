"""Training in several processes: a batch is shared without loss, weights stay alike, whoever dies, one line says so."""

import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tandem.backbone.moe import MixtureOfExperts, MoEConfig, expert_loads
from tandem.data.errors import DataError
from tandem.data.windows import Sampler
from tandem.policy.checkpoint import store
from tandem.policy.errors import PolicyError
from tandem.policy.train import run as training
from tandem.policy.train.data_parallel import ALONE, Team, recruit


def weights(output, name="training_state"):
    return load_file(store.resolve(output) / name / "model.safetensors")


def regress(team, folder):
    """Three steps of SGD on this process's rows; every process writes its weights."""
    torch.manual_seed(0)
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    model = torch.nn.Linear(3, 1)
    for _ in range(3):
        model.zero_grad()
        (model(x[team.rank :: team.size]) - y[team.rank :: team.size]).square().mean().backward()
        team.average([p.grad for p in model.parameters()])
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
    torch.save(model.state_dict(), folder / f"{team.size}-{team.rank}.pt")
    team.average([torch.zeros(1)])  # nobody leaves before all have written


def die(team, folder):
    os.kill(os.getpid(), signal.SIGKILL)


def test_shares_of_a_batch_are_the_batch(frames):
    whole = Sampler(frames, 6, seed=1)
    shares = [Sampler(frames, 6, seed=1, share=(rank, 3)) for rank in range(3)]
    for step in (0, 1, 40):
        parts = np.stack([share.indices(step) for share in shares], axis=1)  # row i of rank r was row 3 i + r
        assert np.array_equal(parts.reshape(-1), whole.indices(step))
    with pytest.raises(DataError, match="evenly"):
        Sampler(frames, 6, seed=1, share=(0, 4))


def test_averaged_gradients_of_shares_are_the_gradient_of_the_batch(tmp_path):
    regress(ALONE, tmp_path)
    with recruit(3, regress, (tmp_path,)) as team:
        assert team == Team(0, 3)
        regress(team, tmp_path)
    with recruit(2, regress, (tmp_path,)) as team:
        regress(team, tmp_path)
    read = {path.stem: torch.load(path) for path in tmp_path.glob("*.pt")}
    assert read.keys() == {"1-0", "2-0", "2-1", "3-0", "3-1", "3-2"}
    for key, alone in read["1-0"].items():
        torch.testing.assert_close(read["2-0"][key], alone)  # 3 processes have unequal shares of 8 rows: another mean
        assert torch.equal(read["2-0"][key], read["2-1"][key])
        assert torch.equal(read["3-0"][key], read["3-1"][key]) and torch.equal(read["3-0"][key], read["3-2"][key])


def test_loads_of_all_experts_are_found():
    model = torch.nn.Sequential(*(MixtureOfExperts(8, MoEConfig(experts=4, top_k=2)) for _ in range(3)))
    model(torch.randn(5, 8))
    assert [float(load.sum()) for load in expert_loads(model)] == [5 * 2] * 3  # two experts a token


@pytest.mark.fault("training process dies or hangs")
def test_a_partner_that_dies_is_named_in_one_line(tmp_path):
    with (
        pytest.raises(PolicyError, match="one of the 2 training processes ended"),
        recruit(2, die, (tmp_path,)) as team,
    ):
        regress(team, tmp_path)


def sleep(team, held):
    time.sleep(600)


def be_killed(held):
    with recruit(2, sleep, (held,)):
        die(ALONE, None)


@pytest.mark.fault("training process dies or hangs")
def test_a_partner_ends_with_rank_0_though_nothing_travels():
    context = torch.multiprocessing.get_context("spawn")
    watched, held = context.Pipe(duplex=False)
    rank_0 = context.Process(target=be_killed, args=(held,))
    rank_0.start()
    held.close()
    rank_0.join(60)
    assert rank_0.exitcode == -signal.SIGKILL
    assert watched.poll(10)  # its end: nobody holds the other one any more


@pytest.mark.fault("resume is not bit-exact")
def test_two_processes_stopped_and_resumed_compute_what_they_compute_unstopped(
    frames, recipe, tmp_path, monkeypatch, stop_once_saved
):
    both = replace(recipe, processes=2)
    training.train(both, frames, tmp_path / "whole")
    stop_once_saved(6)  # in the second stage
    with pytest.raises(KeyboardInterrupt):
        training.train(both, frames, tmp_path / "parts")
    monkeypatch.undo()
    training.train(both, frames, tmp_path / "parts", resume=True)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert not [key for key in whole if not torch.equal(whole[key], parts[key])]
