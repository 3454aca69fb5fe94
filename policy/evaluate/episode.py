"""One evaluation episode: a function of (task, seed, control, agent) and of nothing else.

The outcome does not depend on which worker runs it, nor on what ran before: the environment is reset from the seed,
the agent's noise is seeded from task and seed, and torch runs on one thread. Whatever an environment, an expert or a
policy raises on the way is the status of that episode alone. What would be the same for all of them is an error.
"""

import hashlib
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch

from ... import envs
from ...data.errors import DataError
from ..act.agents import Agent, load_agent
from ..act.runtime import AgentSpec, Mode
from ..errors import CannotBegin, PolicyError
from .faults import EVERYONES, described
from .outcome import Episode, Outcome, outcome_of
from .worker import SLOW, beat, pace


@lru_cache(maxsize=16)
def environment(task: str, image_size: int | None) -> envs.TaskEnv:
    """CannotBegin where it cannot be made, or ignores its seeds: what it shows could not be seen again."""
    try:
        env = envs.make(task, image_size)
        with suppress(RuntimeError):  # what one layout raises is the business of its own episode
            envs.seed_is_heard(env)
        return env
    except MemoryError:
        raise
    except (envs.EnvError, DataError) as error:
        raise CannotBegin(str(error)) from error
    except Exception as error:  # somebody's environment, whose packages may be missing: it may raise anything
        raise CannotBegin(f"task {task} cannot be made: {described(error)}") from error


@lru_cache(maxsize=4)
def _agent(spec: AgentSpec) -> Agent:
    return load_agent(spec)


def run_job(job: tuple[AgentSpec, Episode]) -> Outcome:
    """For `policy.evaluate.pool.Pool`: environments and agents are kept between the episodes of a worker."""
    return attempt(*prepared(*job), job[1])


def prepared(spec: AgentSpec, episode: Episode) -> tuple[envs.TaskEnv, Agent]:
    """The environment and the agent of an episode."""
    if spec.kind == "checkpoint":
        spec = replace(spec, runtime=replace(spec.runtime, mode=cast(Mode, episode.mode)))
    agent = _agent(spec)
    return environment(episode.task, agent.image_size), agent


def noise_seed(task: str, seed: int, draw: int = 0) -> int:
    """Of an episode's random numbers. draw: another one, the same layout with other noise."""
    return zlib.crc32(f"{task}/{seed}{f'/{draw}' if draw else ''}".encode())


Watcher = Callable[[envs.TaskEnv, dict[str, Any]], None]  # called with (env, trace entry) before every step


def attempt(env: envs.TaskEnv, agent: Agent, episode: Episode, watch: Watcher | None = None) -> Outcome:
    """`run_episode`, where an exception is an outcome too, if it is of this episode (`faults.EVERYONES`)."""
    try:
        return run_episode(env, agent, episode, watch)
    except EVERYONES:
        raise
    except Exception as error:  # of an environment, an expert, a planner: they may raise anything
        environment.cache_clear()  # this one may be broken, and outcomes do not depend on what ran before
        return outcome_of(episode, status="error", detail=described(error))


def run_episode(env: envs.TaskEnv, agent: Agent, episode: Episode, watch: Watcher | None = None) -> Outcome:
    """Runs one episode and returns its outcome. Exceptions pass."""
    torch.set_num_threads(1)  # sums over several differ in their last bits, and contacts make another episode of that
    env.unwrapped.looking = True
    pace(env.metadata.get("render_fps", 20))
    beat(SLOW)
    obs, _ = env.reset(seed=episode.seed)
    beat(SLOW)
    told = _told(env, episode.control)
    digest = env.unwrapped.first_state_digest()
    if told is None:
        return outcome_of(episode, told="", first_state=digest, status="skipped")
    obs["task"] = told
    _begin(env, agent, told, noise_seed(episode.task, episode.seed))
    reward, steps, ended, info = 0.0, 0, False, {"success": False, "sim_error": False}
    actions = hashlib.sha256()
    while not ended:
        action = agent.act(obs)
        actions.update(np.asarray(action, np.float32).tobytes())
        if watch is not None:
            watch(env, agent.trace[-1])
        env.unwrapped.looking = agent.looks
        obs, gain, terminated, truncated, info = env.step(action)
        obs["task"] = told
        reward, steps, ended = reward + float(gain), steps + 1, terminated or truncated
        if not ended and steps >= env.unwrapped.horizon:
            raise envs.EnvError(f"task {episode.task} did not end at its horizon of {steps} steps; truncate it there")
        beat()
    status, success = "sim_error" if info["sim_error"] else "done", bool(info["success"] and not info["sim_error"])
    return outcome_of(
        episode, told=told, first_state=digest, status=status, success=success, steps=steps,
        reward=round(reward, 6), planner_ms=_times(agent, "planner_ms"), controller_ms=_times(agent, "controller_ms"),
        events=dict(agent.events), actions=actions.hexdigest()[:16],
    )  # fmt: skip


def _begin(env: envs.TaskEnv, agent: Agent, told: str, seed: int) -> None:
    """CannotBegin where the agent does not fit the environment, or the environment has no expert."""
    try:
        agent.bind(env)
        agent.reset(told, seed)
    except (envs.EnvError, DataError, PolicyError) as error:
        raise CannotBegin(str(error)) from error


def _told(env: envs.TaskEnv, control: str) -> str | None:
    return {"normal": env.unwrapped.instruction, "empty": "", "wrong": env.unwrapped.wrong_instruction()}[control]


def _times(agent: Agent, name: str) -> tuple[float, ...]:
    return tuple(round(float(np.float64(e[name])), 2) for e in agent.trace if e[name] is not None)
