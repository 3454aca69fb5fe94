"""A run of reinforcement learning, as shared by all methods: its limits, its learning curve and its checkpoints.

A checkpoint of reinforcement learning is a normal one: `tandem eval`, `watch` and `compare` load it. It also holds the
method's own state, from which the run resumes.
"""

import json
import math
import time
from collections import deque
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ....data.errors import DataError
from ....data.files import is_count, json_bytes, read_bytes, read_object, write_atomic
from ...checkpoint import store
from ...checkpoint.bundle import Bundle
from ...errors import PolicyError
from ...evaluate.statistics import Proportion
from ...networks.advantage_token import Judgement
from ...networks.noise_actor import Steering
from ...networks.object_memory import Memory
from ...train.run_folder import Run
from .experience import Experience

WINDOW = 100  # newest episodes over which a point of the curve takes the success rate
REPORT = 20  # episodes between two points of the curve
ASKED = "asked.json"  # file of a run: method, settings, base checkpoint and tasks
CLOCK = "seconds"  # file of a run: its seconds of training at the last note
NOTED = 1.0  # seconds between two notes, because one takes some milliseconds on a disk


@dataclass(frozen=True)
class Limits:
    """Limits of a run: environment steps, minutes, the interval of checkpoints, and the deadline of a step."""

    steps: int  # environment steps, over all workers
    minutes: float  # minutes of training, over all legs of the run
    save_minutes: float = 5.0  # minutes between two checkpoints
    step: float | None = None  # seconds that a step may take. None: derived from the environment's rate.


@dataclass(kw_only=True)
class Practice:
    """Progress of a run: steps, episodes, seconds and recent successes."""

    run: Run
    limits: Limits
    steps: int = 0  # environment steps so far
    episodes: int = 0
    spent: float = 0.0  # seconds of training before `since`
    since: float = field(default_factory=time.perf_counter)
    noted: float = -NOTED  # second of the last note
    left_out: dict[str, int] = field(default_factory=dict)  # reason why episodes failed to run -> how often
    # success and control steps of the newest episodes
    recent: deque[tuple[bool, int]] = field(default_factory=lambda: deque(maxlen=WINDOW))

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.run.folder

    @property
    def lately(self) -> float:
        """Success rate in [0, 1] of the newest WINDOW episodes, 0 before the first one."""
        return sum(won for won, _ in self.recent) / max(1, len(self.recent))

    @property
    def seconds(self) -> float:
        """Seconds of training so far, over all legs of the run."""
        return self.spent + time.perf_counter() - self.since

    @property
    def left(self) -> float:
        """Seconds of training that remain. Negative once the minutes are used up."""
        return 60 * self.limits.minutes - self.seconds

    def episode(self, success: bool | None, length: int, total: int) -> None:
        """Counts one episode, and logs a point of the curve after every REPORT episodes.

        success: None where an expert helped. Such an episode is left out of the success rate.
        length: control steps of the episode.
        total: environment steps of all episodes.
        """
        if success is not None:
            self.recent.append((success, length))
        self.steps, self.episodes = total, self.episodes + 1
        self.tick()
        if self.episodes % REPORT == 0 and self.recent:
            won, lengths = zip(*self.recent, strict=True)
            share = Proportion(sum(won), len(won)).as_dict()
            about = {"episodes": self.episodes, "length": sum(lengths) / len(won), "minutes": self.seconds / 60}
            self.run.log("rl", total, {key: share[key] for key in ("success", "low", "high", "n")} | about)

    def leave_out(self, what: str, reason: str) -> None:
        """Counts an episode that failed to run, and prints the first one of each reason."""
        if reason not in self.left_out:
            print(f"left out: {what}: {reason}")
        self.left_out[reason] = self.left_out.get(reason, 0) + 1

    def stopped(self) -> bool:
        """True where the run is asked to stop. Passed to pools of workers."""
        return self.run.stop_requested

    def tick(self) -> None:
        """Writes the seconds of training to disk, at most once in NOTED seconds.

        The time then counts even where a kill loses its results. PolicyError where the disk is full.
        """
        if (now := self.seconds) - self.noted < NOTED:
            return
        self.noted = now
        try:
            write_atomic(self.folder / CLOCK, f"{now:.1f}".encode())
        except OSError as error:
            raise PolicyError(f"cannot write into {self.folder}: {error}; free space and --resume") from None

    def ended(self) -> bool:
        """True where the steps or minutes are used up, or the run is asked to stop."""
        over = self.steps >= self.limits.steps or self.left < 0
        return over or self.run.stop_requested


