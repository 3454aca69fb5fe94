"""Hyper-connections beside DeepSeek-V4's, the single-stream diffusion block beside Z-Image's."""

import torch
from torch import Tensor, nn

from .....backbone.dit import DiTBlock, DiTConfig
from .....backbone.hyper_connections import RESIDUALS, HyperConfig
from .pair import Pair


def hyper_connection(B: int, N: int, D: int) -> Pair:
    """Two streams, exact mixing. 20 Sinkhorn iterations converge to the same for two streams."""
    return _connection("mhc", B, N, D, streams=2)


def hyper_connection_sinkhorn(B: int, N: int, D: int) -> Pair:
    """Four streams, the same 20 Sinkhorn iterations."""
    return _connection("mhc-sinkhorn", B, N, D, streams=4)


def _connection(name: str, B: int, N: int, D: int, streams: int) -> Pair:
    """x is (B, N, n, D), and the sublayer the identity: its cost would be the same on both sides."""
    from transformers.models.deepseek_v4.configuration_deepseek_v4 import DeepseekV4Config
    from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4HyperConnection

    theirs = DeepseekV4HyperConnection(DeepseekV4Config(hidden_size=D, hc_mult=streams))
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.2)
    ours = RESIDUALS[name](D, streams, HyperConfig(), 0)
    ours.load_state_dict(theirs.state_dict())

    def reference(x: Tensor) -> Tensor:
        write, mix, y = theirs(x)
        return write.unsqueeze(-1) * y.unsqueeze(-2) + torch.matmul(mix.transpose(-1, -2), x)

    x, same = torch.randn(B, N, streams, D), nn.Identity()
    return Pair(f"{name}, n = {streams}", x, lambda x: ours(x, same), reference, (ours, theirs))


def dit_block(B: int, N: int, D: int) -> Pair:
    """Modulated block without positions, one time a sample."""
    from diffusers.models.transformers.transformer_z_image import ZImageTransformerBlock

    heads = D // 32
    theirs = ZImageTransformerBlock(0, D, heads, heads, 1e-6, True)
    nn.init.normal_(theirs.get_parameter("adaLN_modulation.0.weight"), std=0.2)
    ours = DiTBlock(DiTConfig(D, heads, ffn_width=int(D / 3 * 8), time_width=min(D, 256)))
    load_z_image(ours, theirs)
    c = torch.randn(B, min(D, 256))
    return Pair(
        "DiTBlock",
        torch.randn(B, N, D),
        lambda x: ours(x, c[:, None])[0],
        lambda x: theirs(x, None, None, c),
        (ours, theirs),
    )


def load_z_image(ours: DiTBlock, theirs: nn.Module) -> None:
    """Weights of a `ZImageTransformerBlock`. Its query and key norms have an epsilon of their own."""
    state = theirs.state_dict()
    attention, ffn = "attention.to_", "feed_forward.w"
    renamed = {
        "qkv.weight": torch.cat([state[f"{attention}{part}.weight"] for part in "qkv"]),
        "out.weight": state[f"{attention}out.0.weight"],
        "up.weight": torch.cat([state[f"{ffn}1.weight"], state[f"{ffn}3.weight"]]),
        "down.weight": state[f"{ffn}2.weight"],
        "query_norm.weight": state["attention.norm_q.weight"],
        "key_norm.weight": state["attention.norm_k.weight"],
        "modulation.weight": state["adaLN_modulation.0.weight"],
        "modulation.bias": state["adaLN_modulation.0.bias"],
    }
    norms = ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2")
    renamed |= {f"norms.{i}.weight": state[f"{name}.weight"] for i, name in enumerate(norms)}
    ours.load_state_dict(renamed)
    ours.query_norm.eps = ours.key_norm.eps = 1e-5
