"""Laws of hyper-connections: parity with DeepSeek-V4's, doubly stochastic mixing, bounded signal gain, plain starts."""

from typing import Any

import pytest
import torch
from tandem.backbone.hyper_connections import (
    RESIDUALS,
    Collapse,
    HyperConfig,
    HyperConnection,
    ManifoldHyperConnection,
    PlainResidual,
    _NormedLinear,
    expand,
)
from tandem.backbone.sinkhorn import birkhoff, sinkhorn
from tandem.scripts.benches.papers.mhc import Args, gains, measure
from torch import Tensor, nn

CFG = HyperConfig()
SIZES = [(1, 8), (2, 16), (4, 32)]  # streams, width
SEEDS = [0, 1, 2]


def shaken(module: nn.Module, std: float = 0.2) -> Any:
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p) * std)
    return module


def deepseek(streams: int, width: int) -> tuple[Any, Any]:
    modeling = pytest.importorskip("transformers.models.deepseek_v4.modeling_deepseek_v4")
    from transformers.models.deepseek_v4.configuration_deepseek_v4 import DeepseekV4Config

    config = DeepseekV4Config(hidden_size=width, hc_mult=streams)
    assert config.hc_sinkhorn_iters == 20
    return shaken(modeling.DeepseekV4HyperConnection(config)), shaken(modeling.DeepseekV4HyperHead(config))


def reference(theirs: Any, X: Tensor, sublayer: Any) -> Tensor:
    """As in DeepseekV4DecoderLayer.forward."""
    post, comb, collapsed = theirs(X)
    return post.unsqueeze(-1) * sublayer(collapsed).unsqueeze(-2) + torch.matmul(comb.transpose(-1, -2), X)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("n", "D"), SIZES)
def test_parity_with_deepseek_v4(n: int, D: int, seed: int) -> None:
    """Outputs and all gradients."""
    torch.manual_seed(seed)
    theirs, sublayer = deepseek(n, D)[0], nn.Sequential(nn.Linear(D, D), nn.Tanh())
    ours = RESIDUALS["mhc-sinkhorn"](D, n, CFG, 0)
    ours.load_state_dict(theirs.state_dict())
    X, g = torch.randn(2, 5, n, D, requires_grad=True), torch.randn(2, 5, n, D)
    out, expected = ours(X, sublayer), reference(theirs, X, sublayer)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
    grads = torch.autograd.grad(out, [X, *ours.parameters()], g, retain_graph=True)
    wanted = torch.autograd.grad(expected, [X, *theirs.parameters()], g)
    for ours_grad, theirs_grad in zip(grads, wanted, strict=True):
        torch.testing.assert_close(ours_grad, theirs_grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("n", "D"), SIZES)
def test_collapse_has_parity_with_deepseek_v4(n: int, D: int, seed: int) -> None:
    torch.manual_seed(seed)
    theirs, ours, X = deepseek(n, D)[1], Collapse(D, n, CFG), torch.randn(2, 5, n, D)
    ours.load_state_dict({name.removeprefix("hc_"): weight for name, weight in theirs.state_dict().items()})
    torch.testing.assert_close(ours(X), theirs(X), atol=1e-5, rtol=0)


