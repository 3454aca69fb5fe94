"""Laws of the scene encoder, System 1, the average, the limiter and checkpoints."""

import json
import os
import subprocess
import sys
import textwrap
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from tandem.planner.grounding import Grounding, GroundingConfig, grounding_loss
from tandem.policy.act.action_limiter import ActionLimiter
from tandem.policy.checkpoint import store
from tandem.policy.errors import PolicyError
from tandem.policy.networks.controller import Controller, ControllerConfig, draw_mask
from tandem.policy.networks.scene_encoder import SceneEncoder, SceneEncoderConfig, bilinear, pixel_grid
from tandem.policy.train.ema import averaged

CFG = ControllerConfig(width=32, action_dim=3, chunk=8, words=10, instruction_length=4, heads=2, layers=2, draws=2)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def inputs(B=3, D=32, N=5):
    return torch.randint(0, 10, (B, 4)), torch.randn(B, N, D), torch.randn(B, 4, D), torch.randn(B, 4, D)


def test_bilinear_weights_have_the_point_as_their_mean():
    points = torch.rand(50, 2) * 1.8 - 0.9
    weights = bilinear(points, 24 * 24)
    assert torch.allclose(weights.sum(-1), torch.ones(50), atol=1e-5)
    assert torch.allclose(weights @ pixel_grid(24), points, atol=1e-5)


def test_encoder_finds_a_dot_after_a_few_steps():
    cfg = SceneEncoderConfig(
        ("front",), image_size=32, state_dim=2, width=32, keypoints=2, entities=1, trunk_channels=32
    )
    from tandem.policy.networks.scene_encoder import keypoint_loss

    encoder = SceneEncoder(cfg)
    optimizer = torch.optim.Adam(encoder.parameters(), 3e-3)
    for _ in range(150):
        at = torch.randint(4, 28, (16, 2))
        images = torch.zeros(16, 32, 32, 3, dtype=torch.uint8)
        for i, (u, v) in enumerate(at.tolist()):
            images[i, v - 2 : v + 3, u - 2 : u + 3, 0] = 255
        target = torch.cat([(at + 0.5) / 16 - 1, torch.ones(16, 1)], -1)[:, None, None]
        losses = keypoint_loss(encoder({"front": images}, torch.zeros(16, 2)), target)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert losses["keypoint_offset"] < 0.1  # 1.6 pixels of 32


def test_draws_do_not_see_each_other_and_context_does_not_see_actions():
    controller = Controller(CFG)
    torch.nn.init.normal_(controller.action_out.weight)
    words, z, referents, goal = inputs()
    context = controller.context(words, z, referents, goal)
    noisy, t = torch.randn(3, 2, 8, 3), torch.rand(3, 2, 8)
    both = controller.velocity(context, noisy, t)
    for draw in range(2):
        alone = controller.velocity(context, noisy[:, draw : draw + 1], t[:, draw : draw + 1])
        assert torch.allclose(alone[:, 0], both[:, draw], atol=1e-5)


def test_draw_mask_matches_its_worked_example():
    expected = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 1, 1], [1, 0, 0, 1, 1]]).bool()
    assert torch.equal(draw_mask(2, 2, 1, torch.device("cpu")), expected)


def test_sampling_integrates_a_straight_flow_exactly():
    controller = Controller(CFG)
    target = torch.randn(1, 1, 8, 3)
    noise = torch.randn(1, 1, 8, 3)
    controller.velocity = lambda context, x, t: noise - target
    out = controller.sample(None, noise.clone())
    assert torch.allclose(out, target, atol=1e-5)


def test_a_committed_prefix_is_kept():
    controller = Controller(CFG)
    words, z, referents, goal = inputs(B=1)
    prefix = torch.randn(1, 3, 3)
    chunk = controller.sample(controller.context(words, z, referents, goal), torch.randn(1, 2, 8, 3), prefix)
    assert torch.equal(chunk[:, :, :3], prefix[:, None].expand(-1, 2, -1, -1))


def test_rows_without_a_goal_ignore_it():
    controller = Controller(CFG)
    words, z, referents, goal = inputs()
    has = torch.tensor([True, False, False])
    mixed = controller.context(words, z, referents, goal, has).cache[-1][0]
    none = controller.context(words, z, referents).cache[-1][0]
    assert torch.allclose(mixed[1:], none[1:]) and not torch.allclose(mixed[0], none[0])


