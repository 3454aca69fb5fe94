"""Flow policy gradient: PPO on a flow with a likelihood (ReinFlow, pi_RL).

    repeat: episodes with a random shift in the flow  ->  advantages of looks (baselines.py)
            ->  a few epochs of clipped policy gradient (PPO, arXiv 1707.06347)

The method is on-policy and therefore needs many episodes. It is the only one of the three methods that can leave the
behaviour that demonstrations made likely.

Notable choices
- The trained parameters are those of System 1's summary (policy/networks/controller.py). Through it the most decisive
  inputs reach every action. Everything else stays frozen. Latents are stored, so that an update costs what the
  controller costs. On episodes outside of its training, an update of all of System 1 promised less than one of the
  summary. That was so on Meta-World's reach and on push.
- A round has few, large updates. They stop when the policy has moved far enough (`kl`).
- Adam moves as far for noise as for a signal. Once nearly all episodes succeed, the noise is as large as ever, so that
  the steps become smaller (`_rate`).
- Episodes that are stuck end early (time_limit.py). Where episodes are long, that gives as many rounds in half of the
  time.
- A run that makes the policy worse stops, and leaves the policy as it was (early_stopping.py).
- The value function has the simulator's knowledge as input (critic.py). The simulator is otherwise deterministic, so
  that the remaining error of such a value function is the effect of the noise.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ....data.files import is_count
from ...act.runtime import AgentSpec
from ...checkpoint import optimizer_state, store
from ...checkpoint.bundle import Bundle
from ...errors import PolicyError
from ...evaluate.pool import Crash, Pool
from ..shared.episodes import EXPLORER, HOPELESS, Job, Trajectory, horizon, roll_out
from ..shared.experience import Experience
from ..shared.frames import Samples, of_trajectory
from ..shared.learning_run import Learning
from ..shared.seeds import unmet
from ..shared.stochastic_flow import Explorer, log_likelihood
from .advantages import rewards
from .baselines import Baseline, Group, Value
from .critic import seen
from .early_stopping import by_layout, declined
from .time_limit import Patience, patience


@dataclass(frozen=True)
class FlowPolicyGradient:
    """Settings of the policy gradient through the flow, shared by PPO and GRPO."""

    baseline: Value | Group = Value()  # Baseline of the advantages: a value function or a group of episodes.
    # Episodes in a round. More episodes give better gradients and fewer rounds.
    episodes: int = 96
    # Passes over the looks of a round, at most. They stop earlier at the divergence `kl`.
    epochs: int = 4
    # Looks in the batch of one update, approximately: a round is split into equal batches. At each look the policy
    # begins a new chunk of actions.
    batch: int = 512
    # Learning rate of the policy where at least half of the episodes fail. It falls as fewer fail.
    learning_rate: float = 6e-4
    # Lowest learning rate of the policy, where all episodes succeed, as a share of the learning rate.
    least_rate: float = 0.05
    # Learning rate of the explorer, the network for the size of the random shift.
    explorer_rate: float = 1e-4
    # Clipping range of the likelihood ratio: it counts within 1 - clip and 1 + clip.
    clip: float = 0.2
    # Mean KL divergence per look from the policy that acted, at which a round's updates stop. Lower is more careful.
    kl: float = 0.03


@dataclass(frozen=True)
class PPO(FlowPolicyGradient):
    """Settings of PPO (arXiv 1707.06347): advantages by a value function of the dense reward and of success."""

    baseline: Value = Value()  # Settings of the value function.


@dataclass(frozen=True)
class GRPO(FlowPolicyGradient):
    """Settings of GRPO (arXiv 2402.03300): advantages by success alone, against episodes of the same layout."""

    baseline: Group = Group()  # Settings of the groups of episodes.


# file names in a checkpoint's training state
MOMENTS, GROUPS, ROUNDS = "optimizer.safetensors", "optimizer.json", "rounds.json"


@dataclass
class Learner:
    """The policy, explorer, baseline and optimiser of a run, which persist from round to round."""

    bundle: Bundle  # the policy. Only its controller's summary is trained.
    explorer: Explorer
    baseline: Baseline
    optimizer: torch.optim.Optimizer
    took: float = 0.0  # seconds that the last round took
    patience: Patience = field(default_factory=dict)  # time limits from the last round
    first: list[float] = field(default_factory=list)  # success rate on each layout of the first round

    def state(self) -> dict[str, object]:
        """The files of a checkpoint's training state: name -> content."""
        moments, groups = optimizer_state.split(self.optimizer.state_dict())
        return {
            EXPLORER: dict(self.explorer.state_dict()),
            MOMENTS: moments,
            GROUPS: groups,
            ROUNDS: {"took": self.took, "patience": self.patience, "first": self.first},
        } | self.baseline.state()


