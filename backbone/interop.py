"""Published language models as ours: the weights of transformers' checkpoints under our names, giving the same logits.

    load("folder of config.json and *.safetensors") -> LanguageModel        or of an instantiated transformers model
    config_of(config) -> LanguageModelConfig;  convert(tensors, config) -> its state dict

Families: DeepSeek-V3 and V3.2 (interop_deepseek.py), Qwen3-Next (interop_qwen.py). Of Qwen4-Exp only parts match, see
interop_qwen4.py. A family is a function of the configuration, and a table that turns our names into theirs; a tensor
is read when its turn comes, so that no more than a layer's experts are held twice. Experts may be stacked, as in
transformers' modules, or stored one by one, as in its files.

Strict: a field that our blocks do not follow, a tensor that nobody asks for and one that nobody has are errors, each
one line long. Ignored on purpose: layers for multi-token prediction, and `inv_freq`, which is computed. transformers is
not imported. Left out: rescaled rotary frequencies other than YaRN, quantised checkpoints (DeepSeek publishes FP8:
convert to bf16 first), writing checkpoints back.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from .interop_deepseek import DEEPSEEK_V3, DEEPSEEK_V32
from .interop_family import Family, Fields, ignored
from .interop_qwen import QWEN3_NEXT
from .language_model import LanguageModel, LanguageModelConfig

FAMILIES: dict[str, Family] = {"deepseek_v3": DEEPSEEK_V3, "deepseek_v32": DEEPSEEK_V32, "qwen3_next": QWEN3_NEXT}


def config_of(hf_config: Any) -> LanguageModelConfig:
    """hf_config: a transformers configuration, or the content of a config.json."""
    fields = fields_of(hf_config)
    return family_of(fields).config(fields)


def load(source: Any) -> LanguageModel:
    """source: a folder as `save_pretrained` writes it, or a transformers model. Weights become fp32."""
    hf_config, weights = opened(source)
    model = LanguageModel(config_of(hf_config)).eval()
    ours = model.state_dict()
    for name, tensor in converted(weights, hf_config):
        ours[name].copy_(tensor)
    return model


def convert(state_dict: Mapping[str, Tensor], hf_config: Any) -> dict[str, Tensor]:
    """Under transformers' names -> the state dict of LanguageModel(config_of(hf_config)), shared where equal."""
    return dict(converted(state_dict, hf_config))


def converted(weights: Mapping[str, Tensor], hf_config: Any) -> Iterator[tuple[str, Tensor]]:
    """As `convert`, a tensor at a time; nothing is read before all names are known to fit."""
    fields = fields_of(hf_config)
    family = family_of(fields)
    cfg = family.config(fields)
    with torch.device("meta"):
        ours = LanguageModel(cfg).state_dict()
    sources = {name: family.sources(name, cfg, weights.keys()) for name in ours}
    _check_names(fields, {theirs for names in sources.values() for theirs in names}, set(weights))
    for name, wanted in ours.items():
        tensor = family.read(name, sources[name], weights, wanted)
        if tensor.shape != wanted.shape:
            raise ValueError(f"{fields.family}: {name} is {tuple(tensor.shape)}, expected {tuple(wanted.shape)}")
        yield name, tensor


def opened(source: Any) -> tuple[Any, Mapping[str, Tensor]]:
    """Configuration and tensors of a folder or of a model."""
    if not isinstance(source, str | Path):
        return source.config, source.state_dict()
    config = Path(source) / "config.json"
    if not config.is_file():
        raise ValueError(f"{source} is no checkpoint: there is no config.json in it")
    return json.loads(config.read_text(encoding="utf-8")), Shards(Path(source))


def fields_of(hf_config: Any) -> Fields:
    return Fields(hf_config if isinstance(hf_config, Mapping) else hf_config.to_dict())


def family_of(fields: Fields) -> Family:
    if fields.family.startswith("qwen4_exp"):
        raise ValueError("Qwen4-Exp's gated residual is none of ours; interop_qwen4.parts loads the blocks that match")
    if fields.family not in FAMILIES:
        raise ValueError(f"model_type {fields.family!r} cannot be loaded; known: {', '.join(FAMILIES)}")
    return FAMILIES[fields.family]


def _check_names(fields: Fields, asked: set[str], given: set[str]) -> None:
    unknown = {name for name in given - asked if not ignored(name, fields)}
    problems = [f"{what} {_some(names)}" for what, names in (("missing", asked - given), ("unknown", unknown)) if names]
    if problems:
        raise ValueError(f"{fields.family}: tensors do not fit the configuration: {'; '.join(problems)}")


def _some(names: set[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + more


class Shards(Mapping[str, Tensor]):
    """The tensors of a folder's safetensors files, each read when it is asked for."""

    def __init__(self, folder: Path):
        index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
        self._open: dict[Path, Any] = {}
        if index.is_file():
            self._files = {
                name: folder / file
                for name, file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items()
            }
        elif single.is_file():
            self._files = dict.fromkeys(self._handle(single).keys(), single)
        else:
            raise ValueError(f"{folder} has neither {index.name} nor {single.name}")

    def __getitem__(self, name: str) -> Tensor:
        return self._handle(self._files[name]).get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def _handle(self, file: Path) -> Any:
        if file not in self._open:
            if not file.is_file():
                raise ValueError(f"{file} is named in the index but is not there")
            self._open[file] = safe_open(file, framework="pt")
        return self._open[file]
