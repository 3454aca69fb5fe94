"""Words to ids and back, through the `tokenizers` library: one id a word, lower case, punctuation apart.

The vocabulary is that of the demonstrations (instructions and subtasks). An unknown word becomes <unk>. It is stored
in the checkpoint as the library's own JSON.
"""

import json

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor

PAD, BOS, EOS, UNK = 0, 1, 2, 3
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")


class WordTokenizer:
    """Words to numbers, from the sentences of the training data."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer

    @classmethod
    def of(cls, texts: list[str]) -> "WordTokenizer":
        """A vocabulary of every word in `texts`, in alphabetical order."""
        splitter = _splitter()
        words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text.lower())})
        return cls(_word_level({word: i for i, word in enumerate([*SPECIAL, *words])}))

    @property
    def size(self) -> int:
        """Words in the vocabulary."""
        return self._tokenizer.get_vocab_size()

    def encode(self, texts: list[str], length: int) -> Tensor:
        """int64 (len(texts), length), padded with 0. A text that is too long is cut: the policy sees its beginning."""
        ids = torch.full((len(texts), length), PAD, dtype=torch.int64)
        for row, text in enumerate(texts):
            words = self._tokenizer.encode(text).ids[:length]
            ids[row, : len(words)] = torch.tensor(words, dtype=torch.int64)
        return ids

    def decode(self, ids: Tensor) -> str:
        """ids (W,) -> words up to <eos>, joined by spaces."""
        words = []
        for i in ids.tolist():
            if i == EOS:
                break
            if i not in (PAD, BOS):
                words.append(self._tokenizer.id_to_token(i) or SPECIAL[UNK])
        return " ".join(words)

    def to_json(self) -> str:
        """As JSON text, which `from_json` reads."""
        return self._tokenizer.to_str()

    def unknown(self, text: str) -> list[str]:
        """Words of `text` that are in no demonstration: each becomes <unk>, which says nothing."""
        encoding = self._tokenizer.encode(text)
        return [text[a:b] for (a, b), i in zip(encoding.offsets, encoding.ids, strict=True) if i == UNK]

    def cut(self, text: str, length: int) -> list[str]:
        """Words of `text` beyond the first `length`, which are not read."""
        return [text[a:b] for a, b in self._tokenizer.encode(text).offsets[length:]]

    @classmethod
    def from_json(cls, text: str) -> "WordTokenizer":
        """ValueError where `text` is not what `to_json` gives: the library's own complaints are of no known type."""
        try:
            raw = json.loads(text)
            words, ids = zip(*raw["model"]["vocab"].items(), strict=True)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"tokenizer: has no vocabulary ({error!r})") from None
        if raw["model"].get("type") != "WordLevel" or raw["model"].get("unk_token") != SPECIAL[UNK]:
            raise ValueError("tokenizer: is none of whole words")
        if any(type(i) is not int for i in ids) or sorted(ids) != list(range(len(ids))):
            raise ValueError("tokenizer: the ids of its words are not 0, 1, 2, …")
        if tuple(word for word, i in sorted(zip(words, ids, strict=True), key=lambda pair: pair[1])[:4]) != SPECIAL:
            raise ValueError(f"tokenizer: does not begin with {SPECIAL}")
        return cls(_word_level(dict(zip(words, ids, strict=True))))


def _word_level(ids: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=SPECIAL[UNK]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = _splitter()
    return tokenizer


def _splitter() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()])
