"""What a figure was measured with: enough to say why a re-run differs."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from ...data.files import json_bytes, read_object, write_atomic

ROOT = Path(__file__).parents[2]
MADE_WITH = "made_with.json"  # file of a run's folder
PAGES = (":(exclude)docs", ":(exclude)README.md")
PACKAGES = ("tandem-vla", "torch", "mujoco", "numpy", "gymnasium", "mink", "daqp", "diffusers", "tokenizers")


def manifest(**more: Any) -> dict[str, Any]:
    """Code version, packages, machine, GL backend. `more` adds checkpoint digest, seeds and the like."""
    import torch

    return {
        "code": this_code(),
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "gl": os.environ.get("MUJOCO_GL", "default"),
    } | more


def this_command() -> str:
    """As a user would type it. `python -m tandem.scripts` is the same."""
    ours = Path(sys.argv[0]).name in ("tandem", "__main__.py")
    return "tandem " + shlex.join(sys.argv[1:]) if ours else shlex.join(sys.argv)


def say_how(output: Path) -> None:
    """Keeps the command and the code of a run's first leg in its folder, for the card of what it made."""
    file = output / MADE_WITH
    if output.is_dir() and not file.exists():
        write_atomic(file, json_bytes(manifest(command=this_command())))


def say_changes(output: Path) -> None:
    """Where a run goes on with other code, packages or another processor than it began with: says so in one line, and
    keeps it with what the run was made with."""
    file = output / MADE_WITH
    if not file.exists():
        return
    made, now = read_object(file), manifest(command=this_command())
    differ = [f"{key} (was {was}, now {new})" for key, was, new in _differences(made, now)]
    if differ:
        print(f"note: resumed with other {', '.join(differ)}; numbers can differ in their last digits", file=sys.stderr)
        legs = made.get("resumed")
        write_atomic(file, json_bytes(made | {"resumed": [*(legs if isinstance(legs, list) else []), now]}))


def _differences(made: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key in ("code", "processor", "python"):
        if made.get(key) != now[key]:
            yield key, made.get(key), now[key]
    packages = made.get("packages")
    for name, version in now["packages"].items():
        if isinstance(packages, dict) and packages.get(name) != version:
            yield name, packages.get(name), version


@cache
def this_code() -> str:
    """The code that this process began with, if it is asked for at the beginning: checkouts change under long runs."""
    return code_version()


def code_version(root: Path = ROOT) -> str:
    """The commit, with "+changes" where the checkout's code differs from it. Outside a checkout the package's version.

    Pages do not count: publishing one figure must not make the next look as if it came from other code.
    """
    try:
        if Path(_git(root, "rev-parse", "--show-toplevel")) != root:
            return _version("tandem-vla")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *PAGES)
        return _git(root, "rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return _version("tandem-vla")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, timeout=20, check=True)
    return done.stdout.decode("utf-8", "replace").strip()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
