"""Checkpoints from strangers, damaged ones, and a disk that is full: one line, at once, and nothing is lost."""

import json
import os
import shutil
import struct
import time

import pytest
import torch
from tandem.data.errors import DataError
from tandem.policy.checkpoint import store
from tandem.policy.checkpoint.bundle import Bundle
from tandem.policy.errors import PolicyError
from tandem.policy.train.run import train

FILES = ("config", "contract", "normalizer", "tokenizer", "train_config")


@pytest.fixture
def copy(trained, tmp_path):
    """A checkpoint that may be spoiled."""
    return shutil.copytree(store.resolve(trained), tmp_path / "copy")


def change(folder, name, content):
    """Replaces a file, and makes the manifest agree: as somebody would who means harm."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = store._fingerprint(folder / name, folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def refused(folder):
    begin = time.monotonic()
    with pytest.raises((PolicyError, DataError)) as error:
        Bundle.load(folder)
    assert time.monotonic() - begin < 5 and "\n" not in str(error.value) and len(str(error.value)) < 600
    return str(error.value)


DAMAGE = [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}", b'{"a": 1}', b"[" * 100_000, b"1e999", b'"text"']


@pytest.mark.fault("bit flip or truncation of a file", injected=50)
@pytest.mark.parametrize("name", FILES)
def test_damaged_json_of_every_kind_is_one_line(name, copy):
    path = f"pretrained_model/{name}.json"
    for content in DAMAGE:
        change(copy, path, content)
        if name == "train_config":
            with pytest.raises((PolicyError, DataError)):
                store.tasks(copy)
        else:
            refused(copy)


@pytest.mark.fault("hostile checkpoint or data set", injected=2)
def test_what_the_manifest_does_not_list_is_not_loaded(copy):
    (copy / "manifest.json").write_text('{"step": 8, "files": {}}')
    assert "is not in its manifest" in refused(copy)
    (copy / "manifest.json").write_text('{"step": 8}')
    assert "lists no files" in refused(copy)


@pytest.mark.fault("hostile checkpoint or data set", injected=3)
@pytest.mark.parametrize("kind", ["device", "fifo", "outside"])
def test_what_is_no_file_of_the_folder_is_refused_without_waiting(kind, copy, tmp_path):
    manifest = copy / "manifest.json"
    content = manifest.read_bytes()
    manifest.unlink()
    if kind == "fifo":
        os.mkfifo(manifest)
    else:
        (tmp_path / "elsewhere").write_bytes(content)
        manifest.symlink_to("/dev/zero" if kind == "device" else tmp_path / "elsewhere")
    refused(copy)


@pytest.mark.fault("hostile checkpoint or data set", injected=8)
def test_sizes_that_no_memory_holds_are_refused_from_the_config(copy):
    path = "pretrained_model/config.json"
    config = json.loads((copy / path).read_text())
    for sizes in ({"width": 10**6}, {"image_size": 10**5}, {"chunk": 10**9}, {"keypoints": -1}, {"width": 10.5}):
        change(copy, path, json.dumps(config | {"sizes": config["sizes"] | sizes}).encode())
        refused(copy)
    for wrong in ({"words": 10**9}, {"state_dim": 16}, {"cameras": ["front", "front2"]}):
        change(copy, path, json.dumps(config | wrong).encode())
        refused(copy)


def header(entries, body=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.fault("hostile checkpoint or data set", injected=5)
def test_weights_are_judged_by_their_header(copy):
    name, big = "pretrained_model/model.safetensors", [1 << 20, 1 << 20]
    hostile = [
        struct.pack("<Q", 1 << 60) + b"{}",
        header({"probe.x": {"dtype": "F32", "shape": big, "data_offsets": [0, 4]}}, b"1234"),
        header({"probe.x": {"dtype": "F3", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
        header({"probe.x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
        header({"probe.x": []}),
    ]
    for content in hostile:
        change(copy, name, content)
        assert "model.safetensors" in refused(copy)


@pytest.mark.fault("missing or zero normaliser", injected=3)
def test_a_normaliser_of_other_shapes_or_without_scale_is_refused(copy):
    path = "pretrained_model/normalizer.json"
    raw = json.loads((copy / path).read_text())
    for wrong in ({"scale": {}}, {"center": {"action": [0.0]}}, {"scale": raw["scale"] | {"action": [0.0] * 7}}):
        change(copy, path, json.dumps(raw | wrong).encode())
        refused(copy)


@pytest.mark.fault("NaN or Inf in loss or gradient")
def test_weights_that_are_not_finite_are_refused(copy):
    from safetensors.torch import load_file, save_file

    name = "pretrained_model/model.safetensors"
    weights = load_file(copy / name)
    next(w for w in weights.values() if w.is_floating_point()).view(-1)[0] = torch.nan
    save_file(weights, copy / name)
    change(copy, name, (copy / name).read_bytes())
    assert "is not finite" in refused(copy)


@pytest.mark.fault("disk full", injected=2)
@pytest.mark.parametrize("when", ["before", "while"])
def test_a_full_disk_leaves_the_last_checkpoint_and_nothing_partial(when, frames, recipe, tmp_path, monkeypatch):
    from safetensors import SafetensorError

    output = tmp_path / "run"
    train(recipe, frames, output)
    before = {path: path.stat().st_mtime_ns for path in (output / "checkpoints").rglob("*")}
    if when == "before":
        usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    else:

        def full(tensors, file):
            file.write_bytes(b"half")
            raise SafetensorError("I/O error: No space left on device")

        monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(PolicyError, match="could not save checkpoint .* free space and --resume"):
        store.save(output / "checkpoints", 99, {"training_state/model.safetensors": {"w": torch.zeros(9)}})
    assert {path: path.stat().st_mtime_ns for path in (output / "checkpoints").rglob("*")} == before
