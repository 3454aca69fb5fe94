"""Checkpoints: a folder that is either whole or absent, and says why when it cannot be loaded.

    checkpoints/000200/pretrained_model/{config, contract, normalizer, tokenizer}.json and model.safetensors
                      /training_state/{training_step.json, model.safetensors, optimizer.safetensors}
                      /manifest.json        every file's size and sha256, written last
    checkpoints/last -> 000200              replaced atomically, after the save

`pretrained_model` holds the averaged (EMA) weights that evaluation uses; `training_state` what resuming needs. The
folder is written under a temporary name and renamed, so a kill at any moment leaves the previous checkpoint valid.
Only safetensors and JSON: nothing in a checkpoint can run code.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .errors import PolicyError

MANIFEST = "manifest.json"
PRETRAINED, TRAINING = "pretrained_model", "training_state"  # folders
OLD = ".old-"  # before the name of a checkpoint that is being replaced
RECIPE, PROGRESS = f"{PRETRAINED}/train_config.json", f"{TRAINING}/training_step.json"


def save(root: Path, step: int, files: Mapping[str, Any], keep: int = 2, spare: int = -1) -> Path:
    """Writes checkpoint `step` under `root`. files: name -> tensors (.safetensors), JSON value (.json) or text.

    Of older ones the newest stay, `keep` in all, and step `spare`.
    """
    _refuse_not_finite(files, root)
    root.mkdir(parents=True, exist_ok=True)
    final, temporary = root / f"{step:06d}", root / f".tmp-{step:06d}"
    _mend(root)
    try:
        for name, content in files.items():
            _write(temporary / name, content)
        manifest = {name: _fingerprint(temporary / name) for name in files}
        _write(temporary / MANIFEST, {"step": step, "files": manifest})
        _put(temporary, final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise PolicyError(
            f"could not save checkpoint {final}: {error}; the previous checkpoint is untouched"
        ) from error
    _point_last(root, final.name)
    _forget_old(root, keep, spare)
    return final


def _refuse_not_finite(files: Mapping[str, Any], root: Path) -> None:
    tensors = (
        (file, name, t)
        for file, content in files.items()
        if file.endswith(".safetensors")
        for name, t in content.items()
    )
    for file, name, tensor in tensors:
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise PolicyError(
                f"{name} in {file} is not finite; nothing was saved, {root} stays as it was; lower the "
                "learning rate, or go on from the last checkpoint with --resume"
            )


def _mend(root: Path) -> None:
    """Tidies up after a process that was killed in `save`: a run's folder has one writer."""
    for half in root.glob(".tmp-*"):
        shutil.rmtree(half, ignore_errors=True)
    for old in root.glob(f"{OLD}*"):
        if (final := _step_of(old)).exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(old, final)


def _step_of(old: Path) -> Path:
    """The name of a checkpoint that was laid aside."""
    return old.with_name(old.name.removeprefix(OLD))


def _put(temporary: Path, final: Path) -> None:
    """Under its own name. The same step may be there already, for instance on Ctrl-C right after a periodic save."""
    old = final.with_name(OLD + final.name)
    if final.exists():
        os.replace(final, old)
    try:
        os.replace(temporary, final)
    except OSError:
        if old.exists():
            os.replace(old, final)
        raise
    shutil.rmtree(old, ignore_errors=True)


def resolve(path: str | Path) -> Path:
    """The newest valid checkpoint that `path` means: a checkpoint, a run's output folder, or its checkpoints folder."""
    path = Path(path)
    if not path.exists():
        raise PolicyError(
            f"checkpoint {path} does not exist; pass the output folder of `tandem train` or a folder in it"
        )
    if (path / MANIFEST).exists() or path.name == PRETRAINED:
        return path.parent if path.name == PRETRAINED else path
    problems: list[str] = []
    for candidate in _steps(path / "checkpoints" if (path / "checkpoints").is_dir() else path):
        try:
            verify(candidate)
            for problem in problems:
                print(f"skipped: {problem}", file=sys.stderr)
            return candidate
        except PolicyError as error:
            problems.append(str(error))
    raise PolicyError(problems[0] if problems else f"no checkpoint in {path}; expected {path}/checkpoints/<step>")


def exists(run: Path) -> bool:
    """Has a run's output folder any checkpoint, whole or not?"""
    return (run / "checkpoints").is_dir() and bool(_steps(run / "checkpoints"))


def verify(checkpoint: Path) -> dict[str, Any]:
    """Checks every file against the manifest and returns it; PolicyError names the first file that is wrong."""
    manifest_file = checkpoint / MANIFEST
    if not manifest_file.exists():
        raise PolicyError(f"checkpoint {checkpoint} has no {MANIFEST}: its save was cut short; use an older checkpoint")
    manifest = _read_json(manifest_file)
    for name, expected in manifest["files"].items():
        file = checkpoint / name
        if not file.resolve().is_relative_to(checkpoint.resolve()):
            raise PolicyError(f"checkpoint {checkpoint}: manifest names {name}, outside the checkpoint; refused")
        if not file.exists():
            raise PolicyError(f"checkpoint {checkpoint}: {name} is missing; use an older checkpoint")
        if _fingerprint(file) != expected:
            raise PolicyError(f"checkpoint {checkpoint}: {name} is truncated or changed; use an older checkpoint")
    return manifest


def digest(checkpoint: str | Path) -> str:
    """sha256 over the manifest: names a checkpoint exactly."""
    return hashlib.sha256((resolve(checkpoint) / MANIFEST).read_bytes()).hexdigest()


def recipe(path: str | Path) -> dict[str, Any]:
    """What a checkpoint was trained with, and on."""
    return dict(_read_json(resolve(path) / RECIPE))


def tasks(path: str | Path) -> tuple[str, ...]:
    """Tasks and suites that the policy was trained on; PolicyError where its data named none that we know."""
    names = tuple(recipe(path)["tasks"])
    if not names:
        raise PolicyError(f"{path} was trained on data that names no task of ours; say which: --tasks")
    return names


def progress(path: str | Path) -> dict[str, Any]:
    """How far its training was: stage, step, seconds."""
    return dict(_read_json(resolve(path) / PROGRESS))


def read_json(checkpoint: Path, name: str) -> Any:
    return _read_json(checkpoint / name)


def read_tensors(checkpoint: Path, name: str) -> dict[str, Tensor]:
    try:
        return load_file(checkpoint / name)
    except (OSError, SafetensorError) as error:
        raise PolicyError(
            f"checkpoint {checkpoint}: {name} cannot be read ({error}); use an older checkpoint"
        ) from error


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise PolicyError(f"{file} cannot be read ({error}); use an older checkpoint") from error


def _write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".safetensors":
        save_file({name: tensor.detach().contiguous() for name, tensor in content.items()}, file)
    else:
        file.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    with open(file, "rb+") as handle:
        os.fsync(handle.fileno())


def _fingerprint(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _point_last(root: Path, name: str) -> None:
    link = root / f".last-{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(name)
    os.replace(link, root / "last")


def _steps(root: Path) -> list[Path]:
    """Newest first; as text 1000000 would be older than 999999. One that was laid aside counts where a kill left no
    other in its place."""
    found = [p for p in root.iterdir() if p.is_dir() and p.name.isdigit() and not p.is_symlink()]
    found += [old for old in root.glob(f"{OLD}*") if not _step_of(old).exists()]
    return sorted(found, key=lambda folder: int(folder.name.removeprefix(OLD)), reverse=True)


def _forget_old(root: Path, keep: int, spare: int) -> None:
    for old in _steps(root)[keep:]:
        if int(old.name) != spare:
            shutil.rmtree(old)
