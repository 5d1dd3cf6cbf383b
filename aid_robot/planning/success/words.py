"""Texts as numbers of words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

PAD, UNKNOWN = 0, 1
_FIRST = 2
_WORD = re.compile(r"[a-z0-9]+")


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation and articles."""
    return [word for word in _WORD.findall(text.lower()) if word not in ("the", "a", "an")]


class Words:
    """A vocabulary: 0 pads, 1 is any other word."""

    def __init__(self, words: Sequence[str], max_words: int) -> None:
        self.words, self.max_words = tuple(words), max_words
        self._numbers = {word: number for number, word in enumerate(words, start=_FIRST)}

    @classmethod
    def of(cls, texts: Iterable[str], max_words: int, least: int = 1) -> Words:
        """Collect the words of texts that occur at least so often, the most frequent first."""
        counts = Counter(word for text in texts for word in split_words(text))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls([word for word in ranked if counts[word] >= least], max_words)

    def __len__(self) -> int:
        return len(self.words) + _FIRST

    def unknown(self, text: str) -> list[str]:
        """Return the words of a text that aren't in the vocabulary."""
        return [word for word in split_words(text) if word not in self._numbers]

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return word numbers (n, L), padded to the longest, L at most `max_words`."""
        rows = [
            [self._numbers.get(word, UNKNOWN) for word in split_words(text)][: self.max_words]
            for text in texts
        ]
        length = max(1, *(len(row) for row in rows))
        return torch.tensor([[*row, *[PAD] * (length - len(row))] for row in rows])
