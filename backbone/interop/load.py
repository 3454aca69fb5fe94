"""Published language models as ours: the weights of transformers' checkpoints under our names, giving the same logits.

    load("folder of config.json and *.safetensors") -> LanguageModel        or of an instantiated transformers model
    config_of(config) -> LanguageModelConfig;  convert(tensors, config) -> its state dict

Families: DeepSeek-V3 and V3.2 (interop_deepseek.py), Qwen3-Next (interop_qwen.py). Of Qwen4-Exp only parts match, see
interop_qwen4.py. A family is a function of the configuration, and a table that turns our names into theirs. A tensor
is read when its turn comes, so that no more than a layer's experts are held twice. Experts may be stacked, as in
transformers' modules, or stored one by one, as in its files.

Strict: a field that our blocks do not follow, a tensor that nobody asks for and one that nobody has are errors, each
one line long. Ignored on purpose: layers for multi-token prediction, and `inv_freq`, which is computed. transformers is
not imported. Left out: rescaled rotary frequencies other than YaRN, quantised checkpoints (DeepSeek publishes FP8:
convert to bf16 first), writing checkpoints back.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..language_model import LanguageModel, LanguageModelConfig
from .deepseek import DEEPSEEK_V3, DEEPSEEK_V32
from .family import Family, Fields, ignored
from .qwen import QWEN3_NEXT

FAMILIES: dict[str, Family] = {"deepseek_v3": DEEPSEEK_V3, "deepseek_v32": DEEPSEEK_V32, "qwen3_next": QWEN3_NEXT}
MAX_JSON = 64 << 20  # bytes of config.json or of an index
FEW = 100  # layers that are built, without memory, whatever else is there
MAX_PARTS = 10_000  # layers, or experts of a layer
NO_CONFIG = (TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError, AssertionError)  # of wrong fields


def config_of(hf_config: Any) -> LanguageModelConfig:
    """hf_config: a transformers configuration, or the content of a config.json. ValueError where it is none."""
    fields = fields_of(hf_config)
    try:
        return family_of(fields).config(fields)
    except NO_CONFIG as error:
        raise ValueError(f"{fields.family} configuration: {type(error).__name__}: {str(error)[:150]}") from None


def load(source: Any) -> LanguageModel:
    """source: a folder as `save_pretrained` writes it, or a transformers model. Weights become fp32.

    ValueError where configuration and tensors do not fit each other, before memory is taken for what is not in a file.
    """
    hf_config, weights = opened(source)
    cfg = config_of(hf_config)
    shapes, _ = _planned(weights, hf_config)
    wanted = sum(tensor.numel() for tensor in shapes.values())
    given = weights.numel() if isinstance(weights, Shards) else wanted
    if wanted > 2 * given:  # twice: a head that is the embedding counts as both
        raise ValueError(f"{source}: the configuration asks for {wanted:,} weights, the files hold {given:,}")
    model = LanguageModel(cfg).eval()
    ours = model.state_dict()
    for name, tensor in converted(weights, hf_config):
        ours[name].copy_(tensor)
    return model


def convert(state_dict: Mapping[str, Tensor], hf_config: Any) -> dict[str, Tensor]:
    """Under transformers' names -> the state dict of LanguageModel(config_of(hf_config)), shared where equal."""
    return dict(converted(state_dict, hf_config))


def converted(weights: Mapping[str, Tensor], hf_config: Any) -> Iterator[tuple[str, Tensor]]:
    """As `convert`, a tensor at a time. Nothing is read before all names are known to fit."""
    fields = fields_of(hf_config)
    family, (shapes, sources) = family_of(fields), _planned(weights, hf_config)
    for name, wanted in shapes.items():
        try:
            tensor = family.read(name, sources[name], weights, wanted)
        except RuntimeError as error:  # experts of several shapes
            raise ValueError(f"{fields.family}: {name}: {str(error)[:150]}") from None
        if tensor.shape != wanted.shape:
            raise ValueError(f"{fields.family}: {name} is {tuple(tensor.shape)}, expected {tuple(wanted.shape)}")
        yield name, tensor


