"""Laws of vision tokens in causal flow: who sees whom, reading one by one, parity with DeepSeek-OCR 2."""

import pytest
import torch
from tandem.backbone.causal_flow import CausalFlow, CausalFlowConfig
from torch import Tensor

TINY = CausalFlowConfig(layers=3, heads=4, kv_heads=2, ffn_width=48, queries=5)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def flow(width: int = 32, cfg: CausalFlowConfig = TINY, seed: int = 0) -> CausalFlow:
    torch.manual_seed(seed)
    module = CausalFlow(width, cfg)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p) * 0.2)
    return module


def touched(before: Tensor, after: Tensor) -> list[int]:
    return (before != after).any(-1).any(0).nonzero()[:, 0].tolist()


@torch.no_grad()
def test_a_query_touches_itself_and_what_follows() -> None:
    module, patches = flow(), torch.randn(2, 7, 32)
    base = module(patches)
    for i in range(5):
        module.queries[i] += 1
        assert touched(base, module(patches)) == list(range(i, 5))  # the last one: itself alone
        module.queries[i] -= 1
        base = module(patches)


@torch.no_grad()
def test_a_patch_touches_everything() -> None:
    module, patches = flow(), torch.randn(2, 7, 32)
    base = module(patches)
    for i in range(7):
        other = patches.clone()
        other[:, i] += 1
        assert touched(base, module(other)) == [0, 1, 2, 3, 4]


@torch.no_grad()
def test_patches_are_blind_to_queries_and_see_each_other() -> None:
    """What patches leave behind depends on all of them, in every layer but the first, and on no query."""
    module, patches = flow(), torch.randn(1, 7, 32)
    before = module.remember(patches)
    module.queries += 1
    assert all(torch.equal(a[0], b[0]) for a, b in zip(before, module.remember(patches), strict=True))
    other = patches.clone()
    other[:, 6] += 1
    pairs = zip(before, module.remember(other), strict=True)
    keys = [(old[0] != new[0]).any(-1).any(1)[0].tolist() for old, new in pairs]
    assert keys == [[False] * 6 + [True], [True] * 7, [True] * 7]


@pytest.mark.parametrize("cuts", [[0, 1, 2, 3, 4, 5], [0, 2, 5], [0, 4, 5]])
@torch.no_grad()
def test_reading_in_steps_equals_reading_at_once(cuts: list[int]) -> None:
    module, patches = flow(), torch.randn(2, 7, 32)
    memory, parts = module.remember(patches), []
    first = memory
    for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
        tokens, memory = module.read(memory, start, stop - start)
        parts.append(tokens)
    torch.testing.assert_close(torch.cat(parts, 1), module(patches), **CLOSE)
    torch.testing.assert_close(module.read(first, 0, 5)[0], module(patches))  # a memory is never written to


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("width", "m", "cfg"),
    [
        (32, 7, TINY),
        (16, 4, CausalFlowConfig(layers=1, heads=2, kv_heads=2, ffn_width=24, queries=4)),
        (24, 9, CausalFlowConfig(layers=2, heads=3, kv_heads=1, ffn_width=40, queries=1, rope_base=500.0)),
    ],
)
def test_parity_with_deepseek_ocr2(width: int, m: int, cfg: CausalFlowConfig, seed: int) -> None:
    """Tokens and gradients; `strict`: every weight of theirs has a place."""
    modeling = pytest.importorskip("transformers.models.deepseek_ocr2.modeling_deepseek_ocr2")
    from tandem.scripts.benches.speed.pairs.memory import flow_config, flow_weights

    ours = flow(width, cfg, seed)
    theirs = modeling.DeepseekOcr2VisionEncoder(flow_config(modeling.DeepseekOcr2VisionEncoderConfig, width, cfg))
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(torch.randn_like(p) * 0.2)
    loaded = ours.load_state_dict(flow_weights(theirs.state_dict()), strict=False)
    assert loaded.missing_keys == ["queries"] and not loaded.unexpected_keys
    patches = torch.randn(3, m, width, requires_grad=True)
    together = torch.cat([patches, ours.queries.expand(3, -1, -1)], 1)
    expected = theirs(together, num_patches=m).last_hidden_state[:, m:]
    got = ours(patches)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)

    pull = torch.randn_like(got)
    wanted = torch.autograd.grad((expected * pull).sum(), [patches, ours.queries])
    given = torch.autograd.grad((got * pull).sum(), [patches, ours.queries])
    for mine, reference in zip(given, wanted, strict=True):
        torch.testing.assert_close(mine, reference, atol=2e-5, rtol=1e-4)
