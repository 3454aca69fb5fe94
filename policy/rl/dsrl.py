"""DSRL: stable-baselines3's SAC chooses the noise of a frozen flow (arXiv 2506.15799).

    SAC on NoiseEnv: observation = pooled latents, action = noise of the next chunk, reward = -1 a look until success
    the actor becomes policy.steering.Steering in an otherwise unchanged checkpoint

The default of `tandem rl`: cheap (small networks, nothing of the policy is trained) and safe (no chunk that the flow
would not make). It finds the best of what imitation can do; it cannot add what demonstrations never showed.

Notable choices
- Transitions enter the replay when their episode is whole and on disk, so that memory and disk never differ.
- An episode that runs out of time is cut off, not over: its last look is worth what the critic says, about -1 / (1 -
  discount) where nothing leads to success, so that a slow success is far better than none.
- Features are standardised by the episodes of the warm-up: what tells two layouts apart is small beside their means.
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
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import SubprocVecEnv
from torch import Tensor

from policy.agents import AgentSpec
from policy.rl.experience import Episode, Experience
from policy.rl.noise_env import TRAINING_SEEDS, NoiseEnv
from policy.rl.progress import Learning
from policy.steering import MODES, Steering, SteeringConfig


@dataclass(frozen=True)
class DSRL:
    """Settings."""

    gradient_steps: int = 8  # updates per look of every environment
    learning_rate: float = 3e-4
    batch: int = 256
    discount: float = 0.99  # per look
    entropy: str = (
        "auto_0.1"  # its weight, learned from there on: from 1 on it would outweigh success for thousands of updates
    )
    hidden: tuple[int, ...] = (256, 256, 256)
    warm_up: int = 1500  # looks with random noise
    capacity: int = 150_000  # looks in memory


class Standardised(BaseFeaturesExtractor):
    """(features - mean) / deviation, the first layer of actor and critics."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, observations: spaces.Space, mean: np.ndarray, deviation: np.ndarray):
        super().__init__(observations, len(mean))
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("deviation", torch.from_numpy(deviation))

    def forward(self, observations: Tensor) -> Tensor:
        return (observations - self.mean) / self.deviation


class WholeEpisodes(ReplayBuffer):
    """SAC's replay, filled by `take` alone."""

    def __init__(self, size: int, observations: spaces.Space, actions: spaces.Space, **options: Any):
        super().__init__(size, observations, actions, **options | {"n_envs": 1})

    def add(self, *_: Any) -> None:
        """Steps of an episode that is not whole yet."""

    def take(self, episode: Episode) -> None:
        """Where time ran out the last look stands for the one after it."""
        features, noise = episode["features"], episode["noise"]
        last = len(noise) - 1
        for i, action in enumerate(noise):
            success = i == last and bool(episode["success"])
            following = features[min(i + 1, last)]
            reward, over = np.array([float(success) - 1.0]), np.array([success])
            super().add(features[i], following, action, reward, over, [{}])


class _Keep(BaseCallback):
    """Stores whole episodes, saves, and ends the learning."""

    def __init__(self, learning: Learning, experience: Experience, save: Callable[[], None]):
        super().__init__()
        self.learning, self.experience, self.save = learning, experience, save

    def _on_step(self) -> bool:
        for episode in _store(self.locals["infos"], self.learning, self.experience):
            self.model.replay_buffer.take(episode)  # type: ignore[attr-defined]
        if self.learning.due():
            self.save()
        return not self.learning.ended()


def _store(infos: list[dict[str, Any]], learning: Learning, experience: Experience) -> list[Episode]:
    """Episodes that ended at this step go to disk and into the curve."""
    ended = [info for info in infos if "episode_log" in info]
    for info in ended:
        experience.add(int(info["steps"]), bool(info["is_success"]), info["episode_log"])
        learning.episode(bool(info["is_success"]), int(info["steps"]), experience.steps)
    return [info["episode_log"] | {"success": np.array(info["is_success"])} for info in ended]


def dsrl(spec: AgentSpec, tasks: tuple[str, ...], learning: Learning, settings: DSRL, workers: int, seed: int) -> None:
    """Learns until `learning` ends; checkpoints are those of `spec` with steering."""
    torch.set_num_threads(workers)  # updates and episodes take turns
    experience = Experience.open(learning.folder / "experience")
    makers: list[Callable[[], gymnasium.Env]] = [
        partial(NoiseEnv, spec, tasks, TRAINING_SEEDS + len(experience) + index, workers) for index in range(workers)
    ]
    learning.resume(experience.steps)
    envs = SubprocVecEnv(makers, start_method="spawn")
    try:
        _warm_up(envs, learning, experience, settings, seed)
        if not len(experience):
            return
        model = _model(envs, experience, settings, seed, learning.state("sac.zip"))
        for episode in experience:
            model.replay_buffer.take(episode)  # type: ignore[union-attr]
        model.num_timesteps = _looks(experience)
        save = partial(_save, model, learning, settings)
        model.learn(2**62, callback=_Keep(learning, experience, save), reset_num_timesteps=False, progress_bar=False)
        save()
    finally:
        envs.close()


def _warm_up(envs: SubprocVecEnv, learning: Learning, experience: Experience, settings: DSRL, seed: int) -> None:
    """Random noise until the experience holds `warm_up` looks."""
    rng = np.random.default_rng([seed, len(experience)])
    looks = _looks(experience)
    if looks < settings.warm_up:
        envs.reset()
    while looks < settings.warm_up and not learning.ended():
        actions = rng.uniform(-1.0, 1.0, (envs.num_envs, *envs.action_space.shape)).astype(np.float32)
        looks += sum(len(e["noise"]) for e in _store(envs.step(actions)[3], learning, experience))


def _looks(experience: Experience) -> int:
    return sum(len(episode["noise"]) for episode in experience)


def _model(envs: SubprocVecEnv, experience: Experience, settings: DSRL, seed: int, stored: bytes | None) -> SAC:
    if stored is not None:
        return SAC.load(io.BytesIO(stored), env=envs, device="cpu")
    seen = np.concatenate([episode["features"] for episode in experience])
    standards = {"mean": seen.mean(0), "deviation": seen.std(0).clip(min=1e-2)}
    return SAC(
        "MlpPolicy", envs, seed=seed, device="cpu", learning_rate=settings.learning_rate, batch_size=settings.batch,
        gamma=settings.discount, learning_starts=0, buffer_size=settings.capacity, ent_coef=settings.entropy,
        train_freq=1, gradient_steps=settings.gradient_steps, replay_buffer_class=WholeEpisodes,
        policy_kwargs={
            "net_arch": list(settings.hidden),
            "features_extractor_class": Standardised,
            "features_extractor_kwargs": standards,
        },
    )  # fmt: skip


def _save(model: SAC, learning: Learning, settings: DSRL) -> None:
    stored = io.BytesIO()
    model.save(stored)
    learning.save(steering=_steering(model, learning, settings), state={"sac.zip": stored.getvalue()})


def _steering(model: SAC, learning: Learning, settings: DSRL) -> Steering:
    actor: Any = model.policy.actor
    standards, action_dim = actor.features_extractor, actor.mu.out_features // MODES
    inputs = len(standards.mean)
    steering = Steering(SteeringConfig(inputs, learning.bundle.sizes.chunk, action_dim, MODES, settings.hidden))
    steering.latent_pi.load_state_dict(actor.latent_pi.state_dict())
    steering.mu.load_state_dict(actor.mu.state_dict())
    steering.mean.copy_(standards.mean)
    steering.deviation.copy_(standards.deviation)
    return steering
