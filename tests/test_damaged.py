"""Damaged files of every kind are one line that names the file, the value, and what helps; no locale changes that."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tandem.data.cache import FrameCache
from tandem.data.check import check
from tandem.data.errors import DataError
from tandem.data.files import json_bytes
from tandem.data.info import remedy
from tandem.data.reader import Dataset
from tandem.data.repair import repair, settle
from tandem.data.writer import Recorder
from tandem.scripts import results
from tandem.scripts.publish import figures
from tandem.scripts.shared.errors import UserError
from toy import read_frames, toy_contract, toy_dataset, toy_frames

FRONT = "observation.images.front"
ODD = [None, True, -1, 10**30, 1e308, float("nan"), "", "x", "../x", [], {}, [[]], {"a": 1}, "é\u202e"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A data set of ours, and the same as another program would have left it."""
    folder = tmp_path_factory.mktemp("sound")
    ours, foreign = toy_dataset(folder / "ours", 2, 3, 8), folder / "foreign"
    shutil.copytree(ours, foreign)
    (foreign / "meta" / "contract.json").unlink()
    info = json.loads((foreign / "meta" / "info.json").read_text(encoding="utf-8"))
    del info["contract_digest"]
    (foreign / "meta" / "info.json").write_bytes(json_bytes(info))
    return {"ours": ours, "foreign": foreign}


def spots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Places in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] + [spot for key, one in inner for spot in spots(one, (*path, key))]


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy in which `path` holds `new`; without it where `new` is Ellipsis."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(path) == 1 and new is Ellipsis:
        del copy[path[0]]
    else:
        copy[path[0]] = changed(copy[path[0]], path[1:], new)
    return copy


def one_line(use: Callable[[], object], foreign: bool) -> None:
    """It works, or is refused in one line, which sends nobody to a repair that would refuse."""
    try:
        use()
    except (DataError, UserError) as error:
        said = str(error)
        assert "\n" not in said and len(said) < 800 and said.encode()
        assert not foreign or "repair" not in said, said


def open_all(root: Path, cache: Path, foreign: bool) -> None:
    def read() -> None:
        dataset = Dataset(root)
        print(
            dataset.tasks,
            dataset.subtasks,
            dataset.stats,
            [read_frames(dataset, e) for e in range(len(dataset.episodes))],
        )

    for use in (read, lambda: check(root), lambda: FrameCache.build(root, cache, progress=False)):
        one_line(use, foreign)
    if not foreign:
        one_line(lambda: settle(root), foreign)
        one_line(lambda: repair(root, progress=False), foreign)


@pytest.mark.parametrize("name", ["info", "stats", "contract"])
@pytest.mark.parametrize("kind", ["ours", "foreign"])
def test_a_wrong_value_anywhere_in_a_json_file(sound: dict[str, Path], tmp_path: Path, kind: str, name: str) -> None:
    root, place = tmp_path / "set", f"meta/{name}.json"
    if not (sound[kind] / place).exists():
        pytest.skip("others have no contract")
    shutil.copytree(sound[kind], root)
    value = json.loads((root / place).read_text(encoding="utf-8"))
    places = spots(value)[:: 9 if name == "stats" else 1]
    for number, path in enumerate(places):
        for new in (..., ODD[number % len(ODD)]) if path else (None, [], 3):
            (root / place).write_bytes(json.dumps(changed(value, path, new)).encode())
            one_line(lambda: Dataset(root).stats, kind == "foreign")
            if number % 12 == 0:  # reading changes nothing, repairing does
                again = tmp_path / "again"
                shutil.copytree(root, again)
                open_all(again, tmp_path / "cache", kind == "foreign")
                shutil.rmtree(again)


def columns(rows: int) -> list[pa.Array]:
    """What may stand in a column instead."""
    return [
        pa.nulls(rows), pa.array(["x"] * rows), pa.array([b"\xff"] * rows), pa.array([-1] * rows),
        pa.array([2**62] * rows), pa.array([[1.0] * i for i in range(rows)]), pa.array([float("nan")] * rows),
        pa.array([{"bytes": None}] * rows), pa.array([b"\xff\xfe"] * rows).view(pa.string()),
        pa.array(["x"] * rows).dictionary_encode(), pa.array([10**15] * rows).cast(pa.timestamp("s")),
        pa.array([None, *[0] * (rows - 1)], pa.int64()),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["ours", "foreign"])
