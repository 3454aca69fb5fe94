"""Laws of the word tokenizer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tandem.planner.tokenizer import EOS, PAD, SPECIAL, UNK, WordTokenizer

TEXTS = ["Reach the red cube.", "put the blue ball in the bowl", "open the drawer", "red, then blue"]


def test_round_trip_is_lower_case_words() -> None:
    tokenizer = WordTokenizer.of(TEXTS)
    ids = tokenizer.encode(TEXTS, 12)
    assert ids.shape == (4, 12) and ids.dtype == torch.int64
    assert tokenizer.decode(ids[1]) == TEXTS[1]
    assert tokenizer.decode(ids[0]) == "reach the red cube ."
    assert (ids != UNK).all()


WORDS = sorted({w for t in TEXTS for w in t.lower().replace(".", " .").replace(",", " ,").split()})


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=8))
def test_known_words_survive(words: list[str]) -> None:
    tokenizer = WordTokenizer.of(TEXTS)
    assert tokenizer.decode(tokenizer.encode([" ".join(words)], 8)[0]) == " ".join(words)


def test_vocabulary_depends_on_the_words_only() -> None:
    assert WordTokenizer.of(TEXTS).to_json() == WordTokenizer.of([*reversed(TEXTS), TEXTS[0].upper()]).to_json()


def test_json_round_trip() -> None:
    tokenizer = WordTokenizer.of(TEXTS)
    again = WordTokenizer.from_json(tokenizer.to_json())
    assert again.size == tokenizer.size == len(SPECIAL) + len(WORDS)
    assert torch.equal(again.encode(TEXTS, 9), tokenizer.encode(TEXTS, 9))


def test_unknown_words_and_long_texts() -> None:
    tokenizer = WordTokenizer.of(TEXTS)
    ids = tokenizer.encode(["open the zeppelin", "", "open " + "red " * 20], 6)
    assert ids[0, 2] == UNK and (ids[1] == PAD).all()
    assert tokenizer.decode(ids[2]) == "open red red red red red"


def test_words_of_a_special_token_are_ordinary() -> None:
    """An instruction cannot smuggle in an end or padding."""
    ids = WordTokenizer.of(TEXTS).encode(["<eos> <pad> open"], 12)
    assert EOS not in ids and ids[0, 0] != PAD


def test_decode_stops_at_the_end() -> None:
    tokenizer = WordTokenizer.of(TEXTS)
    ids = tokenizer.encode(["open the drawer"], 5)[0]
    ids[2] = EOS
    assert tokenizer.decode(ids) == "open the"


@pytest.mark.parametrize("length", [1, 3])
def test_length_is_what_was_asked(length: int) -> None:
    assert WordTokenizer.of(TEXTS).encode(TEXTS, length).shape == (4, length)
