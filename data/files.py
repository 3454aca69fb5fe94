"""Files that came from elsewhere, and files of ours: what may be opened, how much of it is read, how it is put down.

A data set or a checkpoint may come from a stranger. Nothing in it decides where we write, and nothing in it makes us
read past its folder or past the memory. Its files lie still: against somebody who changes them while we read there is
no defence here.

Notable choices
- Reading: the file must be a regular one, inside the folder that it belongs to, and not larger than a limit which is
  compared with its size *before* anything is read. FIFOs and devices are not even opened: to open one can block, or do
  something. A link to a file of the same folder is followed, one that leads out of it is not.
- JSON has limits of size, of depth (a deep one would exhaust the interpreter's stack) and of the number of its values
  (64 MB of `[],[],` would be gigabytes of lists), and its texts can be written down again.
- Writing: a temporary file is created anew (O_EXCL), never through a link (O_NOFOLLOW), synced, renamed. Then the
  folder is synced. With `root`, no folder between it and the file may be a link. `root` itself may be one, because its
  name comes from the user. A lock is a file that is opened without following a link. A folder has one writer.
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
MAX_VALUES = 8 << 20  # lists, objects, numbers and texts in one JSON file
MAX_NAME = 200  # bytes of a name that becomes part of a file's name
MAX_TEXT = 64 << 10  # characters of one text of a person: an instruction, a subtask


def check_name(name: object, what: str) -> str:
    """`name`, if it can be part of a file's name and stays in its folder. `what` says what it names, for the error."""
    if not isinstance(name, str) or not name or len(name.encode("utf-8", "replace")) > MAX_NAME:
        raise DataError(f"{what}: {str(name)[:60]!r} is not a name of 1 to {MAX_NAME} bytes; rename it")
    if "/" in name or "\\" in name or name in (".", "..") or not name.isprintable():
        raise DataError(f"{what}: {name!r} holds a path or unprintable characters; rename it")
    return name


def check_text(text: object, what: str) -> str:
    """`text`, if it is a text that a file can hold, of at most MAX_TEXT characters."""
    if not isinstance(text, str):
        raise DataError(f"{what} is {type(text).__name__}; it must be a text")
    if len(text) > MAX_TEXT:
        raise DataError(f"{what} has {len(text):,} characters; at most {MAX_TEXT:,} are read, so shorten it")
    if not _is_unicode(text):
        raise DataError(f"{what} holds half of a character (a surrogate), which no file can hold: {text[:60]!r}")
    return text


def check_inside(path: Path, root: Path) -> None:
    """DataError where `path` (which need not exist) lies outside `root` once links are followed."""
    if not is_inside(path, root):
        raise DataError(f"{path}: leads out of {root}; refused. If the folder is yours, copy it with `cp -rL`")


def is_inside(path: Path, root: Path) -> bool:
    """Does a path, with its links followed, lie inside a folder?"""
    try:
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
    except ValueError:  # a NUL or half of a character in a name
        return False


def check_memory(size: int, where: str) -> None:
    """DataError where `size` bytes would be more than half of this machine's memory."""
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    if size > half:
        raise DataError(f"{where}: would take {size >> 20:,} MiB, more than half of this machine's memory; refused")


def check_regular(path: Path, root: Path | None = None, limit: int | None = None) -> None:
    """That `path` is a regular file of at most `limit` bytes, inside `root`. For readers that open it by its name.

    FileNotFoundError where there is none. DataError for anything that is not such a file.
    """
    if root is not None:
        check_inside(path, root)
    try:
        _check_status(path, os.stat(path), limit)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise _refusal(path, error) from None


