import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from polytask.config import load_config
from polytask.config.document import parse_document
from polytask.config.propose import propose
from polytask.data.readers import read_table
from polytask.data.table import Table
from polytask.errors import UserError

ROWS = 400
WORDS = np.array(["good", "bad", "film", "actor", "plot", "dull", "music", "long", "fine", "end"])


@pytest.fixture(scope="module")
def columns():
    draw = np.random.default_rng(0)
    return {
        "number": draw.normal(10, 3, ROWS),
        "tails": draw.standard_t(1, ROWS) * 100,
        "colour": draw.choice(["red", "green", "blue"], ROWS),
        "rare": np.where(np.arange(ROWS) % 40 == 0, "yes", "no"),
        "hardly": np.where(np.arange(ROWS) < 1, "a", np.where(np.arange(ROWS) % 2, "b", "c")),
        "digit": draw.integers(0, 10, ROWS),
        "stars": draw.integers(1, 6, ROWS),
        "children": draw.poisson(1.5, ROWS),
        "flag": draw.random(ROWS) < 0.5,
        "zero_one": draw.integers(0, 2, ROWS),
        "genres": [
            ";".join(draw.choice(["war", "love", "art", "sport"], 1 + i % 3, replace=False)) for i in range(ROWS)
        ],
        "tags": [list(draw.choice(["x", "y", "z"], i % 3, replace=False)) for i in range(ROWS)],
        "vector": [[0.5, float(i)] for i in range(ROWS)],
        "review": [" ".join(draw.choice(WORDS, 12)) + f" {i}" for i in range(ROWS)],
        "formula": ["".join(draw.choice(list("CNO()="), 12)) + str(i) for i in range(ROWS)],
        "row_id": np.arange(ROWS) + 7,
        "user_id": draw.permutation(ROWS) * 13,
        "constant": ["same"] * ROWS,
        "empty": pa.nulls(ROWS, pa.string()),
        "nans": np.full(ROWS, np.nan),
        "day": pd.date_range("2024-01-01", periods=ROWS),
        "name": draw.choice([f"name{i}" for i in range(210)], ROWS),
        "half_review": [None if i % 9 == 0 else " ".join(draw.choice(WORDS, 9)) + f" {i}" for i in range(ROWS)],
    }


@pytest.fixture
def made(columns, tmp_path):
    """Propose a configuration for some columns, and load it."""

    def made(names: str, targets: str, **others):
        table = Table.of({name: columns[name] for name in names.split()} | others, "my.csv")
        text = propose(table, "my.csv", targets.split())
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return load_config(path), text

    return made


def task(config, name):
    return config.tasks[name].type, config.tasks[name].parameters


def test_plain_columns_become_one_input_for_a_small_network(made, tmp_path):
    config, text = made("number colour flag rare", "rare")
    assert config.data.train == str(tmp_path / "my.csv")
    assert config.inputs["row"].type == "tabular"
    assert config.inputs["row"].parameters["columns"] == "*"
    assert config.model.encoders["row"].type == "mlp"
    assert config.training.early_stopping is not None
    assert text.startswith("# Proposed by polytask init: 400 rows, 4 columns.")


@pytest.mark.parametrize(
    ("column", "kind", "settings"),
    [
        ("colour", "classification", {"metric": "accuracy", "class_weights": None}),
        ("rare", "classification", {"metric": "balanced_accuracy", "class_weights": "balanced"}),
        ("hardly", "classification", {"metric": "balanced_accuracy", "class_weights": None}),
        ("digit", "classification", {"metric": "accuracy"}),
        ("flag", "classification", {}),
        ("zero_one", "classification", {}),
        ("stars", "regression", {"loss": "mse", "metric": "mae"}),
        ("children", "regression", {}),
        ("number", "regression", {"loss": "mse"}),
        ("tails", "regression", {"loss": "huber"}),
        ("genres", "multi_label", {"separator": ";", "metric": "auroc", "classes": None}),
        ("tags", "multi_label", {"metric": "auroc"}),
    ],
)
def test_the_task_follows_from_the_column(made, column, kind, settings):
    config, _ = made(f"number colour {column}" if column not in ("number", "colour") else "stars number colour", column)
    found, parameters = task(config, column)
    assert found == kind
    assert parameters["target"] == column
    assert {name: parameters[name] for name in settings} == settings


