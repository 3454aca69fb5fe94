"""The files of `tandem bench fuzz`, all small, and how a command reads each of them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from ....backbone.interop import load as interop
from ....backbone.language_model import LanguageModel
from ....data.cache import FrameCache
from ....data.contract import Contract
from ....data.normalize import Normalizer
from ....data.reader import Dataset
from ....data.writer import Recorder
from ....policy.checkpoint import optimizer_state, store
from ....policy.checkpoint.bundle import _tokenizer, stored_config
from ....policy.evaluate.evaluation import EPISODES_FILE, read_outcomes
from ....policy.rl.ppo import ppo as flow_policy_gradient
from ....policy.rl.recap import recap
from ....policy.rl.shared import learning_run as progress
from ....policy.rl.shared.experience import Experience
from ....policy.train.new_bundle import new_bundle
from ....policy.train.recipe import debug
from ...publish import comparison
from ...publish.figures import shown
from ...publish.manifest import MADE_WITH, manifest, say_changes, say_how
from ...publish.results_file import read_evaluation, read_results
from ...shared.errors import UserError
from ...shared.settings import same_settings

MOMENTS = "optimizer.safetensors"
THEIRS = {
    "model_type": "deepseek_v3", "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4, "v_head_dim": 8, "first_k_dense_replace": 1, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "n_shared_experts": 1, "n_group": 2, "topk_group": 1, "routed_scaling_factor": 2.5,
    "norm_topk_prob": True, "hidden_act": "silu", "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}, "rope_interleave": True, "attention_bias": False,
    "tie_word_embeddings": False,
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A file, and how a command reads it."""

    file: str  # below the folder
    read: Callable[[Path], Any]  # what a command does with the folder
    share: int = 1  # of the inputs


def targets(folder: Path) -> dict[str, Target]:
    """Makes the files in `folder`, once. How each of them is read."""
    if not (folder / "set").exists():
        _make(folder)
    return _data() | _checkpoint() | _learning() | _evaluation() | _backbone()


def _data() -> dict[str, Target]:
    data = {"info": "set/meta/info.json", "contract": "set/meta/contract.json", "stats": "set/meta/stats.json"}
    data |= {"tasks": "set/meta/tasks.parquet", "subtasks": "set/meta/subtasks.parquet"}
    data |= {"episodes": "set/meta/episodes/chunk-000/file-000.parquet"}
    data |= {"frames": "set/data/chunk-000/file-000.parquet"}
    found = {f"data set: {name}": Target(file, lambda f: _read_dataset(f / "set"), 2) for name, file in data.items()}
    video = "films/videos/observation.images.front/chunk-000/file-000.mp4"
    cache = {"about": "cache/frames/cache.json", "columns": "cache/frames/columns.npz"}
    cache |= {"pictures": "cache/frames/camera-0.npy"}
    found |= {f"cache: {name}": Target(file, _read_cache) for name, file in cache.items()}
    return found | {
        "data set: video": Target(video, lambda f: _read_dataset(f / "films")),
        "data set elsewhere: info": Target("foreign/meta/info.json", lambda f: _read_dataset(f / "foreign"), 3),
    }


def _checkpoint() -> dict[str, Target]:
    inner = f"run/{store.PRETRAINED}"
    return {
        "checkpoint: manifest": Target("run/manifest.json", lambda f: store.verify(f / "run"), 2),
        "checkpoint: config": Target(f"{inner}/config.json", lambda f: stored_config(f / "run"), 2),
        "checkpoint: contract": Target(f"{inner}/contract.json", _read_contract, 2),
        "checkpoint: normalizer": Target(f"{inner}/normalizer.json", _read_normalizer, 2),
        "checkpoint: tokenizer": Target(f"{inner}/tokenizer.json", lambda f: _tokenizer(f / "run"), 2),
        "checkpoint: train_config": Target(f"{inner}/train_config.json", lambda f: store.tasks(f / "run"), 2),
        "checkpoint: training_step": Target(f"run/{store.PROGRESS}", _read_training, 2),
        "checkpoint: optimizer": Target(f"run/{store.TRAINING}/{MOMENTS}", _read_training, 2),
        "checkpoint: weights": Target(f"{inner}/model.safetensors", _read_weights, 2),
        "run: made_with": Target(f"practice/{MADE_WITH}", lambda f: say_changes(f / "practice")),
    }


