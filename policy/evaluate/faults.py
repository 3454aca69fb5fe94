"""An exception of somebody's environment, expert or policy in one line, as the outcome of an episode."""

import traceback
from pathlib import Path

from ...envs import PictureError
from ..errors import CannotBegin

EVERYONES = (CannotBegin, PictureError, MemoryError)  # not of one episode: no other one needs to be tried
LONGEST = 600  # characters


def described(error: BaseException) -> str:
    """ "RuntimeError: physics state is invalid (mine.py line 14)": its kind, its words, and where it was raised. Errors
    of this package say by themselves what was wrong."""
    words = " ".join(str(error).split()).encode("utf-8", "backslashreplace").decode()
    said = f"{type(error).__name__}: {words}" if words else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    ours = type(error).__module__.startswith(f"{__name__.split('.')[0]}.")
    where = f" ({Path(frames[-1].filename).name} line {frames[-1].lineno})" if frames and not ours else ""
    return said[: LONGEST - len(where)] + where
