"""Multi-token prediction beside transformers' `MtpLayer` on a dense GLM-4 block (sdpa, its fastest form on CPUs)."""

from typing import Any

import torch
from torch import Tensor, nn

from .....backbone.attention import AttentionConfig
from .....backbone.mtp import MTPLayer
from .....backbone.stack import StackConfig
from .pair import Pair

OURS = {  # beginnings of names: theirs and ours
    "mtp_block.self_attn.": "block.layers.0.mixer.",
    "mtp_block.mlp.": "block.layers.0.ffn.",
    "mtp_block.input_layernorm.": "block.layers.0.mixer_norm.",
    "mtp_block.post_attention_layernorm.": "block.layers.0.ffn_norm.",
    "post_norm.": "block.norm.",
}


def multi_token_prediction(B: int, N: int, D: int) -> Pair:
    ours = MTPLayer(StackConfig(D, "attn", ffn="mlp", ffn_width=2 * D, attn=AttentionConfig(D // 32, D // 64, 32)))
    theirs, rotary = glm_layer(D)
    with torch.no_grad():
        for p in theirs.parameters():
            p.normal_(std=0.1)
    ours.load_state_dict(renamed(theirs.state_dict()))
    embedded, positions = torch.randn(B, N, D), torch.arange(N)[None]

    def reference(x: Tensor) -> Tensor:
        return theirs(embedded, x, rotary(x, positions), None, None, None)

    name = "multi-token prediction | MtpLayer of Glm4Moe"
    return Pair(name, torch.randn(B, N, D), lambda x: ours(embedded, x), reference, (ours, theirs))


def glm_layer(D: int) -> tuple[nn.Module, nn.Module]:
    from transformers import Glm4MoeConfig
    from transformers.modeling_layers import MtpLayer
    from transformers.models.glm4_moe import modeling_glm4_moe as reference

    sizes: dict[str, Any] = {
        "hidden_size": D,
        "intermediate_size": 2 * D,
        "num_attention_heads": D // 32,
        "num_key_value_heads": D // 64,
        "head_dim": 32,
        "rms_norm_eps": 1e-6,
        "first_k_dense_replace": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0},
        "attn_implementation": "sdpa",
    }
    config = Glm4MoeConfig(**sizes)
    layer = MtpLayer(config, reference.Glm4MoeDecoderLayer, reference.Glm4MoeRMSNorm, 0)
    return layer, reference.Glm4MoeRotaryEmbedding(config)


def renamed(theirs: dict[str, Tensor], shift: float = 1.0) -> dict[str, Tensor]:
    """Weights of an `MtpLayer` under our names. Plain norms become zero-centred ones by a shift."""
    weights = {}
    for name, value in theirs.items():
        own = next((name.replace(old, new) for old, new in OURS.items() if name.startswith(old)), name)
        weights[own] = value - shift if "norm" in name else value
    return weights