@dataclass(kw_only=True)
class Learning(Practice):
    """Progress of a run that improves a policy, with its checkpoints."""

    base: Path  # checkpoint of the policy that the run improves
    bundle: Bundle  # the policy of that checkpoint
    tasks: tuple[str, ...]
    about: dict[str, Any]  # method and settings, stored in the checkpoint
    saved: float = field(default_factory=time.perf_counter)  # time of the last checkpoint

    def resume(self, experience: Experience, settings: Any) -> None:
        """Continues from the files on disk, which may be newer than the last checkpoint.

        settings: the method's dataclass.
        PolicyError where the run was begun with other settings, tasks or base.
        """
        self.about = self.about | {"settings": json.loads(json.dumps(asdict(settings)))}
        self._same()
        self.spent = clock(self.folder)
        if (saved := self._saved()) is not None:
            self.spent = max(self.spent, float(saved["seconds"]))
            # the newest file of the experience may be lost
            experience.steps = max(experience.steps, int(saved["env_steps"]))
        self.steps, self.episodes = experience.steps, len(experience)

    def _same(self) -> None:
        """Stores the run's settings at its start. PolicyError where a resumed run has other ones."""
        asked, file = self.about | {"tasks": list(self.tasks)}, self.folder / ASKED
        if not file.exists():
            write_atomic(file, json_bytes(asked))
        before = read_asked(file)
        was, now = ({**about, **about["settings"]} for about in (before, asked))
        for name in (name for name in now if name != "settings"):
            if (old := was.get(name)) != now[name]:
                raise PolicyError(
                    f"cannot resume {self.folder}: {name} was {old!r}, is {now[name]!r}; choose another --output"
                )

    def newest(self) -> Path | None:
        """The last checkpoint of this run with trained weights. None where there is none yet."""
        saved = self._saved()
        return None if saved is None or saved.get("untaught") else store.resolve(self.folder)

    def _saved(self) -> dict[str, Any] | None:
        """The run's entry in its last checkpoint, None before the first one."""
        return saved(self.folder) if store.exists(self.folder) else None

    def due(self) -> bool:
        """True where `save_minutes` have passed since the last checkpoint."""
        return time.perf_counter() - self.saved > 60 * self.limits.save_minutes

    def save(
        self,
        state: dict[str, Any],
        steering: Steering | None = None,
        judgement: Judgement | None = None,
        memory: Memory | None = None,
        weights: dict[str, Tensor] | None = None,
        untaught: bool = False,
    ) -> Path:
        """Writes a checkpoint and returns its folder.

        state: name -> content of a file of training state, from which the method resumes.
        steering, judgement, memory: optional parts of the policy. None leaves the part out.
        weights: the policy's weights. None: those of `bundle`.
        untaught: True where the policy is the unchanged base.
        """
        self.saved = time.perf_counter()
        bundle = replace(self.bundle, steering=steering, judgement=judgement, memory=memory)
        stored = store.recipe(self.base)
        about = store.progress(self.base)
        mine = self.about | {
            "tasks": list(self.tasks),
            "env_steps": self.steps,
            "episodes": self.episodes,
            "seconds": round(self.seconds, 1),
            "untaught": untaught,
        }
        files = bundle.files(dict(bundle.model.state_dict()) if weights is None else weights)
        files |= {
            store.RECIPE: stored | {"tasks": list(self.tasks)},
            store.PROGRESS: about
            | {"has_planner": self.bundle.has_planner}
            | {"stage": "rl", "rl": mine, "seconds": round(about["seconds"] + self.seconds, 1)},
        }
        files |= {f"{store.TRAINING}/{name}": content for name, content in state.items()}
        return store.save(self.folder / "checkpoints", self.steps, files)

    def save_untaught(self, why: str, todo: str = "--resume with more --minutes or --steps goes on") -> None:
        """Saves the unchanged base policy, for a run that learned nothing worth keeping, and prints the reason.

        why: the reason.
        todo: advice to the user.
        """
        self.save({}, judgement=self.bundle.judgement, memory=self.bundle.memory, untaught=True)
        print(f"{why}: the checkpoint is the policy as it was; {todo}")


def saved(path: str | Path) -> dict[str, Any]:
    """A checkpoint's entry about its run. PolicyError where seconds or environment steps are missing."""
    about = store.progress(path).get("rl")
    if not isinstance(about, dict) or not all(is_count(about.get(name)) for name in ("seconds", "env_steps")):
        raise PolicyError(f"{path}: does not say how long it has practised; use an older checkpoint")
    return about


def read_asked(file: Path) -> dict[str, Any]:
    """The method, settings, base and tasks with which a run was begun. PolicyError where the file is damaged."""
    try:
        asked = read_object(file)
    except (OSError, DataError) as error:
        raise PolicyError(f"{error}; remove the file and --resume") from None
    if not isinstance(asked.get("settings"), dict):
        raise PolicyError(f"{file}: has no settings; remove the file and --resume")
    return asked


def clock(run: Path) -> float:
    """Seconds of training of a run at its last note, 0 before the first one. PolicyError where the file is damaged."""
    file = run / CLOCK
    try:
        seconds = float(read_bytes(file, 100))
    except FileNotFoundError:
        return 0.0
    except (OSError, ValueError, DataError) as error:
        raise PolicyError(f"{file} cannot be read ({str(error)[:100]}); remove it and --resume") from None
    if not 0 <= seconds < math.inf:
        raise PolicyError(f"{file} says {seconds}; remove it and --resume")
    return seconds
