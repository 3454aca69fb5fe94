"""Laws of the mixture of experts: parity with DeepSeek-V3 and Qwen3-Next, the bias only chooses, balancing works."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tandem.backbone.experts import combine, dispatch
from tandem.backbone.moe import MixtureOfExperts, MoEConfig
from tandem.backbone.router import Routing
from tandem.backbone.stack import Stack, StackConfig
from torch import Tensor

CFG = MoEConfig(experts=8, top_k=2, expert_width=16)


def random_moe(cfg: MoEConfig = CFG, width: int = 32, seed: int = 0) -> MixtureOfExperts:
    torch.manual_seed(seed)
    moe = MixtureOfExperts(width, cfg)
    with torch.no_grad():
        for p in moe.parameters():
            p.copy_(torch.randn_like(p) * 0.2)
        moe.bias.copy_(torch.randn(cfg.experts) * 0.1)
    return moe


def naive(moe: MixtureOfExperts, x: Tensor) -> Tensor:
    """Every expert on every token, then the chosen ones weighed: the definition."""
    experts, gates = moe.route(x)
    gate, up = torch.einsum("td,eod->teo", x, moe.gate_up).chunk(2, -1)
    every = torch.einsum("teo,edo->ted", F.silu(gate) * up, moe.down)
    weights = torch.zeros(len(x), len(moe.load)).scatter(1, experts, gates)
    return (weights.unsqueeze(-1) * every).sum(1) + moe.shared(x)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "width, cfg",
    [
        (32, CFG),
        (48, MoEConfig(16, 4, 24, shared_width=48, routing=Routing(scale=2.5, groups=4, kept_groups=2))),
        (64, MoEConfig(32, 6, 16, routing=Routing(renormalise=False, scale=1.5, groups=8, kept_groups=3))),
        (32, MoEConfig(128, 2, 16)),
    ],
)
@torch.no_grad()
def test_parity_with_deepseek_v3(width: int, cfg: MoEConfig, seed: int) -> None:
    """Needs the dev dependency transformers."""
    modeling = pytest.importorskip("transformers.models.deepseek_v3.modeling_deepseek_v3")
    from transformers import DeepseekV3Config

    shared = (cfg.shared_width or cfg.expert_width) // cfg.expert_width
    sizes: dict[str, Any] = {
        "hidden_size": width, "moe_intermediate_size": cfg.expert_width, "n_routed_experts": cfg.experts,
        "num_experts_per_tok": cfg.top_k, "n_shared_experts": shared,
        "n_group": cfg.routing.groups, "topk_group": cfg.routing.kept_groups,
        "routed_scaling_factor": cfg.routing.scale, "norm_topk_prob": cfg.routing.renormalise,
        "experts_implementation": "eager",
    }  # fmt: skip
    ours, theirs = random_moe(cfg, width, seed).eval(), modeling.DeepseekV3MoE(DeepseekV3Config(**sizes)).eval()
    theirs.load_state_dict({
        "gate.weight": ours.router.weight, "gate.e_score_correction_bias": ours.bias,
        "experts.gate_up_proj": ours.gate_up, "experts.down_proj": ours.down,
        **{f"shared_experts.{name}": value for name, value in ours.shared.state_dict().items()},
    })  # fmt: skip
    x = torch.randn(3, 10, width)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("experts, top_k, renormalise", [(8, 2, True), (64, 10, True), (16, 3, False)])
@torch.no_grad()
def test_parity_with_qwen3_next(experts: int, top_k: int, renormalise: bool, seed: int) -> None:
    modeling = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    from transformers import Qwen3NextConfig

    routing = Routing(renormalise=renormalise)
    cfg = MoEConfig(experts, top_k, 16, router="softmax", routing=routing, shared_width=40, shared_gate=True)
    sizes: dict[str, Any] = {
        "hidden_size": 32, "moe_intermediate_size": 16, "num_experts": experts, "num_experts_per_tok": top_k,
        "norm_topk_prob": renormalise, "shared_expert_intermediate_size": 40, "experts_implementation": "eager",
    }  # fmt: skip
    ours, theirs = random_moe(cfg, seed=seed).eval(), modeling.Qwen3NextSparseMoeBlock(Qwen3NextConfig(**sizes)).eval()
    ours.bias.zero_()
    shared = {f"shared_expert.{name}": value for name, value in ours.shared.state_dict().items()}
    gate = shared.pop("shared_expert.output_gate.weight")
    theirs.load_state_dict({
        "gate.weight": ours.router.weight, "shared_expert_gate.weight": gate, **shared,
        "experts.gate_up_proj": ours.gate_up, "experts.down_proj": ours.down,
    })  # fmt: skip
    x = torch.randn(3, 10, 32)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=0)


def test_weight_names_stay() -> None:
    shared = [f"shared.{name}_proj.weight" for name in ("gate", "up", "down")]
    assert [*random_moe().state_dict()] == ["gate_up", "down", "bias", "router.weight", *shared]


def test_an_unknown_router_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'hash'.*sigmoid.*softmax"):
        MixtureOfExperts(32, replace(CFG, router="hash"))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "cfg",
    [
        CFG,
        replace(CFG, router="softmax", shared_gate=True),
        MoEConfig(64, 3, 16, routing=Routing(renormalise=False, scale=2.0)),
        MoEConfig(4, 1, 8, routing=Routing(renormalise=False)),
    ],
)
def test_values_and_gradients_equal_the_definition(cfg: MoEConfig, seed: int) -> None:
    moe, x = random_moe(cfg, seed=seed).eval(), torch.randn(20, 32, requires_grad=True)
    torch.testing.assert_close(moe(x), naive(moe, x), atol=1e-5, rtol=1e-5)
    inputs = [x, *moe.parameters()]
    fast = torch.autograd.grad(moe(x).square().sum(), inputs)
    slow = torch.autograd.grad(naive(moe, x).square().sum(), inputs)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert all(gradient.any() for gradient in fast[:4])


def test_without_gradients_nothing_changes() -> None:
    moe, x = random_moe().eval(), torch.randn(20, 32)
    with torch.no_grad():
        quiet = moe(x)
    assert torch.equal(quiet, moe(x))


def test_autocast_reaches_the_experts() -> None:
    """Inputs, weights and gradients go through bf16, the result and the weights' gradients are fp32."""
    moe, x = random_moe().eval(), torch.randn(40, 32)
    with torch.autocast("cpu", torch.bfloat16):
        y = moe(x)
    assert y.dtype == torch.float32
    assert 1e-5 < (y - moe(x)).norm() / moe(x).norm() < 0.02
    gradients = [
        torch.autograd.grad(out.square().sum(), [moe.gate_up, moe.down, moe.router.weight]) for out in (y, moe(x))
    ]
    for coarse, exact in zip(*gradients, strict=True):
        assert coarse.dtype == torch.float32 and (coarse - exact).norm() / exact.norm() < 0.05


