"""Blocks of a Qwen4-Exp as ours, one by one. As a whole it is none of our stacks.

    parts("folder") -> {"embedding": ..., "layers.0.memory": Engram, "layers.0.mixer": GatedDeltaNet, ..., "head": ...}

What matches, to fp32 rounding:
    Gated DeltaNet       any; its separate projections are packed as Qwen3-Next packs them
    mixture of experts   any
    gated attention      up to indexer_budget + indexer_compress_ratio - 1 tokens: its indexer selects all of them
    n-gram memory        texts that do not go on behind an end-of-text token, whose own memory we leave out; three gains
                         become two, as they meet only as products
    embedding and head   any
What does not, and is dropped: block-compressed sparse attention of longer texts (indexer.*). The gated residual
(*hyper_connection*), which weighs every channel of normed streams where ours weigh streams, and which no configuration
turns off (hc_count >= 2). Vision, and positions on three axes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..engram import Engram, EngramConfig
from ..gated_attention import GatedAttention
from ..gated_deltanet import GatedDeltaNet
from ..language_model import LanguageModelConfig
from ..moe import MixtureOfExperts
from ..stack import StackConfig
from .family import Fields
from .load import opened
from .qwen import QWEN3_NEXT, attention, delta_net, experts

Tensors = Mapping[str, Tensor]
NORMS = ("key", "query", "conv")


def parts(source: Any) -> dict[str, nn.Module]:
    """source: a folder or a transformers model -> our blocks by name, in evaluation mode."""
    hf_config, weights = opened(source)
    values = hf_config if isinstance(hf_config, Mapping) else hf_config.to_dict()
    f = Fields(values.get("text_config", values))
    if f.family != "qwen4_exp_text":
        raise ValueError(f"model_type {f.family!r} is no qwen4_exp_text")
    trunk = next(name for name in weights if name.endswith("embed_tokens.weight")).removesuffix("embed_tokens.weight")
    table = weights[f"{trunk}embed_tokens.weight"].float()
    blocks: dict[str, nn.Module] = {"embedding": nn.Embedding.from_pretrained(table, freeze=False)}
    for i in range(f["num_hidden_layers"]):
        layer = {f"model.layers.{i}.{name}": w for name, w in under(f"{trunk}layers.{i}.", weights).items()}
        blocks |= {f"layers.{i}.{kind}": block for kind, block in layer_parts(f, i, layer).items()}
    head = nn.Linear(f["hidden_size"], f["vocab_size"], bias=False)
    head.load_state_dict({"weight": table if f.get("tie_word_embeddings", False) else weights["lm_head.weight"]})
    return {name: block.eval() for name, block in (blocks | {"head": head}).items()}


def layer_parts(f: Fields, i: int, weights: Tensors) -> dict[str, nn.Module]:
    """weights: of layer i, under Qwen3-Next's names but for what Qwen4-Exp adds."""
    width, ours, theirs = f["hidden_size"], f"stack.layers.{i}.", f"model.layers.{i}."
    blocks: dict[str, nn.Module] = {}
    if i + 1 in f.get("ple_layer_ids", []):
        blocks["memory"] = memory(f, f["ple_layer_ids"].index(i + 1), under(f"{theirs}ple.", weights))
    if f["layer_types"][i] == "linear_attention":
        f.demand(f.get("output_gate_type", f["hidden_act"]) == "silu", "output_gate_type", "'silu'")
        weights = {**weights, **packed(f, f"{theirs}linear_attn.in_proj_", weights)}
        blocks["mixer"] = filled(GatedDeltaNet(width, delta_net(f)), f"{ours}mixer.", f, weights)
    else:
        blocks["mixer"] = filled(GatedAttention(width, attention(f, share=1.0)), f"{ours}mixer.", f, weights)
    return blocks | {"ffn": filled(MixtureOfExperts(width, experts(f)), f"{ours}ffn.", f, weights)}


def filled(block: nn.Module, ours: str, f: Fields, weights: Tensors) -> nn.Module:
    """The block with its weights, which are those of Qwen3-Next.
    ours: what its names begin with in a stack."""
    cfg, state = LanguageModelConfig(stack=StackConfig(moe=experts(f))), {}
    for name, wanted in block.state_dict().items():
        sources = QWEN3_NEXT.sources(ours + name, cfg, weights.keys())
        state[name] = QWEN3_NEXT.read(ours + name, sources, weights, wanted)
    block.load_state_dict(state)
    return block


def packed(f: Fields, theirs: str, weights: Tensors) -> dict[str, Tensor]:
    """Projections to q, k, v of all heads, to z, b and a -> to (q k v z) and (b a) of every key head in turn."""
    heads, key = f["linear_num_key_heads"], f["linear_num_key_heads"] * f["linear_key_head_dim"]
    q, k, v = weights[f"{theirs}qkv.weight"].tensor_split([key, 2 * key])
    z, b, a = (weights[f"{theirs}{name}.weight"] for name in "zba")
    rows = {"qkvz": (q, k, v, z), "ba": (b, a)}
    return {
        f"{theirs}{name}.weight": torch.cat([part.unflatten(0, (heads, -1)) for part in parts], 1).flatten(0, 1)
        for name, parts in rows.items()
    }


def memory(f: Fields, index: int, weights: Tensors) -> Engram:
    """index: how many memories come before.
    weights: of a `Qwen4ExpTextPLELayer`, its table whole or in shards."""
    order, heads, eos = f["ngram_size"], f["heads_per_ngram"], f["eos_token_id"]
    cfg = EngramConfig(
        vocabulary=f["vocab_size"] - 1,  # one id is "nothing here": their end of text
        order=order,
        heads=heads,
        rows=f["ngram_vocab_size_base"],
        head_width=f["ple_embed_dim"] // ((order - 1) * heads),
        kernel=f["ple_conv_kernel_size"],
        seed=f["seed"],
    )
    block = Engram(f["hidden_size"], cfg, index, f["hc_count"])
    block.hash.nothing = eos[0] if isinstance(eos, list) else eos
    block.compressed = torch.arange(f["vocab_size"])
    hashing, gain = "ple_embedding.layer_multipliers", {n: 1 + weights[f"norm_{n}.weight"].float() for n in NORMS}
    if not torch.equal(weights.get(hashing, block.hash.multipliers), block.hash.multipliers):
        raise ValueError(f"{f.family}: {hashing} are not those of seed = {f['seed']}")
    state = {
        "table.weight": ngram_table(under("ple_embedding.ngram_embedding.", weights))[: block.hash.rows],
        "key_proj.weight": weights["key_proj.weight"],
        "value_proj.weight": weights["value_proj.weight"],
        "gate_gain": (gain["key"] * gain["query"] - 1).view_as(block.gate_gain),
        "conv": weights["conv1d.weight"][:, 0].t() * gain["conv"],
        "compressed": block.compressed,
    }
    block.load_state_dict(state)
    return block


def ngram_table(weights: Tensors) -> Tensor:
    if "weight" in weights:
        return weights["weight"]
    shards = sorted(weights, key=lambda name: int(name.split(".")[0].removeprefix("shard_")))
    return torch.cat([weights[name] for name in shards])


def under(prefix: str, weights: Tensors) -> dict[str, Tensor]:
    """Those whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}
