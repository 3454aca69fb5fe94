"""Laws of System 2: what may influence what, greedy equals teacher forced, and it can learn a batch by heart."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tandem.planner.system2 import System2, System2Config, with_eos
from tandem.planner.tokenizer import BOS, EOS, PAD
from tandem.planner.trunk import ATTENTION, Trunk
from torch import Tensor

PLAIN = replace(ATTENTION, pattern="gated gated")
CFG = System2Config(
    width=48, words=12, instruction_length=6, subtask_length=5, goal_tokens=2, ticks=3, tick_tokens=2, heads=4,
    trunk=PLAIN,
)  # fmt: skip
B, N, R = 12, 7, 2
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def words(length: int, shortest: int = 1, rows: int = B) -> Tensor:
    ids = torch.randint(4, CFG.words, (rows, length))
    ends = torch.randint(shortest, length + 1, (rows, 1))
    return ids.masked_fill(torch.arange(length) >= ends, PAD)


def random_batch(seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {
        "instruction": words(6),
        "previous": words(5, shortest=0),
        "subtask": words(5),
        "history": torch.randn(B, 3, N, 48),
        "history_mask": torch.tensor([[False, True, True], [True, True, True], [False, False, True]]).repeat(B // 3, 1),
        "referents": torch.randn(B, R, 48),
        "goal": F.layer_norm(torch.randn(B, 2, 48), (48,)),
        "progress": torch.rand(B),
    }


def planner(seed: int = 0, shake: float = 0.15, **changes) -> System2:
    """Random weights that are large enough to make every input matter."""
    torch.manual_seed(seed)
    model = System2(replace(CFG, **changes)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * shake)
    return model


def inputs(batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
    return tuple(batch[k] for k in ("instruction", "previous", "history", "history_mask", "referents"))


@torch.no_grad()
def think(model: System2, batch: dict[str, Tensor]):
    return model.think(model.prefix(*inputs(batch)), batch["subtask"])


TRUNKS = {
    "attention": PLAIN,
    "dense": replace(PLAIN, ffn="mlp"),
    "streams": replace(PLAIN, streams=2),
    "memory": replace(PLAIN, engram=(1,)),
    "linear": replace(PLAIN, pattern="gdn gdn"),
    "default": Trunk(),
    "everything": Trunk("gdn dsa", streams=2, engram=(1,), mtp=1),
}


@pytest.mark.parametrize("trunk", TRUNKS)
@torch.no_grad()
def test_greedy_sample_equals_argmax_of_the_teacher_forced_pass(trunk: str) -> None:
    model, batch = planner(trunk=TRUNKS[trunk]), random_batch()
    plan = model.sample(*inputs(batch))
    logits, forced = think(model, batch | {"subtask": plan.subtask})
    lengths = (plan.subtask != PAD).sum(1)
    assert len(set(lengths.tolist())) > 1  # sentences of several lengths end well together
    greedy = logits[..., EOS:].argmax(-1) + EOS
    meant = with_eos(plan.subtask)
    full = lengths == CFG.subtask_length  # cut before they ended: the last target was never decided
    meant[full, -1] = greedy[full, -1]
    assert torch.equal(greedy.masked_fill(meant == PAD, PAD), meant)
    torch.testing.assert_close(forced.goal, plan.goal, **CLOSE)
    torch.testing.assert_close(forced.progress, plan.progress, **CLOSE)


@torch.no_grad()
def test_sampling_a_batch_equals_sampling_each() -> None:
    model, batch = planner(), random_batch()
    together = model.sample(*inputs(batch))
    for i in range(3):
        alone = model.sample(*(x[i : i + 1] for x in inputs(batch)))
        assert torch.equal(alone.subtask[0], together.subtask[i])
        torch.testing.assert_close(alone.goal[0], together.goal[i], **CLOSE)


@pytest.mark.parametrize("trunk", ["attention", "default"])
@torch.no_grad()
def test_previous_words_are_kept_exactly_where_decoding_would_say_them(trunk: str, monkeypatch) -> None:
    model, batch = planner(trunk=TRUNKS[trunk]), random_batch()
    asked = []
    for name in ("_greedy", "_finish"):
        original = getattr(model, name)
        monkeypatch.setattr(model, name, lambda *a, name=name, do=original: asked.append(name) or do(*a))
    monkeypatch.setattr("tandem.planner.system2.say", lambda planner, real, cache: planner._greedy(real, cache))
    kept = 0
    for i in range(B):
        instruction, previous, *rest = (x[i : i + 1] for x in inputs(batch))
        for _ in range(4):  # what was said becomes what was said before
            plan, words = model.sample(instruction, previous, *rest), previous
            decoded = "_greedy" in asked
            asked.clear()
            prefix = model.prefix(instruction, words, *rest)
            logits, forced = model.think(prefix, plan.subtask)
            greedy, meant = logits[..., EOS:].argmax(-1) + EOS, with_eos(plan.subtask)
            meant[:, -1] = PAD
            assert torch.equal(greedy.masked_fill(meant == PAD, PAD), meant)
            torch.testing.assert_close(forced.goal, plan.goal, **CLOSE)
            torch.testing.assert_close(forced.progress, plan.progress, **CLOSE)
            assert decoded == (not torch.equal(plan.subtask, words) or not words.any())  # no words, nothing to try
            kept, previous = kept + (not decoded), plan.subtask
    assert 0 < kept < 4 * B


@torch.no_grad()
def test_hidden_ticks_do_not_influence() -> None:
    model, batch = planner(), random_batch()
    hidden = batch["history"].clone()
    hidden[~batch["history_mask"]] = 99.0
    before, after = think(model, batch), think(model, batch | {"history": hidden})
    assert torch.equal(before[0], after[0]) and torch.equal(before[1].goal, after[1].goal)


@pytest.mark.parametrize("tick", [0, 1, 2])
@torch.no_grad()
def test_seen_ticks_do_influence(tick: int) -> None:
    model, batch = planner(), random_batch()
    history = batch["history"].clone()
    history[1, tick] += 1.0  # sample 1 sees all its ticks
    changed = (think(model, batch)[1].goal != think(model, batch | {"history": history})[1].goal).flatten(1).any(1)
    assert changed.tolist() == [i == 1 for i in range(B)]


@pytest.mark.parametrize("key", ["instruction", "previous", "referents"])
@torch.no_grad()
def test_instruction_earlier_words_and_referents_matter(key: str) -> None:
    model, batch = planner(), random_batch()
    other = batch | {key: batch[key].flip(0)}
    assert not torch.allclose(think(model, batch)[1].goal, think(model, other)[1].goal)


@torch.no_grad()
def test_words_are_causal_and_the_goal_hears_them() -> None:
    model, batch = planner(), random_batch()
    batch["subtask"] = torch.randint(4, CFG.words, (B, 5))
    other = batch["subtask"].clone()
    other[:, 3] = 4 + (other[:, 3] - 3) % (CFG.words - 4)
    (before, plan), (after, plan2) = think(model, batch), think(model, batch | {"subtask": other})
    changed = (before - after).abs().amax((0, 2)) > 1e-6
    assert changed.tolist() == [False] * 4 + [True] * 2  # row 4 reads <bos> and four words, the changed one last
    assert ((plan.goal - plan2.goal).abs().amax((1, 2)) > 1e-6).all()


@torch.no_grad()
def test_padding_does_not_influence() -> None:
    model, batch = planner(), random_batch()
    plan, (_, forced) = model.sample(*inputs(batch)), think(model, batch)
    model.words.weight[PAD] += 3.0
    plan2, (_, forced2) = model.sample(*inputs(batch)), think(model, batch)
    assert torch.equal(plan.subtask, plan2.subtask)
    for before, after in ((plan, plan2), (forced, forced2)):
        torch.testing.assert_close(before.goal, after.goal, **CLOSE)
        torch.testing.assert_close(before.progress, after.progress, **CLOSE)


@torch.no_grad()
def test_queries_see_each_other() -> None:
    model, batch = planner(), random_batch()
    before = think(model, batch)[1].goal
    model.queries[-1] += 1.0  # the progress query, behind the goal queries
    assert ((think(model, batch)[1].goal - before).abs().amax((1, 2)) > 1e-6).all()


def test_targets_end_with_eos() -> None:
    target = with_eos(torch.tensor([[5, 6, PAD], [5, 6, 7], [PAD, PAD, PAD]]))
    assert target.tolist() == [[5, 6, EOS, PAD], [5, 6, 7, EOS], [EOS, PAD, PAD, PAD]]


@torch.no_grad()
def test_sampled_words_are_words() -> None:
    for seed in range(3):
        plan = planner(seed, shake=0.4).sample(*inputs(random_batch(seed)))
        text = plan.subtask
        assert not ((text == BOS) | (text == EOS)).any()
        assert ((text[:, 1:] == PAD) | (text[:, :-1] != PAD)).all()  # no word after the end
        assert plan.goal.shape == (B, 2, 48) and ((plan.progress >= 0) & (plan.progress <= 1)).all()
        torch.testing.assert_close(plan.goal.var(-1, unbiased=False), torch.ones(B, 2), atol=1e-3, rtol=0)


def test_hiding_happens_in_training_only_and_never_hides_the_present() -> None:
    model, batch = planner(hide_words=1.0, hide_tick=1.0), random_batch()
    previous, mask = model._hide(batch["previous"], batch["history_mask"])
    assert (previous == PAD).all() and not mask.any()
    other = batch["history"].clone()
    other[:, -1] += 1
    blind, _ = model.loss(batch)
    seen, _ = model.loss(batch | {"history": other})
    assert not torch.equal(blind["goal"], seen["goal"])
    older = batch["history"].clone()
    older[:, :-1] += 1
    same, _ = model.loss(batch | {"history": older, "previous": batch["previous"].flip(0)})
    assert torch.equal(blind["goal"], same["goal"])


def test_gradients_reach_every_weight_and_the_goal_is_differentiable() -> None:
    model, batch = planner(), random_batch()
    batch["history"].requires_grad_()
    _, plan = model.loss(batch)
    plan.goal.square().sum().backward()
    assert batch["history"].grad is not None and batch["history"].grad[:, -1].abs().sum() > 0
    model.zero_grad()
    parts, _ = model.loss(batch)
    sum(parts[k] for k in ("text", "goal", "progress")).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


def test_learns_a_batch_by_heart() -> None:
    """Words exactly, goal nearly, although earlier words and ticks are hidden at random; sampled as trained."""
    batch = random_batch()
    torch.manual_seed(0)
    model = System2(CFG).train()
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3, weight_decay=0.0)
    for _ in range(150):
        parts, _ = model.loss(batch)
        optimizer.zero_grad()
        (parts["text"] + parts["goal"] + parts["progress"]).backward()
        optimizer.step()
        model.stack.balance()
    plan = model.eval().sample(*inputs(batch))
    assert parts["subtask_accuracy"] == 1.0 and parts["goal"] < 0.05
    assert torch.equal(plan.subtask, batch["subtask"])
    assert F.mse_loss(plan.goal, batch["goal"]) < 0.1 and (plan.progress - batch["progress"]).abs().max() < 0.15


@torch.no_grad()
def test_drafted_words_are_the_words_of_plain_decoding() -> None:
    """A scene alone is spoken about with multi-token prediction, a batch is not: the words must be the same."""
    model, batch = planner(trunk=TRUNKS["everything"]), random_batch()
    together = model.sample(*inputs(batch)).subtask
    alone = [model.sample(*(value[i : i + 1] for value in inputs(batch))).subtask for i in range(B)]
    assert torch.equal(torch.cat(alone), together)


def test_multi_token_prediction_is_learned_with_the_words() -> None:
    model = planner(trunk=TRUNKS["everything"], shake=0.02).train()
    model.loss(random_batch())[0]["text"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.ahead.parameters() if p.requires_grad)
