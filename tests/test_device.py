"""Laws of devices: what a GPU computes is what the processor computes, training moves between them, a wish that cannot
be met is one line."""

from dataclasses import replace

import pytest
import torch
from laws import shaken
from tandem import envs
from tandem.backbone.causal_flow import CausalFlow, CausalFlowConfig
from tandem.backbone.int4 import pack
from tandem.backbone.language_model import LanguageModel, LanguageModelConfig
from tandem.backbone.moe import MixtureOfExperts, MoEConfig
from tandem.backbone.speculate import speculative
from tandem.policy.act.agents import load_agent
from tandem.policy.act.runtime import AgentSpec, Runtime
from tandem.policy.checkpoint.bundle import Bundle
from tandem.policy.compute import fastest_dtype, resolve_device, to_device
from tandem.policy.errors import PolicyError
from tandem.policy.networks.advantage_token import Judgement, JudgementConfig
from tandem.policy.networks.noise_actor import Steering, SteeringConfig
from tandem.policy.networks.object_memory import Memory
from tandem.policy.rl.recap.memory_training import config_of
from tandem.policy.train import run as training
from tandem.policy.train.cuda_graph import RecordedStep, Step, step_of
from tandem.policy.train.ema import averaged
from tandem.policy.train.stage_act import ActLearner
from tandem.policy.train.stage_think import ThinkLearner
from test_backbone_stack import VARIANTS, tiny
from torch import Tensor, nn

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
CUDA = torch.device("cuda")


