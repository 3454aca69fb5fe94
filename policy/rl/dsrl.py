"""DSRL: stable-baselines3's SAC chooses the noise of a frozen flow (arXiv 2506.15799).

    SAC on NoiseEnv: observation = pooled latents, action = noise of the next chunk, reward = 1 at success
    the actor becomes policy.steering.Steering in an otherwise unchanged checkpoint

The default of `tandem rl`: cheap (small networks, nothing of the policy is trained) and safe (no chunk that the flow
would not make). It finds the best of what imitation can do; it cannot add what demonstrations never showed.

Notable choices
- Transitions enter the replay when their episode is whole and on disk, so that memory and disk never differ.
- An episode that runs out of time ends with nothing: the time limit belongs to the task.
- Updates per look are few (EVIDENCE: 20): on two cores simulation and updates share them, and looks are the cheaper.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import SubprocVecEnv

from policy.agents import AgentSpec
from policy.rl.experience import Episode, Experience
from policy.rl.noise_env import TRAINING_SEEDS, NoiseEnv
from policy.rl.progress import Learning
from policy.steering import Steering, SteeringConfig


@dataclass(frozen=True)
class DSRL:
    """Settings."""

    gradient_steps: int = 4  # updates per look of every environment
    learning_rate: float = 3e-4
    batch: int = 256
    discount: float = 0.99  # per look
    hidden: tuple[int, ...] = (256, 256, 256)
    warm_up: int = 1500  # looks with random noise
    capacity: int = 150_000  # looks in memory


class WholeEpisodes(ReplayBuffer):
    """SAC's replay, filled by `take` alone."""

    def __init__(self, size: int, observations: spaces.Space, actions: spaces.Space, **options: Any):
        super().__init__(size, observations, actions, **options | {"n_envs": 1})

    def add(self, *_: Any) -> None:
        """Steps of an episode that is not whole yet."""

    def take(self, episode: Episode) -> None:
        features, noise = episode["features"], episode["noise"]
        last = len(noise) - 1
        for i, action in enumerate(noise):
            reward = float(i == last and bool(episode["success"]))
            following = features[min(i + 1, last)]
            super().add(features[i], following, action, np.array([reward]), np.array([i == last]), [{}])


class _Keep(BaseCallback):
    """Stores whole episodes, reports, saves, and ends the learning."""

    def __init__(self, learning: Learning, experience: Experience, save: Callable[[], None]):
        super().__init__()
        self.learning, self.experience, self.save = learning, experience, save

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode_log" not in info:
                continue
            success, steps = bool(info["is_success"]), int(info["steps"])
            self.experience.add(steps, success, info["episode_log"])
            buffer = self.model.replay_buffer  # type: ignore[attr-defined]
            buffer.take(info["episode_log"] | {"success": np.array(success)})
            self.learning.episode(success, steps, self.experience.steps)
        if self.learning.due():
            self.save()
        return not self.learning.ended()


def dsrl(spec: AgentSpec, tasks: tuple[str, ...], learning: Learning, settings: DSRL, workers: int, seed: int) -> None:
    """Learns until `learning` ends; checkpoints are those of `spec` with steering."""
    torch.set_num_threads(1)
    experience = Experience.open(learning.folder / "experience")
    makers: list[Callable[[], gymnasium.Env]] = [
        partial(NoiseEnv, spec, tasks, TRAINING_SEEDS + len(experience) + index, workers) for index in range(workers)
    ]
    envs = SubprocVecEnv(makers, start_method="spawn")
    try:
        model = _model(envs, settings, seed, learning.state("sac.zip"))
        for episode in experience:
            model.replay_buffer.take(episode)  # type: ignore[union-attr]
        learning.resume(experience.steps)
        model.num_timesteps = sum(len(e["noise"]) for e in experience)
        save = partial(_save, model, learning, settings)
        model.learn(2**62, callback=_Keep(learning, experience, save), reset_num_timesteps=False, progress_bar=False)
        save()
    finally:
        envs.close()


def _model(envs: SubprocVecEnv, settings: DSRL, seed: int, stored: bytes | None) -> SAC:
    if stored is not None:
        return SAC.load(io.BytesIO(stored), env=envs, device="cpu")
    return SAC(
        "MlpPolicy", envs, seed=seed, device="cpu", learning_rate=settings.learning_rate, batch_size=settings.batch,
        gamma=settings.discount, learning_starts=settings.warm_up, buffer_size=settings.capacity,
        train_freq=1, gradient_steps=settings.gradient_steps, replay_buffer_class=WholeEpisodes,
        policy_kwargs={"net_arch": list(settings.hidden)},
    )  # fmt: skip


def _save(model: SAC, learning: Learning, settings: DSRL) -> None:
    stored = io.BytesIO()
    model.save(stored)
    learning.save(steering=_steering(model, learning, settings), state={"sac.zip": stored.getvalue()})


def _steering(model: SAC, learning: Learning, settings: DSRL) -> Steering:
    actor: Any = model.policy.actor
    inputs, outputs = actor.latent_pi[0].in_features, actor.mu.out_features
    steering = Steering(SteeringConfig(inputs, learning.bundle.sizes.chunk, outputs, settings.hidden))
    steering.latent_pi.load_state_dict(actor.latent_pi.state_dict())
    steering.mu.load_state_dict(actor.mu.state_dict())
    return steering
