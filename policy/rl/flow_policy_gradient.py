"""Flow policy gradient: PPO on the chain of a noisy flow (ReinFlow, pi_RL), from sparse success.

    repeat: episodes with noise in the flow  ->  advantages of their looks  ->  a few epochs of clipped policy gradient
    critic="value"  A by generalised advantage estimation with a value function (PPO, arXiv 1707.06347)
    critic="group"  A = how much better than other episodes of that layout (GRPO, arXiv 2402.03300), no value function

On-policy and therefore hungry; the one of the three methods that can leave what demonstrations made likely.

Notable choices
- Encoder, grounding and planner stay as they are; latents are stored, and an update costs what the controller costs.
- All Euler steps of a look are evaluated in one pass, as so many noise draws that share its context. Their likelihoods
  are averaged: the ratio of the sum would leave every clip after one update.
- Few, large updates a round, which stop when the policy has moved far enough (`kl`): success says little about a look.
- The value function learns from several rounds, on standardised features, and judges before it has seen a round.
"""

import io
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from policy import checkpoint
from policy.agents import AgentSpec
from policy.bundle import Bundle
from policy.errors import PolicyError
from policy.pool import Crash, Pool
from policy.rl.experience import Experience
from policy.rl.exploration import Explorer, ExplorerConfig, log_likelihood
from policy.rl.progress import STATE, Learning, training_seed
from policy.rl.rollouts import EXPLORER, Job, Trajectory, horizon, roll_out
from policy.rl.samples import Samples, of_trajectory, pooled
from policy.standardise import Standardise


@dataclass(frozen=True)
class FlowPolicyGradient:
    """Settings."""

    critic: Literal["value", "group"] = "value"
    episodes: int = 64  # per round
    group: int = 8  # of them share a layout, where critic="group"
    epochs: int = 2
    batch: int = 512  # looks a step
    learning_rate: float = 3e-5
    explorer_rate: float = 3e-4
    clip: float = 0.2  # of the ratio
    kl: float = 0.03  # mean divergence at which a round's updates stop
    discount: float = 0.99  # per look
    trace: float = 0.95  # lambda of generalised advantage estimation
    value_steps: int = 200  # updates of the value function per round
    rounds: int = 8  # that it learns from
    workers: int = 2


CRITIC = "critic.safetensors"  # in a checkpoint's training state


class Critic(nn.Module):
    """Discounted success to come, (B, F) -> (B,); `known` says that it has learned from a round."""

    known: Tensor

    def __init__(self, features: int):
        super().__init__()
        self.standardise = Standardise(features)  # by the first round
        first, second, last = nn.Linear(features, 256), nn.Linear(256, 256), nn.Linear(256, 1)
        self.net = nn.Sequential(self.standardise, first, nn.SiLU(), nn.Dropout(0.1), second, nn.SiLU(), last)
        self.register_buffer("known", torch.tensor(False))

    def forward(self, features: Tensor) -> Tensor:
        return self.net(features)[:, 0]


@dataclass
class Learner:
    """What is alive between rounds."""

    bundle: Bundle  # its controller learns
    explorer: Explorer
    critic: Critic
    optimizer: torch.optim.Optimizer
    seen: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # features and returns of the last rounds

    def state(self) -> dict[str, object]:
        """What a checkpoint needs beside the policy."""
        optimizer = io.BytesIO()
        torch.save(self.optimizer.state_dict(), optimizer)
        return {
            EXPLORER: dict(self.explorer.state_dict()),
            CRITIC: dict(self.critic.state_dict()),
            "optimizer.pt": optimizer.getvalue(),
        }


