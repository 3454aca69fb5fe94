"""Runs a command under a deadline and measures its memory, equally for Tandem and its peers.

Memory is the proportional set size of the whole process tree. Pages that loader processes share with their parent count
once. Everything here that reads /proc works on Linux only.

Peers get, by environment variables, the allocator settings that Tandem sets for itself (scripts/machine/malloc.py). On
CPUs these settings affect speed more than the model does. Further variables keep the peers from using a hub.
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

TICK = 0.5  # seconds between two checks whether the command has ended
LOOKS = 10  # ticks between two measurements of memory, because summing gigabytes of pages occupies a core for a while
GRACE = 60.0  # seconds between SIGTERM and SIGKILL
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(256 * 2**20),
}
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "WANDB_MODE": "disabled"}


@dataclass(frozen=True)
class Ran:
    """Measurements of a command that has ended."""

    seconds: float  # from its start to its end
    peak_gb: float  # largest measured memory of the process tree [GiB]
    finished: bool  # False: it was stopped at the deadline


def run(command: Sequence[str], log: Path, home: Path, deadline: float | None = None, threads: int = 2) -> Ran:
    """Runs a command until it ends or the deadline passes, and measures it.

    log: file for its output.
    home: folder for the caches of Hugging Face and LeRobot.
    deadline: seconds after which it is stopped. None: never.
    threads: value of OMP_NUM_THREADS.
    UserError, which names the log, where the command fails.
    """
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
    """Environment variables of a command: allocator, no hub, no GPU, caches in `home`, and OpenMP's threads."""
    places = {"HF_HOME": str(home / "huggingface"), "HF_LEROBOT_HOME": str(home / "lerobot")}
    settings = {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    return os.environ | ALLOCATOR | OFFLINE | places | settings


def module(python: Path, name: str, *arguments: str) -> list[str]:
    """The command line that runs scripts.peers.NAME with the interpreter `python`."""
    return [str(python), "-m", f"tandem.scripts.peers.{name}", *arguments]


def our_python() -> Path:
    """The interpreter that runs this process."""
    return Path(sys.executable)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the whole process group, so that loader processes end even where their parent was killed."""
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
    """Ids of a process and all its descendants, its own first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
        except OSError:  # the process has ended meanwhile
            continue
        children.setdefault(parent, []).append(int(entry.parent.name))
    found = [pid]
    for member in found:  # the list grows during the loop
        found += children.get(member, [])
    return found


def _kilobytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
