"""Qwen3-Next as our blocks: Gated DeltaNet and gated attention, softmax-routed experts beside a gated shared one.

Norms are zero-centred and in_proj_qkvz and in_proj_ba packed on both sides: every weight is taken as it is. Which
layers are dense follows mlp_only_layers and decoder_sparse_step. The routing bias, which Qwen3-Next lacks, is 0.
"""

from ..gated_attention import GatedAttentionConfig
from ..gated_deltanet import GatedDeltaNetConfig
from ..language_model import LanguageModelConfig
from ..moe import MoEConfig
from ..router import Routing
from .family import Family, Fields, language_model

ATTENTION = {f".mixer.{part}_": f".self_attn.{part}_" for part in "qkvo"}
NAMES = {
    **ATTENTION,
    ".mixer.": ".linear_attn.",
    ".ffn.shared.output_gate.": ".mlp.shared_expert_gate.",
    ".ffn.shared.": ".mlp.shared_expert.",
}
MIXERS = {"linear_attention": "gdn", "full_attention": "gated"}


def qwen3_next(f: Fields) -> LanguageModelConfig:
    """The configuration of Qwen3-Next as ours."""
    layers, every = range(f["num_hidden_layers"]), f.get("full_attention_interval", 4)
    usual = ["full_attention" if (i + 1) % every == 0 else "linear_attention" for i in layers]
    mixers = f.per_layer("layer_types", usual, MIXERS)
    ffns = ["moe" if has_experts(f, i) else "mlp" for i in layers]
    return language_model(f, mixers, ffns, gated=attention(f), gdn=delta_net(f), moe=experts(f))


def has_experts(f: Fields, layer: int) -> bool:
    """Does this layer have a mixture of experts?"""
    chosen = (layer + 1) % f.get("decoder_sparse_step", 1) == 0 and layer not in f.get("mlp_only_layers", [])
    return chosen and f["num_experts"] > 0


def attention(f: Fields, share: float = 0.25) -> GatedAttentionConfig:
    """share: of a head's channels that rotate, where the configuration does not say."""
    f.divides("num_key_value_heads", "num_attention_heads")
    rope = f.rope()
    return GatedAttentionConfig(
        heads=f["num_attention_heads"],
        kv_heads=f["num_key_value_heads"],
        head_width=f["head_dim"],
        rope_share=rope.get("partial_rotary_factor", share),
        rope_base=rope["rope_theta"],
    )


def delta_net(f: Fields) -> GatedDeltaNetConfig:
    """The configuration of Gated DeltaNet."""
    f.divides("linear_num_key_heads", "linear_num_value_heads")
    return GatedDeltaNetConfig(
        key_heads=f["linear_num_key_heads"],
        value_heads=f["linear_num_value_heads"],
        key_width=f["linear_key_head_dim"],
        value_width=f["linear_value_head_dim"],
        kernel=f["linear_conv_kernel_dim"],
    )


def experts(f: Fields) -> MoEConfig:
    """The configuration of the mixture of experts."""
    return MoEConfig(
        experts=f["num_experts"],
        top_k=f["num_experts_per_tok"],
        expert_width=f["moe_intermediate_size"],
        balance_rate=1 / max(1, f["num_experts"]),
        router="softmax",
        routing=Routing(renormalise=f.get("norm_topk_prob", True)),
        shared_width=f["shared_expert_intermediate_size"],
        shared_gate=True,
    )


QWEN3_NEXT = Family(qwen3_next, NAMES, zeros=(".ffn.bias",))
