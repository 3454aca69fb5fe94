"""Text that every machine with Python has: the standard library's own source, as ids of a byte-pair vocabulary.

Deterministic for a version of Python: files in the order of their names, every tenth file is held out.
"""

import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SKIP = ("site-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "encodings")


@dataclass(frozen=True)
class Corpus:
    """Characters of a text, for training and held out."""

    train: Tensor  # int64, one long sequence of token ids
    held_out: Tensor
    words: list[str]  # surface of every id

    def batch(self, part: Tensor, batch: int, length: int, generator: torch.Generator) -> Tensor:
        """Random windows of `part`: (B, length + 1) ids, so that inputs and targets are one step apart."""
        starts = torch.randint(len(part) - length - 1, (batch,), generator=generator)
        return part[starts[:, None] + torch.arange(length + 1)]


def load(vocabulary: int = 2048, characters: int = 4_000_000) -> Corpus:
    """characters: size of the training text, from its beginning. The held-out text is a ninth of it."""
    from tokenizers import ByteLevelBPETokenizer

    train, held_out = _texts(characters)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(train, vocab_size=vocabulary, min_frequency=2, show_progress=False)

    def encode(texts: list[str]) -> Tensor:
        return torch.tensor([i for text in texts for i in tokenizer.encode(text).ids])

    return Corpus(encode(train), encode(held_out), [tokenizer.decode([i]) for i in range(tokenizer.get_vocab_size())])


def _texts(characters: int) -> tuple[list[str], list[str]]:
    folder = Path(sysconfig.get_path("stdlib"))
    files = sorted(f for f in folder.rglob("*.py") if not set(f.relative_to(folder).parts) & set(SKIP))
    train: list[str] = []
    held_out: list[str] = []
    for i, file in enumerate(files):
        (held_out if i % 10 == 9 else train).append(file.read_text(encoding="utf-8", errors="replace"))
        if sum(map(len, train)) > characters:
            break
    return train, held_out