def test_gradients_of_the_normed_linear_map() -> None:
    """Its own backward against finite differences."""
    torch.manual_seed(0)
    x, weight = (torch.randn(size, 6, dtype=torch.float64, requires_grad=True) for size in (5, 3))
    assert torch.autograd.gradcheck(_NormedLinear.apply, (x, weight), atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("std", [0.5, 4.0, 20.0])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_birkhoff_is_doubly_stochastic(n: int, std: float, seed: int) -> None:
    torch.manual_seed(seed)
    matrix = birkhoff(torch.randn(n, n, 500) * std)
    assert matrix.min() >= 0
    for axis in (0, 1):
        torch.testing.assert_close(matrix.sum(axis), torch.ones(n, 500), atol=1e-6, rtol=0)


def test_sinkhorn_has_exact_columns_and_near_rows() -> None:
    """What 20 iterations leave: the reason for the exact form."""
    torch.manual_seed(0)
    matrix = sinkhorn(torch.randn(4, 4, 500) * 4)
    assert (matrix.sum(0) - 1).abs().max() < 1e-5
    assert 1e-3 < (matrix.sum(1) - 1).abs().max() < 0.2


def test_birkhoff_of_two_streams_is_the_limit_of_sinkhorn() -> None:
    logits = torch.randn(2, 2, 100, generator=torch.Generator().manual_seed(0))
    a = ((logits[0, 0] + logits[1, 1] - logits[0, 1] - logits[1, 0]) / 2).sigmoid()
    closed = torch.stack([torch.stack([a, 1 - a]), torch.stack([1 - a, a])])
    torch.testing.assert_close(birkhoff(logits), closed, atol=1e-6, rtol=0)
    torch.testing.assert_close(sinkhorn(logits, 300, eps=1e-9), closed, atol=1e-5, rtol=0)


@pytest.mark.parametrize("n", [3, 4])
def test_birkhoff_is_near_sinkhorn_near_the_identity(n: int) -> None:
    logits = 5 * torch.eye(n)[..., None] + torch.randn(n, n, 100, generator=torch.Generator().manual_seed(0)) * 0.3
    assert (birkhoff(logits) - sinkhorn(logits)).abs().max() < 0.02


def test_birkhoff_reaches_any_positive_doubly_stochastic_matrix() -> None:
    """n^2 logits are enough: descend on them until a random target is met."""
    generator = torch.Generator().manual_seed(0)
    target = sinkhorn(torch.randn(4, 4, 8, generator=generator), 200, eps=0)
    logits = torch.zeros(4, 4, 8, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = (birkhoff(logits) - target).square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    torch.testing.assert_close(birkhoff(logits), target, atol=1e-3, rtol=0)


def test_too_many_streams_for_the_exact_form() -> None:
    with pytest.raises(ValueError, match="sinkhorn"):
        birkhoff(torch.zeros(5, 5, 1))


@pytest.mark.parametrize("n", [1, 4])
def test_equal_streams_and_zero_logits_are_the_plain_residual(n: int) -> None:
    """With a scale-free sublayer: what is read is the token, times a number."""
    torch.manual_seed(0)
    linear, x = nn.Linear(16, 16), torch.randn(2, 5, 16)

    def sublayer(u: Tensor) -> Tensor:
        return linear(u / u.norm(dim=-1, keepdim=True))

    connection = shaken(ManifoldHyperConnection(16, n, CFG), 0.0)
    out = connection(expand(x, n), sublayer)
    torch.testing.assert_close(out, expand(PlainResidual()(x, sublayer), n), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", RESIDUALS)
def test_every_fresh_connection_is_nearly_a_plain_residual(name: str) -> None:
    """Of equal streams, whatever the layer; and mixing is near the identity, so that streams stay apart."""
    torch.manual_seed(0)
    norm, x = nn.RMSNorm(32), torch.randn(2, 5, 32)
    for layer in range(4):
        connection = RESIDUALS[name](32, 4, CFG, layer)
        assert (connection(expand(x, 4), norm) - expand(x + norm(x), 4)).abs().max() < 0.02
        weights: Any = connection.weights(torch.randn(10, 4, 32))
        assert (weights.mix - torch.eye(4)).abs().max() < 0.1
        assert (weights.read.argmax(-1) == layer).all()


def composite(connections: list[Any], tokens: int = 20) -> Tensor:
    """(T, n, n): the product of all mixing matrices, the last one first."""
    product = torch.eye(4).expand(tokens, 4, 4)
    for connection in connections:
        product = connection.weights(torch.randn(tokens, 4, 8)).mix @ product
    return product


@pytest.mark.parametrize("seed", SEEDS)
@torch.no_grad()
def test_signal_gain_of_64_layers(seed: int) -> None:
    """Row and column sums of the composite mapping: 1 for mHC whatever its weights, above 10 for a shaken HC."""
    torch.manual_seed(seed)
    gains = {}
    for name in RESIDUALS:
        connections = [RESIDUALS[name](8, 4, CFG, layer) for layer in range(64)]
        for connection in connections:
            for p in connection.parameters():
                p += torch.randn_like(p) * 0.2
        product = composite(connections).abs()
        gains[name] = max(product.sum(axis).max().item() for axis in (1, 2))
    assert abs(gains["mhc"] - 1) < 1e-4 and gains["mhc-sinkhorn"] < 2 and gains["hc"] > 10


@pytest.mark.parametrize("name", RESIDUALS)
@torch.no_grad()
def test_tokens_do_not_meet(name: str) -> None:
    torch.manual_seed(0)
    connection, X = shaken(RESIDUALS[name](8, 4, CFG, 0)), torch.randn(2, 6, 4, 8)
    other = X.clone()
    other[0, 3] += 1
    changed = (connection(X, torch.tanh) != connection(other, torch.tanh)).flatten(2).any(-1)
    assert changed.nonzero().tolist() == [[0, 3]]


@torch.no_grad()
def test_fp32_whatever_autocast_says() -> None:
    torch.manual_seed(0)
    for connection in (shaken(ManifoldHyperConnection(8, 4, CFG)), shaken(HyperConnection(8, 4, CFG))):
        X = torch.randn(2, 6, 4, 8)
        expected = connection(X, torch.tanh)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(connection(X, torch.tanh), expected)


def test_the_experiment_measures_gains() -> None:
    """Its definition on a mapping known by hand, and a run of a few seconds."""
    swap, double = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), torch.tensor([[[2.0, -2.0], [0.0, 2.0]]])
    assert gains([swap, double, swap]) == {"forward": 4.0, "backward": 4.0, "gain": 4.0}
    assert gains([torch.tensor([[[1.0, 3.0], [0.0, 0.0]]])]) == {"forward": 4.0, "backward": 3.0, "gain": 4.0}
    metrics = measure(Args(layers=4, width=16, seeds=2, steps=4))
    assert abs(metrics["mhc_gain"]["mean"] - 1) < 1e-4 and metrics["hc_gain"]["n"] == 2
