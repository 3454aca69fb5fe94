"""One look for all progress bars: rate and time left. A line every half minute where nobody watches."""

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(**options: Any) -> tqdm:
    """tqdm(**options), quiet in logs: a terminal is refreshed twice a second, a file gets a line every 30 s."""
    watched = sys.stderr.isatty()
    return tqdm(**options, dynamic_ncols=watched, mininterval=0.5 if watched else 30.0, maxinterval=60.0)
