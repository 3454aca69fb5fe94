"""Laws of the n-gram memory: golden hashes, parity with Qwen4-Exp, cached equals full, padding and borders."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tandem.backbone.engram import Engram, EngramConfig, agreement, memory_parameters, squashed
from tandem.backbone.hashing import NGramHash, compress, multipliers, ngrams, primes, surface
from tandem.backbone.scope import Scope
from torch import Tensor, nn

CONFIG = EngramConfig(vocabulary=20, order=3, heads=2, rows=50, head_width=4, kernel=4)
WIDTH = 8
GOLDEN_MULTIPLIERS = [43664457593743125, 4377464224851343, 91286579879686329]
GOLDEN_ROWS = [[22, 72, 157, 251], [57, 104, 216, 235], [23, 95, 199, 242], [23, 88, 199, 273], [46, 87, 193, 230]]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def memory(streams: int = 1, seed: int = 0, layer: int = 0, **changes: int) -> Engram:
    torch.manual_seed(seed)
    module = Engram(WIDTH, replace(CONFIG, **changes), layer, streams)
    return shaken(module)


def shaken(module: nn.Module, std: float = 0.5) -> nn.Module:
    """The convolution starts at zero and tables small: nothing of them would be tested."""
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p) * std)
    return module


def of(ids: Tensor, real: Tensor | None = None, past: int = 0) -> Scope:
    return Scope(torch.arange(past, past + ids.shape[1]), past, real=real, ids=ids)


def sample(B: int = 3, N: int = 24, streams: int = 2, holes: bool = True) -> tuple[Tensor, Tensor]:
    """Residual streams and ids, about a quarter of the tokens continuous."""
    ids = torch.randint(CONFIG.vocabulary, (B, N))
    if holes:
        ids = ids.masked_fill(torch.rand(B, N) < 0.25, -1)
    return torch.randn(B, N, streams, WIDTH), ids


# ---- compressed ids


def test_pieces_that_look_alike_share_an_id() -> None:
    pieces = ["Cube", " cube", "CUBÉ\n", "cup", "\ufffd", "\ufffd", " ", "\t ", "red  cube", "red cube"]
    assert compress(pieces).tolist() == [0, 0, 0, 1, 2, 3, 4, 4, 5, 5]


def test_surface_is_that_of_the_tokenizers_library() -> None:
    from tokenizers import Regex, normalizers

    steps = [normalizers.NFKC(), normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    theirs = normalizers.Sequence([*steps, normalizers.Replace(Regex(r"[ \t\r\n]+"), " "), normalizers.Strip()])
    for piece in [
        "Ｃａｆé ",
        "ﬁX\r\n it",
        "Ångström",
        "  ÅÉî\tü",
        "наї",
        "e\u0301a\u20dd",
        "½ STEP",
        "<a12>",
        "ẞ",
        "字",
    ]:
        assert surface(piece) == theirs.normalize_str(piece), piece


# ---- hashing


def test_golden_rows() -> None:
    """Stored memories are only worth something if these never change."""
    hashing = NGramHash(ids=101, order=3, heads=2, rows=50, layer=1, seed=7)
    assert hashing.sizes.tolist() == [[71, 73], [79, 83]] and hashing.rows == 306
    assert hashing.multipliers.tolist() == GOLDEN_MULTIPLIERS
    assert hashing(torch.tensor([[100, 100, 5, 6, 100, 7, 8]])).tolist() == [GOLDEN_ROWS]


def test_ngrams_end_at_nothing() -> None:
    tokens = ngrams(torch.tensor([[9, 9, 4, 5, 9, 6, 7]]), 3, nothing=9)
    assert [t[0].tolist() for t in tokens] == [[4, 5, 9, 6, 7], [9, 4, 9, 9, 6], [9, 9, 9, 9, 9]]


@pytest.mark.parametrize("ids", [2, 1025, 10**6])
def test_products_stay_positive(ids: int) -> None:
    factors = multipliers(ids, 4, seed=3)
    assert (factors % 2 == 1).all() and len(set(factors.tolist())) == 4
    assert all(0 < (ids - 1) * m < 2**63 for m in factors.tolist())


def test_every_head_and_layer_has_a_prime_and_a_part_of_the_table_of_its_own() -> None:
    assert [n for n, _ in zip(primes(2), range(8), strict=False)] == [2, 3, 5, 7, 11, 13, 17, 19]
    layers = [NGramHash(101, 3, 4, 30, layer, seed=0) for layer in range(3)]
    sizes = torch.cat([layer.sizes.flatten() for layer in layers]).tolist()
    assert len(set(sizes)) == 24 and all(n % d for n in sizes for d in range(2, n))
    rows = layers[1](torch.randint(100, (1, 5000))).flatten(0, 1)  # (tokens, heads)
    for head, (low, size) in enumerate(zip(layers[1].offsets.flatten(), layers[1].sizes.flatten(), strict=True)):
        assert rows[:, head].unique().tolist() == list(range(int(low), int(low + size)))  # all of it, nothing else
    assert rows.max() == layers[1].rows - 1


# ---- parity


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("width", "streams", "changes"),
    [
        (8, 2, {}),
        (16, 4, {"order": 4, "heads": 3, "kernel": 3}),
        (24, 3, {"order": 2, "vocabulary": 300, "rows": 1000, "kernel": 2}),
    ],
)
def test_parity_with_qwen4_exp(seed: int, width: int, streams: int, changes: dict[str, int]) -> None:
    """Hash, look-up, gate, convolution and gradients, with continuous tokens as their eos under their conv mask."""
    modeling = pytest.importorskip("transformers.models.qwen4_exp.modeling_qwen4_exp")
    from tandem.scripts.benches.speed.pairs.memory import from_reference, reference_config

    torch.manual_seed(seed)
    cfg, layer = replace(CONFIG, seed=seed, **changes), seed
    config = reference_config(modeling.Qwen4ExpTextConfig, width, cfg, streams, layer + 1)
    theirs, ours = modeling.Qwen4ExpTextPLELayer(config, layer, layer), Engram(width, cfg, layer, streams)
    shaken(theirs, 0.2)
    missing = ours.load_state_dict(from_reference(theirs.state_dict(), ours), strict=False)
    assert missing.missing_keys == ["compressed"] and not missing.unexpected_keys

    x = torch.randn(3, 20, streams, width, requires_grad=True)
    ids = torch.randint(cfg.vocabulary, (3, 20)).masked_fill(torch.rand(3, 20) < 0.2, -1)
    words = ids >= 0
    eos = torch.where(words, ids, cfg.vocabulary)
    expected = theirs(x.flatten(-2), eos, None, conv_mask=words.long()).view_as(x) * words[..., None, None]
    got = ours(x, of(ids))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)

    pull = torch.randn_like(x)
    embedding = theirs.ple_embedding.ngram_embedding.weight
    wanted = torch.autograd.grad((expected * pull).sum(), [x, embedding, theirs.key_proj.weight])
    given = torch.autograd.grad((got * pull).sum(), [x, ours.table.weight, ours.key_proj.weight])
    for mine, reference in zip(given, wanted, strict=True):
        # where a gate is near 0 its slope is hundreds: rounding of the agreement counts as much
        torch.testing.assert_close(mine, reference, atol=1e-3 * float(reference.abs().max()), rtol=0)


# ---- laws of the layer


@pytest.mark.parametrize("kernel", [1, 4])
@pytest.mark.parametrize("order", [2, 3])
@torch.no_grad()
def test_cached_equals_full(order: int, kernel: int) -> None:
    module, (x, ids) = memory(2, order=order, kernel=kernel), sample()
    cache, full = module.new_cache(), module(x, of(ids))
    cuts = [0, 1, 9, *range(10, 24), 24]
    parts = [module(x[:, a:b], of(ids[:, a:b], past=a), cache) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
    torch.testing.assert_close(torch.cat(parts, 1), full, **CLOSE)


@torch.no_grad()
def test_roll_back_returns_to_the_mark() -> None:
    module, (x, ids) = memory(2), sample()
    cache = module.new_cache()
    empty = cache.snapshot()
    module(x[:, :10], of(ids[:, :10]), cache)
    mark = cache.snapshot()
    for wrong in (3, 14):  # shorter and longer than what the cache holds
        other, others = sample(N=wrong)
        module(other, of(others), cache)
        cache.roll_back(mark)
    torch.testing.assert_close(module(x[:, 10:], of(ids[:, 10:]), cache), module(x, of(ids))[:, 10:], **CLOSE)
    cache.roll_back(empty)
    torch.testing.assert_close(module(x, of(ids), cache), module(x, of(ids)))


@torch.no_grad()
def test_padding_anywhere_is_as_if_absent() -> None:
    """Also across calls with a cache, where rows have different numbers of real tokens."""
    module, (x, ids) = memory(2), sample(B=4)
    real = torch.rand(4, 24) < 0.6
    real[0], real[1, :11] = True, False
    cache = module.new_cache()
    cuts = [0, 7, 8, 9, 20, 24]
    parts = [
        module(x[:, a:b], of(ids[:, a:b], real[:, a:b], a), cache) for a, b in zip(cuts[:-1], cuts[1:], strict=True)
    ]
    for together in (module(x, of(ids, real)), torch.cat(parts, 1)):
        for row in range(4):
            alone = module(x[row : row + 1, real[row]], of(ids[row : row + 1, real[row]]))
            torch.testing.assert_close(together[row, real[row]], alone[0], **CLOSE)
            assert not together[row, ~real[row]].any()


@torch.no_grad()
def test_causality_and_reach() -> None:
    """A word touches the n-grams it is part of, and what the dilated taps carry on; a residual only its own taps."""
    module, (x, ids) = memory(2), sample(B=1, holes=False)
    base, taps = module(x, of(ids)), [0, 3, 6, 9]
    for i in (0, 5, 20):
        other, moved = ids.clone(), x.clone()
        other[0, i] = (other[0, i] + 1) % 20
        moved[0, i] = -moved[0, i]
        assert touched(base, module(x, of(other))) == reach(i, [n + t for n in range(3) for t in taps])
        assert touched(base, module(moved, of(ids))) == reach(i, taps)


def touched(before: Tensor, after: Tensor) -> set[int]:
    return set((before != after).flatten(2).any(-1).any(0).nonzero()[:, 0].tolist())


def reach(i: int, distances: list[int]) -> set[int]:
    return {i + distance for distance in distances if i + distance < 24}


@torch.no_grad()
def test_no_ngram_crosses_a_continuous_token() -> None:
    module, (x, ids) = memory(2, kernel=1), sample(B=1, holes=False)
    ids[0, 6] = -1
    other = ids.clone()
    other[0, :6] = (other[0, :6] + 1) % 20
    assert touched(module(x, of(ids)), module(x, of(other))) == {0, 1, 2, 3, 4, 5}
    alone = module(x[:, 7:], of(ids[:, 7:]))
    torch.testing.assert_close(module(x, of(ids))[:, 7:], alone, **CLOSE)


@torch.no_grad()
def test_a_continuous_token_gets_nothing() -> None:
    module, (x, ids) = memory(2), sample()
    added = module(x, of(ids))
    assert not added[ids < 0].any() and added[ids >= 0].flatten(1).any(-1).all()


@torch.no_grad()
def test_one_stream_is_the_plain_residual_and_a_stream_is_on_its_own() -> None:
    many, (x, ids) = memory(3), sample(streams=3)
    full = many(x, of(ids))
    for s in range(3):
        one = Engram(WIDTH, CONFIG)
        state = many.state_dict()
        for name, dim in (("key_proj.weight", 0), ("gate_gain", 0), ("conv", 1)):
            state[name] = state[name].chunk(3, dim)[s]
        one.load_state_dict(state)
        torch.testing.assert_close(one(x[:, :, s], of(ids)), full[:, :, s], **CLOSE)
        torch.testing.assert_close(one(x[:, :, s : s + 1], of(ids))[:, :, 0], one(x[:, :, s], of(ids)))


@torch.no_grad()
def test_a_fresh_memory_is_its_gated_value() -> None:
    """The convolution starts at zero, so a token's memory depends on its own n-gram and residual alone."""
    module, (x, ids) = Engram(WIDTH, CONFIG, streams=2), sample()
    rows = module.hash(F.pad(ids.masked_fill(ids < 0, 20), (2, 0), value=20))
    value = module.value_proj(module.table(rows).flatten(-2))
    share = module(x, of(ids)) / value[:, :, None]
    assert (share[ids >= 0] > 0).all() and (share[ids >= 0] < 1).all()
    torch.testing.assert_close(share, share.mean(-1, keepdim=True).expand_as(share), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_words_that_look_alike_share_memory() -> None:
    module, (x, ids) = memory(2), sample(holes=False)
    ids[:, ::3] = 0
    other = torch.where(ids == 0, 1, ids)
    assert not torch.equal(module(x, of(ids)), module(x, of(other)))
    module.read_vocabulary(["Cube", " cube", "cup"])
    assert module.compressed.tolist() == [0, 0, 1, *range(3, 20)]
    torch.testing.assert_close(module(x, of(ids)), module(x, of(other)))
    fresh = Engram(WIDTH, CONFIG, streams=2)
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(fresh.compressed, module.compressed)  # it travels with the weights


def test_memories_of_two_layers_hash_differently() -> None:
    ids = torch.randint(20, (1, 50))
    first, second = memory(layer=0).hash, memory(layer=1).hash
    assert not torch.equal(first(ids) - first.offsets.flatten(), second(ids) - second.offsets.flatten())


def test_a_scope_without_ids_is_an_error() -> None:
    with pytest.raises(ValueError, match="no ids"):
        memory()(torch.randn(1, 4, WIDTH), Scope(torch.arange(4)))


def test_ids_beyond_the_vocabulary_are_an_error() -> None:
    with pytest.raises(IndexError):
        memory()(torch.randn(1, 4, WIDTH), of(torch.tensor([[0, 1, 20, 2]])))


def test_memory_parameters_are_the_tables() -> None:
    model = nn.ModuleList([memory(layer=0), nn.Linear(3, 3), memory(layer=1)])
    assert [p.shape[1] for p in memory_parameters(model)] == [4, 4]
    assert {id(p) for p in memory_parameters(model)} == {id(model[0].table.weight), id(model[2].table.weight)}


# ---- gradients


def test_gate_has_a_finite_gradient_at_zero() -> None:
    a = torch.tensor([0.0, 1e-30, -1e-30, 1e-6, -1e-6, 2e-6, -2.0, 50.0], requires_grad=True)
    gate = squashed(a)
    gate.sum().backward()
    assert a.grad is not None and a.grad.isfinite().all() and a.grad.abs().max() < 1e3
    assert gate[0] == 0.5 and (gate[-1] > 0.99) and (a.grad[-3:] > 0).all()
    k, q = torch.zeros(1, 2, 1, WIDTH, requires_grad=True), torch.zeros(1, 2, 1, WIDTH, requires_grad=True)
    squashed(agreement(k, q, torch.ones(1, WIDTH))).sum().backward()
    assert k.grad is not None and k.grad.isfinite().all()


def test_agreement_is_that_of_normalised_vectors() -> None:
    k, q, gain = torch.randn(2, 3, 2, 8), torch.randn(2, 3, 2, 8), torch.rand(2, 8)
    expected = (gain * F.rms_norm(k, (8,), eps=1e-6) * F.rms_norm(q, (8,), eps=1e-6)).sum(-1, keepdim=True) / 8**0.5
    torch.testing.assert_close(agreement(k, q, gain), expected, **CLOSE)


def test_gradient_of_the_gate_is_that_of_its_formula() -> None:
    torch.manual_seed(0)
    k, q, gain = (
        torch.randn(*shape, dtype=torch.double, requires_grad=True) for shape in [(1, 3, 2, 5)] * 2 + [(2, 5)]
    )
    assert torch.autograd.gradcheck(lambda *inputs: squashed(agreement(*inputs)), (k, q, gain))


def test_every_weight_learns() -> None:
    """A fresh memory too: its zero taps must not keep anything from moving, nor themselves."""
    module, (x, ids) = Engram(WIDTH, CONFIG, streams=2), sample()
    module(x, of(ids)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() and p.grad.isfinite().all() for p in module.parameters())
