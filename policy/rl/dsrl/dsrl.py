"""DSRL: stable-baselines3's SAC chooses the noise of a frozen flow (arXiv 2506.15799).

    SAC on NoiseEnv: observation = what is seen at a look, action = noise of the chunks of a whole attempt,
                     reward = -1 a choice until success
    the actor becomes policy.networks.noise_actor.Steering in an otherwise unchanged checkpoint

The default of `tandem rl`: cheap (small networks, nothing of the policy is trained) and safe (no chunk that the flow
would not make). It finds the best of what imitation can do. It cannot add what demonstrations never showed.

Notable choices
- An episode that runs out of time ends with -1 / (1 - discount), what failing for ever is worth: a slow success is far
  better than none. Left to the critic, that value takes tens of thousands of updates to appear.
- The weight of entropy is fixed: learned, it falls to nothing within minutes and takes as long to grow again. It is
  the largest for which being undecided is not worth a choice's -1.
- Critics have seen a few hundred outcomes, each a matter of one bit: there are five, the least of which counts, and
  weights decay, the actor's too. Layouts are met several times (noise_env.py).
- Features are standardised by the episodes of the warm-up, which have a third of the updates that later ones have.
- Two updates a choice: more learn outcomes by heart, and leave simulation no time on two cores.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

from ...act.runtime import AgentSpec
from ...checkpoint import optimizer_state, store
from ...errors import PolicyError
from ...networks.noise_actor import Steering, SteeringConfig
from ...networks.pca_whitening import Standardise
from ..shared.experience import Episode, Experience
from ..shared.learning_run import Learning
from ..shared.seeds import training_seed
from .noise_env import HOLD, NoiseEnv
from .sac import CheckedSAC, NormalisedCritics, Standardised, WholeEpisodes
from .sb3_workers import in_processes

NETWORKS = "sac"  # in a checkpoint's training state


@dataclass(frozen=True)
class DSRL:
    """Settings."""

    hold: int = HOLD  # looks that a choice lasts
    repeats: int = 8  # episodes on every layout
    gradient_steps: int = 2  # updates per choice
    learning_rate: float = 3e-4
    batch: int = 256
    discount: float = 0.8  # per choice; episodes have one to thirteen
    target_rate: float = 0.01  # of the critics' averages
    entropy: float = 0.2  # its weight; success is worth up to 1 / (1 - discount)
    critics: int = 5
    weight_decay: float = 0.01
    hidden: tuple[int, ...] = (256, 256)
    warm_up: int = 1000  # choices of random noise: some 100 to 300 episodes
    capacity: int = 100_000  # choices in memory


class _Keep(BaseCallback):
    """Stores whole episodes, saves, and ends the learning."""

    def __init__(self, learning: Learning, experience: Experience, failure: float, save: Callable[[], None]):
        super().__init__()
        self.learning, self.experience, self.failure, self.save = learning, experience, failure, save

    def _on_step(self) -> bool:
        for episode in _store(self.locals["infos"], self.learning, self.experience):
            self.model.replay_buffer.take(episode, self.failure)  # type: ignore[attr-defined]
        if self.learning.due():
            self.save()
        return not self.learning.ended()


def _store(infos: list[dict[str, Any]], learning: Learning, experience: Experience) -> list[Episode]:
    """Episodes that ended at this step go to disk and into the curve."""
    for info in infos:
        for what, reason in info.get("left_out", ()):
            learning.leave_out(what, reason)
        if "error" in info:
            raise PolicyError(info["error"])
    ended = [info for info in infos if "episode_log" in info]
    for info in ended:
        experience.add(int(info["steps"]), bool(info["is_success"]), info["episode_log"])
        learning.episode(bool(info["is_success"]), int(info["steps"]), experience.steps)
    return [info["episode_log"] | {"success": np.array(info["is_success"])} for info in ended]


def dsrl(spec: AgentSpec, tasks: tuple[str, ...], learning: Learning, settings: DSRL, workers: int, seed: int) -> None:
    """Learns until `learning` ends. Checkpoints are those of `spec` with steering."""
    torch.set_num_threads(workers)  # updates and episodes take turns
    experience = Experience.open(learning.folder / "experience")
    learning.resume(experience, settings)
    first = max((int(layout) + 1 for layout in experience.column("seed")), default=training_seed(seed))
    many = (settings.hold, settings.repeats)
    makers: list[Callable[[], gymnasium.Env]] = [
        partial(NoiseEnv, spec, tasks, first + index, workers, *many) for index in range(workers)
    ]
    with in_processes(makers, learning.limits.step) as envs:
        _warm_up(envs, learning, experience, settings, seed)
        if (choices := _choices(experience)) < settings.warm_up:
            return learning.save_untaught(f"{choices} of {settings.warm_up} choices of the warm-up are made")
        model = _model(envs, experience, settings, learning, seed)
        failure = -1 / (1 - settings.discount)
        for episode in experience:
            model.replay_buffer.take(episode, failure)  # type: ignore[union-attr]
        model.num_timesteps = choices
        if learning.newest() is None and not _catch_up(model, learning, settings, workers):
            return learning.save_untaught("the warm-up is only in part learned from")
        save = partial(_save, model, learning, settings)
        keep = _Keep(learning, experience, failure, save)
        model.learn(2**62, callback=keep, reset_num_timesteps=False, progress_bar=False)
        save()


def _warm_up(envs: VecEnv, learning: Learning, experience: Experience, settings: DSRL, seed: int) -> None:
    """Random noise until the experience holds `warm_up` choices."""
    rng, shape = np.random.default_rng([seed, len(experience)]), (envs.num_envs, *(envs.action_space.shape or ()))
    if (choices := _choices(experience)) < settings.warm_up:
        envs.reset()
    while choices < settings.warm_up and not learning.ended():
        _, _, _, infos = envs.step(rng.uniform(-1.0, 1.0, shape).astype(np.float32))
        choices += sum(len(episode["noise"]) for episode in _store(infos, learning, experience))


def _catch_up(model: SAC, learning: Learning, settings: DSRL, workers: int) -> bool:
    """The updates that the warm-up's choices have not had: its first choices are not to be a random network's. Were
    there all of them?"""
    model.set_logger(Logger(folder=None, output_formats=[]))
    for _ in range(model.num_timesteps // workers // 3):
        if learning.ended():
            return False
        model.train(settings.gradient_steps * workers, settings.batch)
    return True


def _choices(experience: Experience) -> int:
    return sum(map(len, experience.column("noise")))


def _model(envs: VecEnv, experience: Experience, settings: DSRL, learning: Learning, seed: int) -> SAC:
    model = CheckedSAC(
        NormalisedCritics, envs, seed=seed + len(experience), device="cpu",
        learning_rate=settings.learning_rate, gamma=settings.discount, batch_size=settings.batch, learning_starts=0,
        train_freq=1, gradient_steps=settings.gradient_steps * envs.num_envs, ent_coef=settings.entropy,
        tau=settings.target_rate, replay_buffer_class=WholeEpisodes, buffer_size=settings.capacity,
        policy_kwargs={
            "net_arch": list(settings.hidden), "n_critics": settings.critics,
            "optimizer_class": torch.optim.AdamW, "optimizer_kwargs": {"weight_decay": settings.weight_decay},
            "features_extractor_class": Standardised,
            "features_extractor_kwargs": {"plain": learning.bundle.feature_sizes.plain},
        },
    )  # fmt: skip
    if (newest := learning.newest()) is not None:
        _restore(model, newest)
        return model
    seen = torch.from_numpy(np.concatenate(experience.column("features")))
    first, *others = (part for part in model.policy.modules() if isinstance(part, Standardise))
    first.fit(seen[:, :-1])
    for other in others:  # of the actor, the critics and their targets
        other.load_state_dict(first.state_dict())
    return model


def _save(model: SAC, learning: Learning, settings: DSRL) -> None:
    state: dict[str, Any] = {f"{NETWORKS}.safetensors": dict(model.policy.state_dict())}
    for name, optimizer in _optimizers(model).items():
        state[f"{name}.safetensors"], state[f"{name}.json"] = optimizer_state.split(optimizer.state_dict())
    learning.save(
        steering=_steering(model, learning, settings),
        judgement=learning.bundle.judgement,  # the flow was told, where its policy is
        memory=learning.bundle.memory,
        state=state,
    )


def _restore(model: SAC, folder: Path) -> None:
    model.policy.load_state_dict(store.read_tensors(folder, f"{store.TRAINING}/{NETWORKS}.safetensors"))
    for name, optimizer in _optimizers(model).items():
        moments = store.read_tensors(folder, f"{store.TRAINING}/{name}.safetensors")
        groups = store.read_json(folder, f"{store.TRAINING}/{name}.json")
        optimizer_state.load_into(optimizer, optimizer_state.joined(moments, groups))


def _optimizers(model: SAC) -> dict[str, torch.optim.Optimizer]:
    return {"actor_optimizer": model.actor.optimizer, "critic_optimizer": model.critic.optimizer}


def _steering(model: SAC, learning: Learning, settings: DSRL) -> Steering:
    actor, sizes, bundle = cast(Any, model.policy.actor), learning.bundle.feature_sizes, learning.bundle
    cfg = SteeringConfig(
        features=sizes.features, plain=sizes.plain, chunk=bundle.sizes.chunk,
        action_dim=bundle.model.controller.cfg.action_dim, hold=settings.hold, hidden=settings.hidden,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):  # when to save is the clock's business, what is explored is not
        steering = Steering(cfg)
    steering.latent_pi.load_state_dict(actor.latent_pi.state_dict())
    steering.mu.load_state_dict(actor.mu.state_dict())
    steering.log_std.load_state_dict(actor.log_std.state_dict())
    steering.standardise.load_state_dict(actor.features_extractor.standardise.state_dict())
    return steering