def flow_policy_gradient(
    spec: AgentSpec, tasks: tuple[str, ...], learning: Learning, settings: FlowPolicyGradient, seed: int
) -> None:
    """Rounds until `learning` ends; a checkpoint after each, which the next round's workers act from."""
    experience = Experience.open(learning.folder / "experience", limit=1 << 30)
    learning.resume(experience.steps)
    torch.manual_seed(seed + len(experience))
    learner = _learner(learning, settings)
    newest = learning.newest() or _save(learning, learner)
    with Pool(roll_out, settings.workers) as pool:
        while not learning.ended():
            jobs = _jobs(replace(spec, checkpoint=str(newest)), tasks, training_seed(seed) + len(experience), settings)
            rollouts = [r for _, r in pool.run(jobs) if not isinstance(r, Crash)]
            rollouts.sort(key=lambda r: (r.seed, r.draw))  # whatever order the workers ended in
            for rollout in rollouts:
                experience.add(rollout.steps, rollout.success, {"action": rollout.arrays["action"]})
                learning.episode(rollout.success, rollout.steps, experience.steps)
            moved = update(learner, rollouts, tasks, spec.runtime.execute, settings)
            learning.run.log("flow_policy_gradient", experience.steps, moved)
            newest = _save(learning, learner)


def _learner(learning: Learning, settings: FlowPolicyGradient) -> Learner:
    newest = learning.newest()
    bundle = Bundle.load(newest or learning.base)
    controller = bundle.model.controller.requires_grad_(True)
    features = (controller.cfg.referents + 3) * controller.cfg.width + bundle.config.state_dim
    explorer = Explorer(ExplorerConfig(features, controller.cfg.euler_steps, controller.cfg.action_dim))
    critic = Critic(features)
    rates = ((controller, settings.learning_rate), (explorer, settings.explorer_rate))
    optimizer = torch.optim.AdamW(
        [{"params": list(part.parameters()), "lr": rate} for part, rate in rates], weight_decay=0.0
    )
    if newest is not None:
        explorer.load_state_dict(checkpoint.read_tensors(newest, f"{STATE}/{EXPLORER}"))
        critic.load_state_dict(checkpoint.read_tensors(newest, f"{STATE}/{CRITIC}"))
        optimizer.load_state_dict(torch.load(newest / STATE / "optimizer.pt", weights_only=True))
    return Learner(bundle, explorer, critic.eval(), optimizer)


def _save(learning: Learning, learner: Learner) -> Path:
    return learning.save(learner.state(), weights=dict(learner.bundle.model.state_dict()))


def _jobs(spec: AgentSpec, tasks: tuple[str, ...], first: int, settings: FlowPolicyGradient) -> list[Job]:
    """Layouts that were not met before, tasks in turn; every layout once, or `group` times. first: its seed."""
    draws = settings.group if settings.critic == "group" else 1
    layouts = range(first, first + settings.episodes // draws)
    return [
        Job(spec, tasks[i % len(tasks)], i, draw=draw, explore=True)
        for i in layouts for draw in range(draws)
    ]  # fmt: skip


@dataclass
class Round:
    """The looks of one round's episodes, F of them, and how likely they were."""

    samples: Samples
    chain: Tensor  # (F, K + 1, H, A)
    executed: Tensor  # (F, H) bool
    features: Tensor  # (F, ...)
    gain: Tensor  # (F,) advantages
    old: Tensor  # (F,) log-likelihoods when they were acted


def update(
    learner: Learner, rollouts: list[Trajectory], tasks: tuple[str, ...], execute: int, settings: FlowPolicyGradient
) -> dict[str, float]:
    """One round of clipped policy gradient on the looks of `rollouts`; returns what it measured."""
    limits = [horizon(task) for task in tasks]
    samples = Samples.joined([of_trajectory(learner.bundle, r, tasks, limits[tasks.index(r.task)]) for r in rollouts])
    chain = torch.from_numpy(np.concatenate([r.arrays["chain"] for r in rollouts]))
    executed = samples.action_mask & (torch.arange(samples.action_mask.shape[1]) < execute)
    features = pooled(learner.bundle, samples)
    with torch.no_grad():
        gain, returns = estimate(samples, learner.critic(features), settings)
    if settings.critic == "group":
        gain = group_advantages(rollouts)[samples.episode]
    elif not learner.critic.known:  # nothing is an advantage yet
        return {"divergence": 0.0, "updates": 0} | _fit_critic(learner, features, returns, settings)
    now = Round(samples, chain, executed, features, gain, torch.zeros(len(samples)))
    with torch.no_grad():
        now.old = torch.cat([_likelihood(learner, now, rows) for rows in torch.arange(len(samples)).split(256)])
    divergence, updates = 0.0, 0
    for rows in (rows for _ in range(settings.epochs) for rows in torch.randperm(len(samples)).split(settings.batch)):
        divergence, updates = _step(learner, now, rows, settings), updates + 1
        if divergence > settings.kl:
            break
    moved = {"divergence": divergence, "updates": updates, "scale": float(learner.explorer(features).mean())}
    return moved | (_fit_critic(learner, features, returns, settings) if settings.critic == "value" else {})


def _step(learner: Learner, now: Round, rows: Tensor, settings: FlowPolicyGradient) -> float:
    """One update; how far the policy then was from the one that acted (an unbiased estimate of the divergence)."""
    log_ratio = _likelihood(learner, now, rows) - now.old[rows]
    ratio, gain = log_ratio.exp(), now.gain[rows]
    loss = -torch.minimum(ratio * gain, ratio.clamp(1 - settings.clip, 1 + settings.clip) * gain).mean()
    if not torch.isfinite(loss):
        raise PolicyError("flow policy gradient: the loss is not finite; --resume goes on from the last round")
    learner.optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in learner.optimizer.param_groups for p in group["params"]], 1.0)
    learner.optimizer.step()
    return float((ratio - 1 - log_ratio).mean().detach())


