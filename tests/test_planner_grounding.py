"""Laws of grounding: the tokens are the attended slots, and the attention learns which word names which slot."""

import torch
from tandem.planner.grounding import REFERENTS, Grounding, GroundingConfig, grounding_loss
from torch import Tensor

CFG = GroundingConfig(width=24, words=12, instruction_length=4, cameras=2, keypoints=5, key_width=8)


def said(size: int) -> tuple[Tensor, Tensor]:
    """`w1 w2`: word 4 + i names slot i; the second is sometimes left out."""
    referents = torch.stack([torch.randperm(5)[:REFERENTS] for _ in range(size)])
    referents[torch.rand(size) < 0.3, 1] = -1
    instruction = torch.zeros(size, 4, dtype=torch.int64)
    instruction[:, :2] = torch.where(referents >= 0, referents + 4, 0)
    return instruction, referents


def test_tokens_are_the_slots_that_the_attention_picks() -> None:
    torch.manual_seed(0)
    model = Grounding(CFG).eval()
    with torch.no_grad():
        model.kind.zero_()
        model.query[2].weight.zero_()
        model.query[2].bias.copy_(1e4 * model.slots[3])
        model.slots[[0, 1, 2, 4]] = -model.slots[3]
    z = torch.randn(6, 13, 24)
    tokens, logits = model(said(6)[0], z)
    assert tokens.shape == (6, model.tokens, 24) and logits.shape == (6, REFERENTS, 5)
    assert (logits.argmax(-1) == 3).all()
    expected = torch.stack([z[:, 3], z[:, 5 + 3]], 1).repeat(1, REFERENTS, 1)  # both cameras, for each referent
    torch.testing.assert_close(tokens, expected)


def test_learns_what_the_words_mean() -> None:
    torch.manual_seed(0)
    model = Grounding(CFG)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(80):
        instruction, referents = said(64)
        loss = grounding_loss(model(instruction, torch.randn(64, 13, 24))[1], referents)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    instruction, referents = said(256)
    picked = model(instruction, torch.randn(256, 13, 24))[1].argmax(-1)
    assert ((picked == referents) | (referents < 0)).float().mean() > 0.98


def test_an_unnamed_referent_teaches_nothing() -> None:
    logits = torch.randn(3, REFERENTS, 5, requires_grad=True)
    referents = torch.tensor([[1, -1], [2, 0], [3, -1]])
    grounding_loss(logits, referents).backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum(-1).bool().tolist() == [[True, False], [True, True], [True, False]]