def read_bytes(path: Path, limit: int, root: Path | None = None) -> bytes:
    """The content of a regular file of at most `limit` bytes. root: the folder that it must not leave.

    FileNotFoundError where there is none. DataError for anything that is not such a file.
    """
    check_regular(path, root, limit)
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            _check_status(path, status, limit)
            content = file.read(status.st_size + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise _refusal(path, error) from None
    if len(content) > status.st_size:
        raise DataError(f"{path}: is larger than it says; refused")  # grows, or lies in /proc
    return content


def _check_status(path: Path, status: os.stat_result, limit: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: is {'a folder' if stat.S_ISDIR(status.st_mode) else 'not a regular file'}; refused")
    if limit is not None and status.st_size > limit:
        raise DataError(f"{path}: has {status.st_size:,} bytes, more than the {limit:,} that are read; refused")


def _refusal(path: Path, error: Exception) -> DataError:
    if isinstance(error, DataError):
        return error
    return DataError(f"{path}: cannot be opened ({error.strerror if isinstance(error, OSError) else error})")


def read_json(path: Path, root: Path | None = None, limit: int = MAX_JSON) -> Any:
    """The value in a JSON file. FileNotFoundError where there is none. DataError where it is damaged or too large."""
    return parse_json(read_bytes(path, limit, root), str(path), max(MAX_VALUES, limit // 8))


def read_object(path: Path, root: Path | None = None, limit: int = MAX_JSON) -> dict[str, Any]:
    """As `read_json`, and the value must be an object, {...}."""
    value = read_json(path, root, limit)
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds {_kind(value)} where an object belongs; the file is damaged")
    return value


def parse_json(content: bytes | str, where: str, values: int = MAX_VALUES) -> Any:
    """JSON of limited depth and at most so many values. DataError, which names `where`, for anything else."""
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        brackets = text.count("[") + text.count("{")
        if brackets + text.count(",") > values:
            raise DataError(f"{where}: holds more than {values:,} values; refused")
        value = json.loads(text, parse_int=_whole)
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not JSON ({str(error)[:100]}); the file is damaged") from None
    if brackets > MAX_DEPTH and _deeper(value, MAX_DEPTH):
        raise DataError(f"{where}: is nested more than {MAX_DEPTH} deep; refused")
    if "\\u" in text and not _is_unicode(json.dumps(value, ensure_ascii=False)):
        raise DataError(f"{where}: holds half of a character (a surrogate); the file is damaged")
    return value


def _whole(digits: str) -> int:
    """No more than 64 bits hold, which is all that arrays, tensors and floats take."""
    if len(digits) > 20:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def is_count(value: Any) -> bool:
    """A number, neither negative nor without measure: of steps, seconds, bytes."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1 << 60


def _deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        inner = [v.values() if isinstance(v, dict) else v for v in level]
        level = [v for values in inner if not isinstance(values, _PLAIN) for v in values if isinstance(v, (list, dict))]
        if not level:
            return False
    return True


_PLAIN = (str, int, float, type(None))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def walk(folder: Path) -> list[Path]:
    """All files below `folder`, sorted. None where there is no such folder. DataError for a link, a FIFO or a device,
    and where `folder` itself is a link: what they lead to is no part of a data set."""
    if folder.is_symlink():
        raise DataError(_link(folder))
    files, folders = [], [folder] if folder.is_dir() else []
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.is_symlink():
                    raise DataError(_link(path))
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif entry.is_file(follow_symlinks=False):
                    files.append(path)
                else:
                    raise DataError(f"{path}: is neither a file nor a folder; remove it")
    return sorted(files)


def check_folders(path: Path, root: Path) -> None:
    """DataError where a folder between `root` and `path` is a link, or is no folder. `root` itself may be a link."""
    between = [p for p in path.parents if p != root and p.is_relative_to(root)]
    for folder in reversed(between):
        if folder.is_symlink():
            raise DataError(_link(folder))


def _link(path: Path) -> str:
    return f"{path}: is a link, and nothing is moved or written through a link; put the files themselves there"


def write_atomic(path: Path, content: bytes, root: Path | None = None) -> None:
    """After return the file is complete and survives a power cut. Before, the old one is untouched.

    root: the folder that must not be left by a link. OSError where the disk is full or the folder cannot be written
    to. Nothing partial stays.
    """
    if root is not None:
        check_folders(path, root)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # of a process that was killed; a link is removed, never followed
    try:
        with open(_create(temporary), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, KeyboardInterrupt):
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def sync_folder(folder: Path) -> None:
    """Names in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_changed(path: Path, content: bytes, root: Path | None = None) -> None:
    """As `write_atomic`, where the file does not hold `content` already: caches know files by their times."""
    try:
        same = not path.is_symlink() and read_bytes(path, len(content), root) == content
    except (FileNotFoundError, DataError):
        same = False
    if not same:
        write_atomic(path, content, root)


def json_bytes(value: Any) -> bytes:
    """As our JSON files hold a value: two spaces a level, a line break at the end."""
    return (json.dumps(value, indent=2) + "\n").encode()


class Lock:
    """Exclusive use of a folder until `release` or the death of this process."""

    def __init__(self, root: Path) -> None:
        self.path = root / ".lock"
        while True:
            self._fd = self._open()
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = os.read(self._fd, 32).decode("ascii", "replace")
                os.close(self._fd)
                who = f"process {holder}" if holder.isdigit() else "another process"
                raise DataError(f"{root}: in use by {who}; wait for it or use another folder") from None
            if self._is_there():
                break
            os.close(self._fd)  # the last holder removed the file between our open and our lock
        os.truncate(self._fd, 0)
        os.write(self._fd, str(os.getpid()).encode())

    def _open(self) -> int:
        try:
            if not stat.S_ISREG(os.lstat(self.path).st_mode):
                raise DataError(f"{self.path}: is a link or no file, and not a lock of ours; remove it")
        except FileNotFoundError:
            pass
        except OSError as error:
            raise DataError(f"{self.path}: cannot be locked ({error.strerror})") from None
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be locked ({error.strerror})") from None
        if not stat.S_ISREG(os.fstat(handle).st_mode) or os.fstat(handle).st_nlink > 1:
            os.close(handle)  # a hard link to a file elsewhere would be emptied
            raise DataError(f"{self.path}: is not a lock of ours; remove it")
        return handle

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._fd), os.lstat(self.path))
        except FileNotFoundError:
            return False

    @property
    def held(self) -> bool:
        """Does this process hold the lock?"""
        return self._fd >= 0

    def release(self) -> None:
        """Gives the lock back."""
        if self.held:
            self.path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1