def _planned(weights: Mapping[str, Tensor], hf_config: Any) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]]]:
    """Our tensors, without memory, and the names of theirs that each is made of. ValueError where a name is wrong."""
    fields, cfg = fields_of(hf_config), config_of(hf_config)
    family, shapes = family_of(fields), _shapes(cfg, len(weights))
    sources = {name: family.sources(name, cfg, weights.keys()) for name in shapes}
    _check_names(fields, {theirs for names in sources.values() for theirs in names}, set(weights))
    return shapes, sources


def _shapes(cfg: LanguageModelConfig, tensors: int) -> dict[str, Tensor]:
    """Our tensors without memory. tensors: how many there are. Every layer needs one."""
    layers = cfg.stack.repeats * len(cfg.stack.pattern.split())
    if layers > max(tensors, FEW):
        raise ValueError(f"the configuration has {layers:,} layers, and there are {tensors:,} tensors")
    try:
        with torch.device("meta"):
            return LanguageModel(cfg).state_dict()
    except NO_CONFIG as error:
        raise ValueError(f"the configuration makes no model: {str(error)[:150]}") from None


def opened(source: Any) -> tuple[Any, Mapping[str, Tensor]]:
    """Configuration and tensors of a folder or of a model."""
    if not isinstance(source, str | Path):
        return source.config, source.state_dict()
    config = Path(source) / "config.json"
    if not config.is_file():
        raise ValueError(f"{source} is no checkpoint: there is no config.json in it")
    return _json(config), Shards(Path(source))


def _json(file: Path) -> dict[str, Any]:
    """An object. A hub's folder holds links to files elsewhere, so these are followed."""
    if file.stat().st_size > MAX_JSON:
        raise ValueError(f"{file} has more than {MAX_JSON >> 20} MiB; refused")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({str(error)[:100]})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file} holds no object")
    return value


def fields_of(hf_config: Any) -> Fields:
    """The fields of a transformers configuration or of a config.json. ValueError for absurd sizes."""
    fields = Fields(hf_config if isinstance(hf_config, Mapping) else hf_config.to_dict())
    for name in ("num_hidden_layers", "n_routed_experts", "num_experts"):
        many = fields.get(name, 1)
        fields.demand(type(many) is int and 0 < many <= MAX_PARTS, name, f"1 to {MAX_PARTS:,}")
    return fields


def family_of(fields: Fields) -> Family:
    """The family of a configuration. ValueError where it cannot be loaded."""
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
            self._files = _listed(index)
        elif single.is_file():
            self._files = dict.fromkeys(self._handle(single).keys(), single)
        else:
            raise ValueError(f"{folder} has neither {index.name} nor {single.name}")

    def __getitem__(self, name: str) -> Tensor:
        file = self._files[name]
        try:
            return self._handle(file).get_tensor(name)
        except SafetensorError as error:
            raise ValueError(f"{file}: {name} cannot be read ({error})") from None

    def numel(self) -> int:
        """Numbers in all tensors, from the headers alone."""
        try:
            shapes = [self._handle(file).get_slice(name).get_shape() for name, file in self._files.items()]
        except SafetensorError as error:
            raise ValueError(f"{error}: the index names a tensor that its file has not") from None
        return sum(math.prod(shape) for shape in shapes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def _handle(self, file: Path) -> Any:
        if file not in self._open:
            if not file.is_file():
                raise ValueError(f"{file} is named in the index but is not there")
            try:
                self._open[file] = safe_open(file, framework="pt")
            except SafetensorError as error:
                raise ValueError(f"{file} cannot be read ({error})") from None
        return self._open[file]


def _listed(index: Path) -> dict[str, Path]:
    """{tensor: file}. ValueError where a file lies in another folder."""
    files = _json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(f, str) and f and f == Path(f).name for f in files.values()):
        raise ValueError(f"{index} names no files of its folder")
    return {name: index.parent / file for name, file in files.items()}
