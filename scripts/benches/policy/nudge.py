"""Episodes whose first looks get a given noise. The worker of `tandem bench noise`."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ....policy.act.agent import TandemAgent
from ....policy.act.runtime import Runtime
from ....policy.checkpoint.bundle import Bundle
from ....policy.evaluate.episode import environment, run_episode
from ....policy.evaluate.outcome import Episode
from ....policy.networks.noise_actor import spread
from ....policy.networks.policy_state import Situation

FIRST_SEED = 3_000_000  # of layouts, which nobody learns from


@dataclass(frozen=True)
class Job:
    checkpoint: Path
    task: str
    hold: int  # looks that the draw lasts
    layout: int
    draw: int
    repeat: int


class Nudged(TandemAgent):
    """Its first `hold` looks get `given`, the others what `repeat` draws."""

    hold = repeat = 0
    given: Tensor

    def reset(self, instruction: str, seed: int) -> None:
        super().reset(instruction, seed + self.repeat)
        self.left = self.hold

    def noise(self, situation: Situation) -> Tensor:
        self.left -= 1
        return self.given if self.left >= 0 else super().noise(situation)


@lru_cache(maxsize=1)
def _agent(checkpoint: Path) -> Nudged:
    return Nudged(Bundle.load(checkpoint), Runtime(mode="flat"))


def succeeds(job: Job) -> bool:
    """Runs one episode with these draws of noise. True where it succeeds."""
    torch.set_num_threads(1)
    agent = _agent(job.checkpoint)
    controller, rng = agent.model.controller.cfg, np.random.default_rng(job.draw)  # the same draws on every layout
    chosen = torch.from_numpy(rng.uniform(-1, 1, (1, controller.action_dim)).astype(np.float32))
    agent.given, agent.hold, agent.repeat = spread(chosen, controller.chunk), job.hold, job.repeat
    episode = Episode(job.task, FIRST_SEED + job.layout, "flat")
    return run_episode(environment(job.task, agent.image_size), agent, episode).success
