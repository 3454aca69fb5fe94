"""DeepSeek-V3 and V3.2 as our blocks: latent or sparse attention, dense layers first, then sigmoid-routed experts.

Rotated channels lie in pairs on both sides, so that no weight is permuted. Several shared experts side by side are one
wide one. Published checkpoints are in FP8: convert them to bf16 first.
"""

from typing import Any

from ..dsa import DSAConfig
from ..indexer import IndexerConfig
from ..language_model import LanguageModelConfig
from ..mla import MLAConfig
from ..moe import MoEConfig
from ..router import Routing
from ..yarn import Yarn
from .family import Family, Fields, language_model

NAMES = {
    ".mixer.": ".self_attn.",
    ".ffn.shared.": ".mlp.shared_experts.",
    ".ffn.bias": ".mlp.gate.e_score_correction_bias",
}


def deepseek_v3(f: Fields) -> LanguageModelConfig:
    """The configuration of DeepSeek-V3 as ours."""
    f.must("rope_interleave", True)
    dense = f["first_k_dense_replace"]
    return _model(f, "mla", ["mlp" if i < dense else "moe" for i in range(f["num_hidden_layers"])], mla=latent(f))


def deepseek_v32(f: Fields) -> LanguageModelConfig:
    """The configuration of DeepSeek-V3.2 as ours."""
    indexer = IndexerConfig(f["index_n_heads"], f["index_head_dim"])
    f.demand(indexer.width >= f["qk_rope_head_dim"], "index_head_dim", f"at least {f['qk_rope_head_dim']}")
    layers, dense = f["num_hidden_layers"], f.get("first_k_dense_replace", 3)
    usual = ["dense" if i < dense else "sparse" for i in range(layers)]
    ffns = f.per_layer("mlp_layer_types", usual, {"dense": "mlp", "sparse": "moe"})
    return _model(f, "dsa", ffns, dsa=DSAConfig(latent(f), indexer, f["index_topk"]))


def latent(f: Fields) -> MLAConfig:
    """The configuration of latent attention."""
    f.must("num_key_value_heads", f["num_attention_heads"])
    head = f["qk_nope_head_dim"] + f["qk_rope_head_dim"]
    f.demand(f["v_head_dim"] <= head, "v_head_dim", f"at most {head}, the width of a key")
    return MLAConfig(
        heads=f["num_attention_heads"],
        query_rank=f["q_lora_rank"],
        latent=f["kv_lora_rank"],
        plain_width=f["qk_nope_head_dim"],
        rope_width=f["qk_rope_head_dim"],
        value_width=f["v_head_dim"],
        rope_base=f.rope("default", "yarn")["rope_theta"],
        yarn=yarn(f),
    )


def yarn(f: Fields) -> Yarn | None:
    """The rescaling of rotary frequencies, or None where there is none."""
    rope = f.rope("default", "yarn")
    if rope["rope_type"] == "default":
        return None
    for name, only in {"attention_factor": None, "truncate": True}.items():
        f.demand(rope.get(name, only) == only, "rope_parameters", f"{name} = {only}")
    given = bool(rope.get("mscale")) + bool(rope.get("mscale_all_dim"))
    f.demand(given != 1, "rope_parameters", "mscale and mscale_all_dim both, or neither")
    known = "original_max_position_embeddings"
    f.demand(rope.get(known) is not None, "rope_parameters", f"YaRN with {known}")
    original = rope[known]
    return Yarn(
        factor=rope.get("factor") or f["max_position_embeddings"] / original,
        original=original,
        fast=rope.get("beta_fast") or 32.0,
        slow=rope.get("beta_slow") or 1.0,
        mscale=rope.get("mscale") or 1.0,
        mscale_all=rope.get("mscale_all_dim") or 0.0,
    )


def experts(f: Fields) -> MoEConfig:
    """The configuration of the mixture of experts."""
    for name, only in {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1}.items():
        f.must(name, only)
    f.divides("n_group", "n_routed_experts")
    f.demand(f["n_shared_experts"] > 0, "n_shared_experts", "at least 1")
    routing = Routing(f["routed_scaling_factor"], f["norm_topk_prob"], f["n_group"], f["topk_group"])
    return MoEConfig(
        experts=f["n_routed_experts"],
        top_k=f["num_experts_per_tok"],
        expert_width=f["moe_intermediate_size"],
        balance_rate=1e-3,
        router="sigmoid",
        routing=routing,
        shared_width=f["n_shared_experts"] * f["moe_intermediate_size"],
    )


def _model(f: Fields, mixer: str, ffns: list[str], **sizes: Any) -> LanguageModelConfig:
    return language_model(f, [mixer] * f["num_hidden_layers"], ffns, moe=experts(f), **sizes)


DEEPSEEK_V3 = Family(deepseek_v3, NAMES, gains=True)
DEEPSEEK_V32 = Family(deepseek_v32, NAMES, gains=True)
