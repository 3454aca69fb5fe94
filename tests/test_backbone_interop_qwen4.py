"""Laws of the blocks taken from a Qwen4-Exp: each gives what the layer it comes from gives, and says where it ends."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tandem.backbone.interop.load import Shards, load
from tandem.backbone.interop.qwen4 import parts
from tandem.backbone.scope import Scope, scope
from torch import Tensor, nn

transformers = pytest.importorskip("transformers")

D, STREAMS, WORDS, END, BUDGET, RATIO = 32, 3, 50, 7, 8, 2
LONGEST = BUDGET + RATIO - 1  # tokens until sparse attention begins
SIZES: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": D,
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
    "hc_count": STREAMS,
    "hc_lowrank": 8,
    "ple_layer_ids": [1, 3],
    "ple_embed_dim": 24,
    "heads_per_ngram": 3,
    "ngram_vocab_size_base": 40,
    "make_ngram_vocab_size_divisible_by": 16,
    "split_ngram_parts": 4,
    "eos_token_id": END,
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": BUDGET,
    "indexer_compress_ratio": RATIO,
}


@torch.no_grad()
def reference(seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    config = transformers.Qwen4ExpTextConfig(**{**SIZES, **changes}, attn_implementation="sdpa")
    model = transformers.Qwen4ExpForCausalLM(config)
    for p in model.parameters():
        p.add_(torch.randn_like(p) * 0.1)
    return model.eval()


def close(got: Tensor, expected: Tensor) -> None:
    assert expected.std() > 1e-2
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def words(N: int = 20) -> Tensor:
    ids = torch.randint(WORDS - 1, (2, N))
    return ids + (ids >= END)  # all but the end of text


@pytest.mark.parametrize("changes", [{}, {"linear_num_key_heads": 4, "norm_topk_prob": False, "hc_count": 2}])
@pytest.mark.parametrize("seed", [0, 1])
@torch.no_grad()
def test_blocks_give_what_their_layers_give(seed: int, changes: dict[str, Any]) -> None:
    theirs = reference(seed, **changes)
    ours, layers = parts(theirs), theirs.model.layers
    kinds = {0: {"memory", "mixer", "ffn"}, 1: {"mixer", "ffn"}, 2: {"memory", "mixer", "ffn"}, 3: {"mixer", "ffn"}}
    assert ours.keys() == {"embedding", "head"} | {f"layers.{i}.{kind}" for i, own in kinds.items() for kind in own}
    x = torch.randn(2, LONGEST, D)
    for i in range(4):
        close(ours[f"layers.{i}.ffn"](x), layers[i].mlp(x))
    for i in range(3):
        close(ours[f"layers.{i}.mixer"](x, scope(LONGEST)), layers[i].linear_attn(x))
    ids = words()
    close(ours["embedding"](ids), theirs.model.embed_tokens(ids))
    close(ours["head"](x), theirs.lm_head(x))
    streams = torch.randn(2, 20, theirs.config.hc_count, D)
    for i in (0, 2):
        got = ours[f"layers.{i}.memory"](streams, Scope(torch.arange(20), ids=ids))
        close(got.flatten(-2), layers[i].ple(streams.flatten(-2), ids, None))


def attended(theirs: Any, x: Tensor) -> Tensor:
    N = x.shape[1]
    mask = torch.ones(1, 1, N, N, dtype=torch.bool).tril().expand(len(x), 1, N, N)
    return theirs.model.layers[3].self_attn(x, theirs.model.rotary_emb(x, torch.arange(N).expand(3, len(x), N)), mask)[
        0
    ]


@pytest.mark.parametrize("rope", [{}, {"partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}])
@torch.no_grad()
def test_attention_agrees_until_the_indexer_chooses(rope: dict[str, Any]) -> None:
    theirs = reference(rope_parameters={"rope_type": "default", "rope_theta": 500.0, **rope})
    ours, x = parts(theirs)["layers.3.mixer"], torch.randn(2, LONGEST + 1, D)
    got, expected = ours(x, scope(LONGEST + 1)), attended(theirs, x)
    close(got[:, :LONGEST], expected[:, :LONGEST])
    assert (got - expected)[:, LONGEST].abs().max() > 1e-3


@torch.no_grad()
def test_memory_agrees_until_a_text_ends() -> None:
    theirs, ids = reference(), words()
    ids[:, 12] = END
    streams = torch.randn(2, 20, STREAMS, D)
    got = parts(theirs)["layers.0.memory"](streams, Scope(torch.arange(20), ids=ids)).flatten(-2)
    expected = theirs.model.layers[0].ple(streams.flatten(-2), ids, None)
    close(got[:, :12], expected[:, :12])
    assert not got[:, 12].any() and expected[:, 12].any()


@torch.no_grad()
def test_from_a_folder_with_sharded_tables(tmp_path: Path) -> None:
    theirs = reference(tie_word_embeddings=True)
    theirs.save_pretrained(tmp_path)
    assert sum(".ngram_embedding.shard_" in name for name in Shards(tmp_path)) == 2 * SIZES["split_ngram_parts"]
    loaded, direct = parts(tmp_path), parts(theirs)
    assert loaded.keys() == direct.keys()
    for name, block in direct.items():
        for key, tensor in block.state_dict().items():
            torch.testing.assert_close(loaded[name].state_dict()[key], tensor, atol=0, rtol=0)
    assert isinstance(loaded["head"], nn.Linear) and torch.equal(loaded["head"].weight, loaded["embedding"].weight)


def test_what_does_not_match_is_refused() -> None:
    with pytest.raises(ValueError, match="gated residual is none of ours"):
        load(reference())
    with pytest.raises(ValueError, match="output_gate_type = 'sigmoid'"):
        parts(reference(output_gate_type="sigmoid"))
    theirs = reference()
    theirs.model.layers[0].ple.ple_embedding.layer_multipliers += 2
    with pytest.raises(ValueError, match="layer_multipliers are not those of seed = 1234"):
        parts(theirs)