def test_flow_loss_overfits_one_batch_and_masked_steps_do_not_matter():
    controller = Controller(replace(CFG, draws=4))
    words, z, referents, goal = inputs(B=4)
    batch = {
        "instruction": words[:1].expand(4, -1),
        "actions": torch.randn(4, 8, 3),
        "action_mask": torch.ones(4, 8).bool(),
    }
    batch["action_mask"][:, 6:] = False
    z = torch.randn(4, 5, 32)
    referents, goal = torch.randn(4, 4, 32), torch.randn(4, 4, 32)
    torch.manual_seed(1)
    first = controller.loss(batch, z, referents, goal, torch.ones(4).bool())
    changed = batch | {"actions": batch["actions"].clone()}
    changed["actions"][:, 6:] += 5
    controller.action_in.weight.data *= 0  # what is left of the input may not carry the masked steps into the loss
    torch.manual_seed(1)
    a = controller.loss(batch, z, referents, goal, torch.ones(4).bool())
    torch.manual_seed(1)
    b = controller.loss(changed, z, referents, goal, torch.ones(4).bool())
    assert torch.allclose(a, b) and first > 0
    torch.nn.init.normal_(controller.action_in.weight, std=0.3)
    optimizer = torch.optim.Adam(controller.parameters(), 3e-3)
    for _ in range(250):
        loss = controller.loss(batch, z, referents, goal, torch.ones(4).bool())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3


def test_what_is_only_watched_teaches_the_eyes_and_nothing_else(tmp_path):
    from tandem.data.cache import FrameCache
    from tandem.data.windows import window
    from tandem.policy.train.stage_act import frames_to_learn, is_watched
    from tandem.scripts import collect

    shown, watched = tmp_path / "shown", tmp_path / "watched"
    collect.main(collect.Args(("reach",), episodes=1, output=shown, workers=1))
    collect.main(collect.Args(("reach",), episodes=4, first_seed=50, output=watched, watched=True, workers=1))
    cache = FrameCache.build([shown, watched], tmp_path / "cache", progress=False)
    assert cache.columns["perturbed"][cache.episode_of > 0].all()
    assert is_watched(cache).tolist() == [False, True, True, True, True]
    frames = frames_to_learn(cache)
    seen = cache.episode_of[frames] > 0
    assert set(frames[seen]) == set(np.flatnonzero(cache.episode_of > 0)) and 0.3 < seen.mean() < 0.7
    assert not window(cache, frames[seen])["action_mask"].any() and window(cache, frames[~seen])["action_mask"].any()
    alone = FrameCache.build([shown], tmp_path / "cache", progress=False)
    assert np.array_equal(frames_to_learn(alone), np.flatnonzero(~alone.columns["perturbed"].reshape(-1)))


def test_grounding_learns_words_to_slots():
    cfg = GroundingConfig(width=32, words=12, instruction_length=3, cameras=2, keypoints=6, key_width=16)
    grounding = Grounding(cfg)
    optimizer = torch.optim.Adam(grounding.parameters(), 3e-3)
    for _ in range(150):
        words = torch.randint(6, 12, (32, 3))
        referents = torch.stack([words[:, 0] - 6, torch.full((32,), -1)], 1)  # the first word names the object
        tokens, logits = grounding(words, torch.randn(32, 13, 32))
        loss = grounding_loss(logits, referents)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert tokens.shape == (32, grounding.tokens, 32)
    assert (logits[:, 0].argmax(-1) == referents[:, 0]).float().mean() > 0.95


def test_average_is_not_an_average_with_its_random_start():
    model = torch.nn.Linear(2, 2)
    average = averaged(model, 0.999)
    torch.nn.init.constant_(model.weight, 1.0)
    for _ in range(60):
        average.update_parameters(model)
    assert torch.allclose(average.module.weight, model.weight, atol=0.02)


def test_limiter_clamps_holds_and_counts():
    events = Counter()
    limiter = ActionLimiter(3, events, max_consecutive_holds=2)
    assert limiter(np.array([2.0, -3.0, 0.5])).tolist() == [1.0, -1.0, 0.5]
    assert limiter(np.array([np.nan, 0, 0])).tolist() == [0.0, 0.0, 0.5]
    assert events == {"clamped": 1, "held": 1}
    limiter(np.full(3, np.inf))
    with pytest.raises(PolicyError, match="non-finite"):
        limiter(np.full(3, np.nan))
    with pytest.raises(PolicyError, match="shape"):
        limiter(np.zeros(4))


FILES = {"pretrained_model/model.safetensors": {"w": torch.arange(4.0)}, "pretrained_model/config.json": {"a": 1}}


def test_the_newest_checkpoint_is_the_one_of_most_steps(tmp_path):
    for step in (999_999, 1_000_000):
        kept = store.save(tmp_path, step, FILES, keep=1)
    assert kept.exists() and store.resolve(tmp_path) == kept and not (tmp_path / "999999").exists()


@pytest.mark.fault("bit flip or truncation of a file")
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest"])
def test_a_damaged_checkpoint_is_named_and_the_older_one_is_used(tmp_path, damage):
    store.save(tmp_path / "checkpoints", 1, FILES)
    newest = store.save(tmp_path / "checkpoints", 2, FILES)
    assert store.resolve(tmp_path) == newest
    file = newest / ("manifest.json" if damage == "manifest" else "pretrained_model/model.safetensors")
    content = bytearray(file.read_bytes())
    if damage in ("remove", "manifest"):
        file.unlink()
    else:
        content[-1] ^= 1
        file.write_bytes(content if damage == "flip" else content[:-2])
    with pytest.raises(PolicyError, match="manifest.json" if damage == "manifest" else "model.safetensors"):
        store.verify(newest)
    assert store.resolve(tmp_path).name == "000001"


