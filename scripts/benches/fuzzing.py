"""Inputs for `tandem bench fuzz`: which files there are, how a command reads each, and how they are spoiled.

Every input follows from (target, seed) alone.
"""

import json
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...data.cache import FrameCache
from ...data.contract import Contract
from ...data.errors import DataError
from ...data.normalize import Normalizer
from ...data.progress import progress_bar
from ...data.reader import Dataset
from ...data.writer import Recorder
from ...envs.errors import EnvError
from ...policy import checkpoint
from ...policy.bundle import _tokenizer, stored_config
from ...policy.errors import PolicyError
from ...policy.evaluate import EPISODES_FILE, read_outcomes
from ...policy.new_bundle import new_bundle
from ...policy.recipe import debug
from ..errors import UserError
from ..results_file import read_results
from ..settings import same_settings

KNOWN = (DataError, PolicyError, EnvError, UserError, OSError)
HANG = 10  # seconds
MEMORY = 6 << 30  # bytes that may be taken beyond what is taken at the start


@dataclass(frozen=True)
class Target:
    file: str  # below the folder
    read: Callable[[Path], Any]  # what a command does with the folder
    share: int = 1  # of the inputs


def fuzz(inputs: int, seed: int, only: str) -> dict[str, dict[str, int]]:
    """{target: {"inputs", "tracebacks", "hangs"}}; prints every input that failed."""
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


# -- files to spoil ----------------------------------------------------------------------------------------------------
def targets(folder: Path) -> dict[str, Target]:
    """Makes a small data set, checkpoint and evaluation in `folder`, once; how each of their files is read."""
    if not (folder / "set").exists():
        _make(folder)
    data = {"info": "set/meta/info.json", "contract": "set/meta/contract.json", "stats": "set/meta/stats.json"}
    data |= {"tasks": "set/meta/tasks.parquet", "subtasks": "set/meta/subtasks.parquet"}
    data |= {"episodes": "set/meta/episodes/chunk-000/file-000.parquet"}
    data |= {"frames": "set/data/chunk-000/file-000.parquet"}
    found = {f"data set: {name}": Target(file, _read_data, 2) for name, file in data.items()}
    found["data set elsewhere: info"] = Target("foreign/meta/info.json", lambda f: _read_dataset(f / "foreign"), 3)
    inner = f"run/{checkpoint.PRETRAINED}"
    found |= {
        "checkpoint: manifest": Target("run/manifest.json", lambda f: checkpoint.verify(f / "run"), 2),
        "checkpoint: config": Target(f"{inner}/config.json", lambda f: stored_config(f / "run"), 2),
        "checkpoint: contract": Target(f"{inner}/contract.json", _read_contract, 2),
        "checkpoint: normalizer": Target(f"{inner}/normalizer.json", _read_normalizer, 2),
        "checkpoint: tokenizer": Target(f"{inner}/tokenizer.json", lambda f: _tokenizer(f / "run"), 2),
        "checkpoint: train_config": Target(f"{inner}/train_config.json", lambda f: checkpoint.tasks(f / "run"), 2),
        "checkpoint: training_step": Target(f"run/{checkpoint.PROGRESS}", lambda f: checkpoint.modes(f / "run"), 2),
        "checkpoint: weights": Target(f"{inner}/model.safetensors", _read_weights, 2),
        "evaluation: results": Target("eval/results.json", lambda f: read_results(f / "eval/results.json"), 4),
        "evaluation: episodes": Target(f"eval/{EPISODES_FILE}", lambda f: read_outcomes(f / "eval"), 4),
        "evaluation: settings": Target("eval/settings.json", lambda f: same_settings(f / "eval", {"workers": 1}), 1),
    }
    return found


def _make(folder: Path) -> None:
    contract = Contract.from_fields(_fields())
    with Recorder(folder / "set", contract) as recorder:
        for episode in range(2):
            for t in range(4):
                recorder.add_frame(_frame(episode, t))
            recorder.save_episode(f"toy {episode}", {"sim/seed": episode, "sim/success": True, "sim/task": "reach"})
    shutil.copytree(folder / "set", folder / "foreign")
    (folder / "foreign/meta/contract.json").unlink()
    info = json.loads((folder / "foreign/meta/info.json").read_text(encoding="utf-8"))
    del info["contract_digest"]
    (folder / "foreign/meta/info.json").write_text(json.dumps(info), encoding="utf-8")
    cache = FrameCache.build(folder / "set", folder / "cache", progress=False)
    recipe = debug()
    recipe = replace(recipe, sizes=replace(recipe.sizes, image_size=16))
    bundle = new_bundle(recipe, cache)
    files = bundle.files({"probe.bias": next(bundle.model.parameters()).detach().flatten()[:8].clone()})
    files |= {
        checkpoint.RECIPE: {"tasks": ["reach"]},
        checkpoint.PROGRESS: {"stage": "think", "step": 1, "seconds": 1.0},
    }
    checkpoint.save(folder / "runs", 1, files).rename(folder / "run")
    _make_evaluation(folder / "eval")


def _make_evaluation(folder: Path) -> None:
    from ..eval import Args as Options
    from ..eval import run

    run(Options(agent="expert", tasks=("reach",), episodes=1, workers=1, controls=("normal",), output=folder))


def _fields() -> dict[str, Any]:
    vector = {"dtype": "float32", "shape": [2], "names": ["x", "y"], "low": -1, "high": 1}
    text = {"dtype": "string", "shape": [], "role": "text"}
    features = {
        "observation.images.front": {"dtype": "uint8", "shape": [16, 16, 3], "role": "image"},
        "observation.state": vector | {"role": "state"}, "action": vector | {"role": "action"}, "task": text,
        "subtask": text, "next.reward": {"dtype": "float32", "shape": [1], "role": "label"},
    }  # fmt: skip
    return {"robot": "toy", "fps": 20, "features": features}


def _frame(episode: int, t: int) -> dict[str, Any]:
    rng = np.random.default_rng([episode, t])
    state, action = rng.uniform(-1, 1, (2, 2)).astype(np.float32)
    image = rng.integers(0, 255, (16, 16, 3), np.uint8)
    seen = {"observation.images.front": image, "observation.state": state, "action": action}
    return seen | {"subtask": f"part {t // 2}", "next.reward": np.float32(t)}


def _read_data(folder: Path) -> None:
    _read_dataset(folder / "set")


def _read_dataset(root: Path) -> None:
    dataset = Dataset(root)
    _ = (dataset.tasks, dataset.subtasks, None if dataset.foreign else dataset.stats)
    for episode in range(min(2, len(dataset.episodes))):
        dataset.columns(episode)
        for key in dataset.contract.keys("image"):
            dataset.images(episode, key)


def _read_contract(folder: Path) -> None:
    raw = checkpoint.read_json(folder / "run", f"{checkpoint.PRETRAINED}/contract.json")
    Contract.from_json(json.dumps(raw))


def _read_normalizer(folder: Path) -> None:
    raw = checkpoint.read_json(folder / "run", f"{checkpoint.PRETRAINED}/normalizer.json")
    Normalizer.from_json(json.dumps(raw))


def _read_weights(folder: Path) -> None:
    checkpoint.read_tensors(folder / "run", f"{checkpoint.PRETRAINED}/model.safetensors", {"probe.bias": (8,)})


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
