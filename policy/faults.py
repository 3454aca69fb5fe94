"""An exception of somebody's environment, expert or policy in one line, as the outcome of an episode."""

import traceback
from pathlib import Path

LONGEST = 300  # characters


def described(error: BaseException) -> str:
    """ "RuntimeError: physics state is invalid (mine.py line 14)": its kind, its words, and where it was raised."""
    words = " ".join(str(error).split()).encode("utf-8", "backslashreplace").decode()
    said = f"{type(error).__name__}: {words}" if words else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name} line {frames[-1].lineno})" if frames else ""
    return said[: LONGEST - len(where)] + where
