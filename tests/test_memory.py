"""Memory: what lies still is where it was seen, and nobody remembers another episode."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from tandem.policy.networks.object_memory import Memory, MemoryConfig, Past, Seen
from tandem.policy.rl.recap.memory_training import Looks, Recalling, _fit, recall
from tandem.policy.rl.shared.episodes import FAR, PLACES, Trajectory

S, E, R, M = 5, 6, 2, 8
CFG = MemoryConfig(state_dim=S, looked=E, things=R, looks=M)


@pytest.fixture
def memory() -> Memory:
    torch.manual_seed(0)
    return Memory(CFG).requires_grad_(False)


def glances(count: int, things: torch.Tensor, rng: torch.Generator) -> list[Seen]:
    """Of things (R, 3) that lie still, from a hand that moves; the newest first."""
    found = []
    for number in reversed(range(count)):
        hand, state = torch.rand(1, 3, generator=rng), torch.rand(1, S, generator=rng)
        found.append(Seen(4 * number, things - hand.unsqueeze(1), hand, state, torch.rand(1, R, E, generator=rng)))
    return found


def test_what_lies_still_is_recalled_where_it_is_however_the_hand_moved(memory):
    rng = torch.Generator().manual_seed(1)
    seen = glances(5, torch.rand(1, R, 3, generator=rng), rng)
    torch.testing.assert_close(memory(Past.of(seen, M)), seen[0].way, atol=1e-6, rtol=0)
    once = memory(Past.of(seen[:1], M))
    assert torch.equal(once, seen[0].way)


def test_looks_that_never_were_do_not_count_and_newer_ones_count_more(memory):
    rng = torch.Generator().manual_seed(2)
    past = Past.of(glances(3, torch.rand(1, R, 3, generator=rng), rng), M)
    assert past.known.sum() == 3 and past.age[0, :3].tolist() == [0, 4, 8]

    def moved(look):
        way = past.way.clone()
        way[:, look] += 1.0
        return float((memory(replace(past, way=way)) - memory(past)).mean())

    assert moved(0) > moved(1) > moved(2) > 0.1
    assert [moved(look) for look in range(3, M)] == [0] * 5
    assert moved(0) + moved(1) + moved(2) == pytest.approx(1.0, abs=1e-5)  # they share what they say


def episode(things: np.ndarray, steps: int, seed: int) -> Trajectory:
    """The last half of its looks sees thing 0 a decimetre off, and looks like it."""
    rng = np.random.default_rng(seed)
    L = steps // 4
    state = rng.uniform(0, 1, (L, S)).astype(np.float32)
    hidden = np.arange(L) >= L // 2
    way = things[None] - state[:, None, :3]
    way[hidden, 0] += rng.normal(0, 0.1, (hidden.sum(), 3))
    looked = np.repeat(hidden[:, None, None], R, 1) * np.ones(E)
    places = np.zeros((L, PLACES), np.float32)
    places[:, :6] = things.reshape(-1)
    arrays = {
        "way": way.astype(np.float32), "looked": looked.astype(np.float16), "state": state,
        "look": np.arange(0, 4 * L, 4, dtype=np.int32), "places": places,
    }  # fmt: skip
    return Trajectory("push", seed, 0, 1.0, "", True, steps, arrays)


class Hands:
    """A bundle, as far as memory asks: the hand is in the state."""

    def hand_at(self, state):
        return state[..., :3]


def looks_of(seeds: range) -> Looks:
    return Looks(Hands(), [episode(np.random.default_rng(seed).uniform(0, 1, (R, 3)), 48, seed) for seed in seeds], M)


def test_the_past_ends_where_the_episode_begins():
    looks = looks_of(range(3))
    first, later = torch.tensor([0, 12, 24]), torch.tensor([3, 15])
    assert looks.past(first).known.sum(1).tolist() == [1, 1, 1]
    past = looks.past(later)
    assert past.known.sum(1).tolist() == [4, 4] and past.age[:, :5].tolist() == [[0, 4, 8, 12, 12]] * 2
    columns = (looks.way, looks.hand, looks.state, looks.looked.float())
    alone = Past.of([Seen(4 * at, *(column[at : at + 1] for column in columns)) for at in (3, 2, 1, 0)], M)
    for field in fields(Past):  # what learns and what acts have one past
        torch.testing.assert_close(getattr(looks.past(later[:1]), field.name), getattr(alone, field.name))


def test_what_is_hidden_now_is_recalled_from_when_it_was_seen(memory):
    others = looks_of(range(1000, 1020))
    every = torch.arange(len(others))
    seen = float(others.error(others.way, every))
    _fit(memory.requires_grad_(True), looks_of(range(40)), Recalling(steps=300, batch=64), lambda: None)
    recalled = float(others.error(memory(others.past(every)), every))
    assert seen > 0.4 and recalled < seen / 3


def test_where_no_simulator_knows_of_anything_memory_stays_as_it_was(memory):
    unknown = episode(np.zeros((R, 3)), 48, 0)
    bundle = Hands()
    for bundle.memory in (None, memory):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tandem.policy.rl.recap.memory_training.config_of", lambda _: memory.cfg)
            learned, errors = recall(bundle, [unknown], Recalling(steps=3), 0, lambda: None)
        assert learned is bundle.memory and errors == {}


def test_what_fell_off_the_table_teaches_nothing():
    fell = episode(np.zeros((R, 3)) + [0.5, 0.0, 0.1], 48, 0)
    fell.arrays["places"][6:, 2] = -FAR
    looks = Looks(Hands(), [fell], M)
    assert looks.placed[:6].all() and looks.placed[6:].sum(0).tolist() == [0, 6]
    assert looks.error(looks.way, torch.arange(12)) < 5.0


def test_what_the_simulator_does_not_know_teaches_nothing():
    looks = looks_of(range(2))
    looks.things[:, 1], looks.placed[:, 1] = 0.0, False
    rows = torch.arange(len(looks))
    wrong = looks.way.clone()
    wrong[:, 1] += 5.0
    assert looks.error(wrong, rows) == looks.error(looks.way, rows)
