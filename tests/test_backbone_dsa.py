"""Laws of sparse attention: parity with DeepSeek-V3.2's, its choices, both forms, caches, masks, and its lessons."""

from dataclasses import replace

import pytest
import torch
from laws import CLOSE, cached_equals_full, mask_is_followed, prefix_mask, rows_reached, shaken
from tandem.backbone.dsa import DSAConfig, SparseAttention, attention_mass
from tandem.backbone.dsa_training import (
    attention_recall,
    dense,
    dense_warm_up,
    index_kl,
    lessons_of,
    ready,
    sparse,
    sparse_loss,
    warm_up_loss,
)
from tandem.backbone.indexer import IndexerConfig, choose
from tandem.backbone.mla import LatentAttention, MLAConfig
from tandem.backbone.scope import Scope, scope
from torch import Tensor, nn

MLA = MLAConfig(heads=4, query_rank=16, latent=12, plain_width=8, rope_width=4, value_width=8)
TINY = DSAConfig(MLA, IndexerConfig(heads=16, width=8), top_k=5)
SIZES = [TINY, replace(TINY, top_k=1), DSAConfig(MLAConfig(2, 8, 24, 8, 8, 4), IndexerConfig(12, 16), top_k=9)]


def tiny(cfg: DSAConfig = TINY, seed: int = 0) -> SparseAttention:
    torch.manual_seed(seed)
    layer = SparseAttention(32, cfg)
    shaken(layer)
    return layer


def chosen_by(layer: SparseAttention, x: Tensor, here: Scope) -> Tensor:
    with lessons_of(layer) as lessons:
        layer(x, here)
    return lessons[0].chosen


@pytest.mark.parametrize("cfg", SIZES)
@pytest.mark.parametrize("seed", [0, 1, 2])
@torch.no_grad()
def test_parity_with_deepseek_v32(cfg, seed):
    """The same weight names, outputs and sets of columns; rows with fewer than k visible columns among them."""
    reference = pytest.importorskip("transformers.models.deepseek_v32.modeling_deepseek_v32")
    from transformers import DeepseekV32Config

    torch.manual_seed(seed)
    config = DeepseekV32Config(
        hidden_size=32,
        num_attention_heads=cfg.mla.heads,
        num_key_value_heads=cfg.mla.heads,
        q_lora_rank=cfg.mla.query_rank,
        kv_lora_rank=cfg.mla.latent,
        qk_nope_head_dim=cfg.mla.plain_width,
        qk_rope_head_dim=cfg.mla.rope_width,
        v_head_dim=cfg.mla.value_width,
        index_n_heads=cfg.indexer.heads,
        index_head_dim=cfg.indexer.width,
        index_topk=cfg.top_k,
        attn_implementation="eager",
    )
    theirs = shaken(reference.DeepseekV32Attention(config, 0))
    ours = SparseAttention(32, cfg)
    ours.load_state_dict(theirs.state_dict())
    x, N = torch.randn(2, 23, 32), 23
    bias = torch.zeros(1, 1, N, N).masked_fill(~prefix_mask(0, N), -torch.inf)
    sets: list[Tensor] = []
    theirs.indexer.register_forward_hook(lambda module, args, out: sets.append(out.long()))
    expected, _ = theirs(x, reference.DeepseekV32RotaryEmbedding(config)(x, torch.arange(N)[None]), bias)
    torch.testing.assert_close(ours(x, scope(N)), expected, atol=1e-5, rtol=0)
    their_choice = torch.zeros(2, N, N, dtype=torch.bool).scatter(-1, sets[0], True) & prefix_mask(0, N)
    assert torch.equal(chosen_by(ours, x, scope(N)), their_choice)


@pytest.mark.parametrize("cfg", SIZES)
@pytest.mark.parametrize("prefix", [0, 7])
def test_gathered_equals_masked(cfg, prefix, monkeypatch):
    """Values and gradients."""
    layer, x = tiny(cfg), torch.randn(2, 12, 32, requires_grad=True)
    leaves = [x, *(p for name, p in layer.named_parameters() if "indexer" not in name)]
    results = []
    for gathers in (False, True):
        monkeypatch.setattr(layer, "gathers", lambda N, total, answer=gathers: answer)
        y = layer(x, scope(12, 0, prefix_mask(prefix, 12)))
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    for masked, gathered in zip(*results, strict=True):
        torch.testing.assert_close(gathered, masked, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("cfg", SIZES)
@pytest.mark.parametrize("seed", [0, 1])
def test_cached_equals_full_and_rolls_back(cfg, seed):
    cache = cached_equals_full(tiny(cfg, seed), 24, 4, 18)  # up to 4, all fits in k for most sizes
    assert [part.room.shape[-1] for part in cache.parts] == [cfg.mla.latent + cfg.mla.rope_width, cfg.indexer.width]


def test_a_mask_is_followed_in_full_and_in_steps():
    mask_is_followed(tiny(), 12, 9)


@torch.no_grad()
def test_only_visible_columns_are_chosen():
    layer, x = tiny(), torch.randn(4, 12, 32)
    masks = torch.stack([prefix_mask(i, 12) for i in (0, 3, 7, 12)])[:, None]
    chosen = chosen_by(layer, x, scope(12, 0, masks))
    assert not (chosen & ~masks[:, 0]).any()
    assert torch.equal(chosen.sum(-1), masks[:, 0].sum(-1).clamp(max=5))
    with pytest.raises(ValueError, match="differs between 4 heads"):
        layer(x, scope(12, 0, masks.expand(-1, 4, -1, -1)))


def test_causal():
    for i, rows in enumerate(rows_reached(tiny(), 9)):
        assert rows[0] == i


@torch.no_grad()
def test_all_columns_chosen_is_latent_attention():
    layer, x = tiny(replace(TINY, top_k=12)), torch.randn(2, 12, 32)
    plain = LatentAttention(32, MLA)
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if not k.startswith("indexer")})
    torch.testing.assert_close(layer(x, scope(12)), plain(x, scope(12)), **CLOSE)
    layer.top_k, layer.dense = 3, True
    torch.testing.assert_close(layer(x, scope(12)), plain(x, scope(12)), **CLOSE)
    layer.dense = False
    assert not torch.allclose(layer(x, scope(12)), plain(x, scope(12)), atol=1e-3)


