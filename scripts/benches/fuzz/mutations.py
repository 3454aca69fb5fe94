"""Inputs for `tandem bench fuzz`: how files are spoiled, and what comes out of reading them (fuzz_targets.py).

Every input follows from (target, seed) alone.
"""

import json
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ....data.errors import DataError
from ....data.progress import progress_bar
from ....envs.errors import EnvError
from ....policy.errors import PolicyError
from ...shared.errors import UserError
from .targets import Target, targets

KNOWN = (DataError, PolicyError, EnvError, UserError, OSError)
HANG = 10  # seconds
MEMORY = 6 << 30  # bytes that may be taken beyond what is taken at the start


def fuzz(inputs: int, seed: int, only: str) -> dict[str, dict[str, int]]:
    """{target: {"inputs", "tracebacks", "hangs"}}. Prints every input that failed."""
    with tempfile.TemporaryDirectory(prefix="tandem-") as name:
        folder = Path(name)
        every = targets(folder)
        chosen = {key: target for key, target in every.items() if only in ("", key)}
        if not chosen:
            raise UserError(f"--only {only!r} is no target; known: {', '.join(every)}")
        total, found = sum(target.share for target in chosen.values()), {}
        with progress_bar(total=inputs, unit="input", desc="fuzz") as bar, limited():
            for key, target in chosen.items():
                count = -(-inputs * target.share // total)
                found[key] = _count(key, target, folder, range(seed, seed + count), bar.update)
    return found


def _count(key: str, target: Target, folder: Path, seeds: range, tick: Callable[[], Any]) -> dict[str, int]:
    counts = {"inputs": len(seeds), "tracebacks": 0, "hangs": 0}
    for seed in seeds:
        bad = try_input(key, target, folder, seed)
        if bad is not None:
            counts["hangs" if isinstance(bad, (TimeoutError, MemoryError)) else "tracebacks"] += 1
            print(f"{key} --seed {seed}: {type(bad).__name__}: {str(bad)[:150]}")
        tick()
    return counts


def try_input(key: str, target: Target, folder: Path, seed: int) -> BaseException | None:
    """Spoils the target's file, reads as a command does, and puts the file back. What came out that should not have."""
    file = folder / target.file
    sound = file.read_bytes()
    try:
        file.write_bytes(mutated(sound, file.suffix, np.random.default_rng([seed, *key.encode()])))
        signal.setitimer(signal.ITIMER_REAL, HANG)
        target.read(folder)
    except KNOWN as error:
        return error if isinstance(error, TimeoutError) else None
    except (Exception, RecursionError) as error:  # noqa: BLE001 - these are what is counted
        return error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        file.write_bytes(sound)
    return None


@contextmanager
def limited() -> Iterator[None]:
    """Signals for what hangs, and a limit for what takes memory."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"took more than {HANG} s")

    before, handler = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, late)
    taken = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGALRM, handler)


# -- mutations ---------------------------------------------------------------------------------------------------------
def mutated(content: bytes, suffix: str, rng: np.random.Generator) -> bytes:
    """Another content: bytes changed, or a value of it replaced."""
    ways: list[Callable[[bytes, np.random.Generator], bytes]] = [_flip, _truncate, _insert, _repeat]
    if suffix in (".json", ".jsonl"):
        ways += [_value] * 8
    if suffix == ".parquet":
        ways += [_column] * 8
    return ways[rng.integers(len(ways))](content, rng)


def _flip(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _truncate(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: rng.integers(len(content))]


def _insert(content: bytes, rng: np.random.Generator) -> bytes:
    at, more = int(rng.integers(len(content))), rng.bytes(int(rng.integers(1, 64)))
    return content[:at] + more + content[at:]


def _repeat(content: bytes, rng: np.random.Generator) -> bytes:
    a, b = sorted(rng.integers(0, len(content), 2).tolist())
    return content[:b] + content[a:b] + content[b:]


JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**70), 10**400, 0.5, 1e308, float("nan"), float("inf"), "", "x",
    "é\u202e", "\ud800", "a/../../b", "/etc/passwd", "{0.__class__}", "{chunk_index:099d}", "x" * 5000, [], [[]], {},
    {"a": {}}, [1] * 300,
)  # fmt: skip


def _value(content: bytes, rng: np.random.Generator) -> bytes:
    """Of JSON, or of one line of it."""
    lines = content.decode().splitlines() if b"\n{" in content.strip() else [content.decode()]
    at = int(rng.integers(len(lines)))
    value = json.loads(lines[at])
    for _ in range(int(rng.integers(1, 4))):
        value = _spoil(value, rng)
    try:
        lines[at] = json.dumps(value)
    except RecursionError:
        lines[at] = "[" * 5000
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _spoil(value: Any, rng: np.random.Generator) -> Any:
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.15:
        return _junk(rng)
    key = list(value)[rng.integers(len(value))] if isinstance(value, dict) else int(rng.integers(len(value)))
    what = rng.random()
    if what < 0.15:
        del value[key]
    elif what < 0.25 and isinstance(value, dict):
        value[str(_junk(rng))[:50]] = value.pop(key)
    else:
        value[key] = _spoil(value[key], rng)
    return value


def _junk(rng: np.random.Generator) -> Any:
    if rng.random() < 0.05:
        deep: Any = 1
        for _ in range(int(rng.integers(50, 200))):
            deep = [deep]
        return deep
    return deepcopy(JUNK[rng.integers(len(JUNK))])


def _column(content: bytes, rng: np.random.Generator) -> bytes:
    """Of a parquet file, written anew so that its checksums are right."""
    table = pq.read_table(pa.BufferReader(content))
    at, rows = int(rng.integers(table.num_columns)), table.num_rows
    kinds: list[Callable[[], pa.Table]] = [
        lambda: table.drop_columns([table.column_names[at]]),
        lambda: table.slice(0, int(rng.integers(rows + 1))),
        lambda: table.rename_columns([f"{n}x" if i == at else n for i, n in enumerate(table.column_names)]),
        lambda: table.set_column(at, table.column_names[at], _other_column(rows, rng)),
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(kinds[min(3, int(rng.integers(6)))](), sink)
    return bytes(sink.getvalue())


def _other_column(rows: int, rng: np.random.Generator) -> pa.Array:
    choices: list[Callable[[], pa.Array]] = [
        lambda: pa.nulls(rows), lambda: pa.array([None] * rows, pa.int64()), lambda: pa.array(["x"] * rows),
        lambda: pa.array([-1] * rows), lambda: pa.array([2**62] * rows), lambda: pa.array([float("nan")] * rows),
        lambda: pa.array([[1.0] * i for i in range(rows)]), lambda: pa.array([[[1.0]]] * rows),
        lambda: pa.array([b"\xff\xfe"] * rows), lambda: pa.array([{"bytes": b"x", "path": None}] * rows),
        lambda: pa.array([True] * rows), lambda: pa.array([[]] * rows, pa.list_(pa.float32())),
        lambda: pa.array(["x"] * rows).dictionary_encode(), lambda: pa.array([0] * rows, pa.timestamp("us")),
    ]  # fmt: skip
    return choices[rng.integers(len(choices))]()