def test_a_wish_that_cannot_be_met_is_one_line(monkeypatch, recipe, frames, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(PolicyError, match="known: auto, cpu, cuda"):
        resolve_device("gpu")
    with pytest.raises(PolicyError, match="PyTorch sees no GPU"):
        training.train(replace(recipe, device="cuda"), frames, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_processes_do_not_share_a_gpu(monkeypatch, recipe, frames, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(PolicyError, match="--processes 1"):
        training.train(replace(recipe, device="auto", processes=2), frames, tmp_path / "run")


def test_batches_move_whole():
    batch = {"a": torch.zeros(2), "images": {"front": torch.zeros(3)}}
    moved = to_device(batch, torch.device("meta"))
    assert moved["a"].is_meta and moved["images"]["front"].is_meta and not batch["a"].is_meta


def both(module: nn.Module, *inputs: Tensor) -> list[list[Tensor]]:
    """Output, gradients of the inputs and of the weights, on the processor and on the GPU."""
    found = []
    for device in (torch.device("cpu"), CUDA):
        module.to(device).zero_grad(set_to_none=True)
        xs = [x.detach().to(device).requires_grad_(x.is_floating_point()) for x in inputs]
        y = module(*xs)
        (y * torch.linspace(-1, 1, y.numel(), device=device).view_as(y)).sum().backward()
        grads = [p.grad for p in (*xs, *module.parameters()) if p.grad is not None]
        found.append([t.detach().cpu() for t in (y, *grads)])
    return found


def agree(cpu: list[Tensor], gpu: list[Tensor], tolerance: float = 2e-3) -> None:
    """fp32, summed in another order."""
    for a, b in zip(cpu, gpu, strict=True):
        assert (a - b).norm() <= tolerance * a.norm() + 1e-5


@GPU
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_block_computes_on_a_gpu_what_the_processor_does(variant):
    model, x, ids = tiny(variant), torch.randn(3, 11, 32), torch.randint(-1, 20, (3, 11))

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.stack = model

        def forward(self, x, ids):
            return self.stack(x, ids=ids)

    amplified = variant == "unconstrained streams"  # rounding grows with the signal
    agree(*both(Whole(), x, ids), 2e-2 if amplified else 2e-3)
    model.to(CUDA)
    cache, x, ids = model.new_cache(), x.to(CUDA), ids.to(CUDA)
    with torch.no_grad():
        parts = [model(x[:, i : i + 1], cache=cache, ids=ids[:, i : i + 1]) for i in range(11)]
        agree([model(x, ids=ids)], [torch.cat(parts, 1)])


@GPU
def test_vision_tokens_in_causal_flow_on_a_gpu():
    torch.manual_seed(0)
    flow = shaken(CausalFlow(32, CausalFlowConfig(layers=2, heads=4, kv_heads=2, ffn_width=48, queries=5)))
    agree(*both(flow, torch.randn(2, 7, 32)))


@GPU
@torch.no_grad()
def test_words_on_a_gpu_are_the_processors_drafted_or_not():
    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig(vocabulary=20, stack=VARIANTS["everything"])).eval()
    shaken(model)
    prompt, said = torch.randint(0, 20, (1, 5)), []
    for device in (torch.device("cpu"), CUDA):
        said.append(speculative(model.to(device), prompt.to(device), 12)[0].cpu())
    assert torch.equal(*said)


@GPU
@torch.no_grad()
def test_int4_experts_on_a_gpu():
    torch.manual_seed(0)
    moe, x = shaken(MixtureOfExperts(64, MoEConfig(experts=4, top_k=2, expert_width=32))), torch.randn(2, 5, 64)
    expected, packed = pack(moe)(x), pack(moe.to(CUDA))
    assert (packed(x.to(CUDA)).cpu() - expected).norm() < 0.02 * expected.norm()  # bf16 activations


@GPU
@pytest.mark.parametrize("stage", [ActLearner, ThinkLearner])
def test_both_stages_have_the_same_losses_on_a_gpu(stage, trained, frames, monkeypatch):
    """Noise is drawn on the processor for both, gradients agree."""
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.randn(x.shape).to(x.device))
    for name in ("rand", "randint"):
        monkeypatch.setattr(torch, name, on_the_processor(getattr(torch, name)))
    found = []
    for device in (torch.device("cpu"), CUDA):
        bundle = Bundle.load(trained).to(device)
        bundle.model.train().requires_grad_(True)
        learner = stage(bundle, averaged(bundle.model, 0.9), frames, 8, 0, torch.float32)
        torch.manual_seed(1)
        loss, parts = learner.losses(next(learner.batches(0)))
        loss.backward()
        grads = torch.cat([p.grad.flatten().cpu() for p in learner.parameters() if p.grad is not None])
        found.append(({k: v.item() for k, v in parts.items()}, grads))
    (cpu, cpu_grads), (gpu, gpu_grads) = found
    assert cpu.keys() == gpu.keys()
    for name in cpu:
        assert gpu[name] == pytest.approx(cpu[name], rel=2e-3, abs=2e-4), name
    assert (gpu_grads - cpu_grads).norm() < 5e-3 * cpu_grads.norm()


@GPU
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_recorded_step_is_the_step(trained, frames, precision):
    """Other batches, other random numbers, weights that have moved: as if every operation were launched anew."""
    bundle = Bundle.load(trained).to(CUDA)
    bundle.model.train().requires_grad_(True)
    learner = ActLearner(bundle, averaged(bundle.model, 0.9), frames, 8, 0, precision)
    parameters, batches = learner.parameters(), learner.batches(0)
    plain, recorded = Step(learner, parameters, precision), step_of(learner, parameters, precision)
    assert isinstance(recorded, RecordedStep)
    for seed in range(3):
        batch, found = next(batches), []
        for step in (plain, recorded):
            torch.manual_seed(seed)
            loss, parts = step(batch)
            found.append([loss, *parts.values(), *(p.grad for p in parameters if p.grad is not None)])
            found[-1] = [value.clone() for value in found[-1]]
        agree(*found)
        with torch.no_grad():
            torch._foreach_add_(parameters, 0.01)


def on_the_processor(draw):
    return lambda *shape, device="cpu", **options: draw(*shape, **options).to(device)


@GPU
def test_a_run_moves_to_a_gpu_and_back(recipe, frames, tmp_path, stop_once_saved, monkeypatch):
    for device, stop_at in (("cpu", 2), ("cuda", 6)):
        stop_once_saved(stop_at)
        with pytest.raises(KeyboardInterrupt):
            training.train(replace(recipe, device=device, precision="auto"), frames, tmp_path, resume=stop_at > 2)
        monkeypatch.undo()
    training.train(replace(recipe, device="cpu", precision="auto"), frames, tmp_path, resume=True)
    weights = Bundle.load(tmp_path).model.state_dict()
    assert all(value.device.type == "cpu" and torch.isfinite(value).all() for value in weights.values())
    assert fastest_dtype(CUDA) == torch.bfloat16


@GPU
@pytest.mark.parametrize("added", ["nothing", "steering", "judgement", "memory", "ranking"])
def test_an_agent_acts_on_a_gpu_as_on_the_processor(trained, added):
    runtime = Runtime(plan="rank" if added == "ranking" else "off", committed=2, pictures=True)
    done = []
    for device in ("cpu", "cuda"):
        agent = load_agent(AgentSpec("checkpoint", str(trained), replace(runtime, device=device)))
        _add(agent.bundle, added)
        environment = envs.make("reach", agent.image_size)
        obs, _ = environment.reset(seed=0)
        agent.reset(obs["task"], 0)
        actions = []
        for _ in range(9):
            actions.append(torch.from_numpy(agent.act(obs)))
            obs, *_ = environment.step(actions[0].numpy())
        environment.close()
        done.append((torch.stack(actions), [e["subtask"] for e in agent.trace]))
    torch.testing.assert_close(done[1][0], done[0][0], atol=2e-3, rtol=2e-3)
    assert done[0][1] == done[1][1]


def _add(bundle: Bundle, added: str) -> None:
    torch.manual_seed(0)
    cfg, sizes = bundle.model.controller.cfg, bundle.feature_sizes
    if added == "steering":
        config = SteeringConfig(sizes.features, sizes.plain, cfg.chunk, cfg.action_dim, hold=2)
        bundle.steering = Steering(config).requires_grad_(False)
    if added == "judgement":
        bundle.judgement = Judgement(JudgementConfig(cfg.width, guidance=1.5))
        nn.init.normal_(bundle.judgement.vectors.requires_grad_(False))
    if added == "memory":
        bundle.memory = Memory(config_of(bundle)).requires_grad_(False)
        nn.init.normal_(bundle.memory.correct.weight, std=0.1)
    bundle.to(bundle.device)