def _likelihood(learner: Learner, now: Round, index: Tensor) -> Tensor:
    rows, controller = now.samples.rows(index), learner.bundle.model.controller
    z = rows.z.float()
    with torch.no_grad():
        referents, _ = learner.bundle.model.grounding(rows.instruction, z)
    context = controller.context(rows.instruction, z, referents, rows.goal.float(), rows.has_goal)
    scale = learner.explorer(now.features[index])
    return log_likelihood(controller, context, scale, now.chain[index], now.executed[index]) / scale.shape[1]


def estimate(samples: Samples, value: Tensor, settings: FlowPolicyGradient) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over the looks of every episode -> normalised advantages, returns, (F,) each.

    The reward is 1 at the last look of an episode that succeeds; an episode that runs out of time ends with nothing.
    """
    gain, following = torch.zeros_like(value), 0.0
    last = torch.ones(len(samples), dtype=torch.bool)
    last[:-1] = samples.episode[1:] != samples.episode[:-1]
    for i in range(len(samples) - 1, -1, -1):
        ends = bool(last[i])
        reward = float(ends and bool(samples.success[i]))
        then = 0.0 if ends else float(value[i + 1])
        surprise = reward + settings.discount * then - float(value[i])
        following = surprise + (0.0 if ends else settings.discount * settings.trace * following)
        gain[i] = following
    return (gain - gain.mean()) / (gain.std() + 1e-6), gain + value


def group_advantages(rollouts: list[Trajectory]) -> Tensor:
    """(episodes,): success against the mean of the same layout's episodes, in deviations; 0 where all ended alike."""
    seeds = np.array([r.seed for r in rollouts])
    success = np.array([float(r.success) for r in rollouts])
    gains = np.zeros(len(rollouts), np.float32)
    for seed in np.unique(seeds):
        mine = seeds == seed
        if success[mine].std() > 0:
            gains[mine] = (success[mine] - success[mine].mean()) / success[mine].std()
    return torch.from_numpy(gains)


def _fit_critic(learner: Learner, features: Tensor, returns: Tensor, settings: FlowPolicyGradient) -> dict[str, float]:
    """Regression on the returns of the last rounds; its error on this one before it has learned from it."""
    critic = learner.critic
    if not critic.known:
        critic.standardise.fit(features)
        critic.known.fill_(True)
    with torch.no_grad():
        error = float((critic(features) - returns).square().mean())
    learner.seen = [*learner.seen, (features, returns)][-settings.rounds :]
    known, wanted = (torch.cat(parts) for parts in zip(*learner.seen, strict=True))
    optimizer = torch.optim.AdamW(critic.parameters(), 3e-4, weight_decay=0.1)
    critic.train()
    for _ in range(settings.value_steps):
        rows = torch.randint(len(known), (256,))
        loss = (critic(known[rows]) - wanted[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    critic.eval()
    return {"value_error": error, "value_chance": float(returns.var())}
