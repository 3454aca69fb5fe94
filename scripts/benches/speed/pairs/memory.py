"""Engram beside Qwen4-Exp's per-layer embedding, tokens in causal flow beside DeepSeek-OCR 2's vision encoder."""

from typing import Any

import torch
from torch import Tensor

from .....backbone.causal_flow import CausalFlow, CausalFlowConfig
from .....backbone.engram import Engram, EngramConfig
from .....backbone.scope import Scope
from .pair import Pair

WORDS, STREAMS = 1000, 2


def engram(B: int, N: int, D: int) -> Pair:
    """Look-up, gate and convolution on two residual streams. Every token is a word, as in the reference."""
    from transformers.models.qwen4_exp.configuration_qwen4_exp import Qwen4ExpTextConfig
    from transformers.models.qwen4_exp.modeling_qwen4_exp import Qwen4ExpTextPLELayer

    cfg = EngramConfig(WORDS)
    theirs = Qwen4ExpTextPLELayer(reference_config(Qwen4ExpTextConfig, D, cfg, STREAMS), 0, 0)
    ours = Engram(D, cfg, streams=STREAMS)
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.2)
    ours.load_state_dict(from_reference(theirs.state_dict(), ours), strict=False)
    ids = torch.randint(WORDS, (B, N))
    scope = Scope(torch.arange(N), ids=ids)
    return Pair(
        "Engram",
        torch.randn(B, N, D),
        lambda x: ours(x[:, :, None].expand(B, N, STREAMS, D), scope).flatten(-2),
        lambda x: theirs(x.repeat(1, 1, STREAMS), ids, None),
        (ours, theirs),
    )


def reference_config(config: Any, D: int, cfg: EngramConfig, streams: int, layers: int = 1) -> Any:
    """Qwen4-Exp's configuration of the same memory. `eos` plays the part of our "nothing here"."""
    return config(
        hidden_size=D,
        hc_count=streams,
        vocab_size=cfg.vocabulary + 1,
        eos_token_id=cfg.vocabulary,
        ngram_size=cfg.order,
        heads_per_ngram=cfg.heads,
        ngram_vocab_size_base=cfg.rows,
        make_ngram_vocab_size_divisible_by=1,
        ple_embed_dim=(cfg.order - 1) * cfg.heads * cfg.head_width,
        ple_conv_kernel_size=cfg.kernel,
        ple_layer_ids=[1 + i for i in range(layers)],
        num_hidden_layers=layers,
        layer_types=["linear_attention"] * layers,
        seed=cfg.seed,
    )


def from_reference(state: dict[str, Tensor], ours: Engram) -> dict[str, Tensor]:
    """A `Qwen4ExpTextPLELayer`'s weights as an Engram's: gains that meet only as products are multiplied here."""
    gain = {name: 1 + state[f"norm_{name}.weight"] for name in ("key", "query", "conv")}
    return {
        "table.weight": state["ple_embedding.ngram_embedding.weight"],
        "key_proj.weight": state["key_proj.weight"],
        "value_proj.weight": state["value_proj.weight"],
        "gate_gain": (gain["key"] * gain["query"] - 1).view_as(ours.gate_gain),
        "conv": state["conv1d.weight"][:, 0].t() * gain["conv"],
    }


def causal_flow(B: int, N: int, D: int) -> Pair:
    """N patches -> N / 8 scene tokens, two layers."""
    from transformers.models.deepseek_ocr2.configuration_deepseek_ocr2 import DeepseekOcr2VisionEncoderConfig
    from transformers.models.deepseek_ocr2.modeling_deepseek_ocr2 import DeepseekOcr2VisionEncoder

    cfg = CausalFlowConfig(queries=N // 8, ffn_width=2 * D)
    theirs = DeepseekOcr2VisionEncoder(flow_config(DeepseekOcr2VisionEncoderConfig, D, cfg))
    ours = CausalFlow(D, cfg)
    ours.load_state_dict(flow_weights(theirs.state_dict()), strict=False)
    queries = ours.queries.detach().expand(B, -1, -1)
    return Pair(
        "CausalFlow",
        torch.randn(B, N, D),
        ours,
        lambda x: theirs(torch.cat([x, queries], 1), num_patches=N).last_hidden_state[:, N:],
        (ours, theirs),
    )


def flow_config(config: Any, D: int, cfg: CausalFlowConfig) -> Any:
    return config(
        hidden_size=D,
        intermediate_size=cfg.ffn_width,
        num_hidden_layers=cfg.layers,
        num_attention_heads=cfg.heads,
        num_key_value_heads=cfg.kv_heads,
        rope_parameters={"rope_type": "default", "rope_theta": cfg.rope_base},
        attn_implementation="sdpa",
        vocab_size=2,
    )


def flow_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A `DeepseekOcr2VisionEncoder`'s weights under our names. The queries are a module's beside it."""
    names = {"self_attn.": "", "input_layernorm": "mixer_norm", "post_attention_layernorm": "ffn_norm", "mlp.": "ffn."}
    renamed = {}
    for name, weight in state.items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        renamed[name] = weight
    return renamed