def test_comments_say_what_was_seen_and_what_else_could_be_meant(made):
    _, text = made("number stars digit rare genres", "stars digit rare genres")
    assert "# 1 to 5, mean " in text
    assert "If these numbers name classes, the type is classification." in text
    assert "If these numbers measure something, the type is regression." in text
    assert (
        "2 classes, the most frequent one, 'no', in 98% of the rows: classes of different size count the same" in text
    )
    assert "# 4 labels, 2 a row." in text


def test_classes_are_split_evenly_and_those_that_training_may_lack_are_expected(made):
    config, _ = made("number hardly rare", "rare hardly")
    assert config.data.split.by == "stratified"
    assert config.data.split.column == "hardly"
    assert config.tasks["hardly"].parameters["unseen"] == "error"
    config, _ = made(
        "number hardly", "rare other", rare=["a"] * 3 + ["b"] * (ROWS - 3), other=["c"] + ["d", "e", "f"] * 133
    )
    assert config.data.split.column == "other"
    assert config.tasks["rare"].parameters["unseen"] == "unknown"
    assert made("number stars", "stars")[0].data.split.by == "random"


def test_labels_that_training_may_lack_are_all_named(made):
    tags = [["a", "b"] if i % 2 else ["b"] for i in range(ROWS)]
    tags[7] = ["a", "seldom"]
    config, _ = made("number", "tags", tags=tags)
    assert config.tasks["tags"].parameters["classes"] == ["a", "b", "seldom"]


def test_many_labels_that_are_rare_are_judged_by_precision(made):
    draw = np.random.default_rng(0)
    config, _ = made("number", "tags", tags=[[f"t{i}" for i in draw.integers(0, 60, 2)] for _ in range(ROWS)])
    assert config.tasks["tags"].parameters["metric"] == "average_precision"


def test_long_text_goes_before_plain_columns_and_what_is_left_out_is_said(made):
    config, text = made("number colour review stars", "stars")
    assert config.inputs["text"].parameters["column"] == "review"
    assert config.inputs["text"].parameters["length"] == 16
    assert config.model.encoders["text"].type == "bag"
    assert "left out: 'number', 'colour'." in text


def test_short_codes_are_read_only_where_there_is_nothing_else(made):
    assert made("number formula stars", "stars")[0].inputs["row"].type == "tabular"
    config, _ = made("formula stars", "stars")
    assert config.inputs["text"].parameters["column"] == "formula"
    assert config.inputs["text"].parameters["lowercase"] is False
    assert config.model.encoders["text"].type == "transformer"


def test_text_that_is_missing_in_places_is_not_read(made):
    config, text = made("number half_review stars", "stars")
    assert config.inputs["row"].type == "tabular"
    assert "left out: 'half_review'." in text
    assert made("half_review review stars", "stars")[0].inputs["text"].parameters["column"] == "review"
    with pytest.raises(UserError, match="nothing to predict from in every row: 'half_review' is empty in 45 rows"):
        made("half_review stars", "stars")


def test_columns_that_name_the_rows_or_never_change_are_not_read(made):
    config, text = made("number row_id user_id constant stars", "stars")
    assert config.inputs["row"].parameters["exclude"] == ["row_id", "user_id", "constant"]
    assert "they number or name the rows or never change: 'row_id', 'user_id', 'constant'" in text


def test_a_column_that_says_which_part_a_row_is_in_splits(made):
    parts = ["train", "Validation", "train", "test"] * 100
    config, _ = made("number stars", "stars", split=parts)
    assert (config.data.split.by, config.data.split.column) == ("column", "split")
    assert config.inputs["row"].parameters["exclude"] == ["split"]
    assert made("number stars", "stars", split=["a", "b"] * 200)[0].data.split.by == "random"


