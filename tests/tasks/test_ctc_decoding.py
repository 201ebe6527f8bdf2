from collections import defaultdict
from itertools import groupby, product

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.tasks.ctc_decoding import beam_search, best_path, decoded


def probabilities(seed, length, symbols):
    values = 2 * np.random.default_rng(seed).standard_normal((length, symbols + 1))
    return values - np.log(np.exp(values).sum(axis=1, keepdims=True))


def spelled(path):
    return tuple(output - 1 for output, _ in groupby(path) if output)


def every_text(log_probabilities):
    """The probability of each text, over all paths."""
    found = defaultdict(float)
    for path in product(range(log_probabilities.shape[1]), repeat=len(log_probabilities)):
        found[spelled(path)] += np.exp(sum(row[output] for row, output in zip(log_probabilities, path, strict=True)))
    return found


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), length=st.integers(1, 5), symbols=st.integers(1, 3))
def test_a_wide_beam_finds_the_likeliest_text_of_all(seed, length, symbols):
    rows = probabilities(seed, length, symbols)
    texts = every_text(rows)
    assert texts[tuple(beam_search(rows, 1000))] >= max(texts.values()) - 1e-12


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), length=st.integers(1, 6))
def test_the_best_path_is_the_one_of_the_likeliest_outputs(seed, length):
    rows = probabilities(seed, length, 3)
    assert tuple(best_path(rows)) == spelled(rows.argmax(axis=1))


def test_a_repeated_symbol_needs_nothing_in_between():
    one_hot = np.log(np.eye(3)[[1, 1, 0, 1, 2]] * 0.97 + 0.01)
    assert best_path(one_hot) == beam_search(one_hot, 5) == [0, 0, 1]


def test_the_beam_finds_what_the_best_path_does_not():
    # Nothing is the likeliest output twice, but the two paths with the symbol weigh more together (Graves, 2006).
    rows = np.log(np.array([[0.6, 0.4], [0.6, 0.4]]))
    assert best_path(rows) == []
    assert beam_search(rows, 4) == [0]


def test_positions_behind_a_rows_end_are_not_read():
    rows = torch.from_numpy(np.stack([probabilities(seed, 6, 2) for seed in range(3)]))
    for beam in (1, 8):
        found = decoded(rows, torch.tensor([6, 3, 0]), beam)
        assert found[1] == decoded(rows[1:2, :3], torch.tensor([3]), beam)[0]
        assert found[2] == []
