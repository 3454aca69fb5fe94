"""DSRL: stable-baselines3's SAC chooses the noise of a frozen flow (arXiv 2506.15799).

    SAC on NoiseEnv
    observation   features of the policy's state at a look
    action        noise of all chunks of a whole attempt
    reward        -1 a choice until success

A look is a control step at which the agent encodes an observation and begins a chunk. A choice is one action of SAC:
noise that holds for `hold` looks. The trained actor becomes `policy.networks.noise_actor.Steering` in an otherwise
unchanged checkpoint.

DSRL is the default of `tandem rl`. It is cheap: the networks are small, and no weight of the policy is trained. It is
safe: every chunk is one that the flow can generate. It finds the best behaviour within the imitation policy. It cannot
add behaviour that the demonstrations never contained.

Notable choices
- An episode that runs out of time ends with the reward -1 / (1 - discount), the value of failing for ever. A slow
  success is then far better than none. The critic alone needs tens of thousands of updates to reach that value.
- The weight of the entropy is fixed. A learned weight falls to zero within minutes and takes as long to grow again.
  The fixed weight is the largest for which the entropy bonus is not worth a choice's -1.
- The critics are trained on a few hundred outcomes of one bit each. Hence there are five critics, of which the lowest
  value counts, and weight decay on critics and actor. Each layout is repeated several times (noise_env.py).
- Features are standardised by the statistics of the warm-up episodes.
- The warm-up's choices get a third of the updates that later choices get.
- There are two updates a choice. More updates overfit the outcomes, and leave the simulation no time on two cores.
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

NETWORKS = "sac"  # file name of SAC's networks in a checkpoint's training state


@dataclass(frozen=True)
class DSRL:
    """Settings of DSRL: SAC on the noise of the frozen flow."""

    # Looks that one choice of noise lasts. At each look the policy begins a new chunk of actions. The default is about
    # a whole attempt. Fewer looks give more choices an episode, each with less effect.
    hold: int = HOLD
    # Episodes on every layout. More repeats make outcomes depend on the noise alone, and show fewer layouts.
    repeats: int = 8
    # Updates of SAC per choice. More updates learn faster, overfit more, and leave less time for simulation.
    gradient_steps: int = 2
    # Learning rate of the actor and the critics. A larger one learns faster and is less stable.
    learning_rate: float = 3e-4
    # Choices in the batch of one update.
    batch: int = 256
    # Discount per choice. An episode has one to thirteen choices. A failure is worth -1 / (1 - discount).
    discount: float = 0.8
    # Share of the way that the target critics move towards the critics in an update (tau of SAC).
    target_rate: float = 0.01
    # Weight of the entropy, fixed. A larger weight explores more. Success is worth up to 1 / (1 - discount).
    entropy: float = 0.2
    # Number of critics. The lowest value counts, so more critics are more pessimistic.
    critics: int = 5
    # Weight decay of AdamW, for the actor and the critics.
    weight_decay: float = 0.01
    # Widths of the hidden layers of the actor and the critics.
    hidden: tuple[int, ...] = (256, 256)
    # Choices of random noise before SAC chooses: some 100 to 300 episodes.
    warm_up: int = 1000
    # Choices that the replay buffer holds. The oldest are overwritten.
    capacity: int = 100_000


class _Keep(BaseCallback):
    """Callback of SAC: stores whole episodes, saves checkpoints when due, and ends the training."""

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
    """Writes the episodes that ended at this step to disk and into the curve, and returns them."""
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
    """Trains SAC on the flow's noise until `learning` ends. Its checkpoints are the policy of `spec` with steering.

    PolicyError where an episode or an update is not usable, or a worker dies.
    """
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
    """Acts with random noise until the experience holds `warm_up` choices."""
    rng, shape = np.random.default_rng([seed, len(experience)]), (envs.num_envs, *(envs.action_space.shape or ()))
    if (choices := _choices(experience)) < settings.warm_up:
        envs.reset()
    while choices < settings.warm_up and not learning.ended():
        _, _, _, infos = envs.step(rng.uniform(-1.0, 1.0, shape).astype(np.float32))
        choices += sum(len(episode["noise"]) for episode in _store(infos, learning, experience))


def _catch_up(model: SAC, learning: Learning, settings: DSRL, workers: int) -> bool:
    """Runs the updates that the warm-up's choices have not had. Returns False where the run ended before the last one.

    Without them the first choices would come from an untrained network.
    """
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
    for other in others:  # the extractors of the actor, the critics and the target critics
        other.load_state_dict(first.state_dict())
    return model


def _save(model: SAC, learning: Learning, settings: DSRL) -> None:
    state: dict[str, Any] = {f"{NETWORKS}.safetensors": dict(model.policy.state_dict())}
    for name, optimizer in _optimizers(model).items():
        state[f"{name}.safetensors"], state[f"{name}.json"] = optimizer_state.split(optimizer.state_dict())
    learning.save(
        steering=_steering(model, learning, settings),
        judgement=learning.bundle.judgement,  # the frozen flow keeps its conditioning on the judgement
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
    with torch.random.fork_rng(
        devices=[]
    ):  # saving depends on the clock, and must not change the random numbers of exploration
        steering = Steering(cfg)
    steering.latent_pi.load_state_dict(actor.latent_pi.state_dict())
    steering.mu.load_state_dict(actor.mu.state_dict())
    steering.log_std.load_state_dict(actor.log_std.state_dict())
    steering.standardise.load_state_dict(actor.features_extractor.standardise.state_dict())
    return steering
