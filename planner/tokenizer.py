"""Words to ids and back, through the `tokenizers` library: one id a word, lower case, punctuation apart.

The vocabulary is that of the demonstrations (instructions and subtasks); an unknown word becomes <unk>. It is stored
in the checkpoint as the library's own JSON.
"""

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor

PAD, BOS, EOS, UNK = 0, 1, 2, 3
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")


class WordTokenizer:
    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer

    @classmethod
    def of(cls, texts: list[str]) -> "WordTokenizer":
        """A vocabulary of every word in `texts`, in alphabetical order."""
        splitter = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()])
        words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text.lower())})
        ids = {word: i for i, word in enumerate([*SPECIAL, *words])}
        tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = splitter
        return cls(tokenizer)

    @property
    def size(self) -> int:
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
        return self._tokenizer.to_str()

    @classmethod
    def from_json(cls, text: str) -> "WordTokenizer":
        return cls(Tokenizer.from_str(text))
