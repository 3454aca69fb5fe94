"""Files that came from elsewhere, and files of ours: what may be opened, how much of it is read, how it is put down.

A data set or a checkpoint may come from a stranger. Nothing in it decides where we write, and nothing in it makes us
read past its folder or past the memory.

Notable choices
- Reading: the file must be a regular one, inside the folder that it belongs to, and not larger than a limit which is
  compared with its size *before* anything is read. FIFOs and devices are refused without waiting for them. A link to a
  file of the same folder is followed, one that leads out of it is not.
- JSON has a limit of size and of depth: a deep one would exhaust the interpreter's stack.
- Writing: a temporary file is created anew (O_EXCL), never through a link (O_NOFOLLOW), synced, renamed; then the
  folder is synced. A lock is a file that is opened without following a link.
Every refusal is a DataError of one line that names the file.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from pathlib import Path
from typing import Any

from .errors import DataError

MAX_JSON = 64 << 20  # bytes of one JSON file
MAX_DEPTH = 64  # of lists and objects within each other
MAX_NAME = 200  # bytes of a name that becomes part of a file's name


def check_name(name: object, what: str) -> str:
    """`name`, if it can be part of a file's name and stays in its folder; `what` says what it names, for the error."""
    if not isinstance(name, str) or not name or len(name.encode("utf-8", "replace")) > MAX_NAME:
        raise DataError(f"{what}: {str(name)[:60]!r} is not a name of 1 to {MAX_NAME} bytes; rename it")
    if "/" in name or "\\" in name or name in (".", "..") or not name.isprintable():
        raise DataError(f"{what}: {name!r} holds a path or unprintable characters; rename it")
    return name


def check_inside(path: Path, root: Path) -> None:
    """DataError where `path` (which need not exist) lies outside `root` once links are followed."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{path}: leads out of {root}; refused. Copy the file into the folder if it is yours")


def read_bytes(path: Path, limit: int, root: Path | None = None) -> bytes:
    """The content of a regular file of at most `limit` bytes. root: the folder that it must not leave.

    FileNotFoundError where there is none; DataError for anything that is not such a file.
    """
    if root is not None:
        check_inside(path, root)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror})") from None
    with open(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path}: is not a regular file; refused")
        if status.st_size > limit:
            raise DataError(f"{path}: has {status.st_size:,} bytes, more than the {limit:,} that are read; refused")
        return file.read(limit)


def read_json(path: Path, root: Path | None = None, limit: int = MAX_JSON) -> Any:
    """The value in a JSON file. FileNotFoundError where there is none; DataError where it is damaged or too large."""
    return parse_json(read_bytes(path, limit, root), str(path))


def parse_json(content: bytes | str, where: str) -> Any:
    """JSON of limited depth. DataError, which names `where`, for anything else."""
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        if _depth(text) > MAX_DEPTH:
            raise DataError(f"{where}: is nested more than {MAX_DEPTH} deep; refused")
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: is not JSON ({str(error)[:100]}); the file is damaged") from None


def _depth(text: str) -> int:
    """An upper bound of the nesting: brackets in texts count too, which no file of ours has many of in a row."""
    depth = deepest = 0
    for character in text if ("[" * 8 in text or text.count("{") + text.count("[") > MAX_DEPTH) else "":
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def write_atomic(path: Path, content: bytes) -> None:
    """After return the file is complete and survives a power cut; before, the old one is untouched.

    OSError where the disk is full or the folder cannot be written to; nothing partial stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # of a process that was killed; a link is removed, never followed
    try:
        with open(_create(temporary), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def sync_folder(folder: Path) -> None:
    """Names in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_changed(path: Path, content: bytes) -> None:
    """As `write_atomic`, where the file does not hold `content` already: caches know files by their times."""
    if path.is_symlink() or not path.exists() or path.read_bytes() != content:
        write_atomic(path, content)


def json_bytes(value: Any) -> bytes:
    """As our JSON files hold a value: two spaces a level, a line break at the end."""
    return (json.dumps(value, indent=2) + "\n").encode()


class Lock:
    """Exclusive use of a folder until `release` or the death of this process."""

    def __init__(self, root: Path) -> None:
        self.path = root / ".lock"
        while True:
            self._fd = self._open(root)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = os.read(self._fd, 32).decode(errors="replace") or "unknown"
                os.close(self._fd)
                raise DataError(f"{root}: in use by process {holder}; wait for it or use another folder") from None
            if self.path.exists() and os.fstat(self._fd).st_ino == os.stat(self.path).st_ino:
                break
            os.close(self._fd)  # the last holder removed the file between our open and our lock
        os.truncate(self._fd, 0)
        os.write(self._fd, str(os.getpid()).encode())

    def _open(self, root: Path) -> int:
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be locked ({error.strerror}); if it is a link, remove it") from None
        if not stat.S_ISREG(os.fstat(handle).st_mode) or os.fstat(handle).st_nlink > 1:
            os.close(handle)  # a hard link to a file elsewhere would be emptied
            raise DataError(f"{self.path}: is not a lock of ours; remove it")
        return handle

    @property
    def held(self) -> bool:
        return self._fd >= 0

    def release(self) -> None:
        if self.held:
            self.path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1
