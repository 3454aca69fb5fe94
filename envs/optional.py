"""Packages that only some environments need."""

import importlib.util

from .errors import EnvError


def require(package: str, task: str, install: str) -> None:
    """EnvError, with what to do, where `package` is not installed. Imports nothing."""
    if importlib.util.find_spec(package) is None:
        raise EnvError(f"task {task!r} needs the package {package}; install it: {install}")
