"""Whole episodes of a policy, with what it saw and did, for algorithms that learn from them off-line.

    roll_out(job) -> arrays per look (L of them), per control step (T) and of the episode; for workers of a Pool

The scripted expert may take over after some steps (`takeover`): what the policy got wrong is then followed by how it is
mended, which is what corrections by people are on real robots. Looks go on as before, so that both are seen alike.
"""

import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

import envs
from policy.agent import TandemAgent
from policy.agents import AgentSpec, load_agent
from policy.rollout import environment


@dataclass(frozen=True)
class Job:
    spec: AgentSpec
    task: str
    seed: int
    takeover: float = 1.0  # share of the horizon after which the expert acts; 1: never


@dataclass(frozen=True)
class Trajectory:
    task: str
    instruction: str
    success: bool
    steps: int  # T
    arrays: dict[str, np.ndarray]
    # z float16 (L, N, D), state float32 (L, S) normalised, goal float16 (L, K, D) or (L, 0, D) where there was none,
    # look int32 (L,) the control step of each, action float32 (T, A) in the environment's units, expert bool (T,)


@lru_cache(maxsize=2)
def _agent(spec: AgentSpec) -> TandemAgent:
    agent = load_agent(spec)
    assert isinstance(agent, TandemAgent)
    return agent


def horizon(task: str) -> int:
    """Control steps after which an episode of the task ends."""
    env: Any = envs.make(task).unwrapped
    return int(env.horizon)


def roll_out(job: Job) -> Trajectory:
    torch.set_num_threads(1)
    agent = _agent(job.spec)
    env = environment(job.task, agent.image_size)
    env.unwrapped.looking = True
    obs, _ = env.reset(seed=job.seed)
    agent.bind(env)
    agent.reset(obs["task"], zlib.crc32(f"{job.task}/{job.seed}".encode()))
    instruction, kept, expert = obs["task"], _Kept(), None
    limit, ended, info = round(job.takeover * env.unwrapped.horizon), False, {"success": False}
    while not ended:
        if agent.looks:
            situation = agent.look(obs)
            agent.decide(situation, agent.noise(situation))
            kept.look(situation, agent.step)
        if agent.step == limit < env.unwrapped.horizon:
            expert = envs.expert(env, job.seed)
        action = agent.act(obs)
        if expert is not None:
            action, _, _ = expert.act()
        kept.step(action, expert is not None)
        env.unwrapped.looking = agent.looks
        obs, _, terminated, truncated, info = env.step(action)
        ended = terminated or truncated
    return Trajectory(job.task, instruction, bool(info["success"]), agent.step, kept.arrays())


class _Kept:
    def __init__(self) -> None:
        self.rows: dict[str, list[Any]] = {name: [] for name in ("z", "state", "goal", "look", "action", "expert")}

    def look(self, situation: Any, step: int) -> None:
        goal = situation.z[:, :0] if situation.goal is None else situation.goal
        self.rows["z"].append(situation.z[0].numpy().astype(np.float16))
        self.rows["goal"].append(goal[0].numpy().astype(np.float16))
        self.rows["state"].append(situation.state[0].numpy())
        self.rows["look"].append(np.int32(step))

    def step(self, action: np.ndarray, expert: bool) -> None:
        self.rows["action"].append(action.astype(np.float32))
        self.rows["expert"].append(expert)

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: np.stack(rows) for name, rows in self.rows.items()}
