"""Gated DeltaNet beside Qwen3-Next's, which falls back to its chunked PyTorch form on CPUs."""

from typing import Any

import torch

from .....backbone.gated_deltanet import GatedDeltaNet, GatedDeltaNetConfig
from .....backbone.scope import scope
from .pair import Pair


def gated_deltanet(B: int, N: int, D: int) -> Pair:
    """Half as many key channels as the model is wide and as many value channels, in heads of 32."""
    cfg = GatedDeltaNetConfig(key_heads=D // 64, value_heads=D // 32)
    return _pair("Gated DeltaNet", B, N, D, cfg)


def gated_deltanet_64(B: int, N: int, D: int) -> Pair:
    """Ungrouped heads of 64."""
    cfg = GatedDeltaNetConfig(key_heads=D // 64, value_heads=D // 64, key_width=64, value_width=64)
    return _pair("Gated DeltaNet, heads of 64", B, N, D, cfg)


def _pair(name: str, B: int, N: int, D: int, cfg: GatedDeltaNetConfig) -> Pair:
    from transformers.models.qwen3_next.configuration_qwen3_next import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    ours, theirs = GatedDeltaNet(D, cfg), Qwen3NextGatedDeltaNet(reference_config(Qwen3NextConfig, D, cfg), 0)
    for p in ours.parameters():
        torch.nn.init.normal_(p, std=0.1)
    theirs.load_state_dict(ours.state_dict())
    every = scope(N)
    return Pair(
        f"{name} | Qwen3NextGatedDeltaNet", torch.randn(B, N, D), lambda x: ours(x, every), theirs, (ours, theirs)
    )


def reference_config(config: Any, D: int, cfg: GatedDeltaNetConfig) -> Any:
    return config(
        hidden_size=D,
        linear_num_key_heads=cfg.key_heads,
        linear_num_value_heads=cfg.value_heads,
        linear_key_head_dim=cfg.key_width,
        linear_value_head_dim=cfg.value_width,
        linear_conv_kernel_dim=cfg.kernel,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
    )
