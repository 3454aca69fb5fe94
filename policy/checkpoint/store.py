"""Checkpoints: a folder that is either whole or absent, and says why when it cannot be loaded.

    checkpoints/000200/pretrained_model/{config, contract, normalizer, tokenizer}.json and model.safetensors
                      /training_state/{training_step.json, model.safetensors, optimizer.safetensors}
                      /manifest.json        every file's size and sha256, written last
    checkpoints/last -> 000200              replaced atomically, after the save

`pretrained_model` holds the averaged (EMA) weights that evaluation uses. `training_state` what resuming needs. The
folder is written under a temporary name and renamed, so a kill at any moment leaves the previous checkpoint valid.

A checkpoint may come from a stranger:
- Only safetensors and JSON: nothing in it can run code. Files are regular ones inside the folder, of limited size.
- What is loaded is in the manifest, and is what the manifest says. The manifest itself is signed by nobody: digests
  notice damage, and changes by somebody who did not mean to deceive.
- Shapes are read from the header of a weights file, and compared with the model's, before memory is taken.
"""

import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import SafetensorError

from ...data import files as stored_files
from ...data.errors import DataError
from ..errors import PolicyError

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
MAX_TENSORS = 16 << 30  # bytes of one file of weights
MAX_HEADER = 16 << 20  # bytes of its header
SPARE_BYTES = 16 << 20  # kept free on the disk beside a checkpoint
DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}  # bytes
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
    _refuse_full(files, final)
    try:
        for name, content in files.items():
            _write(temporary / name, content)
        manifest = {name: _fingerprint(temporary / name, temporary) for name in files}
        _write(temporary / MANIFEST, {"step": step, "files": manifest})
        _put(temporary, final)
    except (OSError, SafetensorError) as error:  # a full disk is a SafetensorError where weights are written
        shutil.rmtree(temporary, ignore_errors=True)
        raise PolicyError(
            f"could not save checkpoint {final}: {error}; the previous checkpoint is untouched: free space and --resume"
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


def _refuse_full(files: Mapping[str, Any], final: Path) -> None:
    """PolicyError where the disk has no room: a half-written checkpoint would keep it full."""
    tensors = (t for content in files.values() if isinstance(content, Mapping) for t in content.values())
    need = sum(t.numel() * t.element_size() for t in tensors if hasattr(t, "element_size")) + SPARE_BYTES
    if (free := shutil.disk_usage(final.parent).free) < need:
        raise PolicyError(
            f"could not save checkpoint {final}: disk full ({free >> 20} MiB free, {need >> 20} needed); the previous "
            "checkpoint is untouched: free space and --resume"
        )


def _mend(root: Path) -> None:
    """Tidies up after a process that was killed in `save`: a run's folder has one writer."""
    for link in root.glob(".last-*"):
        link.unlink(missing_ok=True)
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
    """Checks every file against the manifest and returns it. PolicyError names the first file that is wrong."""
    manifest_file = checkpoint / MANIFEST
    if not manifest_file.exists():
        raise PolicyError(f"checkpoint {checkpoint} has no {MANIFEST}: its save was cut short; use an older checkpoint")
    manifest = _read_manifest(checkpoint)
    for name, expected in manifest["files"].items():
        file = checkpoint / name
        if not file.resolve().is_relative_to(checkpoint.resolve()):
            raise PolicyError(f"checkpoint {checkpoint}: manifest names {name}, outside the checkpoint; refused")
        if not file.exists():
            raise PolicyError(f"checkpoint {checkpoint}: {name} is missing; use an older checkpoint")
        if _fingerprint(file, checkpoint) != expected:
            raise PolicyError(f"checkpoint {checkpoint}: {name} is truncated or changed; use an older checkpoint")
    return manifest


def _read_manifest(checkpoint: Path) -> dict[str, Any]:
    manifest = _read_json(checkpoint / MANIFEST)
    listed = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(listed, dict) or not all(isinstance(about, dict) for about in listed.values()):
        raise PolicyError(f"{checkpoint / MANIFEST} lists no files; use an older checkpoint")
    return manifest


def holds(checkpoint: Path, name: str) -> bool:
    """Is the file one of the checkpoint's: in its manifest?"""
    return name in _read_manifest(checkpoint)["files"]


def digest(checkpoint: str | Path) -> str:
    """sha256 over the manifest: names a checkpoint exactly."""
    folder = resolve(checkpoint)
    return hashlib.sha256(_bytes(folder / MANIFEST, stored_files.MAX_JSON, folder)).hexdigest()


def recipe(path: str | Path) -> dict[str, Any]:
    """What a checkpoint was trained with, and on."""
    return _mapping(resolve(path), RECIPE)


def tasks(path: str | Path) -> tuple[str, ...]:
    """Tasks and suites that the policy was trained on. PolicyError where its data named none that we know."""
    names = recipe(path).get("tasks")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise PolicyError(f"{path}: {RECIPE} names no tasks; use an older checkpoint")
    if not names:
        raise PolicyError(f"{path} was trained on data that names no task of ours; say which: --tasks, or --data")
    return tuple(names)


def progress(path: str | Path) -> dict[str, Any]:
    """How far its training was: stage, step, seconds."""
    about = _mapping(resolve(path), PROGRESS)
    numbers = (about.get("step"), about.get("seconds"))
    known = all(stored_files.is_count(number) for number in numbers)
    if not isinstance(about.get("stage"), str) or not known:
        raise PolicyError(f"{path}: {PROGRESS} does not say how far training was; use an older checkpoint")
    return about


def training(path: str | Path) -> dict[str, Any]:
    """As `progress`, with what a run goes on from. PolicyError where its training did not keep that."""
    about = progress(path)
    counts = [about.get(name) for name in ("step", "averaged")]
    counts.append(about.get("skipped", 0))  # an older version counted none
    whole = all(type(count) is int and stored_files.is_count(count) for count in counts)
    if not whole or about["stage"] not in ("act", "think") or not isinstance(about.get("data_digest"), str):
        raise PolicyError(f"{path}: {PROGRESS} does not say where training goes on; use an older checkpoint")
    if not isinstance(about.get("param_groups"), list) or not isinstance(about.get("ways", {}), dict):
        raise PolicyError(f"{path}: {PROGRESS} has no settings of the optimiser; use an older checkpoint")
    return about


def modes(path: str | Path) -> tuple[Literal["hierarchical", "flat"], ...]:
    """How the policy can be run. Before stage `think` its planner has learned nothing: it runs flat only."""
    about = progress(path)
    learned = about["stage"] != "act" and (about["stage"] != "think" or about["step"] > 0)
    learned = learned and about.get("has_planner", True) is True  # of what reinforcement learning began with
    return ("hierarchical", "flat") if learned else ("flat",)


def why_flat(path: str | Path) -> str:
    """One sentence for where `modes` has no hierarchical."""
    return f"{path} is from before stage think: its planner has learned nothing, so it runs flat"


def read_json(checkpoint: Path, name: str) -> Any:
    """A JSON file that the manifest lists."""
    _refuse_unlisted(checkpoint, name)
    return _read_json(checkpoint / name, checkpoint)


def _mapping(checkpoint: Path, name: str) -> dict[str, Any]:
    value = read_json(checkpoint, name)
    if not isinstance(value, dict):
        raise PolicyError(f"{checkpoint / name} is no JSON object; use an older checkpoint")
    return value


def read_tensors(checkpoint: Path, name: str, like: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, "Tensor"]:
    """A file of tensors that the manifest lists. like: name -> the shape that it must have, where it is there.

    PolicyError where header, names or shapes are not what they must be, before memory is taken, and where a number is
    not finite.
    """
    from safetensors.torch import load  # and torch, which commands that read no weights do not wait for

    _refuse_unlisted(checkpoint, name)
    where = f"checkpoint {checkpoint}: {name}"
    try:
        _check_header(checkpoint / name, where, like or {})
        tensors = load(_bytes(checkpoint / name, MAX_TENSORS, checkpoint))
    except (OSError, SafetensorError, ValueError) as error:
        if isinstance(error, PolicyError):
            raise
        raise PolicyError(f"{where} cannot be read ({error}); use an older checkpoint") from error
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise PolicyError(f"{where}: {key} is not finite; use an older checkpoint")
    return tensors


def _check_header(file: Path, where: str, like: Mapping[str, tuple[int, ...]]) -> None:
    """The header says what is in the file. Only then is the rest read."""
    size = file.stat().st_size
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise PolicyError(f"{where} has a header of {length} bytes; use an older checkpoint")
        header = stored_files.parse_json(stream.read(length), where)
    entries = {key: entry for key, entry in header.items() if key != "__metadata__"} if isinstance(header, dict) else {}
    total = 0
    for key, entry in entries.items():
        shape, dtype = (entry.get("shape"), entry.get("dtype")) if isinstance(entry, dict) else (None, None)
        if not isinstance(shape, list) or any(type(n) is not int or n < 0 for n in shape) or dtype not in DTYPES:
            raise PolicyError(
                f"{where}: {key[:60]} has shape {str(shape)[:60]}, dtype {dtype}; use an older checkpoint"
            )
        if key in like and tuple(shape) != tuple(like[key]):
            raise PolicyError(f"{where}: {key} has shape {tuple(shape)}; the model's is {tuple(like[key])}")
        total += math.prod(shape) * DTYPES[dtype]
    if total != size - 8 - length:
        raise PolicyError(
            f"{where} says it holds {total} bytes, and holds {size - 8 - length}; use an older checkpoint"
        )


def _refuse_unlisted(checkpoint: Path, name: str) -> None:
    if not holds(checkpoint, name):
        raise PolicyError(f"checkpoint {checkpoint}: {name} is not in its {MANIFEST}; refused")


def _bytes(file: Path, limit: int, root: Path) -> bytes:
    try:
        return stored_files.read_bytes(file, limit, root)
    except (OSError, DataError) as error:
        raise PolicyError(f"{file} cannot be read ({error}); use an older checkpoint") from error


def _read_json(file: Path, root: Path | None = None) -> Any:
    try:
        return stored_files.parse_json(_bytes(file, stored_files.MAX_JSON, root or file.parent), str(file))
    except DataError as error:
        raise PolicyError(f"{error}; use an older checkpoint") from error


def _write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({name: tensor.detach().contiguous() for name, tensor in content.items()}, file)
    else:
        file.write_text(content if isinstance(content, str) else json.dumps(content, indent=1), encoding="utf-8")
    with open(file, "rb+") as handle:
        os.fsync(handle.fileno())


def _fingerprint(file: Path, root: Path) -> dict[str, Any]:
    content = _bytes(file, MAX_TENSORS, root)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _point_last(root: Path, name: str) -> None:
    link = root / f".last-{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(name)
    os.replace(link, root / "last")


def _steps(root: Path) -> list[Path]:
    """Newest first. As text 1000000 would be older than 999999. One that was laid aside counts where a kill left no
    other in its place."""
    found = [p for p in root.iterdir() if p.is_dir() and p.name.isdigit() and not p.is_symlink()]
    found += [old for old in root.glob(f"{OLD}*") if not _step_of(old).exists()]
    return sorted(found, key=lambda folder: int(folder.name.removeprefix(OLD)), reverse=True)


def _forget_old(root: Path, keep: int, spare: int) -> None:
    for old in _steps(root)[keep:]:
        if int(old.name) != spare:
            shutil.rmtree(old)