def test_names_that_a_task_cannot_have_are_changed(made):
    config, _ = made(
        "number",
        "a.b a/b no 1",
        **{"a.b": np.arange(ROWS) % 7, "a/b": ["x", "y"] * 200, "no": ["x", "y"] * 200, "1": ["x", "y"] * 200},
    )
    assert {name: spec.parameters["target"] for name, spec in config.tasks.items()} == {
        "a_b": "a.b",
        "a_b_2": "a/b",
        "no": "no",
        "1": "1",
    }


def test_the_path_is_written_such_that_it_is_read_back(columns):
    table = Table.of({"a": columns["number"], "b": columns["stars"]}, "t")
    for source in ["a b.csv", "no", "C:\\data\\x.csv", "it's: here #1.csv", "*"]:
        assert parse_document(propose(table, source, ["b"]), "c").data["data"]["train"] == source


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        ("constant", "it has the value 'same' in every row. There is nothing to learn."),
        ("empty", "it has no values."),
        ("nans", "it has no values."),
        ("review", "it holds free text or an identifier (400 different values in 400 rows)."),
        ("formula", "it holds free text or an identifier"),
        ("row_id", "it only counts the rows."),
        ("day", "it is of the type 'date'. A target is a class, labels or a number."),
        ("vector", "it holds lists of double. Lists of labels can be learned."),
        ("pairs", "it has nearly a class for each row (9 different values in 12 rows)."),
        ("same_tags", "it has the same labels in every row."),
        ("many_tags", "it has 800 different labels. At most 500 are proposed."),
    ],
)
def test_what_cannot_be_learned_is_refused(columns, column, problem):
    others = {
        "same_tags": [["a"]] * ROWS,
        "many_tags": [[f"a{i}", f"b{i}"] for i in range(ROWS)],
    }
    given = {"number": columns["number"], **({**columns, **others} if column != "pairs" else {})}
    given = {name: given[name] for name in ("number", column) if name in given}
    if column == "pairs":
        given = {"number": np.linspace(0, 1, 12), "pairs": [f"p{min(i, 8)}" for i in range(12)]}
    with pytest.raises(UserError) as raised:
        propose(Table.of(given, "my.csv"), "my.csv", [column])
    assert str(raised.value).startswith(f"my.csv: the column '{column}' cannot be a target: it ")
    assert problem in str(raised.value)


@pytest.mark.parametrize(
    ("targets", "problem"),
    [
        (["colur"], "my.csv has no column 'colur'. Did you mean 'colour'? Its columns: 'number', 'colour'."),
        (["colour", "colour"], "A target is named twice: 'colour', 'colour'."),
        ([], "Say which columns of my.csv to predict. It has: 'number', 'colour'."),
        (["colour", "number"], "my.csv has no column left to predict from. Besides 'colour', 'number' it has: none."),
    ],
)
def test_targets_that_make_no_sense_are_refused(columns, targets, problem):
    table = Table.of({name: columns[name] for name in ("number", "colour")}, "my.csv")
    with pytest.raises(UserError) as raised:
        propose(table, "my.csv", targets)
    assert str(raised.value) == problem


def test_a_value_that_only_a_few_rows_of_a_large_table_have_is_found():
    rows = 250_000
    seldom = np.zeros(rows, dtype=np.int64)
    seldom[1001] = 1
    table = Table.of({"a": np.arange(rows) % 97, "seldom": seldom}, "big.csv")
    assert "classification" in propose(table, "big.csv", ["seldom"])
    with pytest.raises(UserError, match="'0' in every row"):
        propose(Table.of({"a": np.arange(rows) % 97, "seldom": seldom * 0}, "big.csv"), "big.csv", ["seldom"])


