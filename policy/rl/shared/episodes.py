"""Runs whole episodes of a policy and keeps what methods learn from afterwards: observations, actions, rewards.

    roll_out(job) -> Trajectory: arrays per look (L of them), per control step (T), and facts of the episode

A look is a control step at which the agent encodes an observation and begins a chunk. `roll_out` is a job for the
workers of a Pool.

The scripted expert may take over after some steps (`takeover`). The policy's mistake is then followed by its
correction, as in corrections by people on real robots. Looks continue during the correction, so that both parts are
encoded alike. The expert gets a full horizon to finish, and is not disturbed by pushes.
"""

import zlib
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .... import envs
from ....data.errors import DataError
from ...act.agent import TandemAgent
from ...act.agents import load_agent
from ...act.runtime import AgentSpec
from ...checkpoint import store
from ...errors import CannotBegin, PolicyError
from ...evaluate.episode import environment, noise_seed
from ...evaluate.faults import EVERYONES, described
from ...evaluate.pool import Crash
from ...evaluate.worker import SLOW, beat, pace
from ...networks.object_memory import Seen
from ...networks.policy_state import Situation
from .expert_labels import advise
from .stochastic_flow import Explorer, explore

EXPLORER = "explorer.safetensors"  # file name of the explorer in a checkpoint's training state
PLACES = 9  # P: three positions of three axes each, see `_places`
HOPELESS = 10  # first episodes of a round. Where all of them crash, so would the others.
FAR = 2.0  # metres. Positions are clipped here, since an object that fell off the table falls without end.


@dataclass(frozen=True)
class Job:
    """One episode to run: policy, task, layout and options."""

    spec: AgentSpec  # the policy and its runtime
    task: str
    seed: int  # seed of the layout
    takeover: float = 1.0  # share of the horizon after which the expert acts. 1: never.
    draw: int = 0  # number of the attempt at this layout. Another draw has other noise.
    advised: bool = False  # keep the expert's next actions from every look at which the policy acts
    patience: int | None = None  # control steps after which the episode has failed. None: the task's horizon.
    explore: bool = False  # shift an Euler step (stochastic_flow.py). The checkpoint must hold an explorer.


@dataclass(frozen=True)
class Trajectory:
    """One episode with the arrays that methods learn from.

    Arrays per look (L looks)
    z         float16 (L, N, D): scene tokens
    state     float32 (L, S): normalised proprioception
    goal      float16 (L, K, D): subgoal, or (L, 0, D) without one
    features  float16 (L, F): `Situation.features`
    way       float32 (L, R, 3) [m], and looked float16 (L, R, E): see `object_memory.Seen`
    look      int32 (L,): control step of the look
    places    float32 (L, P) [m]: see `_places`

    Arrays per control step (T steps)
    action    float32 (T, A): in the environment's units
    reward    float32 (T,): the task's dense reward
    expert    bool (T,): the expert acts

    With `Job.advised`
    advice    float32 (L, H, A): the expert's next actions from each look, in the environment's units
    advised   int32 (L,): number of valid actions in `advice`

    With `Job.explore`
    before    float32 (L, H, A) and chosen float32 (L, A): see `stochastic_flow.explore`
    """

    task: str
    seed: int
    draw: int
    takeover: float
    instruction: str
    success: bool
    steps: int  # T
    arrays: dict[str, np.ndarray]  # name -> array, listed above


@lru_cache(maxsize=2)
def _agent(spec: AgentSpec) -> TandemAgent:
    agent = load_agent(spec)
    assert isinstance(agent, TandemAgent)
    return agent


@cache
def horizon(task: str) -> int:
    """Control steps after which an episode of the task ends."""
    env = envs.make(task).unwrapped
    return int(env.horizon)


def roll_out(job: Job) -> Trajectory | Crash:
    """Runs one episode.

    Returns a Crash where the simulation broke, or the environment or the expert raised. That layout is left out.
    PolicyError where an action of the policy or a reward is not finite: such an episode is not usable.
    """
    try:
        return _roll_out(job)
    except (PolicyError, DataError, *EVERYONES):
        raise
    except Exception as error:  # code of environments and experts may raise anything
        environment.cache_clear()
        return Crash(described(error))