def test_among_equals_the_later_column_is_chosen():
    inf = torch.inf
    assert choose(torch.tensor([[[5.0, 1, 1, -inf]]]), 2).tolist() == [[[True, False, True, False]]]
    assert choose(torch.tensor([[[0.0, 0, 0, 0, 0]]]), 2).tolist() == [[[False, False, False, True, True]]]
    assert choose(torch.tensor([[[1.0, -inf, -inf]]]), 2).tolist() == [[[True, False, False]]]
    assert choose(torch.tensor([[[1.0, 2]]]), 5).all()


@pytest.mark.parametrize("heads", [1, 2])
@torch.no_grad()
def test_ties_are_cut_alike_in_steps_and_in_full(heads):
    """One or two heads give whole rows of zero scores; a later, invisible column must not change the choice."""
    torch.manual_seed(heads)
    scores = torch.relu(torch.randn(2, 40, 40)).masked_fill(torch.rand(2, 40, 40) < 0.3, 0)
    full = choose(scores.masked_fill(~prefix_mask(0, 40), -torch.inf), 6)
    for i in range(40):
        assert torch.equal(choose(scores[:, i : i + 1, : i + 1], 6)[:, 0], full[:, i, : i + 1])


@pytest.mark.parametrize("cfg", SIZES)
@torch.no_grad()
def test_few_index_heads_decode_as_they_prefill(cfg):
    layer, x = tiny(replace(cfg, indexer=replace(cfg.indexer, heads=1))), torch.randn(2, 24, 32)
    full, cache = layer(x, scope(24)), layer.new_cache()
    steps = [layer(x[:, i : i + 1], scope(1, i), cache) for i in range(24)]
    torch.testing.assert_close(torch.cat(steps, 1), full, **CLOSE)


@torch.no_grad()
def test_attention_mass_is_the_definitions():
    torch.manual_seed(0)
    q, k, mask = torch.randn(2, 3, 70, 8), torch.randn(2, 3, 70, 8), prefix_mask(4, 70)
    expected = (q @ k.mT / 8**0.5).masked_fill(~mask, -torch.inf).softmax(-1).sum(1)
    torch.testing.assert_close(attention_mass(q, k, scope(70, 0, mask), q.shape[-1] ** -0.5), expected, **CLOSE)


@pytest.mark.parametrize("seed", [0, 1])
def test_slope_of_the_loss_is_softmax_minus_p(seed):
    torch.manual_seed(seed)
    scores = torch.randn(2, 6, 9, dtype=torch.float64, requires_grad=True)
    mass, among = torch.rand(2, 6, 9, dtype=torch.float64), torch.rand(2, 6, 9) < 0.6
    among[..., 0] = True
    (slope,) = torch.autograd.grad(index_kl(scores, mass, among).sum(), scores)
    p = (mass * among) / (mass * among).sum(-1, keepdim=True)
    expected = scores.masked_fill(~among, -torch.inf).softmax(-1) - p
    torch.testing.assert_close(slope, expected, atol=1e-12, rtol=0)
    exact = mass.masked_fill(~among, 0).log()
    torch.testing.assert_close(index_kl(exact, mass, among), torch.zeros(2, 6, dtype=torch.float64), atol=1e-12, rtol=0)


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.layers = nn.Linear(32, 32), nn.ModuleList([tiny(), tiny(seed=1)])

    def forward(self, x: Tensor, here: Scope) -> Tensor:
        x = self.inner(x)
        for layer in self.layers:
            x = x + layer(x, here)
        return x


def gradients(loss: Tensor, model: nn.Module) -> tuple[set[str], set[str]]:
    """Which parameters the loss reaches: the trunk's and the indexers'."""
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    reached = {n for n, g in zip(names, found, strict=True) if g is not None and g.abs().max() > 0}
    return {n for n in reached if "indexer" not in n}, {n for n in reached if "indexer" in n}


