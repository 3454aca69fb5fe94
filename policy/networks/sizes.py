"""Widths and lengths that the components of a policy share."""

from dataclasses import dataclass, field

from ...planner.trunk import Trunk


@dataclass(frozen=True)
class Sizes:
    """Widths that the components share. Their other sizes are the defaults in their own files."""

    width: int = 192  # D
    image_size: int = 96
    chunk: int = 16  # H
    goal_tokens: int = 4  # K
    keypoints: int = 12  # per camera
    ticks: int = 4  # P, planner ticks in the history
    tick: int = 8  # control steps between planner ticks
    instruction_length: int = 16  # words
    subtask_length: int = 12  # words
    draws: int = 2  # noise draws per encoded frame
    planner: Trunk = field(default_factory=Trunk)  # layers of System 2
