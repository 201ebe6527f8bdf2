import io
import logging
import os

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from polytask.data.inputs import ImageInput, TabularInput, TextInput
from polytask.data.preparation import Preparation
from polytask.data.table import Table
from polytask.errors import UserError
from polytask.labels import TargetSpec

ROWS = 50
FIXED = 2**30


def _png(generator):
    file = io.BytesIO()
    Image.fromarray(generator.integers(0, 256, size=(6, 6), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def table():
    generator = np.random.default_rng(0)
    words = ["good", "bad", "film", "plot", "very"]
    return Table.from_arrow(
        pa.table(
            {
                "x": generator.normal(size=ROWS),
                "job": generator.choice(["a", "b"], ROWS).tolist(),
                "review": [" ".join(generator.choice(words, generator.integers(1, 9))) for _ in range(ROWS)],
                "scan": [_png(generator) for _ in range(ROWS)],
                "tone": [None if i % 3 == 0 else "up" if i % 2 else "down" for i in range(ROWS)],
                "score": [None if i % 7 == 0 else float(i) for i in range(ROWS)],
                "full": generator.normal(size=ROWS),
            }
        ),
        source="films.parquet",
    )


@pytest.fixture(scope="module")
def prepared(table):
    inputs = {
        "row": TabularInput(["x", "job"]),
        "text": TextInput("review", tokenizer="words", buckets=50),
        "scan": ImageInput("scan", channels=1, flip=True, crop=1),
    }
    targets = {
        "tone": TargetSpec("category", ("tone",)),
        "score": TargetSpec("numbers", ("score",)),
        "full": TargetSpec("numbers", ("full",)),
    }
    return Preparation.fit(table, np.arange(ROWS), inputs, targets)


def _flat(batches):
    return [
        [
            batch.rows,
            *batch.inputs["row"].values(),
            *batch.inputs["text"].values(),
            batch.inputs["scan"],
            *batch.targets.values(),
            *batch.masks.values(),
        ]
        for batch in batches
    ]


def _same(first, second):
    return len(first) == len(second) and all(
        a.dtype == b.dtype and torch.equal(a, b)
        for one, other in zip(_flat(first), _flat(second), strict=True)
        for a, b in zip(one, other, strict=True)
    )


def _epoch(loader, epoch=0):
    loader.order.epoch = epoch
    return list(loader)


@pytest.mark.parametrize("training", [True, False])
def test_batches_are_the_same_cached_or_not_with_workers_or_without(table, prepared, training):
    def loader(**changes):
        return prepared.loader(table, batch_size=16, training=training, seed=3, **changes)

    plain, streamed = loader(), loader(cache_bytes=0)
    processes = loader(cache_bytes=0, workers=2)
    mixed = loader(workers=2)
    for epoch in range(2):
        expected = _epoch(plain, epoch)
        assert [len(batch) for batch in expected] == [16, 16, 16, 2]
        for other in (streamed, processes, mixed):
            assert _same(expected, _epoch(other, epoch))


def test_training_takes_each_row_once_in_an_order_of_the_epoch_and_seed(table, prepared):
    loader = prepared.loader(table, batch_size=16, training=True, seed=1)
    other_seed = prepared.loader(table, batch_size=16, training=True, seed=2)
    orders = [torch.cat([batch.rows for batch in _epoch(loader, epoch)]).tolist() for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(ROWS))
    assert orders[0] != torch.cat([batch.rows for batch in other_seed]).tolist()


def test_augmentation_differs_between_epochs_and_not_between_orders(table, prepared):
    loader = prepared.loader(table, batch_size=16, training=True, seed=1)

    def images(epoch, batches):
        found = torch.empty(ROWS, 1, 6, 6)
        for batch in _epoch(batches, epoch):
            found[batch.rows] = batch.inputs["scan"]
        return found

    assert not torch.equal(images(0, loader), images(1, loader))
    assert torch.equal(images(0, loader), images(0, prepared.loader(table, batch_size=7, training=True, seed=1)))


def test_an_epoch_is_fixed_when_its_pass_begins(table, prepared):
    loader = prepared.loader(table, batch_size=16, training=True)
    expected = _epoch(loader, 0)
    loader.order.epoch = 0
    batches = iter(loader)
    loader.order.epoch = 1
    assert _same(expected, list(batches))


def test_a_pass_can_be_left_early(table, prepared):
    loader = prepared.loader(table, batch_size=16, cache_bytes=0, workers=1)
    first = next(iter(loader))
    assert _same([first], [next(iter(loader))])
    assert len(list(loader)) == len(loader) == 4


def test_validation_takes_the_rows_as_they_are_given(table, prepared):
    rows = np.array([9, 3, 30])
    (batch,) = prepared.loader(table, rows, batch_size=16)
    assert batch.rows.tolist() == [9, 3, 30]
    assert batch.targets["score"].tolist() == [[9], [3], [30]]
    assert batch.masks["tone"].tolist() == [False, False, False]
    assert not batch.has("tone")
    assert batch.labelled["full"] is None


def test_unlabelled_rows_are_kept_with_false_masks(table, prepared):
    batch = next(iter(prepared.loader(table, batch_size=ROWS)))
    assert len(batch) == ROWS
    assert batch.masks["tone"].tolist() == [i % 3 != 0 for i in range(ROWS)]
    assert batch.masks["score"][:, 0].tolist() == [i % 7 != 0 for i in range(ROWS)]
    assert (batch.targets["score"][~batch.masks["score"]] == 0).all()
    assert batch.labelled["score"].tolist() == [i for i in range(ROWS) if i % 7]
    assert batch.masks["full"].all()


def test_workers_start_only_where_they_help(table, prepared, monkeypatch):
    started = []
    original = torch.utils.data.DataLoader.__init__

    def spy(self, *arguments, **parameters):
        started.append(parameters["num_workers"])
        original(self, *arguments, **parameters)

    monkeypatch.setattr(torch.utils.data.DataLoader, "__init__", spy)
    prepared.loader(table, batch_size=16, workers=2)
    prepared.loader(table, batch_size=16, workers=2, training=True)
    prepared.loader(table, batch_size=16, workers=2, cache_bytes=0)
    assert started == [0, 2, 2]


def test_what_does_not_fit_is_encoded_for_each_batch(table, prepared, monkeypatch):
    calls = []
    original = ImageInput.encode
    monkeypatch.setattr(ImageInput, "encode", lambda self, *rest: calls.append(len(rest[1])) or original(self, *rest))
    list(prepared.loader(table, batch_size=25))
    assert calls == [ROWS]
    calls.clear()
    # Enough for everything but the images.
    list(prepared.loader(table, batch_size=25, cache_bytes=ROWS * 100))
    assert calls == [ROWS, 25, 25]


def test_torchs_global_generator_is_left_alone(table, prepared):
    before = torch.get_rng_state()
    list(prepared.loader(table, batch_size=16, training=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_predictions_need_no_target_columns(table, prepared):
    inputs_only = Table.from_arrow(table.take(np.arange(5), ["x", "job", "review", "scan"]), source="new.parquet")
    (batch,) = prepared.loader(inputs_only, batch_size=16, targets=False)
    assert (batch.targets, batch.masks, batch.labelled) == ({}, {}, {})
    assert len(batch) == 5
    with pytest.raises(UserError, match=r"new.parquet has no column 'tone', the target of the task 'tone'"):
        prepared.loader(inputs_only, batch_size=16)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_row_is_one_clear_message(table, prepared, workers, monkeypatch):
    broken = table.take(None)
    scans = broken.column("scan").to_pylist()
    scans[40] = b"broken"
    column = broken.column_names.index("scan")
    broken = Table.from_arrow(broken.set_column(column, "scan", pa.array(scans)), source="new.parquet")
    with pytest.raises(UserError, match=r"^new.parquet, row 41: the image in the cell cannot be read"):
        prepared.loader(broken, batch_size=16)
    # Where the rows do not fit in memory, that shows in the first 8, and the others are not read yet.
    monkeypatch.setattr("polytask.data.encoded_rows.rows_at_once", lambda source: 8)
    loader = prepared.loader(broken, batch_size=16, cache_bytes=0, workers=workers)
    with pytest.raises(UserError, match=r"^new.parquet, row 41: the image in the cell cannot be read[^\n]*$"):
        list(loader)


class TestSkipping:
    @pytest.fixture
    def broken(self, table):
        scans = table.take(None, ["scan"]).column(0).to_pylist()
        for row in (0, 1, 2, 3, 20):
            scans[row] = b"broken"
        return Table.from_arrow(
            pa.table({"scan": scans, "full": table.take(None, ["full"]).column(0)}), source="new.parquet"
        )

    @pytest.fixture
    def skipping(self, broken):
        source = ImageInput("scan", channels=1, on_error="skip")
        return Preparation.fit(broken, np.arange(ROWS), {"scan": source}, {"full": TargetSpec("numbers", ("full",))})

    @pytest.mark.parametrize(("cache_bytes", "workers"), [(FIXED, 0), (0, 0), (0, 1)])
    def test_rows_without_a_readable_image_are_left_out_and_told_once(
        self, broken, skipping, caplog, cache_bytes, workers
    ):
        with caplog.at_level(logging.WARNING, "polytask"):
            loader = skipping.loader(broken, batch_size=4, cache_bytes=cache_bytes, workers=workers)
            for _ in range(2):
                batches = list(loader)
        rows = torch.cat([batch.rows for batch in batches]).tolist()
        assert rows == [row for row in range(ROWS) if row not in (0, 1, 2, 3, 20)]
        assert loader.skipped == 5
        assert sorted(loader.unreadable) == [0, 1, 2, 3, 20]
        assert len(caplog.records) == 5
        assert "new.parquet, row 21 is left out: the image in the cell cannot be read" in caplog.text
        full = broken.take(np.array(rows), ["full"]).column(0).to_numpy()
        found = torch.cat([batch.targets["full"] for batch in batches])[:, 0]
        torch.testing.assert_close(found, torch.tensor(full, dtype=torch.float32))
        assert all(len(batch.masks["full"]) == len(batch) == len(batch.inputs["scan"]) for batch in batches)

    def test_a_flood_of_unreadable_rows_is_cut(self, skipping, caplog):
        many = Table.from_arrow(pa.table({"scan": [b"broken"] * 30}), source="new.parquet")
        with caplog.at_level(logging.WARNING, "polytask"), pytest.raises(UserError, match=r"no row to make a batch of"):
            skipping.loader(many, batch_size=4, targets=False)
        assert len(caplog.records) == 21
        assert "More rows of new.parquet are left out" in caplog.text

    def test_a_pass_without_any_readable_row_is_empty(self, skipping):
        many = Table.from_arrow(pa.table({"scan": [b"broken"] * 6}), source="new.parquet")
        assert list(skipping.loader(many, batch_size=4, targets=False, cache_bytes=0)) == []


@pytest.mark.parametrize("cache_bytes", [FIXED, 0])
def test_empty_texts_are_counted_in_one_message(caplog, cache_bytes):
    table = Table.from_arrow(
        pa.table({"review": ["a", "", "b", "  "], "y": [1.0, 2.0, 3.0, 4.0]}), source="new.parquet"
    )
    source = TextInput("review", tokenizer="words")
    prepared = Preparation.fit(table, np.arange(4), {"text": source}, {"y": TargetSpec("numbers", ("y",))})
    with caplog.at_level(logging.INFO, "polytask"):
        loader = prepared.loader(table, batch_size=2, cache_bytes=cache_bytes)
        list(loader)
        list(loader)
    (record,) = caplog.records
    assert record.getMessage().startswith("new.parquet: 2 of 4 rows have an empty text")


@pytest.mark.parametrize("setting", [None, "true"])
def test_worker_processes_have_quiet_tokenizers(table, monkeypatch, capfd, setting):
    pytest.importorskip("tokenizers")
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    if setting is not None:
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", setting)
    inputs = {"text": TextInput("review")}
    prepared = Preparation.fit(table, np.arange(ROWS), inputs, {"full": TargetSpec("numbers", ("full",))})
    plain = list(prepared.loader(table, batch_size=16))
    workers = list(prepared.loader(table, batch_size=16, cache_bytes=0, workers=1))
    for one, other in zip(plain, workers, strict=True):
        assert torch.equal(one.inputs["text"]["ids"], other.inputs["text"]["ids"])
    assert os.environ.get("TOKENIZERS_PARALLELISM") == setting
    assert "parallelism" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"rows": np.array([], dtype=np.int64)}, "no row to make a batch of"),
    ],
)
def test_what_gives_no_batch_is_refused(table, prepared, changes, message):
    with pytest.raises(UserError, match=message):
        prepared.loader(table, **({"batch_size": 16} | changes))
