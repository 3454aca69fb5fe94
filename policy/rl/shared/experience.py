"""Experience on disk: whole episodes, one file each, and the count of all steps that ever were.

    experience/000041.npz      arrays of one episode, and of every episode: steps, success, total
Files are written under another name, synced and renamed: a kill at any moment leaves whole episodes. What they say is
the truth that resuming starts from. Weights of a checkpoint may be a little older.

Notable choices
- Bounded in bytes: the oldest episodes go first. `total`, the environment steps up to an episode's end, is stored with
  it, so that the count survives what is forgotten.
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
Episode = dict[str, np.ndarray]  # "steps", "success", "total" (each of shape ()), and what an algorithm wants to keep


@dataclass
class Experience:
    """Open with `Experience.open(folder, limit)`. `add` episodes. Iterate over what is kept, oldest first."""

    folder: Path
    limit: int  # bytes on disk
    sizes: dict[int, int]  # number of an episode -> bytes
    steps: int  # environment steps of all episodes, those that are forgotten too

    @classmethod
    def open(cls, folder: Path, limit: int = 2 << 30) -> "Experience":
        """Opens a folder of experience, or begins one."""
        folder.mkdir(parents=True, exist_ok=True)
        for half in folder.glob(".*"):  # of a writer that was killed
            half.unlink()
        sizes = {int(path.stem): path.stat().st_size for path in folder.glob("[0-9]*.npz")}
        opened = cls(folder, limit, sizes, 0)
        opened.steps = int(opened.load(max(sizes), ("total",))["total"]) if sizes else 0
        return opened

    def __len__(self) -> int:
        """Episodes ever added."""
        return max(self.sizes, default=-1) + 1

    @property
    def forgot(self) -> bool:
        """Is anything gone that was added?"""
        return bool(self.sizes) and min(self.sizes) > 0

    def __iter__(self) -> Iterator[Episode]:
        return (self.load(number) for number in sorted(self.sizes))

    def add(self, steps: int, success: bool, arrays: dict[str, np.ndarray]) -> None:
        """arrays: name -> array. PolicyError names the first that is not finite, and nothing is stored."""
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
        """One array of every episode that is kept, oldest first."""
        return [self.load(number, (name,))[name] for number in sorted(self.sizes)]

    def last(self, count: int) -> Iterator[Episode]:
        """The newest `count` episodes that are kept, oldest first."""
        return (self.load(number) for number in sorted(self.sizes)[-count:])

    def load(self, number: int, names: tuple[str, ...] = ()) -> Episode:
        """names: of the arrays. None: all."""
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
        """The newest episode always stays: it holds the count."""
        while sum(self.sizes.values()) > self.limit and len(self.sizes) > 1:
            oldest = min(self.sizes)
            self._file(oldest).unlink()
            del self.sizes[oldest]


def _checked(episode: Episode) -> Episode:
    """ValueError where a count is none, or a number is not finite."""
    for name, array in episode.items():
        if name in ("steps", "success", "total") and (array.shape != () or array.dtype.kind not in "iub" or array < 0):
            raise ValueError(f"{name} is {str(array)[:40]}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite")
    return episode
