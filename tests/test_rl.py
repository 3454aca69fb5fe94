"""Reinforcement learning: experience survives a kill, what is exported is what was learned, bad numbers stop it."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from policy import checkpoint
from policy.agent import Runtime
from policy.agents import AgentSpec
from policy.bundle import Bundle
from policy.errors import PolicyError
from policy.rl.experience import Experience
from policy.rl.noise_env import NoiseEnv
from policy.steering import BOUND


def arrays(value=0.0, rows=3):
    return {"features": np.full((rows, 4), value, np.float32), "noise": np.zeros((rows, 2), np.float32)}


def spec(trained):
    return AgentSpec("checkpoint", str(checkpoint.resolve(trained)), Runtime(mode="flat"))


def test_experience_is_whole_after_a_kill_and_counts_what_it_forgot(tmp_path):
    experience = Experience.open(tmp_path, limit=4000)
    for i in range(8):
        experience.add(10 + i, i % 2 == 0, arrays(float(i)))
    (tmp_path / ".000008.npz").write_bytes(b"half")  # a writer was killed
    again = Experience.open(tmp_path, limit=4000)
    assert again.steps == experience.steps == sum(10 + i for i in range(8)) and len(again) == 8
    assert again.sizes == experience.sizes and 0 < len(again.sizes) < 8  # bounded: the oldest went
    kept = [float(episode["features"][0, 0]) for episode in again]
    assert kept == sorted(kept) and kept[-1] == 7.0
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4000


def test_numbers_that_are_not_finite_are_not_stored(tmp_path):
    experience = Experience.open(tmp_path)
    experience.add(5, True, arrays())
    with pytest.raises(PolicyError, match="features of episode 1 is not finite"):
        experience.add(5, True, arrays(np.nan))
    assert len(Experience.open(tmp_path)) == 1


def test_noise_env_is_an_environment_and_a_function_of_its_seed(trained):
    from stable_baselines3.common.env_checker import check_env

    check_env(NoiseEnv(spec(trained), ("reach", "press_button")))
    walks = []
    for _ in range(2):
        env = NoiseEnv(spec(trained), ("reach", "press_button"))
        seen = [env.reset()[0]] + [env.step(np.full(env.action_space.shape, 0.3, np.float32))[0] for _ in range(3)]
        walks.append(np.stack(seen))
    assert np.array_equal(*walks) and not np.array_equal(walks[0][0], walks[0][1])
    with pytest.raises(PolicyError, match="not finite"):
        env.step(np.full(env.action_space.shape, np.nan, np.float32))


def command(trained, output, *more):
    flags = ["--checkpoint", str(trained), "--tasks", "reach", "--output", str(output), "--minutes", "10", *more]
    return [sys.executable, "-m", "scripts", "rl", *flags]


def test_a_run_that_was_killed_goes_on_with_the_same_experience(trained, tmp_path):
    output = tmp_path / "run"
    running = subprocess.Popen(command(trained, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = output / "experience"
    deadline = time.monotonic() + 120
    while len(list(folder.glob("[0-9]*.npz"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.2)
    running.send_signal(signal.SIGKILL)
    running.wait()
    before = Experience.open(folder)
    contents = {number: (folder / f"{number:06d}.npz").read_bytes() for number in before.sizes}
    assert len(contents) >= 3
    done = subprocess.run(
        command(trained, output, "--resume", "--steps", str(before.steps + 1)), capture_output=True, text=True, check=True
    )
    after = Experience.open(folder)
    assert {n: (folder / f"{n:06d}.npz").read_bytes() for n in contents} == contents
    assert after.steps > before.steps and f"{after.steps} steps" in done.stdout
    learned = Bundle.load(output)
    assert learned.steering is not None
    assert all(torch.equal(a, b) for a, b in zip(learned.model.parameters(), Bundle.load(trained).model.parameters(), strict=True))


def test_what_is_exported_is_what_sac_learned(trained, tmp_path):
    import io

    from stable_baselines3 import SAC

    output = tmp_path / "run"
    subprocess.run(command(trained, output, "--steps", "300"), check=True, capture_output=True)
    folder = checkpoint.resolve(output)
    model = SAC.load(io.BytesIO((folder / "training_state" / "sac.zip").read_bytes()), device="cpu")
    seen = np.random.default_rng(0).normal(size=(4, model.observation_space.shape[0])).astype(np.float32)
    chosen, _ = model.predict(seen, deterministic=True)
    noise = Bundle.load(folder).steering(torch.from_numpy(seen))
    assert noise.shape[1:3] == (1, Bundle.load(folder).sizes.chunk)
    for step in range(noise.shape[2]):
        np.testing.assert_allclose(noise[:, 0, step], BOUND * chosen, atol=1e-5)