@pytest.mark.parametrize(
    "place", ["meta/tasks.parquet", "meta/subtasks.parquet", "meta/episodes/chunk-000/file-001.parquet",
              "data/chunk-000/file-001.parquet"],
)  # fmt: skip
def test_a_wrong_column_in_a_table(sound: dict[str, Path], tmp_path: Path, kind: str, place: str) -> None:
    root = tmp_path / "set"
    shutil.copytree(sound[kind], root)
    table = pq.read_table(root / place)
    for i, name in enumerate(table.column_names):
        odd = columns(len(table))
        chosen = [odd[i % len(odd)], odd[(i + 5) % len(odd)]] if i % 3 else []
        for new in [table.remove_column(i), *(table.set_column(i, name, column) for column in chosen)]:
            pq.write_table(new, root / place)
            open_all(root, tmp_path / "cache", kind == "foreign")
            shutil.rmtree(root)
            shutil.copytree(sound[kind], root)


def test_what_helps_depends_on_who_recorded(sound: dict[str, Path]) -> None:
    assert "tandem data repair" in remedy(sound["ours"]) and "repair" not in remedy(sound["foreign"])
    for kind, root in sound.items():
        assert remedy(root / "data" / "chunk-000" / "file-000.parquet") == remedy(root), kind


def test_damaged_results_are_one_line(tmp_path: Path) -> None:
    good = {
        "name": "x", "command": "tandem bench x", "manifest": {"code": "c", "processor": "p", "cores": 2},
        "metrics": {"per_task": {"a": {"flat": {"success": 0.5, "low": 0.1, "high": 0.9, "n": 3}}},
                    "b": {"c": {"d": 1.0}}},
    }  # fmt: skip
    page = "<!-- results:x -->\n<!-- /results:x -->"
    (tmp_path / "x.json").write_bytes(json_bytes(good))
    assert "50% [10, 90]" in results.fill(page, tmp_path)
    for content in (b"{", b"[]", b"\xff", b"null", b'{"metrics": {}}', b"[" * 5000):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(UserError, match="x.json"):
            results.fill(page, tmp_path)
        with pytest.raises(UserError, match="x.json"):
            figures.add_to_result("x", "tandem bench x", {"a": 1.0}, tmp_path)
    for path in spots(good)[1:]:
        for new in (..., *ODD):
            (tmp_path / "x.json").write_text(json.dumps(changed(good, path, new)), encoding="utf-8")
            one_line(lambda: results.fill(page, tmp_path), foreign=False)
    for name in ("bench_backbone", "rl_curves"):
        (tmp_path / f"{name}.json").write_bytes(json_bytes(good | {"metrics": {"decode": [], "x": 3}}))
        with pytest.raises(UserError, match="cannot be drawn"):
            results.plots(tmp_path)
        (tmp_path / f"{name}.json").unlink()


def opens_texts_by_locale(call: ast.Call) -> bool:
    """Does the call read or write text in whatever encoding the locale has?"""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in given or name not in ("open", "read_text", "write_text", "run", "Popen", "check_output"):
        return False
    if name == "open":
        mode = call.args[1] if len(call.args) > 1 else given.get("mode", ast.Constant("r"))
        return isinstance(call.func, ast.Name) and "b" not in str(getattr(mode, "value", ""))
    return name in ("read_text", "write_text") or bool({"text", "universal_newlines"} & given.keys())


def test_texts_are_utf_8_whatever_the_locale() -> None:
    root = Path(results.__file__).parent.parent
    found = [
        f"{path.relative_to(root)}:{node.lineno}"
        for part in ("backbone", "data", "envs", "planner", "policy", "scripts")
        for path in (root / part).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and opens_texts_by_locale(node)
    ]
    assert not found, "give encoding="


def test_a_locale_without_utf_8_changes_nothing(tmp_path: Path) -> None:
    """Instructions of any language are recorded, read and described where the locale is plain C."""
    words = "reiche den Würfel 🧊"
    with Recorder(tmp_path / "set", toy_contract()) as recorder:
        for frame in toy_frames(recorder.contract, 4, 0):
            recorder.add_frame(frame | {"subtask": words})
        recorder.save_episode(words, {"sim/seed": 0, "sim/task": "Würfel"})
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LC_")} | plain
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-m", "tandem.scripts", "data", "info", str(tmp_path / "set")],
        env=environment, capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 and b"W?rfel: 1 episodes" in done.stdout, done.stderr[-800:]
    assert Dataset(tmp_path / "set").tasks == {0: words}