def _learning() -> dict[str, Target]:
    """Files of `tandem rl`."""
    state = f"run/{store.TRAINING}"
    return {
        "rl: experience": Target("practice/experience/000001.npz", lambda f: list(_experience(f))),
        "rl: asked": Target(f"practice/{progress.ASKED}", _read_asked),
        "rl: seconds": Target(f"practice/{progress.CLOCK}", lambda f: progress.clock(f / "practice")),
        "rl: checkpoint": Target(f"run/{store.PROGRESS}", lambda f: progress.saved(f / "run")),
        "rl: round of recap": Target(f"{state}/{recap.ROUND}", lambda f: recap.read_round(f / "run")),
        "rl: rounds of ppo": Target(
            f"{state}/{flow_policy_gradient.ROUNDS}", lambda f: flow_policy_gradient.read_rounds(f / "run")
        ),
    }


def _evaluation() -> dict[str, Target]:
    results = "eval/results.json"
    return {
        "evaluation: results": Target(results, lambda f: read_results(f / results), 2),
        "evaluation: reproduce": Target(results, lambda f: read_evaluation(f / results), 2),
        "evaluation: compare": Target(results, _compare, 2),
        "evaluation: episodes": Target(f"eval/{EPISODES_FILE}", lambda f: read_outcomes(f / "eval"), 4),
        "evaluation: settings": Target("eval/settings.json", lambda f: same_settings(f / "eval", {"workers": 1}), 1),
        "figure": Target("figure.json", lambda f: shown(f / "figure.json", []), 2),
    }


def _backbone() -> dict[str, Target]:
    """A published language model."""
    return {
        "published model: config": Target("theirs/config.json", _load_theirs, 2),
        "published model: index": Target("theirs/model.safetensors.index.json", _load_theirs),
        "published model: weights": Target("theirs/model.safetensors", _load_theirs),
    }


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
    with Recorder(folder / "films", contract, mode="video") as recorder:
        for t in range(4):
            recorder.add_frame(_frame(0, t))
        recorder.save_episode("toy", {"sim/seed": 0, "sim/success": True, "sim/task": "reach"})
    cache = FrameCache.build(folder / "set", folder / "cache", progress=False)
    cache.folder.rename(folder / "cache/frames")
    recipe = debug()
    recipe = replace(recipe, sizes=replace(recipe.sizes, image_size=16))
    bundle = new_bundle(recipe, cache)
    files = bundle.files({"probe.bias": next(bundle.model.parameters()).detach().flatten()[:8].clone()})
    moments, groups = optimizer_state.split(_optimizer(steps=2).state_dict())
    files |= {
        store.RECIPE: {"tasks": ["reach"]},
        store.PROGRESS: {"stage": "think", "step": 1, "seconds": 1.0, "averaged": 1, "skipped": 0}
        | {"data_digest": cache.digest, "ways": {"precision": "fp32"}, "param_groups": groups}
        | {"rl": {"seconds": 1.0, "env_steps": 40, "untaught": False}},
        f"{store.TRAINING}/{MOMENTS}": moments,
        f"{store.TRAINING}/{recap.ROUND}": asdict(recap.Round(20, 60.0, 30.0)),
        f"{store.TRAINING}/{flow_policy_gradient.ROUNDS}": {
            "took": 1.0,
            "patience": {"reach": 40},
            "first": [0.5],
        },
    }
    store.save(folder / "runs", 1, files).rename(folder / "run")
    _make_practice(folder / "practice")
    _make_evaluation(folder / "eval")
    metrics = {"per_task": {"reach": {"normal": {"success": 0.9, "low": 0.8, "high": 0.95, "n": 10}}}, "episodes": 10}
    about = {"name": "figure", "command": "tandem eval", "manifest": manifest(), "metrics": metrics}
    (folder / "figure.json").write_text(json.dumps(about), encoding="utf-8")
    _make_theirs(folder / "theirs")


