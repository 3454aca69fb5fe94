"""The sizes of a stack. Layer types are named by a pattern, so that new ones plug in without new options here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StackConfig:
    width: int = 192  # D
    pattern: str = "attn attn attn"  # one mixer a layer, by name (backbone.stack.MIXERS)
    ffn: str = "moe"  # "moe" or "mlp" (backbone.stack.FFNS)
    heads: int = 6
    kv_heads: int = 2
    head_width: int = 32  # d
    rope_share: float = 0.25  # share of a head's channels that carry position
    ffn_width: int = 512  # hidden width of a dense feed-forward layer
    experts: int = 8  # routed experts
    top_k: int = 2  # experts a token visits
    expert_width: int = 128  # hidden width of one expert, shared one included
    balance_rate: float = 1e-2  # step of the routing bias; see backbone.moe