def _roll_out(job: Job) -> Trajectory | Crash:
    torch.set_num_threads(1)
    agent = _agent(job.spec)
    env = environment(job.task, agent.image_size)
    inner, limit = env.unwrapped, round(job.takeover * horizon(job.task))
    inner.looking, inner.horizon = True, min(job.patience or horizon(job.task), horizon(job.task))
    pace(env.metadata.get("render_fps", 20))
    beat(SLOW)
    obs, _ = env.reset(seed=job.seed)
    beat(SLOW)
    begin(env, agent, obs["task"], noise_seed(job.task, job.seed, job.draw))
    instruction, kept, expert = obs["task"], _Kept(), None
    ended, info = False, {"success": False, "sim_error": False}
    try:
        while not ended:
            if agent.step == limit < horizon(job.task):
                expert = _expert(env, job)
                inner.horizon = limit + horizon(job.task)
            if agent.looks:
                situation = agent.look(obs)
                kept.look(situation, agent.past[0])
                kept.places(_places(inner))
                if job.advised:
                    kept.advice(_advice(env, agent, job.seed, expert is not None))
                _decide(agent, situation, job, expert is not None, kept)
            action = finite(agent, obs, job.task, job.seed)
            if expert is not None:
                action, _, _ = expert.act()
            inner.looking = agent.looks
            obs, reward, terminated, truncated, info = env.step(action)
            kept.step(action, _rewarded(float(reward), job, agent.step), expert is not None)
            ended = terminated or truncated
            if not ended and agent.step >= inner.horizon:
                raise envs.EnvError(f"task {job.task} did not end at its horizon of {inner.horizon} steps")
            beat()
    finally:
        inner.horizon = horizon(job.task)
    if info["sim_error"]:  # neither a success nor the policy's fault
        return Crash("the simulation broke")
    success = bool(info["success"])
    return Trajectory(
        job.task, job.seed, job.draw, job.takeover, instruction, success, agent.step, kept.arrays()
    )  # fmt: skip


def begin(env: envs.TaskEnv, agent: TandemAgent, told: str, seed: int) -> None:
    """Binds the agent to the environment and begins an episode.

    told: the instruction.
    seed: seed of the agent's noise.
    CannotBegin where the agent does not fit the environment.
    """
    try:
        agent.bind(env)
        agent.reset(told, seed)
    except (envs.EnvError, DataError) as error:
        raise CannotBegin(str(error)) from error


def _expert(env: envs.TaskEnv, job: Job) -> envs.Script:
    """The task's undisturbed scripted expert. CannotBegin where the task has none."""
    try:
        return envs.expert(env, job.seed, disturbed=0.0)
    except envs.EnvError as error:
        raise CannotBegin(str(error)) from error


def finite(agent: TandemAgent, obs: dict[str, Any], task: str, seed: int) -> np.ndarray:
    """The agent's next action (A,). PolicyError where the policy's action is not finite: it must not be stored."""
    action = agent.act(obs)
    if agent.events["held"]:
        raise PolicyError(
            f"{task} at seed {seed}: the policy's action at step {agent.step} is not finite; the episode was not "
            "stored; go on from a good checkpoint"
        )
    return action


def _rewarded(reward: float, job: Job, step: int) -> np.float32:
    if not np.isfinite(reward):
        raise PolicyError(
            f"{job.task} at seed {job.seed}: the reward of step {step} is not finite; the episode was not stored; mend "
            "the task, then --resume"
        )
    return np.float32(reward)


def _advice(env: envs.TaskEnv, agent: TandemAgent, seed: int, idle: bool) -> tuple[np.ndarray, int]:
    """The advice of one look: actions (H, A), padded with zeros, and the number of valid ones.

    idle: the expert acts already. The number is then 0.
    """
    H, A = agent.model.controller.cfg.chunk, agent.model.controller.cfg.action_dim
    padded = np.zeros((H, A), np.float32)
    if idle:
        return padded, 0
    actions = advise(env, seed, H)
    padded[: len(actions)] = actions
    return padded, len(actions)


