"""Attention and its norms beside transformers' modules, which run their fastest form on CPUs (sdpa)."""

from typing import Any

import torch
from torch import Tensor, nn

from .....backbone.attention import Attention, AttentionConfig
from .....backbone.dsa import DSAConfig, SparseAttention
from .....backbone.gated_attention import GatedAttention, GatedAttentionConfig
from .....backbone.indexer import IndexerConfig
from .....backbone.mla import LatentAttention, MLAConfig
from .....backbone.norms import GatedRMSNorm, RMSNorm, ZeroCentredRMSNorm
from .....backbone.scope import scope
from .pair import Pair

SDPA: dict[str, Any] = {"attn_implementation": "sdpa"}


def same_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Random weights large enough that every path matters, for both."""
    with torch.no_grad():
        for p in theirs.parameters():
            p.normal_(std=0.1)
    ours.load_state_dict(theirs.state_dict())


def together(ours: nn.Module, theirs: nn.Module, rotary: nn.Module, mask: Tensor | None, x: Tensor) -> Any:
    """Both sides of a pair of layers with the same weight names. Angles are computed in each call, as ours are."""
    same_weights(ours, theirs)
    N = x.shape[1]
    positions = torch.arange(N)[None]
    return x, lambda x: ours(x, scope(N)), lambda x: theirs(x, rotary(x, positions), mask)[0], (ours, theirs)


def llama(kv_heads: int, B: int, N: int, D: int) -> Any:
    from transformers import LlamaConfig
    from transformers.models.llama import modeling_llama as reference

    heads = D // 32
    sizes: dict[str, Any] = {
        "hidden_size": D,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 32,
    }
    config = LlamaConfig(**sizes, **SDPA)
    theirs, rotary = reference.LlamaAttention(config, 0), reference.LlamaRotaryEmbedding(config)
    return together(Attention(D, AttentionConfig(heads, kv_heads, 32)), theirs, rotary, None, torch.randn(B, N, D))


def multi_head_attention(B: int, N: int, D: int) -> Pair:
    return Pair("multi-head attention | LlamaAttention", *llama(D // 32, B, N, D))


def grouped_query_attention(B: int, N: int, D: int) -> Pair:
    return Pair("grouped-query attention | LlamaAttention", *llama(D // 64, B, N, D))


def latent_attention(B: int, N: int, D: int) -> Pair:
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as reference

    config = DeepseekV3Config(**deepseek_sizes(D), **SDPA)
    theirs, rotary = reference.DeepseekV3Attention(config, 0), reference.DeepseekV3RotaryEmbedding(config)
    ours, x = LatentAttention(D, mla_config(D)), torch.randn(B, N, D)
    return Pair("latent attention (MLA) | DeepseekV3Attention", *together(ours, theirs, rotary, None, x))


def mla_config(D: int) -> MLAConfig:
    return MLAConfig(heads=D // 32, query_rank=D // 2, latent=D // 4)


def deepseek_sizes(D: int) -> dict[str, Any]:
    c = mla_config(D)
    return {
        "hidden_size": D,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.heads,
        "q_lora_rank": c.query_rank,
        "kv_lora_rank": c.latent,
        "qk_nope_head_dim": c.plain_width,
        "qk_rope_head_dim": c.rope_width,
        "v_head_dim": c.value_width,
    }


def gated_attention(B: int, N: int, D: int) -> Pair:
    from transformers import Qwen3NextConfig
    from transformers.models.qwen3_next import modeling_qwen3_next as reference

    sizes: dict[str, Any] = {
        "hidden_size": D,
        "num_attention_heads": D // 32,
        "num_key_value_heads": D // 64,
        "head_dim": 32,
    }
    config = Qwen3NextConfig(**sizes, **SDPA)
    theirs, rotary = reference.Qwen3NextAttention(config, 0), reference.Qwen3NextRotaryEmbedding(config)
    ours, x = GatedAttention(D, GatedAttentionConfig(D // 32, D // 64, 32)), torch.randn(B, N, D)
    return Pair("gated attention | Qwen3NextAttention", *together(ours, theirs, rotary, None, x))


def rms_norm(B: int, N: int, D: int) -> Pair:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    ours, theirs = RMSNorm(D), LlamaRMSNorm(D)
    same_weights(ours, theirs)
    return Pair("RMS norm | LlamaRMSNorm", torch.randn(B, N, D), ours, theirs, (ours, theirs))


def zero_centred_rms_norm(B: int, N: int, D: int) -> Pair:
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextRMSNorm

    ours, theirs = ZeroCentredRMSNorm(D), Qwen3NextRMSNorm(D)
    same_weights(ours, theirs)
    return Pair("zero-centred RMS norm | Qwen3NextRMSNorm", torch.randn(B, N, D), ours, theirs, (ours, theirs))


def gated_rms_norm(B: int, N: int, D: int) -> Pair:
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextRMSNormGated

    ours, theirs, z = GatedRMSNorm(D), Qwen3NextRMSNormGated(D), torch.randn(B, N, D)
    same_weights(ours, theirs)
    name = "gated RMS norm | Qwen3NextRMSNormGated"
    return Pair(name, torch.randn(B, N, D), lambda x: ours(x, z), lambda x: theirs(x, z), (ours, theirs))


def sparse_attention(B: int, N: int, D: int) -> Pair:
    from transformers import DeepseekV32Config
    from transformers.models.deepseek_v32 import modeling_deepseek_v32 as reference

    cfg = DSAConfig(mla_config(D), IndexerConfig(heads=16), top_k=64)  # with 8 some rows tie, which theirs leaves open
    index: dict[str, Any] = {
        "index_n_heads": cfg.indexer.heads,
        "index_head_dim": cfg.indexer.width,
        "index_topk": cfg.top_k,
    }
    config = DeepseekV32Config(**deepseek_sizes(D), **index, **SDPA)
    theirs, rotary = reference.DeepseekV32Attention(config, 0), reference.DeepseekV32RotaryEmbedding(config)
    mask = torch.ones(1, 1, N, N, dtype=torch.bool).tril()
    ours, x = SparseAttention(D, cfg), torch.randn(B, N, D)
    return Pair("sparse attention (DSA) | DeepseekV32Attention", *together(ours, theirs, rotary, mask, x))
