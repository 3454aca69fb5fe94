"""What a family of published models says about itself: its configuration as ours, and its names for our tensors.

Our names become theirs by replacing fragments, in the order of a table, the family's own before those all share:

    stack.layers.3.mixer_norm.weight      ->  model.layers.3.input_layernorm.weight
    stack.layers.3.mixer.q_a_proj.weight  ->  model.layers.3.self_attn.q_a_proj.weight       {".mixer.": ".self_attn."}
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..language_model import LanguageModelConfig
from ..stack import StackConfig

SHARED_NAMES = {
    "embedding.": "model.embed_tokens.",
    "head.": "lm_head.",
    "stack.": "model.",
    ".mixer_norm.": ".input_layernorm.",
    ".ffn_norm.": ".post_attention_layernorm.",
    ".ffn.router.": ".mlp.gate.",
    ".ffn.gate_up": ".mlp.experts.gate_up_proj",
    ".ffn.down_proj.": ".mlp.down_proj.",  # of a dense layer; what is left of `.ffn.down` are experts
    ".ffn.down": ".mlp.experts.down_proj",
    ".ffn.": ".mlp.",
}
PARTS_OF_AN_EXPERT = {"experts.gate_up_proj": ("gate_proj", "up_proj"), "experts.down_proj": ("down_proj",)}
CENTRED = ("mixer_norm.weight", "ffn_norm.weight", "stack.norm.weight")  # the gain is 1 + our weight


class Fields:
    """The content of a config.json, read with errors that name the field. A field may be left out or null alike."""

    def __init__(self, values: Mapping[str, Any]):
        self.values, self.family = values, str(values.get("model_type"))

    def __getitem__(self, name: str) -> Any:
        if self.values.get(name) is None:
            raise ValueError(f"{self.family} configuration: {name} is not given")
        return self.values[name]

    def get(self, name: str, default: Any) -> Any:
        """A field, or `default` where it is left out or null."""
        value = self.values.get(name)
        return default if value is None else value

    def must(self, name: str, only: Any) -> None:
        """only: the one value our blocks follow, which is also what leaving the field out means."""
        self.demand(self.get(name, only) == only, name, repr(only))

    def demand(self, fits: bool, name: str, wanted: str) -> None:
        """ValueError, which names the field and what is supported, where it does not fit."""
        if not fits:
            raise ValueError(f"{self.family} configuration: {name} = {self.values.get(name)!r}, supported: {wanted}")

    def divides(self, part: str, whole: str) -> None:
        """ValueError where one field is no divisor of another."""
        self.demand(self[whole] % self[part] == 0, part, f"what divides {whole} = {self[whole]}")

    def per_layer(self, name: str, usual: list[str], known: Mapping[str, str]) -> list[str]:
        """A field that names every layer's kind -> our names of these."""
        kinds = self.get(name, usual)
        fits = len(kinds) == self["num_hidden_layers"] and all(kind in known for kind in kinds)
        self.demand(fits, name, f"one of {', '.join(known)} for each of {self['num_hidden_layers']} layers")
        return [known[kind] for kind in kinds]

    def rope(self, *kinds: str) -> dict[str, Any]:
        """Rotary parameters: one field since transformers 5, several in older configurations. kinds: those supported,
        none: only the default."""
        rope = self.get("rope_parameters", None) or self.get("rope_scaling", {})
        if not isinstance(rope, Mapping):
            raise ValueError(f"{self.family} configuration: rope_parameters = {rope!r} is no object")
        kind = rope.get("rope_type", rope.get("type", "default"))
        supported = kinds or ("default",)
        if kind not in supported:
            known = " or ".join(map(repr, supported))
            raise ValueError(f"{self.family} configuration: rope_type = {kind!r}, supported: {known}")
        older = {name: self.values[name] for name in ("rope_theta", "partial_rotary_factor") if self.values.get(name)}
        return {"rope_theta": 10_000.0, **older, **rope, "rope_type": kind}


@dataclass(frozen=True)
class Family:
    """A family of published models: its configuration as ours, and its names of our tensors."""

    config: Callable[[Fields], LanguageModelConfig]
    names: Mapping[str, str]  # fragments of our names -> of theirs, before SHARED_NAMES
    zeros: tuple[str, ...] = ()  # ends of our names that they have no tensor for
    gains: bool = False  # the trunk's norm weights are gains themselves, not what is added to 1

    def sources(self, name: str, cfg: LanguageModelConfig, given: Collection[str]) -> tuple[str, ...]:
        """Names of their tensors that one of ours is made of: none, one, or the parts of all experts."""
        if name.endswith(self.zeros):
            return ()
        theirs = "embedding.weight" if name == "head.weight" and cfg.tied else name
        for fragment, replacement in {**self.names, **SHARED_NAMES}.items():
            theirs = theirs.replace(fragment, replacement)
        ending = next((ending for ending in PARTS_OF_AN_EXPERT if theirs.endswith(ending)), None)
        if ending is None or theirs in given:
            return (theirs,)
        before = theirs.removesuffix(ending)
        experts = range(cfg.stack.moe.experts)
        return tuple(f"{before}experts.{e}.{part}.weight" for e in experts for part in PARTS_OF_AN_EXPERT[ending])

    def read(self, name: str, sources: tuple[str, ...], weights: Mapping[str, Tensor], wanted: Tensor) -> Tensor:
        """wanted: a tensor of our shape."""
        if not sources:
            return torch.zeros(wanted.shape)
        if len(sources) > 1:
            return torch.cat([weights[source] for source in sources]).view(wanted.shape)
        weight = weights[sources[0]]
        return weight.float() - 1 if self.gains and name.endswith(CENTRED) else weight


def ignored(name: str, fields: Fields) -> bool:
    """Whether one of their tensors is left out on purpose: rotary frequencies, layers for multi-token prediction."""
    layer = re.match(r"model\.layers\.(\d+)\.", name)
    beyond = layer is not None and int(layer[1]) >= fields["num_hidden_layers"]
    tied = name == "lm_head.weight" and fields.get("tie_word_embeddings", False)
    return beyond or tied or name.startswith("mtp.") or name.endswith("rotary_emb.inv_freq")


def language_model(f: Fields, mixers: list[str], ffns: list[str], **sizes: Any) -> LanguageModelConfig:
    """One name a layer in mixers and ffns. Sizes: further fields of the StackConfig."""
    for name, only in {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "rms_norm_eps": 1e-6}.items():
        f.must(name, only)
    f.must("attention_dropout", 0)
    f.demand(f.get("quantization_config", None) is None, "quantization_config", "none (convert the weights to bf16)")
    width, hidden = f["hidden_size"], f["intermediate_size"]
    stack = StackConfig(width, " ".join(mixers), ffn=" ".join(ffns), ffn_width=hidden, **sizes)
    return LanguageModelConfig(f["vocab_size"], stack, mtp_depth=0, tied=f.get("tie_word_embeddings", False))