def _decide(agent: TandemAgent, situation: Situation, job: Job, idle: bool, kept: "_Kept") -> None:
    """Chooses the chunk of this look. idle: the expert acts, so that the agent only gets a chunk of zeros."""
    if idle:
        controller = agent.model.controller.cfg
        agent.commit(torch.zeros(controller.chunk, controller.action_dim))
    elif job.explore:
        kept.choice(*_explore(agent, _explorer(job.spec), situation, _noise(job, kept.looks)))
    else:
        agent.decide(situation, agent.noise(situation))


@lru_cache(maxsize=2)
def _explorer(spec: AgentSpec) -> Explorer:
    explorer = Explorer.of(_agent(spec).bundle)
    explorer.load_state_dict(store.read_tensors(Path(spec.checkpoint), f"{store.TRAINING}/{EXPLORER}"))
    return explorer.requires_grad_(False)


def _noise(job: Job, looks: int) -> torch.Generator:
    """Random numbers for the shift of one look. The initial noise x_0 has its own (`TandemAgent.noise`)."""
    return torch.Generator().manual_seed(zlib.crc32(f"explore/{job.task}/{job.seed}/{job.draw}/{looks}".encode()))


def _explore(
    agent: TandemAgent, explorer: Explorer, situation: Situation, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Commits the agent to a chunk with a random shift. Returns `before` (H, A) and `chosen` (A,)."""
    controller = agent.model.controller
    context = controller.context(agent.instruction, situation.z, situation.referents, situation.goal)
    scale, start = explorer(situation.features()), agent.noise(situation)
    chunk, before, chosen = explore(controller, context, scale, start, generator)
    agent.commit(chunk)
    return before.numpy(), chosen.numpy()


def _places(env: envs.TaskEnv) -> np.ndarray:
    """float32 (P,): handled object, destination, and the vector between them, each (3,) in metres.

    Entries are clipped to [-FAR, FAR]. A missing position is zeros, as is everything without privileged observations.
    """
    known = env.privileged()
    if "referents" not in known:
        return np.zeros(PLACES, np.float32)
    things = known["observation.environment_state"].reshape(-1, 4)[:, :3]
    handled, destination = (things[i] if i >= 0 else np.zeros(3, np.float32) for i in known["referents"])
    return np.clip(np.concatenate([handled, destination, destination - handled]), -FAR, FAR)


class _Kept:
    def __init__(self) -> None:
        self.rows: dict[str, list[Any]] = {}

    @property
    def looks(self) -> int:
        return len(self.rows["look"])

    def look(self, situation: Situation, seen: Seen) -> None:
        goal = situation.z[:, :0] if situation.goal is None else situation.goal
        self._add("z", situation.z[0].numpy().astype(np.float16))
        self._add("goal", goal[0].numpy().astype(np.float16))
        self._add("state", situation.state[0].numpy())
        self._add("features", situation.features()[0].numpy().astype(np.float16))
        self._add("way", seen.way[0].numpy())
        self._add("looked", seen.looked[0].numpy().astype(np.float16))
        self._add("look", np.int32(seen.step))

    def step(self, action: np.ndarray, reward: np.float32, expert: bool) -> None:
        self._add("action", action.astype(np.float32))
        self._add("reward", reward)
        self._add("expert", expert)

    def choice(self, before: np.ndarray, chosen: np.ndarray) -> None:
        self._add("before", before)
        self._add("chosen", chosen)

    def places(self, places: np.ndarray) -> None:
        self._add("places", places)

    def advice(self, given: tuple[np.ndarray, int]) -> None:
        self._add("advice", given[0])
        self._add("advised", np.int32(given[1]))

    def _add(self, name: str, value: Any) -> None:
        self.rows.setdefault(name, []).append(value)

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: np.stack(rows) for name, rows in self.rows.items()}
