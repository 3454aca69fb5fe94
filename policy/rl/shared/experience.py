"""Experience on disk: one file for each episode, and the count of all environment steps.

    experience/000041.npz      the method's arrays, and steps, success and total of the episode

A file is written under another name, synced and renamed. A kill at any moment leaves complete episodes only. Resuming
relies on these files. The weights of a checkpoint may be a little older.

Notable choices
- The folder is bounded in bytes: the oldest episodes are deleted first. Each file holds `total`, the environment steps
  up to the end of its episode, so that the count survives deletion.
- A number that is not finite stops the run before it is stored.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ....data.files import write_atomic
from ...errors import PolicyError

DAMAGE = (OSError, ValueError, EOFError, LookupError, TypeError, RuntimeError, BadZipFile, zlib.error, MemoryError)
Episode = dict[str, np.ndarray]  # "steps", "success" and "total", each of shape (), and the method's own arrays


@dataclass
class Experience:
    """A folder of episodes. `Experience.open(folder, limit)` opens it, and `add` stores an episode.

    Iteration yields the kept episodes, oldest first.
    """

    folder: Path
    limit: int  # largest size on disk [bytes]
    sizes: dict[int, int]  # number of a kept episode -> size of its file [bytes]
    steps: int  # environment steps of all episodes, including the deleted ones

    @classmethod
    def open(cls, folder: Path, limit: int = 2 << 30) -> "Experience":
        """Opens a folder of experience, or begins one. limit: largest size on disk [bytes], 2 GiB by default."""
        folder.mkdir(parents=True, exist_ok=True)
        for half in folder.glob(".*"):  # left by a writer that was killed
            half.unlink()
        sizes = {int(path.stem): path.stat().st_size for path in folder.glob("[0-9]*.npz")}
        opened = cls(folder, limit, sizes, 0)
        opened.steps = int(opened.load(max(sizes), ("total",))["total"]) if sizes else 0
        return opened

    def __len__(self) -> int:
        """Number of episodes ever added, including the deleted ones."""
        return max(self.sizes, default=-1) + 1

    @property
    def forgot(self) -> bool:
        """True where an episode has been deleted to stay within the limit."""
        return bool(self.sizes) and min(self.sizes) > 0

    def __iter__(self) -> Iterator[Episode]:
        return (self.load(number) for number in sorted(self.sizes))

    def add(self, steps: int, success: bool, arrays: dict[str, np.ndarray]) -> None:
        """Stores one episode, and deletes the oldest ones beyond the limit.

        steps: control steps of the episode.
        arrays: name -> array.
        PolicyError names the first array that is not finite, and nothing is stored. Also raised for a full disk.
        """
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise PolicyError(
                    f"experience: {name} of episode {len(self)} is not finite; nothing of it was stored; lower the "
                    "learning rate, or go on from the last checkpoint with --resume"
                )
        number, self.steps = len(self), self.steps + steps
        about: dict[str, Any] = {"steps": steps, "success": success, "total": self.steps}
        file = BytesIO()
        np.savez(file, allow_pickle=False, **arrays | about)
        content = file.getvalue()
        try:
            write_atomic(self._file(number), content)
        except OSError as error:
            raise PolicyError(f"cannot store experience in {self.folder}: {error}; free space and --resume") from None
        self.sizes[number] = len(content)
        self._forget()

    def column(self, name: str) -> list[np.ndarray]:
        """The array `name` of every kept episode, oldest first."""
        return [self.load(number, (name,))[name] for number in sorted(self.sizes)]

    def last(self, count: int) -> Iterator[Episode]:
        """The newest `count` kept episodes, oldest first."""
        return (self.load(number) for number in sorted(self.sizes)[-count:])

    def load(self, number: int, names: tuple[str, ...] = ()) -> Episode:
        """The arrays `names` of an episode, by default all. PolicyError where the file is damaged or lacks one."""
        try:
            with np.load(self._file(number)) as file:
                if unknown := set(names) - set(file.files):
                    raise PolicyError(
                        f"{self._file(number)} has no {min(unknown)}: it is of another version, or damaged; begin "
                        "again with another --output"
                    )
                episode = {name: file[name] for name in names or file.files}
            return _checked(episode)
        except DAMAGE as error:
            raise PolicyError(f"{self._file(number)} is damaged ({error}); remove it and --resume") from None

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"

    def _forget(self) -> None:
        """Deletes the oldest episodes beyond the limit. The newest one always stays, because it holds the count."""
        while sum(self.sizes.values()) > self.limit and len(self.sizes) > 1:
            oldest = min(self.sizes)
            self._file(oldest).unlink()
            del self.sizes[oldest]


def _checked(episode: Episode) -> Episode:
    """Returns the episode. ValueError where a count is not a natural number, or a number is not finite."""
    for name, array in episode.items():
        if name in ("steps", "success", "total") and (array.shape != () or array.dtype.kind not in "iub" or array < 0):
            raise ValueError(f"{name} is {str(array)[:40]}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite")
    return episode