def _make_practice(folder: Path) -> None:
    experience = Experience.open(folder / "experience")
    for episode in range(2):
        experience.add(4, bool(episode), {"reward": np.zeros(4, np.float32), "action": np.zeros((4, 2), np.float32)})
    asked = {"method": "dsrl", "settings": {"hold": 1}, "base": "0" * 64, "tasks": ["reach"]}
    (folder / progress.ASKED).write_text(json.dumps(asked), encoding="utf-8")
    (folder / progress.CLOCK).write_text("12.5", encoding="utf-8")
    say_how(folder)


def _make_theirs(folder: Path) -> None:
    """A tiny DeepSeek-V3 as a hub's folder holds it, one file and an index."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(THEIRS), encoding="utf-8")
    family, cfg = interop.FAMILIES["deepseek_v3"], interop.config_of(THEIRS)
    tensors = {
        name: part.clone()
        for ours, tensor in LanguageModel(cfg).state_dict().items()
        if (names := family.sources(ours, cfg, ()))
        for name, part in zip(names, tensor.reshape(len(names), -1, *tensor.shape[-1:]), strict=True)
    }
    tensors = {name: part[0] if len(part) == 1 else part for name, part in tensors.items()}  # vectors
    save_file(tensors, folder / "model.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _make_evaluation(folder: Path) -> None:
    flags = ["--agent", "expert", "--tasks", "reach", "--episodes", "1", "--workers", "1", "--controls", "normal"]
    command = [sys.executable, "-m", "tandem.scripts", "eval", *flags, "--output", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


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


def _read_dataset(root: Path) -> None:
    dataset = Dataset(root)
    _ = (dataset.tasks, dataset.subtasks, None if dataset.foreign else dataset.stats)
    for episode in range(min(2, len(dataset.episodes))):
        dataset.columns(episode)
        for key in dataset.contract.keys("image"):
            dataset.images(episode, key)


def _read_contract(folder: Path) -> None:
    raw = store.read_json(folder / "run", f"{store.PRETRAINED}/contract.json")
    Contract.from_json(json.dumps(raw))


def _read_normalizer(folder: Path) -> None:
    raw = store.read_json(folder / "run", f"{store.PRETRAINED}/normalizer.json")
    Normalizer.from_json(json.dumps(raw))


def _read_weights(folder: Path) -> None:
    store.read_tensors(folder / "run", f"{store.PRETRAINED}/model.safetensors", {"probe.bias": (8,)})


def _read_training(folder: Path) -> None:
    """As `eval` and `train --resume` do."""
    run = folder / "run"
    store.modes(run)
    about, moments = store.training(run), store.read_tensors(run, f"{store.TRAINING}/{MOMENTS}")
    optimizer = _optimizer(steps=0)
    optimizer_state.load_into(optimizer, optimizer_state.joined(moments, about["param_groups"]))
    _step(optimizer)


def _optimizer(steps: int) -> torch.optim.Optimizer:
    parameters = [torch.nn.Parameter(torch.zeros(3, 2)), torch.nn.Parameter(torch.zeros(4))]
    optimizer = torch.optim.AdamW(parameters, fused=True)
    for _ in range(steps):
        _step(optimizer)
    return optimizer


def _step(optimizer: torch.optim.Optimizer) -> None:
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def _read_cache(folder: Path) -> None:
    FrameCache.open(folder / "cache/frames")


def _read_asked(folder: Path) -> None:
    progress.read_asked(folder / "practice" / progress.ASKED)


def _experience(folder: Path) -> Experience:
    return Experience.open(folder / "practice/experience")


def _compare(folder: Path) -> None:
    a = b = comparison.load(folder / "eval/results.json", "hierarchical", "normal")
    comparison.table(a, b)
    comparison.left_out(a, b)


def _load_theirs(folder: Path) -> None:
    try:
        interop.load(folder / "theirs")
    except ValueError as error:  # its own kind of error
        raise UserError(str(error)) from None
