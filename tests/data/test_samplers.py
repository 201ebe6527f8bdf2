"""Samplers: how often rows are drawn, and which of them together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from polytask.data.encoded_rows import EncodedRows
from polytask.data.inputs import create as create_input
from polytask.data.preparation import Preparation
from polytask.data.samplers import StreamRows, create, names
from polytask.data.streams import SeparateStreams, Stream, shuffled
from polytask.data.table import Table
from polytask.errors import UserError
from polytask.labels import TargetSpec

ROWS = 60


def encoded(cache_bytes=2**30, **columns) -> EncodedRows:
    draw = np.random.default_rng(0)
    values = {
        "text": [" ".join(["word"] * int(n)) for n in draw.integers(1, 30, ROWS)],
        # 40 of a, 15 of b, 5 of c.
        "kind": ["a"] * 40 + ["b"] * 15 + ["c"] * 5,
        "size": draw.normal(size=ROWS),
        "tags": ["x|y"] * ROWS,
        "w": np.arange(ROWS) % 4,
        **columns,
    }
    table = Table.of(values, source="t.csv")
    inputs = {"text": create_input("text", column="text", tokenizer="words", buckets=10)}
    kinds = {"kind": "category", "size": "numbers", "tags": "labels"}
    targets = {task: TargetSpec(kind=kind, columns=(task,)) for task, kind in kinds.items()}
    prepared = Preparation.fit(table, np.arange(ROWS), inputs, targets)
    return EncodedRows(table, np.arange(ROWS), prepared.inputs, prepared.targets, seed=0, cache_bytes=cache_bytes)


def stream_rows(rows=None, task="kind", seed=0, name="kind", batch_size=8, positions=None) -> StreamRows:
    tasks = (task,) if isinstance(task, str) else task
    positions = np.arange(ROWS) if positions is None else positions
    return StreamRows(rows or encoded(), positions, tasks, batch_size, seed, name)


def drawn(order, passes):
    return order(0, passes).ravel()


MEMBERS = {name: {"column": "w"} if name == "weighted" else {} for name in names()}


@pytest.mark.parametrize(("name", "parameters"), MEMBERS.items())
def test_a_pass_follows_from_its_number_the_seed_and_the_name(name, parameters):
    sampler = create(name, **parameters)
    one, again = sampler.passes(stream_rows()), sampler.passes(stream_rows())
    expected = one(0, 4).tolist()
    assert [again(number, number + 1)[0].tolist() for number in (3, 1, 2, 0)] == [expected[n] for n in (3, 1, 2, 0)]
    assert all(len(order) == ROWS for order in expected)
    others = [
        sampler.passes(stream_rows(seed=1))(0, 1)[0].tolist(),
        sampler.passes(stream_rows(name="other"))(0, 1)[0].tolist(),
    ]
    assert len({tuple(order) for order in [*expected, *others]}) == 6


@pytest.mark.parametrize("name", ["shuffled", "by_length"])
@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, ROWS), batch_size=st.integers(1, 9), number=st.integers(0, 3), chunk=st.integers(1, 4))
def test_each_row_once_in_a_pass(name, count, batch_size, number, chunk):
    sampler = create(name, **({"chunk": chunk} if name == "by_length" else {}))
    rows = stream_rows(SHARED, batch_size=batch_size, positions=np.arange(count))
    assert sorted(sampler.passes(rows)(number, number + 1)[0]) == list(range(count))


SHARED = encoded()


def test_classes_are_drawn_with_the_same_probability_and_so_are_the_rows_of_a_class():
    orders = [create("class_balanced").passes(stream_rows(SHARED, seed=seed)) for seed in range(20)]
    counts = sum(np.bincount(drawn(order, 50), minlength=ROWS) for order in orders)
    assert chisquare([counts[:40].sum(), counts[40:55].sum(), counts[55:].sum()]).pvalue > 0.01
    for start, stop in ((0, 40), (40, 55), (55, 60)):
        assert chisquare(counts[start:stop]).pvalue > 0.01


def test_classes_that_are_not_in_a_stream_are_never_drawn():
    positions = np.arange(30, 50)
    rows = positions[drawn(create("class_balanced").passes(stream_rows(positions=positions)), 100)]
    assert set(rows) == set(positions)
    assert chisquare([(rows < 40).sum(), (rows >= 40).sum()]).pvalue > 0.01


def test_rows_are_drawn_in_proportion_to_their_weights():
    counts = np.bincount(drawn(create("weighted", column="w").passes(stream_rows()), 200), minlength=ROWS)
    weights = np.arange(ROWS) % 4
    assert counts[weights == 0].sum() == 0
    some = weights > 0
    assert chisquare(counts[some], weights[some] / weights.sum() * counts.sum()).pvalue > 0.01


def test_weights_may_be_as_large_as_numbers_get():
    large = encoded(w=np.where(np.arange(ROWS) < 30, 1e308, 0.0))
    assert drawn(create("weighted", column="w").passes(stream_rows(large)), 3).max() < 30


@pytest.mark.parametrize("cache_bytes", [2**30, 0])
def test_texts_of_a_batch_are_of_similar_length(cache_bytes):
    rows = encoded(cache_bytes)
    lengths = rows.lengths()
    assert lengths.tolist() == encoded().lengths().tolist()
    assert lengths.min() == 1

    def padding(name, **parameters):
        order = create(name, **parameters).passes(stream_rows(rows, batch_size=6))(0, 1)[0]
        batches = lengths[order].reshape(-1, 6)
        return (batches.max(axis=1)[:, None] - batches).sum()

    assert padding("by_length") < 0.2 * padding("shuffled")
    assert padding("by_length") < padding("by_length", chunk=2) < padding("shuffled")


def test_batches_of_similar_length_are_not_in_the_order_of_their_lengths():
    lengths = SHARED.lengths()
    order = create("by_length").passes(stream_rows(SHARED, batch_size=6))(0, 1)[0]
    means = lengths[order].reshape(-1, 6).mean(axis=1)
    assert (np.diff(means) < 0).sum() > 2


@pytest.mark.parametrize("cache_bytes", [2**30, 0])
def test_classes_are_known_in_memory_or_not(cache_bytes):
    assert encoded(cache_bytes).classes("kind").tolist() == [0] * 40 + [1] * 15 + [2] * 5


@pytest.mark.parametrize(
    ("sampler", "parameters", "rows", "message"),
    [
        ("class_balanced", {}, {"task": "size"}, "the task 'size' learns numbers"),
        ("class_balanced", {}, {"task": "tags"}, "the task 'tags' learns any number of labels"),
        ("class_balanced", {}, {"task": ("kind", "size")}, "a turn of several tasks, 'kind', 'size', has no classes"),
        ("weighted", {"column": "ww"}, {}, "t.csv has no column 'ww'. Did you mean 'w'?"),
    ],
)
def test_what_does_not_fit_is_refused(sampler, parameters, rows, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        create(sampler, **parameters).passes(stream_rows(SHARED, **rows))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1.0, "t.csv, row 3, column 'w': this weight of the sampler is -1, but must be a number of at least 0"),
        (None, "t.csv, row 3, column 'w': this weight of the sampler is missing"),
        (float("inf"), "t.csv, row 3, column 'w'"),
    ],
)
def test_a_weight_that_is_no_weight_is_named_with_its_row(value, message):
    weights = [1.0] * ROWS
    weights[2] = value
    with pytest.raises(UserError, match=message):
        create("weighted", column="w").passes(stream_rows(encoded(w=weights)))
    # Rows that are not in the stream may have any.
    create("weighted", column="w").passes(stream_rows(encoded(w=[1.0, 1.0, -1.0] + [1.0] * 57), positions=np.arange(2)))


def test_weights_that_are_all_0_are_refused():
    with pytest.raises(UserError, match="All weights of the sampler in the column 'w' are 0"):
        create("weighted", column="w").passes(stream_rows(encoded(w=[0] * ROWS)))


def test_inputs_without_lengths_are_refused():
    table = Table.of({"x": np.arange(9.0), "y": np.arange(9.0)})
    inputs = {"row": create_input("tabular", columns=["x"])}
    prepared = Preparation.fit(table, np.arange(9), inputs, {"y": TargetSpec("numbers", ("y",))})
    rows = EncodedRows(table, np.arange(9), prepared.inputs, prepared.targets, seed=0, cache_bytes=2**20)
    with pytest.raises(UserError, match="no input has a length: 'row'. Allowed here: shuffled"):
        create("by_length").passes(StreamRows(rows, np.arange(9), ("y",), 2, 0, "y"))


def test_a_chunk_has_a_batch_at_least():
    with pytest.raises(UserError, match="chunk is 0"):
        create("by_length", chunk=0)


def test_a_row_that_is_drawn_twice_is_augmented_in_two_ways():
    order = create("class_balanced").passes(stream_rows())
    repeated = Stream(np.arange(ROWS), order, batch_size=8, repeats=True)
    assert [repeated.step(number).turn for number in range(10)] == list(range(10))


sizes = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 9)), min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(streams=sizes, batches=st.integers(1, 3), start=st.integers(0, 100))
def test_separate_streams_pass_their_rows_one_pass_after_the_other(streams, batches, start):
    rows = [np.arange(count) + 100 * number for number, (count, _) in enumerate(streams)]
    orders = [shuffled(each, seed=3, name=str(number)) for number, each in enumerate(rows)]

    def make():
        return SeparateStreams(rows, orders, batch_sizes=[size for _, size in streams], batches=batches)

    whole, other = make(), make()
    steps = [whole.step(number).batches for number in range(140)]
    assert all(len(step) == batches for step in steps)
    found = np.array(steps)
    assert (np.array(other.step(start).batches) == found[start]).all(), "a step follows from its number"
    edges = np.cumsum([0, *whole.sizes])
    for number, (count, size) in enumerate(streams):
        assert whole.sizes[number] == min(size, count)
        mine = found[:, :, edges[number] : edges[number + 1]].ravel()
        for turn in range(len(mine) // count):
            expected = rows[number][orders[number](turn, turn + 1)[0]]
            assert (mine[turn * count : (turn + 1) * count] == expected).all()
