"""Who acts, and how: what a command line asks for and a worker process is given. Light: it imports no network."""

from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["hierarchical", "flat"]


@dataclass(frozen=True)
class Runtime:
    """How a checkpoint is run. The defaults are what `tandem eval` reports."""

    # "hierarchical" runs System 2 and System 1, "flat" System 1 alone. Default: hierarchical if System 2 was trained.
    mode: Mode | None = None
    # "rank" lets the world model choose among sampled chunks. Default: "off", the first chunk is acted.
    plan: Literal["off", "rank"] = "off"
    candidates: int = 8  # Chunks that --runtime.plan rank samples. More is slower.
    execute: int = 4  # Control steps of a chunk that are acted before the next inference of System 1.
    # Standard deviation of the initial flow noise. 0 makes sampling deterministic. Default: the checkpoint's, else 1.
    noise: float | None = None
    # Classifier-free guidance weight, for RECAP checkpoints only. 1 disables guidance. Default: the checkpoint's.
    guidance: float | None = None
    device: str = "cpu"  # Where the networks run: cpu, cuda, or auto for a GPU if there is one.
    # Control steps of the old chunk that are kept at the start of the new one (real-time chunking). Default: none.
    committed: int = 0
    done: float = 0.9  # Progress of a subtask, 0 to 1, at which System 2 is asked again before its next planned step.
    # Delay in milliseconds until a new chunk is acted. The old chunk is acted meanwhile. Default: no delay.
    latency_ms: float = 0.0
    # Deadline in milliseconds of one inference of System 2. Later ones are counted as events. Default: no deadline.
    planner_deadline_ms: float | None = None
    # Decode subgoals and imagined futures to pictures, for `tandem watch`. Slower. Default: off.
    pictures: bool = False


@dataclass(frozen=True)
class AgentSpec:
    """Picklable: a worker process makes the agent from it."""

    kind: str  # "checkpoint", "expert" or "random"
    checkpoint: str = ""
    runtime: Runtime = field(default_factory=Runtime)
