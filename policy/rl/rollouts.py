"""Whole episodes of a policy, with what it saw and did, for algorithms that learn from them off-line.

    roll_out(job) -> arrays per look (L of them), per control step (T) and of the episode; for workers of a Pool

The scripted expert may take over after some steps (`takeover`): what the policy got wrong is then followed by how it is
mended, which is what corrections by people are on real robots. Looks go on as before, so that both are seen alike.
"""

import zlib
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import envs
from policy import checkpoint
from policy.agent import TandemAgent
from policy.agents import AgentSpec, load_agent
from policy.bundle import Bundle
from policy.rl.exploration import Explorer, ExplorerConfig, noisy_chain
from policy.rl.progress import STATE
from policy.rollout import environment
from policy.situation import Situation

EXPLORER = "explorer.safetensors"  # in a checkpoint's training state


@dataclass(frozen=True)
class Job:
    spec: AgentSpec
    task: str
    seed: int
    takeover: float = 1.0  # share of the horizon after which the expert acts; 1: never
    draw: int = 0  # another one: the same layout, other noise
    explore: bool = False  # noise at every Euler step (exploration.py); the checkpoint must hold an explorer


@dataclass(frozen=True)
class Trajectory:
    task: str
    seed: int
    draw: int
    instruction: str
    success: bool
    steps: int  # T
    arrays: dict[str, np.ndarray]
    # z float16 (L, N, D), state float32 (L, S) normalised, goal float16 (L, K, D) or (L, 0, D) where there was none,
    # look int32 (L,) the control step of each, action float32 (T, A) in the environment's units, expert bool (T,) and
    # pushed bool (T,): who acts, and does it push itself aside; where noise explored: chain float32 (L, K + 1, H, A)


@lru_cache(maxsize=2)
def _agent(spec: AgentSpec) -> TandemAgent:
    agent = load_agent(spec)
    assert isinstance(agent, TandemAgent)
    return agent


@cache
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
    agent.reset(obs["task"], zlib.crc32(f"{job.task}/{job.seed}{f'/{job.draw}' if job.draw else ''}".encode()))
    instruction, kept, expert = obs["task"], _Kept(), None
    limit, ended, info = round(job.takeover * env.unwrapped.horizon), False, {"success": False}
    while not ended:
        if agent.looks:
            situation = agent.look(obs)
            kept.look(situation, agent.step)
            if job.explore:
                kept.chain(_explore(agent, _explorer(job.spec.checkpoint), situation))
            else:
                agent.decide(situation, agent.noise(situation))
        if agent.step == limit < env.unwrapped.horizon:
            expert = envs.expert(env, job.seed)
        action, pushed = agent.act(obs), False
        if expert is not None:
            action, _, pushed = expert.act()
        kept.step(action, expert is not None, pushed)
        env.unwrapped.looking = agent.looks
        obs, _, terminated, truncated, info = env.step(action)
        ended = terminated or truncated
    return Trajectory(job.task, job.seed, job.draw, instruction, bool(info["success"]), agent.step, kept.arrays())


@lru_cache(maxsize=2)
def _explorer(folder: str) -> Explorer:
    model: Any = Bundle.load(folder)
    cfg, features = model.model.controller.cfg, checkpoint.read_tensors(Path(folder), f"{STATE}/{EXPLORER}")
    explorer = Explorer(ExplorerConfig(features["net.0.weight"].shape[1], cfg.euler_steps, cfg.action_dim))
    explorer.load_state_dict(features)
    return explorer.requires_grad_(False)


def _explore(agent: TandemAgent, explorer: Explorer, situation: Situation) -> np.ndarray:
    """The agent acts the end of a noisy chain, (K + 1, H, A)."""
    controller = agent.model.controller
    context = controller.context(agent.instruction, situation.z, situation.referents, situation.goal)
    chain = noisy_chain(controller, context, explorer(situation.pooled()), agent.generator)
    agent.commit(chain[-1])
    return chain.numpy()


class _Kept:
    def __init__(self) -> None:
        self.rows: dict[str, list[Any]] = {}

    def look(self, situation: Any, step: int) -> None:
        goal = situation.z[:, :0] if situation.goal is None else situation.goal
        self._add("z", situation.z[0].numpy().astype(np.float16))
        self._add("goal", goal[0].numpy().astype(np.float16))
        self._add("state", situation.state[0].numpy())
        self._add("look", np.int32(step))

    def step(self, action: np.ndarray, expert: bool, pushed: bool) -> None:
        self._add("action", action.astype(np.float32))
        self._add("expert", expert)
        self._add("pushed", pushed)

    def chain(self, chain: np.ndarray) -> None:
        self._add("chain", chain)

    def _add(self, name: str, value: Any) -> None:
        self.rows.setdefault(name, []).append(value)

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: np.stack(rows) for name, rows in self.rows.items()}
