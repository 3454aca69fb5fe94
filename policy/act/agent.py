"""The two-rate agent: a planner that ticks slowly, a controller that runs between its ticks, one limiter at the end.

Clocks count control steps. Every `execute` steps the controller looks, and continues the chunk in flight (the committed
steps are its prefix: real-time chunking). Every `tick` steps, or as soon as the planner's own progress says
that the subtask is done, the planner thinks. The newest subgoal wins. A planner that fails or gives a non-finite
subgoal is counted in `events`, and the last subgoal stays. Without one, the agent runs flat.
"""

import math
import sys
import time
from collections import Counter, deque
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from ... import envs
from ...data.contract import Contract
from ...planner.search import rank
from ...planner.system2 import Plan
from ..checkpoint.bundle import Bundle, agree
from ..errors import PolicyError
from ..networks.advantage_token import GOOD
from ..networks.object_memory import Past, Seen
from ..networks.policy_state import Situation
from ..networks.scene_encoder import Scene
from .action_limiter import ActionLimiter
from .runtime import Mode, Runtime

NOTHING_NEW: dict[str, Any] = {"replanned": False, "planner_ms": None, "controller_ms": None}


class TandemAgent:
    """`reset(instruction, seed)`, then `act(obs) -> action` once a control step. `trace` says what it thought.

    Where `looks`, `act` is `decide(look(obs), noise)`: who wants another noise calls those two before `act`.
    """

    def __init__(self, bundle: Bundle, runtime: Runtime):
        if runtime.mode == "hierarchical" and not bundle.has_planner:
            raise PolicyError("the planner has learned nothing, as stage think was not trained; use mode flat")
        usual: Mode = "hierarchical" if bundle.has_planner else "flat"
        self.bundle, self.runtime = bundle, replace(runtime, mode=runtime.mode or usual)
        self.model = bundle.model.eval()
        self.sizes = bundle.config.sizes
        self.image_size: int | None = self.sizes.image_size
        self._bound: set[tuple[str, int]] = set()  # kinds of environments that agree with the contract
        _refuse_contradictions(runtime, steered=bundle.steering is not None, told=bundle.judgement is not None)
        self._delay = _steps_of_delay(runtime, bundle)
        self._warned: set[str] = set()  # instructions
        self.reset("", 0)

    def bind(self, env: gymnasium.Env) -> None:
        """The agent sees observations only. They must be those that it was trained on."""
        task = envs.task_of(env)
        kind = (task.name, task.image_size)
        if kind not in self._bound:
            agree(self.bundle.contract, Contract.from_fields(envs.contract_fields(*kind)))
            self._bound.add(kind)

    def reset(self, instruction: str, seed: int) -> None:
        """Begins an episode with these words. seed: of the agent's random numbers."""
        self.generator = torch.Generator().manual_seed(seed)
        self.instruction = self.bundle.tokenize([instruction], self.sizes.instruction_length).to(self.bundle.device)
        self.events: Counter[str] = Counter()
        action = self.bundle.contract.features["action"]
        self.limiter = ActionLimiter(self.model.controller.cfg.action_dim, self.events, kinds=action.kind)
        self._note_words(instruction)
        self.trace: list[dict[str, Any]] = []
        self.queue: deque[np.ndarray | None] = deque()  # normalised actions not yet executed; None: stay
        self.history: deque[Tensor] = deque(maxlen=self.sizes.ticks)  # z at planner ticks, (N, D)
        self.goal: Tensor | None = None  # (1, K, D)
        self.looked = 0  # times that steering was asked
        looks = 1 if self.bundle.memory is None else self.bundle.memory.cfg.looks
        self.past: deque[Seen] = deque(maxlen=looks)  # what was seen, the newest first
        self.previous = torch.zeros(1, self.sizes.subtask_length, dtype=torch.int64, device=self.bundle.device)
        self.subtask, self.progress = "", 0.0
        self.step = self.since_tick = self.since_kept = self.executed = 0
        self.entry: dict[str, Any] = dict(NOTHING_NEW)  # of the next step's trace

    @property
    def looks(self) -> bool:
        """Does the next `act` read images, or continue a chunk?"""
        return self.executed >= self.runtime.execute or not self.queue

    @torch.no_grad()
    def act(self, obs: dict[str, Any]) -> np.ndarray:
        """obs as in the contract -> action (A,) in [-1, 1]."""
        if self.looks:
            situation = self.look(obs)
            self.decide(situation, self.noise(situation))
        next_action = self.queue.popleft()
        self.executed += 1
        self.step += 1
        self.since_tick += 1
        self.since_kept += 1
        self.trace.append(
            {"subtask": self.subtask, "progress": self.progress, "goal_image": None, "future_image": None} | self.entry
        )
        self.entry = dict(NOTHING_NEW)
        return self.limiter.stay() if next_action is None else self.limiter(self.bundle.action(next_action))

    @torch.no_grad()
    def look(self, obs: dict[str, Any]) -> Situation:
        """Sees, and thinks where a tick of the planner is due."""
        begin = time.perf_counter()
        images, state = self.bundle.observation(obs)
        z, referents, way = self._understand(self.model.encoder(images, state), state)
        self.entry["controller_ms"] = 1e3 * (time.perf_counter() - begin)
        if self.runtime.mode == "hierarchical" and self._tick_is_due():
            self._think(z, referents, self.entry)
        words = self.model.controller.words(self.instruction).mean(1)
        return Situation(z, referents, way, state, self.goal, words)

    def _understand(self, scene: Scene, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scene tokens (1, N, D), those that are meant, and the ways to these (1, R, 3). From memory, if any."""
        grounding, memory = self.model.grounding, self.bundle.memory
        referents, named = grounding(self.instruction, scene.z)
        meant = named.softmax(-1)  # (1, R, K)
        way = meant @ scene.way
        looked = referents.unflatten(1, (way.shape[1], -1)).flatten(2)
        self.past.appendleft(Seen(self.step, way, self.bundle.hand_at(state), state, looked))
        if memory is None:
            return scene.z, referents, way
        recalled = memory(Past.of(self.past, memory.cfg.looks))
        z = self.model.encoder.with_ways(scene.bare, scene.way + meant.mT @ (recalled - way))
        return z, grounding(self.instruction, z)[0], recalled

    @torch.no_grad()
    def decide(self, situation: Situation, noise: Tensor) -> None:
        """noise (1, M, H, A), one chunk each: M is 1, or `candidates` where plans are ranked."""
        begin = time.perf_counter()
        self.commit(self._choose(situation, noise))
        self.entry["controller_ms"] += 1e3 * (time.perf_counter() - begin)

    def commit(self, chunk: Tensor) -> None:
        """The next actions are this chunk's, (H, A) normalised. With latency, after those of the last one that run
        meanwhile."""
        meanwhile = [*self.queue, *[None] * self._delay][: self._delay]
        self.queue, self.executed = deque([*meanwhile, *chunk.cpu().numpy()[self._delay :]]), 0

    def _note_words(self, instruction: str) -> None:
        """Counts words that no demonstration had, and those beyond the length that is read. Warns once of each."""
        unknown = self.bundle.tokenizer.unknown(instruction)
        cut = self.bundle.tokenizer.cut(instruction, self.sizes.instruction_length)
        for name, words in (("unknown_words", unknown), ("cut_words", cut)):
            if words:
                self.events[name] += len(words)
        if (unknown or cut) and instruction not in self._warned:
            self._warned.add(instruction)
            what = [f"does not know {', '.join(unknown)}"] if unknown else []
            what += [f"reads no further than {self.sizes.instruction_length} words: not {' '.join(cut)}"] if cut else []
            print(f"the policy {' and '.join(what)}, in {instruction!r}", file=sys.stderr)

    def noise(self, situation: Situation) -> Tensor:
        """(1, M, H, A): what steering chose, where the checkpoint has it. Else the episode's own random numbers."""
        cfg = self.model.controller.cfg
        if (steering := self.bundle.steering) is not None:
            if self.looked % steering.cfg.hold == 0:
                self.steered = steering(situation.features(), self._white(1, cfg.action_dim))
            self.looked += 1
            return self.steered
        draws = self.runtime.candidates if self.runtime.plan == "rank" and self.goal is not None else 1
        return self._white(1, draws, cfg.chunk, cfg.action_dim)

    def _white(self, *shape: int) -> Tensor:
        noise = torch.randn(*shape, generator=self.generator)  # the same on every device
        return self._deviation() * noise.to(self.bundle.device)

    def _deviation(self) -> float:
        if self.runtime.noise is not None:
            return self.runtime.noise
        steered, judgement = self.bundle.steering is not None, self.bundle.judgement
        return 1.0 if steered or judgement is None else judgement.cfg.noise

    def _tick_is_due(self) -> bool:
        return self.goal is None or self.since_tick >= self.sizes.tick or self.progress >= self.runtime.done

    def _think(self, z: Tensor, referents: Tensor, entry: dict[str, Any]) -> None:
        begin = time.perf_counter()
        if not self.history or self.since_kept >= self.sizes.tick:  # thinking early does not make the past denser
            self.history.append(z[0])
            self.since_kept = 0
        past = list(self.history)[:-1] + [z[0]]
        plan = self._plan(past, referents)
        self.since_tick = 0
        entry["planner_ms"] = 1e3 * (time.perf_counter() - begin)
        if self.runtime.planner_deadline_ms is not None and entry["planner_ms"] > self.runtime.planner_deadline_ms:
            self.events["planner_late"] += 1
        if plan is None:
            self.events["planner_failed"] += 1
            return
        text = self.bundle.text(plan.subtask[0])
        self.events["subtask_changed" if text != self.subtask else "subtask_kept"] += 1
        if text == self.subtask and self.goal is not None and torch.equal(plan.goal, self.goal):
            self.events["planner_repeated"] += 1
        self.goal, self.previous, self.subtask = plan.goal, plan.subtask, text
        self.progress = float(plan.progress[0])
        entry["replanned"] = True
        if self.runtime.pictures:
            entry["goal_image"] = self.bundle.picture(self.goal)

    def _plan(self, past: list[Tensor], referents: Tensor) -> Plan | None:
        """The planner's plan. None where it raises, or gives something of another shape or that is not finite."""
        try:
            plan = self.model.planner.sample(self.instruction, self.previous, *self._padded(past), referents)
            progress, goal = float(plan.progress[0]), (1, self.sizes.goal_tokens, self.sizes.width)
        except Exception as error:  # a planner may be anybody's: whatever it raises, the last subgoal stays
            print(f"the planner failed: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
            return None
        sound = plan.goal.shape == goal and plan.subtask.shape == self.previous.shape and math.isfinite(progress)
        return plan if sound and bool(torch.isfinite(plan.goal).all()) else None

    def _padded(self, past: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Ticks so far -> z (1, P, N, D), oldest first, and mask (1, P): the missing oldest ticks repeat the first."""
        P = self.sizes.ticks
        missing = P - len(past)
        mask = torch.tensor([[False] * missing + [True] * len(past)], device=past[0].device)
        return torch.stack([past[0]] * missing + past).unsqueeze(0), mask

    def _choose(self, situation: Situation, noise: Tensor) -> Tensor:
        z, goal = situation.z, situation.goal
        chunks = self._sample(situation, noise)[0]  # (M, H, A)
        best = 0
        if len(chunks) > 1 and goal is not None:
            best, _ = rank(self.model.world, z, goal, chunks, self.model.read_out)
        if self.runtime.pictures and goal is not None:
            forecast = self.model.world(z, chunks[best : best + 1], goal)
            self.entry["future_image"] = self.bundle.picture(self.model.read_out(forecast.z))
        return chunks[best]

    def _sample(self, situation: Situation, noise: Tensor) -> Tensor:
        controller, judgement = self.model.controller, self.bundle.judgement
        known = (self.instruction, situation.z, situation.referents, situation.goal)
        if judgement is None:
            return controller.sample(controller.context(*known), noise, self._prefix())
        good = judgement(torch.tensor([GOOD], device=noise.device))
        guidance = judgement.cfg.guidance if self.runtime.guidance is None else self.runtime.guidance
        told = controller.context(*known, told=good)
        untold = None if guidance == 1.0 else controller.context(*known)
        return controller.sample(told, noise, self._prefix(), untold, guidance)

    def _prefix(self) -> Tensor | None:
        if not self.runtime.committed or not any(action is not None for action in self.queue):
            return None
        kept = np.stack([action for action in self.queue if action is not None][: self.runtime.committed])
        return torch.from_numpy(kept).unsqueeze(0).to(self.bundle.device)


def _steps_of_delay(runtime: Runtime, bundle: Bundle) -> int:
    """Control steps that pass between an observation and the first action of the chunk which it led to."""
    delay = math.ceil(runtime.latency_ms / 1000 * bundle.contract.fps)
    room = bundle.sizes.chunk - runtime.execute
    if not 0 <= delay <= room:
        raise PolicyError(
            f"--runtime.latency-ms is {runtime.latency_ms:g}, {delay} control steps; use 0 to {room} of them: a chunk "
            f"has {bundle.sizes.chunk} actions, and {runtime.execute} run before the next"
        )
    return delay


def _refuse_contradictions(runtime: Runtime, steered: bool, told: bool) -> None:
    if runtime.guidance is not None and not told:
        raise PolicyError("--runtime.guidance is for checkpoints of recap, which are told how to act; leave it out")
    if runtime.noise is not None and runtime.noise < 0:
        raise PolicyError(f"--runtime.noise is {runtime.noise}, a deviation; use 0 or more")
    if runtime.plan == "rank" and (steered or runtime.noise == 0):
        why = "a steered checkpoint" if steered else "without noise the policy"
        raise PolicyError(f"{why} chooses one chunk, there is nothing to rank; use --runtime.plan off")