@pytest.mark.parametrize("loss", [warm_up_loss, sparse_loss])
def test_no_gradient_crosses_between_trunk_and_indexer(loss):
    model, x = TwoLayers(), torch.randn(2, 12, 32, requires_grad=True)
    everything = {n for n, _ in model.named_parameters()}
    with lessons_of(model) as lessons:
        task = model(x, scope(12)).square().mean()
    assert len(lessons) == 2 and all(layer.lessons is None for layer in model.layers)
    trunk, indexers = gradients(task, model)
    assert trunk == {n for n in everything if "indexer" not in n} and not indexers
    with lessons_of(model) as lessons:
        model(x, scope(12))
    assert torch.autograd.grad(loss(lessons), x, allow_unused=True, retain_graph=True) == (None,)
    trunk, indexers = gradients(loss(lessons), model)
    assert not trunk and indexers == {n for n in everything if "indexer" in n}


def test_lessons_change_no_output():
    model, x = TwoLayers(), torch.randn(2, 12, 32)
    with lessons_of(model):
        watched = model(x, scope(12))
    torch.testing.assert_close(watched, model(x, scope(12)), **CLOSE)


def test_stages_freeze_what_they_say():
    model = TwoLayers()
    dense(model)
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == indexer_names(model)
    dense_warm_up(model)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == indexer_names(model)
    assert all(layer.dense for layer in model.layers)
    assert ready(0.95) and not ready(0.94)
    with pytest.raises(ValueError, match="recall 0.900 .* below 0.95"):
        sparse(model, 0.9)
    assert all(layer.dense for layer in model.layers)
    sparse(model, 0.96)
    assert all(p.requires_grad for p in model.parameters()) and not any(layer.dense for layer in model.layers)


def indexer_names(model: nn.Module) -> set[str]:
    return {n for n, _ in model.named_parameters() if "indexer" in n}


def test_warm_up_teaches_the_best_choice_and_leaves_the_outputs():
    """Recall nearly reaches that of the k columns with the most attention, the best any choice can do."""
    model = TwoLayers()
    with torch.no_grad():
        for layer in model.layers:
            layer.q_b_proj.weight.mul_(6)
    x = torch.randn(4, 24, 32)
    dense_warm_up(model)
    before, optimiser = model(x, scope(24)), torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    losses, recalls = [], []
    for _ in range(60):
        with lessons_of(model) as lessons:
            model(x, scope(24))
        loss = warm_up_loss(lessons)
        losses.append(float(loss))
        recalls.append(attention_recall(lessons))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    best = [replace(one, chosen=choose(one.mass.masked_fill(one.scores == -torch.inf, -1), 5)) for one in lessons]
    assert losses[-1] < losses[0] / 4
    assert recalls[-1] - recalls[0] > 0.7 * (attention_recall(best) - recalls[0]) > 0.01
    torch.testing.assert_close(model(x, scope(24)), before)


@torch.no_grad()
def test_recall_is_the_share_of_what_is_kept():
    model, x = TwoLayers(), torch.randn(2, 12, 32)
    dense(model)
    with lessons_of(model) as lessons:
        model(x, scope(12))
    shares = [(one.mass * one.chosen).sum(-1)[:, TINY.top_k :] / MLA.heads for one in lessons]
    assert attention_recall(lessons) == pytest.approx(float(torch.cat(shares).mean()), abs=1e-5)
    for layer in model.layers:
        layer.top_k = 12
    with lessons_of(model) as lessons:
        model(x, scope(12))
    assert attention_recall(lessons) == 1
    sparse(model, 1.0)
    with lessons_of(model) as lessons:
        model(x, scope(12))
    with pytest.raises(ValueError, match="dense attention"):
        attention_recall(lessons)


def test_padding_teaches_nothing():
    model, x = TwoLayers(), torch.randn(2, 12, 32)
    real = torch.arange(12) < torch.tensor([[12], [8]])

    def losses(x: Tensor) -> Tensor:
        with lessons_of(model) as lessons:
            model(x, Scope(torch.arange(12), real=real))
        return torch.stack([warm_up_loss(lessons), sparse_loss(lessons)])

    other = x.masked_fill(~real[..., None], 9.0)
    torch.testing.assert_close(losses(x), losses(other), **CLOSE)


def test_index_keys_must_hold_the_rotated_channels():
    with pytest.raises(ValueError, match="cannot rotate 4"):
        SparseAttention(32, replace(TINY, indexer=IndexerConfig(8, 2)))


def test_lessons_stay_in_fp32_under_autocast():
    layer = tiny()
    with torch.autocast("cpu", torch.bfloat16), lessons_of(layer) as lessons:
        layer(torch.randn(2, 12, 32), scope(12))
    assert (lessons[0].scores.dtype, lessons[0].mass.dtype) == (torch.float32, torch.float32)
    sparse_loss(lessons).backward()
    assert all(p.grad.isfinite().all() for p in layer.indexer.parameters())
