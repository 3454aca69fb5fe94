"""Packed weights: as near as their bits allow, small, and loaded as any others."""

import pytest
import torch
from tandem.policy.checkpoint import store
from tandem.policy.checkpoint.bundle import Bundle
from tandem.policy.checkpoint.quantise import SCALE, pack, unpack
from tandem.policy.checkpoint.store import PRETRAINED
from tandem.scripts import export
from tandem.scripts.shared.errors import UserError


def size(folder):
    return (folder / PRETRAINED / "model.safetensors").stat().st_size


@pytest.mark.parametrize("shape", [(5, 7), (3, 64), (4, 3, 3, 3), (1, 1)])
def test_rounding_is_at_most_half_a_step_of_every_row(shape):
    torch.manual_seed(0)
    weight = torch.randn(shape) * torch.logspace(-3, 2, shape[0]).view(-1, *[1] * (len(shape) - 1))
    for coarse, levels, slack in (((), 127, 1.0), (("w",), 7.5, 1.15)):  # scales of 4 bits are rounded to bf16 too
        stored = pack({"w": weight}, coarse)
        again = unpack(stored, {"w": weight})["w"]
        top = weight.flatten(1).abs().amax(1)
        worst = (again - weight).flatten(1).abs().amax(1)
        assert again.shape == weight.shape and (worst <= slack * 0.5 * top / levels + 1e-12).all()


def test_what_is_not_a_matrix_stays_exact_and_plain_files_stay_as_they_are():
    weights = {
        "norm": torch.randn(6),
        "count": torch.tensor([[3, 4]]),
        "zero": torch.zeros(2, 3),
        "m": torch.randn(2, 3),
    }
    again = unpack(pack(weights), weights)
    assert all(torch.equal(again[name], weights[name]) for name in ("norm", "count", "zero"))
    assert unpack(weights, weights) == weights


def test_an_exported_policy_is_small_and_does_the_same(trained, tmp_path, capsys):
    export.main(export.Args(checkpoint=str(trained), output=tmp_path / "small"))
    assert "MB" in capsys.readouterr().out
    folder, small, whole = store.resolve(tmp_path / "small"), Bundle.load(tmp_path / "small"), Bundle.load(trained)
    assert size(folder) < 0.3 * size(store.resolve(trained))
    assert not (folder / "training_state" / "optimizer.safetensors").exists()
    controller, D = whole.model.controller, whole.sizes.width
    words, z, referents = torch.ones(1, 4, dtype=torch.int64), torch.randn(1, 9, D), torch.randn(1, 4, D)
    noise = torch.randn(1, 1, controller.cfg.chunk, controller.cfg.action_dim)
    acts = [
        b.model.controller.sample(b.model.controller.context(words, z, referents), noise.clone())
        for b in (whole, small)
    ]
    assert (acts[0] - acts[1]).abs().max() < 0.05 * acts[0].abs().max()
    card = (tmp_path / "small" / "README.md").read_text()
    assert "seed" in card and "reach" in card
    with pytest.raises(UserError, match="exists"):
        export.main(export.Args(checkpoint=str(trained), output=tmp_path / "small"))
    with pytest.raises(UserError, match="no result"):
        export.main(export.Args(checkpoint=str(trained), output=tmp_path / "b", results=("never_measured",)))


def test_a_damaged_packed_weight_is_refused(trained, tmp_path):
    weights = dict(Bundle.load(trained).model.state_dict())
    stored = pack(weights)
    name = next(name for name in stored if name.endswith(SCALE)).removesuffix(SCALE)
    shorter = unpack(stored | {name: stored[name][:-1], name + SCALE: stored[name + SCALE][:-1]}, {})
    assert shorter[name].shape != weights[name].shape