def test_dispatch_sorts_by_expert_and_combine_returns_to_the_tokens() -> None:
    plan = dispatch(torch.tensor([[1, 0], [1, 2]]), 4)
    assert plan.order.tolist() == [1, 0, 2, 3] and plan.tokens.tolist() == [0, 0, 1, 1]
    assert plan.inverse.tolist() == [[1, 0], [2, 3]] and (plan.experts, plan.sizes) == ([0, 1, 2], [1, 2, 1])
    gates = torch.tensor([[1.0, 10.0], [1.0, 10.0]])
    assert combine(torch.tensor([[1.0], [2.0], [3.0], [4.0]]), gates, plan.inverse).tolist() == [[12.0], [43.0]]


@torch.no_grad()
def test_one_token_touches_only_its_experts() -> None:
    """Poison in all the others: a step of decoding reads top-k of 128 experts."""
    moe, x = random_moe(MoEConfig(128, 2, 16)).eval(), torch.randn(1, 32)
    clean, (experts, _) = moe(x), moe.route(x)
    others = torch.ones(128, dtype=torch.bool).index_fill(0, experts.flatten(), False)
    for weight in (moe.gate_up, moe.down):
        weight[others] = torch.nan
    assert torch.equal(moe(x), clean)


def test_the_group_limit_keeps_the_groups_with_the_best_pairs() -> None:
    routing = Routing(groups=2, kept_groups=1)
    moe = random_moe(MoEConfig(4, 2, 16, routing=routing))
    scores = torch.tensor([[0.9, 0.1, 0.6, 0.5], [0.9, 0.4, 0.6, 0.5]])
    assert moe.router._allowed(scores).isfinite().tolist() == [[False, False, True, True], [True, True, False, False]]