@pytest.fixture
def images(tmp_path):
    def images(sizes, mode="RGB", broken=()):
        draw = np.random.default_rng(0)
        for index in range(24):
            height, width = sizes[index % len(sizes)]
            pixels = draw.integers(0, 255, (height, width) if mode == "L" else (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        for index in broken:
            (tmp_path / f"{index}.png").write_bytes(b"nothing")
        frame = pd.DataFrame(
            {"file": [f"{i}.png" for i in range(24)], "kind": ["a", "b"] * 12, "size": np.arange(24) % 5}
        )
        frame.to_csv(tmp_path / "images.csv", index=False)
        text = propose(read_table(tmp_path / "images.csv"), "images.csv", ["kind"])
        (tmp_path / "c.yaml").write_text(text)
        return load_config(tmp_path / "c.yaml"), text

    return images


def test_images_go_before_everything_else(images):
    config, text = images([(16, 20)])
    assert config.inputs["image"].parameters["column"] == "file"
    assert config.inputs["image"].parameters["size"] == [16, 20]
    assert config.inputs["image"].parameters["channels"] == 3
    assert config.inputs["image"].parameters["on_error"] == "error"
    assert config.model.encoders["image"].type == "cnn"
    assert "left out: 'size'." in text


def test_grey_images_of_several_sizes_with_broken_ones_among_them(images):
    config, text = images([(300, 500), (300, 500), (100, 120)], mode="L", broken=[5])
    assert config.inputs["image"].parameters["size"] == [134, 224]
    assert config.inputs["image"].parameters["channels"] == 1
    assert config.inputs["image"].parameters["on_error"] == "skip"
    assert "Images of 100 x 120 to 300 x 500 pixels are stretched to one size." in text
    assert "they are skipped, and counted" in text


def test_images_that_cannot_be_read_at_all_are_the_users_error(images):
    with pytest.raises(
        UserError, match=r"none of the images in 'file' that were looked at can be read: the image '23\.png'"
    ):
        images([(8, 8)], broken=range(24))


def test_smiles_become_molecules_where_the_libraries_for_them_are_there(monkeypatch):
    smiles = [f"{'C' * (length + 3)}O" for length in range(60)]
    table = Table.of({"code": smiles, "size": np.arange(60) * 0.37, "active": ["yes", "no"] * 30}, "my.csv")
    text = propose(table, "my.csv", ["active"])
    assert "molecule: {type: graph, column: code, on_error: skip}" in text
    assert "molecule: {type: gin" in text
    monkeypatch.setattr("polytask.config.proposed_input.importlib.util.find_spec", lambda name: None)
    assert "type: graph" not in propose(table, "my.csv", ["active"])


def test_words_and_sentences_are_no_molecules():
    words = [f"{word}{number}" for number, word in enumerate(["Cocoon", "Bison", "Cnidaria", "Onions"] * 15)]
    for values in (words, [f"{word} CCO" for word in words]):
        table = Table.of({"code": values, "active": ["yes", "no"] * 30}, "my.csv")
        assert "type: graph" not in propose(table, "my.csv", ["active"])


def test_lists_and_texts_of_numbers_become_series_with_equal_lengths_as_channels():
    draw = np.random.default_rng(0)
    lengths = draw.integers(5, 40, 60)
    columns = {
        "speed": [draw.normal(size=length).tolist() for length in lengths],
        "power": [" ".join(map(str, draw.normal(size=length).round(2))) for length in lengths],
        "other": [draw.normal(size=7).tolist() for _ in lengths],
        "age": draw.integers(20, 60, 60),
        "tired": ["yes", "no"] * 30,
    }
    text = propose(Table.of(columns, "my.csv"), "my.csv", ["tired"])
    assert "series: {type: sequence, columns: [speed, power]}" in text
    assert "series: {type: tcn" in text
    assert "left out: 'other', 'age'" in text
    columns["speed"][3] = []
    text = propose(Table.of({name: columns[name] for name in ("speed", "tired")}, "my.csv"), "my.csv", ["tired"])
    assert "series: {type: sequence, columns: speed, on_error: skip}" in text


def test_names_and_short_lists_are_no_series():
    draw = np.random.default_rng(0)
    columns = {
        "date": [f"2026-01-{day:02d} to 2026-02-{day:02d} at the sea" for day in range(1, 31)],
        "place": draw.normal(size=(30, 2)).tolist(),
        "tags": [["a", "b", "c", "d", "e", "f"]] * 30,
        "age": draw.integers(20, 60, 30),
        "tired": ["yes", "no"] * 15,
    }
    assert "type: sequence" not in propose(Table.of(columns, "my.csv"), "my.csv", ["tired"])


@pytest.mark.parametrize(
    ("file", "targets", "encoder", "tasks"),
    [
        ("molecules/esol.csv", ["logSolubility"], "gin", ["regression"]),
        ("molecules/tox21.csv", ["NR-AR", "SR-p53"], "gin", ["classification", "classification"]),
        (
            "emodb_8k/labels.csv",
            ["emotion", "speaker", "gender"],
            "mlp",
            ["classification", "regression", "classification"],
        ),
    ],
)
def test_what_is_proposed_for_real_data_loads(data_root, tmp_path, file, targets, encoder, tasks):
    table = read_table(data_root / file)
    (tmp_path / "c.yaml").write_text(propose(table, str(data_root / file), targets))
    config = load_config(tmp_path / "c.yaml")
    assert [spec.type for spec in config.tasks.values()] == tasks
    assert [spec.type for spec in config.model.encoders.values()] == [encoder]
    assert config.data.train == str(data_root / file)


@pytest.fixture
def recordings(tmp_path):
    soundfile = pytest.importorskip("soundfile")

    def recordings(rates=(8000,), seconds=0.2, broken=(), **others):
        draw = np.random.default_rng(0)
        for index in range(24):
            rate = rates[index % len(rates)]
            soundfile.write(tmp_path / f"{index}.wav", 0.1 * draw.normal(size=round(seconds * rate)), rate)
        for index in broken:
            (tmp_path / f"{index}.wav").write_bytes(b"nothing")
        frame = pd.DataFrame({"file": [f"{i}.wav" for i in range(24)], "kind": ["a", "b"] * 12, **others})
        frame.to_csv(tmp_path / "calls.csv", index=False)
        text = propose(read_table(tmp_path / "calls.csv"), "calls.csv", ["kind"])
        (tmp_path / "c.yaml").write_text(text)
        return load_config(tmp_path / "c.yaml"), text

    return recordings


def test_recordings_go_before_texts_and_numbers(recordings):
    config, text = recordings(size=np.arange(24) % 5)
    assert config.inputs["audio"].parameters["column"] == "file"
    assert config.inputs["audio"].parameters["sample_rate"] is None
    assert config.inputs["audio"].parameters["on_error"] == "error"
    assert config.model.encoders["audio"].type == "audio_cnn"
    assert "Recordings of 0.2 to 0.2 s at 8,000 samples a second." in text
    assert "left out: 'size'." in text


def test_recordings_of_several_rates_long_and_broken_ones_among_them(recordings):
    config, text = recordings(rates=(8000, 11025), seconds=11.0, broken=[5])
    parameters = config.inputs["audio"].parameters
    assert (parameters["sample_rate"], parameters["crop"], parameters["max_seconds"]) == (8000, 10, 40)
    assert parameters["on_error"] == "skip"
    assert "up to 11,025, are brought to 8,000" in text
    assert "they are skipped, and counted" in text


def test_recordings_that_cannot_be_read_at_all_are_the_users_error(recordings):
    config, text = recordings(broken=range(24), size=np.arange(24) % 5)
    assert config.inputs["row"].type == "tabular"
    assert "left out: 'file'" in text
    with pytest.raises(
        UserError, match=r"none of the recordings in 'file' that were looked at can be read: the recording '23\.wav'"
    ):
        recordings(broken=range(24))
