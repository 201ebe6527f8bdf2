"""The head of tasks that say something of each word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from polytask.errors import UserError
from polytask.features import Features
from polytask.sequences import Sequences
from polytask.tasks.head import mlp_head

WordPooling = Literal["first", "mean"]


class WordHead(nn.Module):
    """Tokens to one output for each word: `Sequences` `[B, W, outputs]`, W being at least the words of a row.

    Args:
        width: Number of features of a token.
        hidden: Widths of the hidden layers.
        outputs: Values that go out.
        dropout: Probability of dropping a value before each linear map.
        pool: What a word is of its tokens: the `first`, or the `mean`.
        task: The task's name, for messages.
    """

    def __init__(
        self, width: int, hidden: Sequence[int], outputs: int, dropout: float, pool: WordPooling, *, task: str
    ) -> None:
        super().__init__()
        self.layers = mlp_head(width, hidden, outputs, dropout, task=task)
        self.pool, self.task = pool, task

    def forward(self, features: Features) -> Sequences:
        """`[B, T, D]` to `[B, W, outputs]`.

        Raises:
            UserError: It is not known which tokens are parts of which words.
        """
        words = features.words
        if words is None:
            raise UserError(
                f"The task '{self.task}' tags words, but the network's tokens are not known to be parts of any: set "
                "words: true in the text input, and choose an encoder and a sharing scheme that keep the tokens apart."
            )
        gathered = first_of_words if self.pool == "first" else mean_of_words
        return Sequences(self.layers(gathered(features.values, words)), words.amax(dim=1) + 1)


def first_of_words(values: Tensor, words: Tensor) -> Tensor:
    """The first token of each word; 0 for words without tokens, and behind the last word.

    Args:
        values: `[B, T, D]`.
        words: int64 `[B, T]`: the number of each token's word, -1 for none.

    Returns:
        `[B, W, D]`, with W at least the words of a row; on a device, it is waited for.
    """
    rows, length, width = values.shape
    places = torch.arange(length, device=words.device).expand(rows, -1)
    places = places.masked_fill(words < 0, length)
    first = words.new_full((rows, _words_of(words)), length).scatter_reduce(1, words.clamp(min=0), places, "amin")
    found = values.gather(1, first.clamp(max=length - 1).unsqueeze(2).expand(-1, -1, width))
    return found.masked_fill((first == length).unsqueeze(2), 0.0)


def mean_of_words(values: Tensor, words: Tensor) -> Tensor:
    """The mean over each word's tokens; see `first_of_words`."""
    there = (words >= 0).to(values.dtype)
    places = words.clamp(min=0)
    count = there.new_zeros(len(words), _words_of(words)).scatter_add(1, places, there)
    total = values.new_zeros(*count.shape, values.shape[2])
    total = total.scatter_add(1, places.unsqueeze(2).expand_as(values), values * there.unsqueeze(2))
    return total / count.clamp(min=1).unsqueeze(2)


def _words_of(words: Tensor) -> int:
    """The most words of a row. A tokenizer may leave nothing of a word, so that there are more words than tokens."""
    return max(1, int(words.amax()) + 1)
