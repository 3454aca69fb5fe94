"""Mixture of experts beside DeepSeek-V3's, in both of transformers' ways to run experts. SwiGLU beside Llama's.

"grouped_mm" with 32 experts, "eager" with 128, of which a token visits two: eager indexes the stacked weights in a
loop, and autograd answers every index with a gradient of the whole stack, so that ultra-sparse is where it suffers.
"""

from typing import Any

import torch
from torch import nn

from .....backbone.feed_forward import SwiGLU
from .....backbone.moe import MixtureOfExperts, MoEConfig
from .pair import Pair

TOP_K = 2


def moe(B: int, N: int, D: int) -> Pair:
    ours, theirs = _both(D, 32, "grouped_mm")
    return Pair("MoE, 32 experts, beside grouped_mm", torch.randn(B, N, D), ours, theirs, (ours, theirs))


def moe_eager(B: int, N: int, D: int) -> Pair:
    ours, theirs = _both(D, 128, "eager")
    return Pair("MoE, 128 experts, beside eager", torch.randn(B, N, D), ours, theirs, (ours, theirs))


def _both(D: int, experts: int, implementation: str) -> tuple[nn.Module, nn.Module]:
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

    ours = MixtureOfExperts(D, MoEConfig(experts=experts, top_k=TOP_K, expert_width=D // 2))
    sizes: dict[str, Any] = {
        "hidden_size": D,
        "moe_intermediate_size": D // 2,
        "n_routed_experts": experts,
        "num_experts_per_tok": TOP_K,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
        "experts_implementation": implementation,
    }
    theirs = DeepseekV3MoE(DeepseekV3Config(**sizes))
    _shake(ours)
    theirs.load_state_dict(
        {
            "gate.weight": ours.router.weight,
            "gate.e_score_correction_bias": ours.bias,
            "experts.gate_up_proj": ours.gate_up,
            "experts.down_proj": ours.down,
            **{f"shared_experts.{name}": value for name, value in ours.shared.state_dict().items()},
        }
    )
    return ours.eval(), theirs.eval()


def swiglu(B: int, N: int, D: int) -> Pair:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaMLP

    ours, theirs = SwiGLU(D, 3 * D), LlamaMLP(LlamaConfig(hidden_size=D, intermediate_size=3 * D))
    _shake(ours)
    theirs.load_state_dict(ours.state_dict())
    return Pair("SwiGLU", torch.randn(B, N, D), ours, theirs, (ours, theirs))


def _shake(module: nn.Module) -> None:
    for p in module.parameters():
        nn.init.normal_(p, std=0.1)
