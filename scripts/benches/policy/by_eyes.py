"""Episodes in which the expert goes by a policy's eyes. The worker of `tandem bench eyes`."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from .... import envs
from ....envs.experts import Expert
from ....policy.act.agent import TandemAgent
from ....policy.act.runtime import Runtime
from ....policy.checkpoint.bundle import Bundle
from ....policy.evaluate.episode import environment, noise_seed

Who = Literal["expert", "expert by what is seen", "expert by what is recalled", "policy"]
FIXTURES = ("mark", "bowl")


@dataclass(frozen=True)
class Job:
    checkpoint: Path
    task: str
    seed: int
    who: Who  # acts


@dataclass(frozen=True)
class Ran:
    success: bool
    steps: int
    error: np.ndarray  # (L, R) of what is meant, as the eyes had it [m]; nan where nothing is meant
    distance: np.ndarray  # (L, R) from the hand [m]


@lru_cache(maxsize=1)
def _agent(checkpoint: Path) -> TandemAgent:
    return TandemAgent(Bundle.load(checkpoint), Runtime(mode="flat"))


def run(job: Job) -> Ran:
    torch.set_num_threads(1)
    agent = _agent(job.checkpoint)
    env = environment(job.task, agent.image_size)
    inner = env.unwrapped
    inner.looking = True
    obs, _ = env.reset(seed=job.seed)
    agent.bind(env)
    agent.reset(obs["task"], noise_seed(job.task, job.seed))
    script, names = envs.expert(env, job.seed, disturbed=0.0), bodies(inner)
    assert isinstance(script, Expert)
    glances, ended, info = [], False, {"success": False}
    while not ended:
        if agent.looks:
            off, distance = _look(agent, obs, inner, job.who)
            glances.append((np.linalg.norm(off, axis=1), distance))
            if job.who.startswith("expert by"):
                script.misplace({name: o for name, o in zip(names, off, strict=True) if name})
        action = agent.act(obs)
        if job.who != "policy":
            action = script.act()[0]
        inner.looking = agent.looks
        obs, _, terminated, truncated, info = env.step(action)
        ended = terminated or truncated
    error, distance = (np.stack(column) for column in zip(*glances, strict=True))
    return Ran(bool(info["success"]), agent.step, error, distance)


def _look(agent: TandemAgent, obs: dict[str, Any], inner: Any, who: Who) -> tuple[np.ndarray, np.ndarray]:
    """How far what is meant is off (R, 3), and its distance from the hand (R,), [m]. The agent decides what to do."""
    situation = agent.look(obs)
    seen = agent.past[0]
    way = (seen.way if who == "expert by what is seen" else situation.way)[0].numpy()
    known = inner.privileged()
    places = known["observation.environment_state"].reshape(-1, 4)[:, :3]
    true = np.array([places[i] if i >= 0 else np.full(3, np.nan) for i in known["referents"]]) - seen.hand[0].numpy()
    if who == "policy":
        agent.decide(situation, agent.noise(situation))
    else:
        controller = agent.model.controller.cfg
        agent.commit(torch.zeros(controller.chunk, controller.action_dim))
    return way - true, np.linalg.norm(true, axis=1)


def bodies(inner: Any) -> list[str]:
    """Of what is meant, the names that the simulation has for it. "" where nothing is."""
    names = {colour: f"object{i}" for i, colour in inner.sim.colour_of.items()} | {name: name for name in FIXTURES}
    return ["" if meant is None else names[meant] for meant in inner.task.referents(inner.sim)]
