"""Laws of the world model, plan search, image decoder: better than copying on a toy world, honest where it is not."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tandem.planner.image_decoder import ImageDecoder, ImageDecoderConfig
from tandem.planner.search import rank
from tandem.planner.world_model import Forecast, WorldModel, WorldModelConfig
from torch import Tensor

CFG = WorldModelConfig(
    width=32, action_dim=2, chunk=8, scene_tokens=5, goal_tokens=2, heads=4, pattern="gated", ensemble=3
)


def toy(size: int, seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    """A linear world: the sum of the actions moves every token along its own fixed directions."""
    fixed = torch.Generator().manual_seed(7)
    directions = torch.randn(2, 5 * 32, generator=fixed) * 0.3
    own = torch.Generator().manual_seed(seed)
    z, actions = torch.randn(size, 5, 32, generator=own), torch.randn(size, 8, 2, generator=own) * scale
    future = z + (actions.sum(1) @ directions).unflatten(1, (5, 32))
    goal = F.layer_norm(future[:, :2], (32,))
    success = (actions.sum(1)[:, 0] > 0).float()
    return {
        "z": z, "actions": actions, "future": future, "goal": goal, "future_success": success,
        "future_progress": torch.full((size,), 0.5),
    }  # fmt: skip


def fit(steps: int) -> WorldModel:
    torch.manual_seed(0)
    world = WorldModel(CFG).train()
    optimizer = torch.optim.AdamW(world.parameters(), 3e-3, weight_decay=0.0)
    for step in range(steps):
        parts = world.loss(toy(64, step))
        optimizer.zero_grad()
        (parts["future"] + 0.1 * parts["future_progress"] + 0.1 * parts["future_success"]).backward()
        optimizer.step()
    return world.eval()


@pytest.fixture(scope="module")
def trained() -> WorldModel:
    return fit(500)


@torch.no_grad()
def test_beats_copying_on_a_linear_world(trained: WorldModel) -> None:
    held_out = trained.loss(toy(256, 10_001))
    assert held_out["explained"] > 0.9
    assert abs(float(WorldModel(CFG).loss(toy(256, 10_001))["explained"])) < 0.05  # a fresh one is about the copy


@torch.no_grad()
def test_explained_is_measured_against_copying(trained: WorldModel) -> None:
    batch = toy(64, 10_002)
    futures = trained.futures(batch["z"], batch["actions"]).mean(0)
    error, copied = F.mse_loss(futures, batch["future"]), F.mse_loss(batch["z"], batch["future"])
    torch.testing.assert_close(trained.loss(batch)["explained"], 1 - error / copied)
    still = batch | {"future": batch["z"]}
    assert trained.loss(still)["explained"] < 0  # where nothing changes the copy is perfect, and it says so


@torch.no_grad()
def test_actions_matter_each_of_them(trained: WorldModel) -> None:
    batch = toy(1, 10_003)
    before = trained.futures(batch["z"], batch["actions"])
    for step in range(CFG.chunk):
        actions = batch["actions"].clone()
        actions[:, step] += 1
        assert (trained.futures(batch["z"], actions) - before).abs().max() > 1e-3


@torch.no_grad()
def test_success_is_learned(trained: WorldModel) -> None:
    batch = toy(256, 10_004)
    forecast = trained(batch["z"], batch["actions"], batch["goal"])
    right = (forecast.success > 0.5) == batch["future_success"].bool()
    assert right.float().mean() > 0.9
    assert ((forecast.progress >= 0) & (forecast.progress <= 1)).all()


@torch.no_grad()
def test_disagreement_grows_far_from_the_data(trained: WorldModel) -> None:
    near, far = toy(64, 10_005), toy(64, 10_005, scale=8.0)
    known = trained(near["z"], near["actions"], near["goal"]).disagreement
    unknown = trained(far["z"], far["actions"], far["goal"]).disagreement
    assert known.shape == (64,) and unknown.mean() > 2 * known.mean() > 0


@torch.no_grad()
def test_rank_picks_the_chunk_that_leads_to_the_goal(trained: WorldModel) -> None:
    hits = 0
    for seed in range(20):
        one = toy(1, 20_000 + seed)
        chunks = torch.cat([toy(7, 30_000 + seed)["actions"], one["actions"]])
        goal = F.layer_norm(one["future"][:, :2], (32,))
        best, scores = rank(Closeness(trained), one["z"], goal, chunks, lambda z: F.layer_norm(z[:, :2], (32,)))
        assert scores.shape == (8,) and best == int(scores.argmax())
        hits += best == 7
    assert hits >= 18


class Closeness:
    """A world model whose judgements are left out, so that only z' speaks."""

    def __init__(self, world: WorldModel):
        self.world = world

    def __call__(self, z: Tensor, actions: Tensor, goal: Tensor) -> Forecast:
        zero = torch.zeros(len(z))
        return Forecast(self.world(z, actions, goal).z, zero, zero, zero)


TERMS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]] = {
    "progress": lambda x: (0 * x, x, 0 * x),
    "success": lambda x: (0 * x, 0 * x, x),
    "disagreement": lambda x: (1 - x, 0 * x, 0 * x),
}


@pytest.mark.parametrize("term", TERMS)
def test_every_term_of_the_score_counts(term: str) -> None:
    """All equal but one term: the chunk with more progress, more success, or less disagreement wins."""

    def world(z: Tensor, actions: Tensor, goal: Tensor) -> Forecast:
        return Forecast(z, *TERMS[term](torch.tensor([0.1, 0.9, 0.4])))

    z, goal = torch.randn(1, 5, 32), torch.randn(1, 2, 32)
    best, scores = rank(world, z, goal, torch.zeros(3, 8, 2), lambda z: z[:, :2])  # type: ignore[arg-type]
    assert best == 1
    torch.testing.assert_close(scores - scores[0], torch.tensor([0.0, 0.8, 0.3]))


def test_decoder_learns_pictures_and_stays_in_range() -> None:
    torch.manual_seed(0)
    decoder = ImageDecoder(ImageDecoderConfig(width=16, goal_tokens=2, channels=32))
    g, colours = torch.randn(4, 2, 16), torch.randint(64, 192, (4, 1, 1, 3), dtype=torch.uint8)
    images = colours.expand(4, 96, 96, 3)
    optimizer = torch.optim.AdamW(decoder.parameters(), 3e-3)
    losses = []
    for _ in range(80):
        losses.append(decoder.loss(g, images))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    picture = decoder(g)
    assert picture.shape == (4, 3, 48, 48) and picture.min() >= 0 and picture.max() <= 1
    assert losses[-1] < 0.2 * losses[0]
    error = (picture.mean((2, 3)) - colours[:, 0, 0].float() / 255).abs().max()
    assert error < 0.08  # channels are in order
