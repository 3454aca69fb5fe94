"""Subtask segments: maximal runs of one subtask inside an episode, and what hindsight says about each frame of them.

frame            0  1  2  3  4  5  6  7 | 8  9        (two episodes: 0..7 and 8..9, t runs to the right)
subtask          a  a  a  b  b  c  c  c | c  c
start            0  0  0  3  3  5  5  5 | 8  8
goal             3  3  3  5  5  7  7  7 | 9  9        first frame of the next segment, or the episode's last frame
progress         0 1/3 2/3 0 1/2 0 1/2 1| 0  1        (t - start) / (goal - start). 1 where start == goal
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Segments:
    """Start, end and progress of every frame's subtask."""

    start: np.ndarray  # (F,) first frame of the frame's segment
    goal: np.ndarray  # (F,) the frame that the subtask leads to
    progress: np.ndarray  # (F,) float32 in [0, 1]


def find_segments(subtask: np.ndarray, episode_start: np.ndarray, episode_end: np.ndarray) -> Segments:
    """subtask (F,), episode_start/_end (E,), end exclusive. The episodes follow one another without gaps."""
    frames = len(subtask)
    first = np.zeros(frames, bool)  # is the first frame of a segment
    first[1:] = subtask[1:] != subtask[:-1]
    first[episode_start] = True
    starts = np.flatnonzero(first)
    of_frame = np.cumsum(first) - 1  # which segment a frame belongs to
    following = np.append(starts[1:], frames)
    ends_episode = np.isin(following, episode_end)
    goals = np.where(ends_episode, following - 1, following)
    start, goal = starts[of_frame], goals[of_frame]
    length = goal - start
    progress = np.where(length > 0, (np.arange(frames) - start) / np.maximum(length, 1), 1.0)
    return Segments(start, goal, progress.astype(np.float32))