def flow_policy_gradient(
    spec: AgentSpec,
    tasks: tuple[str, ...],
    learning: Learning,
    settings: FlowPolicyGradient,
    workers: int,
    seed: int,
) -> None:
    """Runs rounds until `learning` ends, or the time that remains is too short for another one.

    Each round leaves a checkpoint, with which the next round acts.
    PolicyError where every episode of a round crashes, or the loss is not finite.
    """
    experience = Experience.open(learning.folder / "experience", limit=1 << 30)
    learning.resume(experience, settings)
    torch.manual_seed(seed + len(experience))
    learner = _learner(learning, settings)
    newest, crashed = learning.newest() or _save(learning, learner), set[int]()
    with Pool(roll_out, workers, learning.limits.step, learning.stopped) as pool:
        while not learning.ended() and learning.left > learner.took:
            begin = learning.seconds
            layouts = unmet(experience, seed, settings.episodes // settings.baseline.draws, frozenset(crashed))
            jobs = _jobs(replace(spec, checkpoint=str(newest)), tasks, layouts, settings, learner.patience)
            rollouts = _rollouts(pool, jobs, learning)
            if learning.run.stop_requested:
                return
            crashed |= {job.seed for job in jobs} - {rollout.seed for rollout in rollouts}
            moved = {"return": float(np.mean([rewards(r).sum() for r in rollouts])), "crashed": len(crashed)}
            moved |= update(learner, rollouts, tasks, settings)
            _keep(rollouts, experience, learning)
            learner.patience = patience(rollouts)
            now = by_layout(rollouts, learner.patience)
            learner.first = learner.first or now
            if declined(learner.first, now):
                return _give_up(learning, learner.first, now)
            moved |= learner.baseline.learn(experience, len(rollouts))
            learning.run.log("flow_policy_gradient", experience.steps, moved)
            learner.took = learning.seconds - begin
            newest = _save(learning, learner)


def _rollouts(pool: Pool, jobs: list[Job], learning: Learning) -> list[Trajectory]:
    """The trajectories of one round, by seed and draw. They are incomplete where the run is asked to stop."""
    found: list[Trajectory] = []
    failed = 0
    for index, result in pool.run(jobs):
        learning.tick()
        if learning.run.stop_requested:
            return found
        if not isinstance(result, Crash):
            found.append(result)
            continue
        failed += 1
        learning.leave_out(f"{jobs[index].task} seed {jobs[index].seed}", result.reason)
        if failed >= HOPELESS and not found:
            raise PolicyError(f"the first {failed} episodes of a round failed; {result.reason}; then --resume")
    if not found and not learning.run.stop_requested:
        why = "; ".join(learning.left_out)
        raise PolicyError(f"every episode of a round crashed ({why}); run `tandem doctor`, then --resume")
    return sorted(found, key=lambda r: (r.seed, r.draw))


def _keep(rollouts: list[Trajectory], experience: Experience, learning: Learning) -> None:
    for rollout in rollouts:
        kept = {"seen": seen(rollout), "rewards": rewards(rollout), "seed": np.array(rollout.seed)}
        experience.add(rollout.steps, rollout.success, kept)
        learning.episode(rollout.success, rollout.steps, experience.steps)


def _give_up(learning: Learning, first: list[float], now: list[float]) -> None:
    was, is_now = (f"{100 * np.mean(share):.0f}%" for share in (first, now))
    learning.save_untaught(
        f"of the first round's episodes {was} succeeded, of the last one's {is_now}; this makes the policy worse",
        "try dsrl, or recap where a scripted expert is there",
    )


def _learner(learning: Learning, settings: FlowPolicyGradient) -> Learner:
    newest = learning.newest()
    bundle = Bundle.load(newest or learning.base)
    summary = bundle.model.controller.summary.requires_grad_(True)
    explorer, baseline = Explorer.of(bundle), settings.baseline.start(bundle, newest)
    rates = ((summary, settings.learning_rate), (explorer, settings.explorer_rate))
    optimizer = torch.optim.AdamW(
        [{"params": list(part.parameters()), "lr": rate} for part, rate in rates], weight_decay=0.0
    )
    if newest is not None:
        explorer.load_state_dict(store.read_tensors(newest, f"{store.TRAINING}/{EXPLORER}"))
        moments = store.read_tensors(newest, f"{store.TRAINING}/{MOMENTS}")
        groups = store.read_json(newest, f"{store.TRAINING}/{GROUPS}")
        optimizer_state.load_into(optimizer, optimizer_state.joined(moments, groups))
    rounds = {} if newest is None else read_rounds(newest)
    return Learner(bundle, explorer, baseline, optimizer, **rounds)


def read_rounds(folder: Path) -> dict[str, Any]:
    """The fields `took`, `patience` and `first` of a `Learner` in a checkpoint.

    PolicyError where the file holds anything else.
    """
    stored = store.read_json(folder, f"{store.TRAINING}/{ROUNDS}")
    stored = stored if isinstance(stored, dict) else {"": None}
    took, patience, first = stored.get("took", 0.0), stored.get("patience", {}), stored.get("first", [])
    values = [took, *(patience.values() if isinstance(patience, dict) else [None])]
    values += first if isinstance(first, list) else [None]
    known = all(map(is_count, values))
    if not known or stored.keys() - {"took", "patience", "first"}:
        raise PolicyError(f"checkpoint {folder}: {ROUNDS} says nothing of its rounds; use an older checkpoint")
    return stored


def _save(learning: Learning, learner: Learner) -> Path:
    return learning.save(learner.state(), weights=dict(learner.bundle.model.state_dict()))


def _jobs(
    spec: AgentSpec, tasks: tuple[str, ...], layouts: list[int], settings: FlowPolicyGradient, known: Patience
) -> list[Job]:
    """The episodes of a round: `draws` for each layout, with the tasks in turn."""
    jobs = []
    for layout in layouts:
        job = Job(spec, task := tasks[layout % len(tasks)], layout, patience=known.get(task), explore=True)
        jobs += [replace(job, draw=draw) for draw in range(settings.baseline.draws)]
    return jobs


@dataclass
class Round:
    """The F looks of one round's episodes, with their advantages and likelihoods."""

    samples: Samples
    before: Tensor  # (F, H, A), x before the shifted Euler step
    chosen: Tensor  # (F, A), mean of x over the chunk after the shift
    features: Tensor  # (F, number of features), input of the explorer
    gain: Tensor  # (F,) advantages
    old: Tensor  # (F,) log-likelihoods under the policy that acted, 0 where the advantage is 0


def update(
    learner: Learner, rollouts: list[Trajectory], tasks: tuple[str, ...], settings: FlowPolicyGradient
) -> dict[str, float]:
    """Runs one round of clipped policy gradient on the looks of `rollouts`.

    Returns divergence, number of updates, mean scale of the shift, and learning rate.
    PolicyError where the loss is not finite.
    """
    if not learner.explorer.known:
        learner.explorer.standardise.fit(_joined(rollouts, "features").float())
        learner.explorer.known.fill_(True)
    samples = Samples.joined([of_trajectory(learner.bundle, r, tasks, horizon(r.task)) for r in rollouts])
    before, chosen, features = (_joined(rollouts, name) for name in ("before", "chosen", "features"))
    gain = learner.baseline.gains(rollouts, samples.episode)
    some = torch.nonzero(gain)[:, 0]
    if not len(some):
        return {"divergence": 0.0, "updates": 0}
    now = Round(samples, before, chosen, features.float(), gain, torch.zeros(len(samples)))
    with torch.no_grad():
        for rows in some.split(256):
            now.old[rows] = _likelihood(learner, now, rows)
    divergence, updates = 0.0, 0
    learner.optimizer.param_groups[0]["lr"] = rate = _rate(rollouts, settings)
    for rows in (rows for _ in range(settings.epochs) for rows in _parts(some, settings.batch)):
        divergence, updates = _step(learner, now, rows, settings), updates + 1
        if divergence > settings.kl:
            break
    scale = float(learner.explorer(now.features).detach().mean())
    return {"divergence": divergence, "updates": updates, "scale": scale, "learning_rate": rate}


def _joined(rollouts: list[Trajectory], name: str) -> Tensor:
    return torch.from_numpy(np.concatenate([r.arrays[name] for r in rollouts]))


def _parts(rows: Tensor, batch: int) -> tuple[Tensor, ...]:
    """Splits the rows at random into equal parts of about `batch`. A small rest would be a noisy step of its own."""
    return rows[torch.randperm(len(rows))].tensor_split(max(1, round(len(rows) / batch)))


def _rate(rollouts: list[Trajectory], settings: FlowPolicyGradient) -> float:
    """Learning rate of the summary: proportional to the share of failures below one half, within bounds."""
    failed = 1 - float(np.mean([rollout.success for rollout in rollouts]))
    return settings.learning_rate * max(settings.least_rate, min(1.0, 2 * failed))


def _step(learner: Learner, now: Round, rows: Tensor, settings: FlowPolicyGradient) -> float:
    """Runs one update on the looks `rows`.

    Returns the mean KL divergence, before the update, of the policy from the one that acted.
    """
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
    """Log-likelihoods (B,) of the shifts of the looks `index` (B,) under the present policy."""
    rows, controller = now.samples.rows(index), learner.bundle.model.controller
    z = rows.z.float()
    with torch.no_grad():
        referents, _ = learner.bundle.model.grounding(rows.instruction, z)
    context = controller.context(rows.instruction, z, referents, rows.goal.float(), rows.has_goal)
    scale = learner.explorer(now.features[index])
    return log_likelihood(controller, context, scale, now.before[index], now.chosen[index])
