import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.errors import UserError
from polytask.features import Features
from polytask.tasks.word_head import WordHead, first_of_words, mean_of_words

# Numbers of tokens of each word of some rows; a word may have none.
rows_st = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=4)


def tokens_of(rows):
    """Values `[B, T, 2]` and words `[B, T]` with a special token at both ends and padding behind."""
    length = max(sum(row) for row in rows) + 2
    words = torch.full((len(rows), length), -1)
    for number, row in enumerate(rows):
        flat = [word for word, count in enumerate(row) for _ in range(count)]
        words[number, 1 : 1 + len(flat)] = torch.tensor(flat, dtype=torch.int64)
    values = torch.randn(len(rows), length, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    return values, words


@settings(max_examples=50, deadline=None)
@given(rows=rows_st)
def test_words_are_their_first_token_or_the_mean(rows):
    values, words = tokens_of(rows)
    first, mean = first_of_words(values, words), mean_of_words(values, words)
    for row, counts in enumerate(rows):
        place = 1
        for word, count in enumerate(counts):
            if word >= first.shape[1]:
                assert not any(counts[word:]), "the last words have no token"
                break
            own = values[row, place : place + count]
            place += count
            expected = (own[0], own.mean(dim=0)) if count else (torch.zeros(2), torch.zeros(2))
            torch.testing.assert_close(first[row, word], expected[0])
            torch.testing.assert_close(mean[row, word], expected[1])


def test_gradients_reach_the_tokens_of_words_alone():
    values, words = tokens_of([[1, 2]])
    mean_of_words(values, words).sum().backward()
    assert values.grad[0, :, 0].tolist() == [0, 1, 0.5, 0.5, 0]


def test_the_number_of_words_is_that_of_the_last_one():
    values, words = tokens_of([[2, 1], [1, 1, 1], [0]])
    output = WordHead(2, (), 5, 0.0, "first", task="pos")(Features(values, words >= 0, words=words))
    assert output.values.shape == (3, 3, 5)
    assert output.lengths.tolist() == [2, 3, 0]


def test_tokens_of_no_words_are_an_error():
    with pytest.raises(UserError, match="'pos' tags words.*words: true"):
        WordHead(2, (), 5, 0.0, "first", task="pos")(Features(torch.zeros(1, 2, 2)))
