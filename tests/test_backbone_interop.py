"""Laws of loading published models: same logits, cached as well, from memory and from disk; clear errors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tandem.backbone.dsa import SparseAttention
from tandem.backbone.interop.load import FAMILIES, Shards, config_of, convert, load
from tandem.backbone.language_model import LanguageModel
from torch import Tensor

transformers = pytest.importorskip("transformers")

SIZES = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
LATENT = {
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}
EXPERTS = {
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 16,
    "n_group": 4,
    "topk_group": 2,
}
INDEX = {"index_n_heads": 8, "index_head_dim": 8, "index_topk": 6}
QWEN = {
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 24,
}
LONGER = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 64}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "V3": ("DeepseekV3", {**LATENT, **EXPERTS}),
    "V3, tied, two shared experts, no groups": (
        "DeepseekV3",
        {
            **LATENT,
            **EXPERTS,
            "tie_word_embeddings": True,
            "n_shared_experts": 2,
            "n_group": 1,
            "topk_group": 1,
            "norm_topk_prob": False,
            "routed_scaling_factor": 1.5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        },
    ),
    "V3, narrow values, dense": (
        "DeepseekV3",
        {**LATENT, **EXPERTS, "first_k_dense_replace": 3, "v_head_dim": 6, "num_attention_heads": 2}
        | {"num_key_value_heads": 2},
    ),
    "V3.2": ("DeepseekV32", {**LATENT, **EXPERTS, **INDEX}),
    "V3.2, pattern of experts": (
        "DeepseekV32",
        {**LATENT, **EXPERTS, **INDEX, "index_topk": 9, "index_head_dim": 16}
        | {"mlp_layer_types": ["sparse", "dense", "sparse"]},
    ),
    "V3, YaRN as published": (
        "DeepseekV3",
        {**LATENT, **EXPERTS, "qk_rope_head_dim": 16}
        | {"rope_parameters": {**LONGER, "mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 4, "beta_slow": 0.5}},
    ),
    "V3.2, YaRN without magnitudes": (
        "DeepseekV32",
        {**LATENT, **EXPERTS, **INDEX, "qk_rope_head_dim": 16, "index_head_dim": 16, "rope_parameters": LONGER},
    ),
    "Qwen3-Next": ("Qwen3Next", QWEN),
    "Qwen3-Next, tied, some layers dense": (
        "Qwen3Next",
        {
            **QWEN,
            "layer_types": ["full_attention", "linear_attention", "linear_attention", "full_attention"],
            "mlp_only_layers": [3],
            "decoder_sparse_step": 2,
            "tie_word_embeddings": True,
            "norm_topk_prob": False,
            "linear_conv_kernel_dim": 3,
            "linear_num_key_heads": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
        },
    ),
}
TOKENS = 21  # more than any index_topk above


def reference(case: str, seed: int = 0) -> Any:
    """A tiny model of transformers, every weight of which matters; its states remember a few tokens."""
    family, changes = CASES[case]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **changes}, attn_implementation="sdpa")
    return shaken(getattr(transformers, f"{family}ForCausalLM")(config)).eval()


@torch.no_grad()
def shaken(model: Any) -> Any:
    biases = [b for name, b in model.named_buffers() if name.endswith("e_score_correction_bias")]
    for tensor in [*model.parameters(), *biases]:
        tensor.add_(torch.randn_like(tensor) * 0.1)
    for name, p in model.named_parameters():
        if name.endswith("A_log"):  # transformers' own start forgets within a token
            p.normal_(-2, 0.5)
    return model


def some_ids(B: int = 2, N: int = TOKENS) -> Tensor:
    return torch.randint(SIZES["vocab_size"], (B, N))


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_same_logits(case: str, seed: int) -> None:
    theirs, ids = reference(case, seed), some_ids()
    ours = load(theirs)
    expected = theirs(ids).logits
    assert expected.std() > 0.1
    close(ours(ids)[1], expected)
    assert (ours.head.weight is ours.embedding.weight) == theirs.config.tie_word_embeddings


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_cached_decoding_gives_their_logits(case: str) -> None:
    theirs, ids = reference(case), some_ids()
    ours = load(theirs)
    cache, expected = ours.new_cache(), theirs(ids).logits
    cuts = [0, 5, 11, *range(12, TOKENS + 1)]
    parts = [ours.step(ids[:, a:b], cache)[1] for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
    close(torch.cat(parts, 1), expected)


@pytest.mark.parametrize("case", ["V3", "V3.2", "Qwen3-Next"])
@torch.no_grad()
def test_every_tensor_matters(case: str) -> None:
    """Otherwise parity would say nothing of it."""
    theirs, ids = reference(case), some_ids()
    ours = load(theirs)
    logits = ours(ids)[1]
    for name, tensor in ours.state_dict().items():
        kept = tensor.clone()
        tensor.copy_(kept.roll(1, 0) + 0.1)
        difference = (ours(ids)[1] - logits).abs().max()
        assert difference > 1e-3 or (name.endswith("ffn.bias") and case == "Qwen3-Next"), name
        tensor.copy_(kept)
    assert torch.equal(ours(ids)[1], logits)


@torch.no_grad()
def test_selection_matters_and_is_theirs() -> None:
    """With all columns visible the logits differ: the parity above rests on choosing the same ones."""
    theirs, ids = reference("V3.2"), some_ids()
    ours, expected = load(theirs), theirs(ids).logits
    for module in ours.modules():
        if isinstance(module, SparseAttention):
            module.dense = True
    dense = ours(ids)[1]
    close(dense[:, : INDEX["index_topk"]], expected[:, : INDEX["index_topk"]])
    assert (dense - expected).abs()[:, INDEX["index_topk"] :].amax() > 1e-2


@pytest.mark.parametrize("shard", ["10GB", "20kB"])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_round_trip_through_a_folder(case: str, shard: str, tmp_path: Path) -> None:
    """save_pretrained stores experts one by one and, where shards are small, an index of files."""
    theirs, ids = reference(case), some_ids()
    theirs.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "20kB")
    assert any(".experts.0.up_proj" in name for name in Shards(tmp_path)) or "dense" in case
    close(load(tmp_path)(ids)[1], theirs(ids).logits)
    close(load(str(tmp_path))(ids)[1], theirs(ids).logits)


def test_converted_tensors_are_shared_where_equal() -> None:
    theirs = reference("Qwen3-Next")
    tensors = convert(theirs.state_dict(), theirs.config)
    ours = LanguageModel(config_of(theirs.config))
    ours.load_state_dict(tensors)
    stacked = theirs.model.layers[0].mlp.experts.gate_up_proj
    assert tensors["stack.layers.0.ffn.gate_up"].data_ptr() == stacked.data_ptr()


@torch.no_grad()
def test_weights_become_fp32(tmp_path: Path) -> None:
    theirs, ids = reference("V3").bfloat16(), some_ids()
    theirs.save_pretrained(tmp_path)
    expected = type(theirs).from_pretrained(tmp_path, dtype=torch.float32)(ids).logits
    for ours in (load(theirs), load(tmp_path)):
        assert all(p.dtype == torch.float32 for p in ours.parameters())
        close(ours(ids)[1], expected)


def published(case: str) -> dict[str, Any]:
    """A config.json as published before transformers 5: rotary fields at the top, those of YaRN in rope_scaling."""
    fields = reference(case).config.to_dict()
    rope = fields.pop("rope_parameters")
    top = {name: rope.pop(name) for name in ("rope_theta", "partial_rotary_factor") if name in rope}
    kind = rope.pop("rope_type")
    return {**fields, **top, "rope_scaling": None if kind == "default" else {"type": kind, **rope}}


@pytest.mark.parametrize("case", CASES)
def test_older_configurations_mean_the_same(case: str) -> None:
    assert config_of(published(case)) == config_of(reference(case).config)
    assert config_of(json.loads(json.dumps(published(case)))).stack.width == 32


def test_layers_for_multi_token_prediction_are_ignored() -> None:
    theirs = reference("V3")
    weights = theirs.state_dict() | {"model.layers.3.eh_proj.weight": torch.zeros(2), "mtp.norm.weight": torch.ones(2)}
    assert convert(weights, theirs.config).keys() == LanguageModel(config_of(theirs.config)).state_dict().keys()


REFUSED = [
    ("V3", {"rope_scaling": {"type": "linear", "factor": 40}}, "rope_type = 'linear'"),
    ("V3", {"rope_scaling": {**LONGER, "mscale": 1.0}}, "mscale and mscale_all_dim both, or neither"),
    ("V3", {"rope_scaling": {"type": "yarn", "factor": 40}}, "YaRN with original_max_position_embeddings"),
    ("Qwen3-Next", {"rope_scaling": LONGER}, "rope_type = 'yarn'"),
    ("V3", {"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
    ("V3", {"attention_bias": True}, "attention_bias = True"),
    ("V3", {"rms_norm_eps": 1e-5}, "rms_norm_eps = 1e-05"),
    ("V3", {"q_lora_rank": None}, "q_lora_rank is not given"),
    ("V3", {"n_shared_experts": 0}, "n_shared_experts = 0"),
    ("V3", {"n_group": 3}, "n_group = 3"),
    ("V3", {"num_key_value_heads": 1}, "num_key_value_heads = 1"),
    ("V3", {"v_head_dim": 20}, "v_head_dim = 20"),
    ("V3", {"rope_interleave": False}, "rope_interleave = False"),
    ("V3", {"scoring_func": "softmax"}, "scoring_func = 'softmax'"),
    ("V3", {"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
    ("V3.2", {"index_head_dim": 2}, "index_head_dim = 2"),
    ("V3.2", {"mlp_layer_types": ["dense"]}, "mlp_layer_types"),
    ("Qwen3-Next", {"layer_types": ["sliding_attention"] * 4}, "layer_types"),
    ("Qwen3-Next", {"num_key_value_heads": 3}, "num_key_value_heads = 3"),
    ("Qwen3-Next", {"linear_num_value_heads": 3}, "linear_num_key_heads = 2"),
    ("Qwen3-Next", {"model_type": "llama"}, "'llama' cannot be loaded; known: deepseek_v3"),
]


@pytest.mark.parametrize(("case", "changes", "message"), REFUSED)
def test_what_our_blocks_do_not_do_is_refused(case: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        config_of({**published(case), **changes})
    assert "\n" not in str(error.value)


def test_tensors_that_do_not_fit_are_named() -> None:
    theirs = reference("V3")
    weights = theirs.state_dict()
    weights["model.extra"] = weights.pop("model.norm.weight")
    with pytest.raises(ValueError, match="missing model.norm.weight; unknown model.extra$"):
        convert(weights, theirs.config)
    without = {name: w for name, w in theirs.state_dict().items() if "experts.gate_up_proj" not in name}
    with pytest.raises(ValueError, match=r"missing model.layers.1.mlp.experts.0.gate_proj.weight, .* and 29 more$"):
        convert(without, theirs.config)
    with pytest.raises(ValueError, match=r"embedding.weight is \(49, 32\), expected \(50, 32\)"):
        convert(theirs.state_dict() | {"model.embed_tokens.weight": torch.zeros(49, 32)}, theirs.config)


def test_folders_that_hold_no_checkpoint_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no config.json"):
        load(tmp_path)
    reference("V3").config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="neither model.safetensors.index.json nor model.safetensors"):
        load(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"lm_head.weight": "gone.safetensors"}}')
    with pytest.raises(ValueError, match="missing model.embed_tokens.weight"):
        load(tmp_path)


def test_every_family_is_tested() -> None:
    assert {reference(case).config.model_type for case in CASES} == {*FAMILIES}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_hidden_layers": 5000}, "5,000 layers"),
        ({"vocab_size": 10**9}, "weights, the files hold"),
        ({"hidden_size": "wide"}, "configuration"),
        ({"rope_parameters": [1]}, "rope_parameters"),
    ],
)
def test_a_configuration_that_does_not_fit_its_files_takes_no_memory(
    changes: dict[str, Any], what: str, tmp_path: Path
) -> None:
    reference("V3").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ValueError, match=what):
        load(tmp_path)


@pytest.mark.parametrize("file", ["../elsewhere.safetensors", "/etc/passwd", 3])
def test_an_index_names_files_of_its_own_folder_only(file: Any, tmp_path: Path) -> None:
    reference("V3").save_pretrained(tmp_path, max_shard_size="20kB")
    index = tmp_path / "model.safetensors.index.json"
    stored = json.loads(index.read_text())
    index.write_text(json.dumps(stored | {"weight_map": stored["weight_map"] | {"lm_head.weight": file}}))
    with pytest.raises(ValueError, match="names no files of its folder"):
        load(tmp_path)
