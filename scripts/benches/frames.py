"""The data set that a measurement reads."""

from pathlib import Path
from typing import Any

from ..shared.errors import UserError


def recorded(root: Path) -> Path:
    """`root`. UserError where no data set is there."""
    if not root.exists():
        raise UserError(f"no data set at {root}; record one with `tandem collect --output {root}`")
    return root


def frame_cache(root: Path, cache: Path) -> Any:
    """The data set, decoded."""
    from ...data.cache import FrameCache

    return FrameCache.build(recorded(root), cache)