def test_an_expert_without_tokens_is_no_problem() -> None:
    moe = random_moe()
    with torch.no_grad():
        moe.bias[3] = -10
    moe(torch.randn(5, 32)).sum().backward()
    assert moe.load[3] == 0 and moe.down.grad is not None and not moe.down.grad[3].any()


def test_the_bias_chooses_and_never_weighs() -> None:
    moe, x = random_moe().eval(), torch.randn(50, 32)
    with torch.no_grad():
        moe.bias.zero_()
        moe.bias[5] = 10
    experts, gates = moe.route(x)
    assert (experts == 5).any(-1).all()
    chosen = moe.router(x).sigmoid().gather(-1, experts)
    torch.testing.assert_close(gates, chosen / chosen.sum(-1, keepdim=True))


def test_tokens_do_not_influence_each_other() -> None:
    moe, x = random_moe().eval(), torch.randn(12, 32)
    torch.testing.assert_close(moe(x)[3:4], moe(x[3:4]), atol=1e-6, rtol=1e-5)


def busiest_after(steps: int) -> float:
    """Load of the busiest expert over the mean, with a router that prefers some experts, after some balancing."""
    torch.manual_seed(0)
    moe = MixtureOfExperts(32, replace(CFG, balance_rate=0.02))
    busiest = 0.0
    with torch.no_grad():
        moe.router.weight.copy_(torch.randn(8, 32) * 0.1)
        moe.gate_up.zero_()
        moe.down.zero_()
        for _ in range(steps):
            moe(torch.randn(256, 32) + 0.5)
            busiest = moe.balance()
    return busiest


def test_balancing_lowers_the_imbalance() -> None:
    assert busiest_after(1) > 1.8
    assert busiest_after(100) < 1.35


@torch.no_grad()
def ultra_sparse_after(steps: int) -> float:
    """Load over 2048 tokens of 128 experts, two a token, balanced on batches with a mean load of four."""
    torch.manual_seed(0)
    moe = MixtureOfExperts(32, MoEConfig(128, 2, 16))
    moe.router.weight.copy_(torch.randn(128, 32) * 0.1)
    for _ in range(steps):
        moe.route(torch.randn(256, 32) + 0.5)
        moe.balance()
    moe.route(torch.randn(2048, 32) + 0.5)
    return moe.balance()


def test_balancing_works_with_many_experts_and_few_tokens() -> None:
    assert ultra_sparse_after(0) > 4
    assert ultra_sparse_after(100) < 2.5


def test_balancing_returns_the_busiest_load_over_the_mean() -> None:
    moe = random_moe()
    moe(torch.randn(50, 32))
    load = moe.load.clone()
    assert moe.balance() == pytest.approx(float(load.max() / load.mean()))
    for load, busiest in ((torch.full((8,), 5.0), 1.0), (torch.eye(8)[3] * 40, 8.0), (torch.zeros(8), 0.0)):
        moe.load.copy_(load)
        assert moe.balance() == busiest


def test_load_is_counted_in_training_only_and_starts_anew() -> None:
    moe, x = random_moe(), torch.randn(6, 32)
    moe(x)
    assert moe.load.sum() == 6 * CFG.top_k
    moe.balance()
    moe.eval()(x)
    assert not moe.load.any()


def test_a_stack_balances_all_its_experts() -> None:
    model = Stack(StackConfig(32, "gated gated", moe=CFG))
    model(torch.randn(2, 10, 32))
    assert model.balance() >= 1.0
    biases = [layer.ffn.bias for layer in model.layers]
    assert all(bias.abs().max() == CFG.balance_rate for bias in biases)
    assert Stack(StackConfig(32, ffn="mlp")).balance() == 1.0
