"""Runs a command under a deadline and watches its memory, alike for Tandem and for its peers.

Memory is the proportional set size of the whole process tree: pages that loader processes share with their parent count
once. Linux only, as is everything that is read from /proc here.

Peers get the allocator settings that Tandem gives itself (scripts/machine/malloc.py), by environment variables: on CPUs
they decide more than any model does. They are told to ask no hub for anything.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..shared.errors import UserError

TICK = 0.5  # seconds between two looks at whether it has ended
LOOKS = 10  # ticks between two looks at the memory: to add up gigabytes of pages takes a while of a core
GRACE = 60.0  # seconds to end in after having been asked to
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(256 * 2**20),
}
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "WANDB_MODE": "disabled"}


@dataclass(frozen=True)
class Ran:
    seconds: float
    peak_gb: float
    finished: bool  # False: it was stopped at the deadline


def run(command: Sequence[str], log: Path, home: Path, deadline: float | None = None, threads: int = 2) -> Ran:
    """home: where caches go. A command that fails is a UserError that names its log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"running {' '.join(command)}\n  log: {log}", flush=True)
    begin, peak, ticks = time.perf_counter(), 0.0, 0
    with open(log, "w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env=environment(home, threads),
            start_new_session=True,
        )  # fmt: skip
        stopped = False
        try:
            while process.poll() is None:
                if ticks < LOOKS or ticks % LOOKS == 0:
                    peak = max(peak, tree_gb(process.pid))
                ticks += 1
                stopped = deadline is not None and time.perf_counter() - begin > deadline
                if stopped:
                    break
                time.sleep(TICK)
        finally:
            _stop(process)
    if process.returncode and not stopped:
        raise UserError(f"{command[0]} ended with exit code {process.returncode}; its log is {log}")
    return Ran(time.perf_counter() - begin, round(peak, 2), not stopped)


def environment(home: Path, threads: int) -> dict[str, str]:
    places = {"HF_HOME": str(home / "huggingface"), "HF_LEROBOT_HOME": str(home / "lerobot")}
    settings = {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    return os.environ | ALLOCATOR | OFFLINE | places | settings


def module(python: Path, name: str, *arguments: str) -> list[str]:
    """The command that runs scripts.peers.NAME in the environment of `python`."""
    return [str(python), "-m", f"tandem.scripts.peers.{name}", *arguments]


def our_python() -> Path:
    return Path(sys.executable)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Loader processes end with the group, also where their parent was killed."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def tree_gb(pid: int) -> float:
    """Proportional set size of a process and its descendants [GiB]."""
    return sum(map(_kilobytes, descendants(pid))) / 2**20


def descendants(pid: int) -> list[int]:
    """The process itself first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
        except OSError:  # it has ended meanwhile
            continue
        children.setdefault(parent, []).append(int(entry.parent.name))
    found = [pid]
    for member in found:  # grows while it is walked
        found += children.get(member, [])
    return found


def _kilobytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