@pytest.mark.fault("kill -9 while a checkpoint is saved")
def test_a_save_that_is_killed_leaves_the_last_checkpoint(tmp_path):
    store.save(tmp_path, 1, FILES)
    script = textwrap.dedent(f"""
        import os, torch
        from tandem.policy.checkpoint import store as checkpoint
        steps = []
        def die(fd):
            steps.append(fd)
            if len(steps) == 2:
                os._exit(9)
        os.fsync = die
        checkpoint.save(checkpoint.Path({str(tmp_path)!r}), 2, {{"a.safetensors": {{"w": torch.ones(3)}}, "b.json": 1}})
    """)
    done = subprocess.run([sys.executable, "-c", script], cwd=os.getcwd(), capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    assert store.resolve(tmp_path).name == "000001"
    assert os.readlink(tmp_path / "last") == "000001"


def test_what_is_not_finite_is_not_saved(tmp_path):
    store.save(tmp_path, 1, FILES)
    spoilt = FILES | {"pretrained_model/model.safetensors": {"w": torch.tensor([1.0, torch.nan])}}
    with pytest.raises(PolicyError, match="w in pretrained_model/model.safetensors is not finite"):
        store.save(tmp_path, 2, spoilt)
    assert [path.name for path in tmp_path.iterdir() if not path.is_symlink()] == ["000001"]


def test_a_step_that_cannot_be_saved_again_stays_as_it_was(tmp_path, monkeypatch):
    saved, rename = store.save(tmp_path, 1, FILES), os.replace

    def full(source, target):
        if ".tmp" in str(source):
            raise OSError("no space left")
        rename(source, target)

    monkeypatch.setattr(store.os, "replace", full)
    with pytest.raises(PolicyError, match="untouched"):
        store.save(tmp_path, 1, FILES)
    assert store.resolve(tmp_path) == saved


@pytest.mark.fault("kill -9 while a checkpoint is saved")
def test_a_step_whose_replacement_is_killed_between_two_names_stays(tmp_path, monkeypatch):
    store.save(tmp_path / "checkpoints", 7, FILES)
    rename, names = os.replace, []

    def killed(source, target):
        names.append(target.name)
        rename(source, target)
        if target.name == ".old-000007":
            raise KeyboardInterrupt  # in the place of kill -9, which runs nothing more

    with monkeypatch.context() as kill, pytest.raises(KeyboardInterrupt):
        kill.setattr(store.os, "replace", killed)
        store.save(tmp_path / "checkpoints", 7, FILES)
    assert names == [".old-000007"] and not (tmp_path / "checkpoints" / "000007").exists()
    assert store.exists(tmp_path) and store.verify(store.resolve(tmp_path))["step"] == 7
    assert store.save(tmp_path / "checkpoints", 8, FILES, keep=3) == store.resolve(tmp_path)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"000007", "000008", "last"}


def test_manifest_may_not_point_outside(tmp_path):
    folder = store.save(tmp_path, 1, FILES)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../../secret"] = {"bytes": 0, "sha256": ""}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PolicyError, match="outside"):
        store.verify(folder)


def test_sampling_leaves_the_noise_of_its_caller_alone():
    controller = Controller(CFG)
    words, z, referents, goal = inputs(B=1)
    noise, prefix = torch.randn(1, 2, 8, 3), torch.randn(1, 3, 3)
    kept = noise.clone()
    controller.sample(controller.context(words, z, referents, goal), noise, prefix)
    assert torch.equal(noise, kept)


def test_eulers_steps_and_the_cosine_are_those_of_diffusers():
    import numpy as np
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.optimization import get_scheduler
    from tandem.policy.networks.controller import euler_sigmas
    from tandem.policy.train.loop import cosine

    for steps in (4, 7, 10):
        reference = FlowMatchEulerDiscreteScheduler()
        reference.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps))
        assert torch.equal(euler_sigmas(steps), reference.sigmas)
        x, velocity = torch.randn(2, 3), torch.randn(2, 3)
        theirs = reference.step(velocity, reference.timesteps[0], x).prev_sample
        assert torch.equal(x + (euler_sigmas(steps)[1] - euler_sigmas(steps)[0]) * velocity, theirs)
    for warmup, steps in ((0, 5), (3, 10), (5, 5), (10, 4)):
        optimizers = [torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1) for _ in range(2)]
        ours = cosine(optimizers[0], warmup, steps)
        theirs = get_scheduler("cosine", optimizers[1], num_warmup_steps=warmup, num_training_steps=steps)
        for _ in range(steps):
            assert ours.get_last_lr() == theirs.get_last_lr()
            for optimizer, schedule in zip(optimizers, (ours, theirs), strict=True):
                optimizer.step()
                schedule.step()
