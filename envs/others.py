"""Calls of code that others wrote: whatever it raises becomes one line that names the task, the call and the place."""

import os
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from .errors import EnvError


class RaisedError(EnvError):
    """Somebody's code raised, perhaps for one layout only."""


T = TypeVar("T")
_NOTED: dict[Any, Any] = {}  # what was said already
_ROOT = Path(__file__).parent.parent
HERE = (f"{_ROOT}{os.sep}", f"{_ROOT.resolve()}{os.sep}")  # Tandem's own files, also where a link leads to them
# Names under which packages are installed, where these differ from the names under which they are imported.
INSTALLED_AS = {"PIL": "pillow", "cv2": "opencv-python", "skimage": "scikit-image", "sklearn": "scikit-learn",
                "yaml": "pyyaml", "Box2D": "box2d-py", "ale_py": "ale-py"}  # fmt: skip


def call(what: str, function: Callable[..., T], *arguments: Any, **more: Any) -> T:
    """The function's result. RaisedError "`what` raised …" where it raises anything, also where it calls `sys.exit`.
    EnvError where a package is missing. MemoryError passes: it is the machine's."""
    try:
        return function(*arguments, **more)
    except (EnvError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # other people's code may raise anything
        kind = RaisedError if missing_package(error) is None else EnvError
        raise kind(f"{what} {said(error)}") from error


def note(words: str) -> None:
    """A warning of one line, once a process."""
    warnings.warn_explicit(words, UserWarning, "tandem.envs", 0, registry=_NOTED)


def said(error: BaseException) -> str:
    """ "raised ValueError: … (file.py, line 3)". For a package that is missing, what to install."""
    package = missing_package(error)
    if package is not None:
        return f"needs the package {package}, which is not installed: pip install {package}"
    words = " ".join(str(error).split())
    if isinstance(error, SystemExit):
        return f"ended with sys.exit({error.code!r}){place(error)}"
    return f"raised {type(error).__name__}{f': {words}' if words else ''}{place(error)}"


def missing_package(error: BaseException | None) -> str | None:
    """As it is installed. None where the error does not come from a missing package. Gymnasium's own error for that
    hides the import's error behind it."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            top = error.name.partition(".")[0]
            return INSTALLED_AS.get(top, top.replace("_", "-"))
        error = error.__cause__ or error.__context__
    return None


def place(error: BaseException) -> str:
    """ " (file.py, line 3)": the last line of code that neither Tandem nor an installed package holds, else the last
    one. Empty where there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    libraries = {*sysconfig.get_paths().values(), os.path.join(sys.prefix, "lib")}
    theirs = [f for f in frames if not f.filename.startswith((*HERE, *libraries))]
    last = (theirs or frames)[-1:]
    return f" ({last[0].filename}, line {last[0].lineno})" if last else ""
