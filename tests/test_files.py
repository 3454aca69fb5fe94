"""Laws of data/files.py: only regular files of a bounded size in their own folder are read, nothing is written through
a link, and every refusal is one line of a DataError."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tandem.data.errors import DataError
from tandem.data.files import (
    MAX_DEPTH,
    Lock,
    check_name,
    check_text,
    parse_json,
    read_bytes,
    read_json,
    read_object,
    walk,
    write_atomic,
    write_changed,
)


def refused(error: pytest.ExceptionInfo[DataError], path: Path) -> bool:
    return str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def at_once():
    """Whatever waits for a FIFO or reads without end is interrupted."""

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError("did not return at once")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def odd_files(folder: Path) -> dict[str, Path]:
    """What may lie where a file of ours is expected."""
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "secret").write_text("1")
    root = folder / "root"
    root.mkdir()
    odd = {name: root / name for name in ("fifo", "folder", "zero", "out", "sparse", "loop", "socket", "proc")}
    os.mkfifo(odd["fifo"])
    odd["folder"].mkdir()
    odd["zero"].symlink_to("/dev/zero")
    odd["proc"].symlink_to("/proc/self/status")  # a regular file of 0 bytes that has content
    odd["out"].symlink_to("../elsewhere/secret")
    odd["loop"].symlink_to("loop")
    with open(odd["sparse"], "wb") as file:
        file.truncate(1 << 40)
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(root, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    return odd | {"below a file": odd["sparse"] / "x", "no name": root / "a\0b", "half": root / "\ud800"}


def test_only_regular_files_of_the_folder_are_read_and_nothing_waits(tmp_path: Path, at_once: None) -> None:
    for name, path in odd_files(tmp_path).items():
        for root in (tmp_path / "root", None):
            if (name, root) == ("out", None):
                continue  # the user's own link
            with pytest.raises(DataError) as error:
                read_bytes(path, 1 << 20, root)
            assert refused(error, path), name
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "root" / "absent", 10)
    (tmp_path / "root" / "real").write_text("[1]")
    (tmp_path / "root" / "link").symlink_to("real")
    assert read_json(tmp_path / "root" / "link", tmp_path / "root") == [1]


def test_a_file_that_may_not_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("{}")
    (tmp_path / "mine").chmod(0)
    if os.access(tmp_path / "mine", os.R_OK):
        pytest.skip("root may read everything")
    with pytest.raises(DataError, match="mine: cannot be opened"):
        read_json(tmp_path / "mine")


def test_a_limit_is_compared_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(tmp_path / "a", 5) == b"12345"
    with pytest.raises(DataError, match="5 bytes, more than the 4"):
        read_bytes(tmp_path / "a", 4)


@pytest.mark.parametrize("name", ["front", "left wrist", "rgb.left", "Ärm", "手", "a" * 200, ".hidden"])
def test_names_of_files_may_be_of_any_language(name: str) -> None:
    assert check_name(name, "camera") == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "/etc", "..\\a", "a\nb", "a\0b", "\u202egnp.txt", "\ud800",
     "a" * 201, "ä" * 101, 3, None, "a\x1b[2J"],
)  # fmt: skip
def test_names_that_leave_a_folder_or_deceive_are_refused(name: object) -> None:
    with pytest.raises(DataError, match="camera") as error:
        check_name(name, "camera")
    assert str(error.value).isprintable()


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe{}", b'{"a": }', b"nan", b"1" * 5000, nested(MAX_DEPTH + 1).encode(), 
     nested(100_000).encode(), b'{"a":' * 100_000, b'{"task": "\\ud83d"}', b"[]," * 4 + b"[]", b"\x00"],
)  # fmt: skip
def test_damaged_json_is_one_line(content: bytes) -> None:
    with pytest.raises(DataError, match="info.json") as error:
        parse_json(content, "info.json")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_json_of_many_values_is_refused_before_it_is_built() -> None:
    with pytest.raises(DataError, match="values"):
        parse_json(b"[" + b"[]," * (9 << 20) + b"1]", "info.json")


whole = st.integers(-(2**63), 2**64 - 1)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
)


@settings(deadline=None)
@given(values)
def test_json_that_was_written_is_read(value: object) -> None:
    for ascii_only in (True, False):
        assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode(), "x") == value


def test_brackets_in_a_text_are_no_depth() -> None:
    text = "[{" * 1000
    assert parse_json(json.dumps({"task": text, "also": [text] * 3}), "x")["task"] == text
    assert parse_json(nested(MAX_DEPTH), "x") and parse_json(json.dumps([[]] * 1000), "x") == [[]] * 1000


def test_an_object_is_asked_for(tmp_path: Path) -> None:
    for content, kind in (("[]", "a list"), ("3", "a number"), ("null", "null"), ('"x"', "a text")):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(DataError, match=f"{kind} where an object"):
            read_object(tmp_path / "x.json")


def test_texts_that_no_file_can_hold_are_refused() -> None:
    assert check_text("put 🧊 in the cup", "task")
    for text in ("\udcff", "x" * 70_000, 3, None, b"x"):
        with pytest.raises(DataError, match="^task") as error:
            check_text(text, "task")
        assert len(str(error.value)) < 300 and error.value.args[0].encode()


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    thesis, root = tmp_path / "thesis", tmp_path / "root"
    thesis.write_text("years of work")
    (root / "meta").mkdir(parents=True)
    for name in ("info.json", ".info.json.tmp", "other.json"):
        (root / "meta" / name).symlink_to(thesis)
    os.link(thesis, root / "meta" / "hard.json")
    for name in ("info.json", "other.json", "hard.json"):
        (write_changed if name == "other.json" else write_atomic)(root / "meta" / name, b"years of work", root)
        assert not (root / "meta" / name).is_symlink() and not (root / "meta" / name).samefile(thesis)
    (root / "data").symlink_to(tmp_path)
    for path in (root / "data" / "new.txt", root / "data" / "deeper" / "new.txt"):
        with pytest.raises(DataError, match="root/data: is a link"):
            write_atomic(path, b"x", root)
    assert thesis.read_text() == "years of work"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["root", "thesis"]


def test_the_users_own_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    write_atomic(tmp_path / "link" / "meta" / "a", b"x", tmp_path / "link")
    assert (tmp_path / "disk" / "meta" / "a").read_bytes() == b"x"


def test_a_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    write_atomic(path, b"old")
    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):
        for call in ("fsync", "replace"):

            def fail(*_: object, error: BaseException = error) -> None:
                raise error

            with monkeypatch.context() as patch, pytest.raises(type(error)):
                patch.setattr(os, call, fail)
                write_atomic(path, b"new")
            assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_walk_meets_files_only_and_leaves_its_folder_by_no_link(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("b/2", "a/1", "a/deep/er/3"):
        write_atomic(root / name, b"x")
    assert [str(p.relative_to(root)) for p in walk(root)] == ["a/1", "a/deep/er/3", "b/2"]
    assert walk(root / "absent") == []
    for name, make in (
        ("folder", lambda p: p.symlink_to(tmp_path)),
        ("file", lambda p: p.symlink_to("../b/2")),
        ("nowhere", lambda p: p.symlink_to("nowhere")),
        ("fifo", os.mkfifo),
    ):
        path = root / "a" / name
        make(path)
        with pytest.raises(DataError, match=f"a/{name}: is"):
            walk(root)
        path.unlink()
    (tmp_path / "link").symlink_to(root)
    with pytest.raises(DataError, match="is a link"):
        walk(tmp_path / "link")


def test_a_lock_empties_no_other_file(tmp_path: Path, at_once: None) -> None:
    thesis = tmp_path / "thesis"
    thesis.write_text("years of work")
    for make in (lambda p: p.symlink_to(thesis), lambda p: os.link(thesis, p), os.mkfifo, os.mkdir,
                 lambda p: p.symlink_to(tmp_path / "absent")):  # fmt: skip
        root = tmp_path / "root"
        root.mkdir()
        make(root / ".lock")
        with pytest.raises(DataError, match=r"root/\.lock: is .*remove it"):
            Lock(root)
        (root / ".lock").rmdir() if (root / ".lock").is_dir() else (root / ".lock").unlink()
        root.rmdir()
    assert thesis.read_text() == "years of work" and not (tmp_path / "absent").exists()


def test_a_lock_is_held_by_one_and_ends_with_its_process(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be locked"):
        Lock(tmp_path / "absent")
    holding = "import sys, time; from pathlib import Path; from tandem.data.files import Lock; Lock(Path(sys.argv[1]))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(
        [sys.executable, "-c", f"{holding}; print(1, flush=True); time.sleep(60)", str(tmp_path)],
        env=environment, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None and child.stdout.readline()
    with pytest.raises(DataError, match=f"in use by process {child.pid}"):
        Lock(tmp_path)
    child.kill()
    child.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            lock = Lock(tmp_path)
            break
        except DataError:
            time.sleep(0.05)
    assert lock.held and (tmp_path / ".lock").read_text() == str(os.getpid())
    lock.release()
    assert not (tmp_path / ".lock").exists() and not lock.held


@pytest.mark.parametrize("value", ["1" * 400, "-" + "9" * 21])
def test_a_number_that_no_array_holds_is_damage(value, tmp_path):
    (tmp_path / "x.json").write_text(f'{{"scale": [{value}]}}')
    with pytest.raises(DataError, match="digits"):
        read_json(tmp_path / "x.json")
