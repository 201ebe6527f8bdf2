import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.config import ComponentSpec, Config, Kind, load_config
from polytask.config.document import parse_document
from polytask.config.training_schema import TrainingConfig
from polytask.errors import UserError, listing

REVIEWS = """\
data:
  train: reviews.csv
inputs:
  text: {type: text, column: review}
tasks:
  sentiment: {type: classification}
  stars:
    type: regression
    target: rating
    weight: 0.5
model:
  encoders: {text: {type: transformer, dim: 64}}
balancing: uncertainty
training:
  epochs: 3
"""

ROWS = "data: {train: t.csv}\ninputs: {row: {type: tabular}}\ntasks: {y: regression, z: classification}\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a configuration file; messages call it by its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(text: str, name: str = "c.yaml") -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def refusal(write):
    """The message with which a configuration is refused."""

    def refusal(text: str, *overrides: str) -> str:
        with pytest.raises(UserError) as raised:
            load_config(write(text), overrides)
        return str(raised.value)

    return refusal


def test_what_is_written_is_there_and_all_else_has_its_default(write, tmp_path):
    config = load_config(write(REVIEWS))
    assert config.name == config.run_name() == "c"
    assert config.data.train == str(tmp_path / "reviews.csv")
    assert config.data.split.valid == 0.1
    assert config.inputs["text"].type == "text"
    assert config.inputs["text"].parameters["column"] == "review"
    assert config.tasks["sentiment"].parameters["target"] == "sentiment"
    assert config.tasks["stars"].parameters["target"] == "rating"
    assert config.tasks["stars"].parameters["weight"] == 0.5
    assert config.tasks["stars"].parameters["metric"] == "mae"
    assert "name" not in config.tasks["stars"].parameters
    assert config.model.encoders["text"].parameters["dim"] == 64
    assert config.model.encoders["text"].parameters["depth"] == 2
    assert config.model.sharing == ComponentSpec("hard", {"share_until": None}, Kind.SHARING)
    assert config.balancing.type == "uncertainty"
    assert config.training.epochs == 3
    assert config.training.batch_size == 64
    assert config.training.optimizer.type == "adamw"
    assert config.training.optimizer.parameters["betas"] == [0.9, 0.999]
    assert config.training.lr_schedule.parameters["warmup"] == 0.05
    assert config.training.gradient_clip == 1.0
    assert config.training.early_stopping is None
    assert config.training.transfer.freeze is None


@pytest.mark.parametrize(
    ("given", "encoder"), [("tabular", "mlp"), ("{type: text, column: x}", "transformer"), ("image", "cnn")]
)
def test_an_input_without_an_encoder_gets_one_of_its_modality(write, given, encoder):
    config = load_config(write(f"data: {{train: t}}\ninputs: {{a: {given}}}\ntasks: {{y: regression}}\n"))
    assert config.model.encoders["a"].type == encoder


def test_components_are_built_with_what_comes_from_the_data(write):
    config = load_config(write(REVIEWS))
    assert config.training.optimizer.create().lr == 1e-3
    task = config.tasks["stars"].create(name="stars", mean=[1.0], std=[2.0])
    assert task.name == "stars"
    assert task.columns == ("rating",)
    assert config.model.sharing.cls.__name__ == "Hard"


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("training.epochs=7", lambda c: c.training.epochs, 7),
        ("training.optimizer.lr=0.01", lambda c: c.training.optimizer.parameters["lr"], 0.01),
        ("training.optimizer.lr=1e-2", lambda c: c.training.optimizer.parameters["lr"], 0.01),
        ("training.optimizer=sgd", lambda c: c.training.optimizer.type, "sgd"),
        ("training.optimizer={type: sgd, momentum: 0}", lambda c: c.training.optimizer.parameters["momentum"], 0),
        ("training.lr_schedule.final=0.1", lambda c: c.training.lr_schedule.parameters["warmup"], 0.05),
        ("balancing=equal", lambda c: c.balancing.type, "equal"),
        ("balancing.lr=0.1", lambda c: c.balancing.parameters["lr"], 0.1),
        ("model.sharing.share_until=1", lambda c: c.model.sharing.parameters["share_until"], 1),
        ("model.encoders.text.depth=1", lambda c: c.model.encoders["text"].parameters["depth"], 1),
        ("tasks.sentiment.metric=recall", lambda c: c.tasks["sentiment"].parameters["metric"], "recall"),
        ("training.early_stopping.patience=2", lambda c: c.training.early_stopping.patience, 2),
        ("training.transfer={freeze: embed, layer_decay: 1}", lambda c: c.training.transfer.freeze, "embed"),
        ("training.gradient_clip=null", lambda c: c.training.gradient_clip, None),
        ("training.precision=32", lambda c: c.training.precision, "32"),
        ("data.columns.zip=category", lambda c: c.data.read_options()["columns"], {"zip": "category"}),
        ("name=other", lambda c: c.run_name(), "other"),
    ],
)
def test_overrides_change_single_settings(write, override, read, value):
    assert read(load_config(write(REVIEWS), [override])) == value


def test_overrides_reach_an_encoder_that_is_there_by_default(write):
    config = load_config(write(ROWS), ["model.encoders.row.width=8"])
    assert config.model.encoders["row"].type == "mlp"
    assert config.model.encoders["row"].parameters["width"] == 8


def test_paths_start_at_the_files_folder(write, tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    path = write("data: {train: ../a.csv, valid: b.csv, test: /c/d.csv}\n" + ROWS.split("\n", 1)[1], "sub/c.yaml")
    data = load_config(path).data
    assert (data.train, data.valid, data.test) == (str(tmp_path / "a.csv"), str(tmp_path / "sub" / "b.csv"), "/c/d.csv")
    monkeypatch.setenv("HOME", "/home/someone")
    assert load_config(path, ["data.train=~/a.csv"]).data.train == "/home/someone/a.csv"


def test_a_built_in_name_stays_unless_there_is_a_file_of_that_name(write, tmp_path):
    path = write(ROWS.replace("t.csv", "multidigits"))
    assert load_config(path).data.train == "multidigits"
    (tmp_path / "multidigits").mkdir()
    assert load_config(path).data.train == str(tmp_path / "multidigits")


def test_a_saved_copy_loads_equal_from_anywhere(write):
    config = load_config(write(REVIEWS, "sub/reviews.yaml"))
    copy = load_config(write(config.to_yaml(), "runs/x/config.yaml"))
    assert copy == config
    assert copy.name == "reviews"
    assert copy.to_yaml() == config.to_yaml()


def test_plain_values_make_a_configuration_too(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Config.from_mapping(parse_document(REVIEWS, "").data)
    assert config == load_config(write(REVIEWS)).model_copy(update={"name": None})
    assert config.run_name() == "run"
    assert Config.from_mapping(config.to_mapping()) == config
    with pytest.raises(UserError, match="the configuration is a list, not a mapping"):
        Config.from_mapping(["a"])
    with pytest.raises(UserError, match=r"^the configuration: training\.epochs: expected a whole number, found 'x'\.$"):
        Config.from_mapping({**config.to_mapping(), "training": {"epochs": "x"}})


def test_numbers_with_an_exponent_that_another_reader_took_for_text_are_numbers():
    values = parse_document(ROWS, "").data
    config = Config.from_mapping(
        {**values, "training": {"optimizer": {"type": "sgd", "lr": "1e-2"}, "gradient_clip": "1e1"}}
    )
    assert config.training.optimizer.parameters["lr"] == 0.01
    assert config.training.gradient_clip == 10


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("training.epochs=ten", "training.epochs: expected a whole number, found 'ten'."),
        ("training.epochs=2.5", "training.epochs: expected a whole number, found 2.5."),
        ("training.epochs=true", "training.epochs: expected a whole number, found true."),
        ("training.epochs=null", "training.epochs: expected a whole number, found null."),
        ("training.epochs=0", "training.epochs: expected a number of at least 1, found 0."),
        ("training.gradient_clip=0", "training.gradient_clip: expected a number greater than 0, found 0."),
        ("training.gradient_clip=.nan", "training.gradient_clip: expected a finite number, found nan."),
        ("training.tensorboard=yes", "training.tensorboard: expected true or false, found 'yes'."),
        ("training.tensorboard=1", "training.tensorboard: expected true or false, found 1."),
        ("training.precision=16", "training.precision: expected '32', 'bf16-mixed' or '16-mixed', found 16."),
        ("training.precision=16-mix", "found '16-mix'. Did you mean '16-mixed'?"),
        ("training.transfer.freeze=1.5", "training.transfer.freeze: expected true or false, text or a whole number, f"),
        (
            "training.transfer.layer_decay=0",
            "training.transfer.layer_decay: expected a number greater than 0, found 0.",
        ),
        ("training.early_stopping=5", "training.early_stopping: expected a mapping (key: value), found 5."),
        ("training=fast", "training: expected a mapping (key: value), found 'fast'."),
        ("data.missing=NA", "data.missing: expected a list, found 'NA'."),
        ("data.missing=[1]", "data.missing[0]: expected text, found 1. If it is text, put it in quotes."),
        ("data.columns.zip=categori", "data.columns.zip: expected 'number', 'boolean', 'category', 'text', "),
        ("data.columns.zip=categori", "Did you mean 'category'?"),
        ("data.train=null", "data.train: expected text, found null."),
        ("data.delimiter=ab", "data.delimiter: delimiter is 'ab': it must be one character"),
        ("data.encoding=utf8x", "data.encoding: There is no encoding 'utf8x'."),
        ("name=7", "name: expected text, found 7. If it is text, put it in quotes."),
        ("name=a/b", "name: expected a name that a folder can have, without slashes, found 'a/b'."),
        (
            "training.epcohs=3",
            "training.epcohs: there is no such key. Did you mean 'epochs'? Allowed: 'epochs', 'epoch",
        ),
        (
            "training.transfer.frees=true",
            "training.transfer.frees: there is no such key. Did you mean 'freeze'? Allowed",
        ),
        (
            "trainings.epochs=3",
            "trainings: there is no such key. Did you mean 'training'? Allowed: 'name', 'data', 'in",
        ),
        ("data.split.x=3", "data.split.x: there is no such key. Allowed: 'by', 'column', 'valid', 'test', 'seed'."),
        ("balancing=eqal", "balancing: There is no balancer 'eqal'. Did you mean 'equal'? Allowed: "),
        ("balancing={type: eqal}", "balancing.type: There is no balancer 'eqal'."),
        ("balancing={lr: 1}", "balancing: the balancer has no 'type'. Allowed: 'adatask', "),
        (
            "balancing=[equal]",
            "balancing: expected the name of a balancer, or a mapping with its type and settings, found a l",
        ),
        (
            "balancing={type: 3}",
            "balancing.type: expected the name of a balancer, or a mapping with its type and settings, fou",
        ),
        ("balancing={type: equal, x: 3}", "balancing.x: 'equal' has no such setting. Allowed: 'log_losses', "),
        (
            "training.optimizer.lrr=1",
            "training.optimizer.lrr: 'adamw' has no such setting. Did you mean 'lr'? Allowed: 'lr', ",
        ),
        ("training.optimizer.lr=fast", "training.optimizer.lr: expected a number, found 'fast'."),
        ("training.optimizer.lr=-1", "training.optimizer.lr: The optimiser's lr is -1.0, but must be above 0."),
        ("training.optimizer.betas=[1]", "training.optimizer.betas[1]: is missing; it has no default."),
        ("training.optimizer.betas=[0, true]", "training.optimizer.betas[1]: expected a number, found true."),
        ("training.optimizer.decay_all=1", "training.optimizer.decay_all: expected true or false, found 1."),
        (
            "tasks.y.metric=mea",
            "tasks.y.metric: expected 'mae', 'rmse', 'r2', 'pearson' or 'spearman', found 'mea'. Did you mean 'mae'?",
        ),
        ("tasks.y.name=z", "tasks.y.name: 'name' is not set here: the task's key is its name."),
        ("tasks.y.mean=[1]", "tasks.y.mean: 'mean' comes from the data and cannot be set."),
        ("tasks.y.hidden=[8, a]", "tasks.y.hidden[1]: expected a whole number, found 'a'."),
        ("tasks.y.target=3", "tasks.y.target: expected text or a list, found 3. If it is text, put it in quotes."),
        (
            "tasks.z.class_weights=balance",
            "tasks.z.class_weights: expected 'balanced' or a mapping (key: value), found 'b",
        ),
        ("tasks.z.class_weights={a: x}", "tasks.z.class_weights.a: expected a number, found 'x'."),
        ("tasks={}", "tasks: expected 1 or more entries, found an empty mapping."),
        ("tasks=[y]", "tasks: expected a mapping (key: value), found a list."),
        ("inputs={}", "inputs: expected 1 or more entries, found an empty mapping."),
        ("inputs.row={type: text}", "inputs.row.column: is missing; it has no default."),
        ("inputs.row=text", "inputs.row.column: is missing; it has no default."),
    ],
)
def test_values_of_the_wrong_kind_are_refused(refusal, change, problem):
    message = refusal(ROWS, change)
    assert message.startswith(f"the override '{change}': ")
    assert problem in message


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("tasks={a.b: regression}", "tasks.a.b: a name must not contain '.', which separates the parts of"),
        ("tasks={a/b: regression}", "Try 'a_b'."),
        ("tasks={'': regression}", "the tasks need names, but this one is empty."),
        ("inputs={a.b: tabular}", "inputs.a.b: a name must not contain '.'"),
        ("inputs.row.columns=[a, y]", "inputs.row: the column 'y' is the target of the task 'y', so the network would"),
        ("inputs.row={type: text, column: z}", "inputs.row: the column 'z' is the target of the task 'z'"),
        (
            "tasks.more={type: segmentation, target: mask}",
            "tasks.more: a task of the type 'segmentation' answers for positions of an input of 'image', but there is "
            "none. The inputs: 'row' (tabular).",
        ),
        ("tasks.y.target=[]", "tasks.y: A task's target is an empty list"),
        ("tasks.y.target=[a, a]", "tasks.y: A task's target names a column twice"),
        (
            "model.encoders={rwo: mlp}",
            "model.encoders.rwo: there is no input of this name. Did you mean 'row'? The inp",
        ),
        (
            "model.encoders.row=cnn",
            "model.encoders.row: the encoder 'cnn' reads image, but the input 'row' is tabular. Encoders that read "
            "tabular: 'ft_transformer', 'mlp', 'tabular_resnet'.",
        ),
        (
            "training.selection=mean_gian",
            "'mean_gian' is not a criterion. Did you mean 'mean_gain'? Write mean_gain, or",
        ),
        ("training.selection=y/valid", "Write mean_gain, or task/valid/metric, for example y/valid/loss."),
        ("training.selection=x/valid/mae", "'x/valid/mae' names no task. The tasks: 'y', 'z'."),
        ("training.selection=y/test/mae", "is measured on 'test', but choices are made on validation data."),
        (
            "training.selection=y/valid/acc",
            "the task 'y' has no metric 'acc'. Allowed: 'loss', 'mae', 'rmse', 'r2', 'pearson', 'spearman'.",
        ),
        ("training.early_stopping.metric=z/valid/acuracy", "training.early_stopping.metric: the task 'z' has no metr"),
        ("data.split.by=group", "data.split: to split by 'group', give the 'column' as well."),
        ("data.split.column=a", "data.split.column: a random split uses no column."),
        ("data.split={by: group, column: [a, b]}", "data.split.column: a split by 'group' takes one column, not 2."),
        ("data.split={valid: 0.5, test: 0.5}", "data.split: valid and test take 1 of the rows together: nothing is"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(refusal, change, problem):
    assert problem in refusal(ROWS, change)


@pytest.mark.parametrize(
    "change",
    [
        "training.selection=y/valid/r2",
        "training.selection=z/valid/loss",
        "training.early_stopping={metric: z/valid/recall}",
        "data.split={by: stratified, column: [z, y]}",
        "data.split={by: group, column: a, valid: 0}",
        "inputs.row.columns=[a, b]",
        "tasks.y.target=[a, b]",
        "tasks.z={type: multi_label, target: [a, b]}",
    ],
)
def test_parts_that_go_together_are_taken(write, change):
    load_config(write(ROWS), [change])


def test_problems_have_the_line_of_their_key(refusal):
    text = REVIEWS.replace("epochs: 3", "epochs: ten")
    assert refusal(text) == "c.yaml, line 15: training.epochs: expected a whole number, found 'ten'."
    assert refusal(REVIEWS.replace("dim: 64", "dmi: 64")).startswith("c.yaml, line 12: model.encoders.text.dmi: ")
    assert refusal(REVIEWS.replace("weight: 0.5", "weight: a")).startswith("c.yaml, line 10: tasks.stars.weight: ")
    assert refusal(REVIEWS.replace("column: review", "column: rating")).startswith(
        "c.yaml, line 4: inputs.text: the col"
    )


def test_what_is_missing_has_the_line_of_what_it_is_missing_from(refusal):
    assert refusal(REVIEWS.replace("train:", "valid:")) == "c.yaml, line 1: data.train: is missing; it has no default."
    assert refusal(ROWS.replace("data:", "name: x\n#")) == "c.yaml: data: is missing; it has no default."


def test_several_problems_are_listed_each_with_its_line(refusal):
    text = REVIEWS.replace("epochs: 3", "epochs: ten\n  batch_sise: 4\n  optimizer: {type: sgd, lr: x, momentun: 1}")
    assert refusal(text).splitlines() == [
        "c.yaml has 4 problems:",
        "  c.yaml, line 15: training.epochs: expected a whole number, found 'ten'.",
        "  c.yaml, line 16: training.batch_sise: there is no such key. Did you mean 'batch_size'? "
        f"Allowed: {listing(TrainingConfig.model_fields, limit=40)}.",
        "  c.yaml, line 17: training.optimizer.lr: expected a number, found 'x'.",
        "  c.yaml, line 17: training.optimizer.momentun: 'sgd' has no such setting. Did you mean 'momentum'? "
        "Allowed: 'lr', 'momentum', 'nesterov', 'weight_decay', 'decay_all'.",
    ]


def test_problems_at_the_same_place_are_all_told(refusal):
    message = refusal(ROWS.replace("{row: {type: tabular}}", "{row: {type: tabular, columns: [z, a, y]}}"))
    assert message.count("c.yaml, line 2: inputs.row: the column ") == 2


def test_a_long_list_of_problems_is_cut(refusal):
    message = refusal(REVIEWS + "".join(f"key{number}: 1\n" for number in range(14)))
    assert message.startswith("c.yaml has 14 problems:")
    assert message.endswith("\n  and 4 more")
    assert len(message.splitlines()) == 12


def test_long_values_are_cut(refusal):
    assert f"found '{'x' * 56}..." in refusal(REVIEWS.replace("epochs: 3", f"epochs: {'x' * 100}"))


def test_a_missing_file_suggests_the_one_that_is_there(write):
    write(REVIEWS, "people.yaml")
    with pytest.raises(
        UserError, match=r"There is no configuration file 'peopl\.yaml'\. Did you mean 'people\.yaml'\?"
    ):
        load_config("peopl.yaml")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"data": {"train": "t", "columns": {1: "text"}}},
            "data.columns[1]: the key 1 must be text; in Python, write '1'",
        ),
        ({"tasks": {1: "regression"}}, "tasks[1]: the key 1 must be text"),
        ({"balancing": {"type": "equal", 1: 2}}, "balancing[1]: 'equal' has no such setting."),
        ({"training": {"epochs": object()}}, "training.epochs: expected a whole number, found <object object at"),
        ({1: 2}, "[1]: the key 1 must be text"),
    ],
)
def test_plain_values_that_yaml_cannot_hold_are_refused(change, problem):
    with pytest.raises(UserError) as raised:
        Config.from_mapping({**parse_document(ROWS, "").data, **change})
    assert problem in str(raised.value)


OWN = '''
from polytask.balancing import Equal

class Loud(Equal):
    """Says what it does.

    Args:
        volume: How loud.
    """

    def __init__(self, volume: int = 3) -> None:
        super().__init__()
        if volume > 10:
            raise ValueError("volume is too high")
        self.volume = volume
'''


@pytest.fixture
def own(write, monkeypatch):
    monkeypatch.delitem(sys.modules, "own_loud", raising=False)
    yield write(OWN, "sub/own_loud.py")
    sys.modules.pop("own_loud", None)


def test_a_class_of_the_users_own_beside_the_file_is_checked_by_its_own_signature(write, own, refusal):
    path = write(ROWS, "sub/c.yaml")
    config = load_config(path, ["balancing={type: own_loud.Loud, volume: 5}"])
    assert config.balancing.parameters == {"volume": 5}
    assert config.balancing.create().volume == 5
    assert load_config(path, ["balancing=own_loud.Loud"]).balancing.parameters == {"volume": 3}
    assert load_config(write(config.to_yaml(), "sub/copy.yaml")) == config
    for change, problem in {
        "{type: own_loud.Loud, volume: x}": "balancing.volume: expected a whole number, found 'x'.",
        "{type: own_loud.Loud, volum: 1}": "'own_loud.Loud' has no such setting. Did you mean 'volume'?",
        "{type: own_loud.Loud, volume: 11}": "balancing.volume: volume is too high",
        "{type: own_loud.Laud}": "balancing.type: 'own_loud' has no class 'Laud'. Did you mean 'Loud'?",
        "nowhere.Loud": "balancing: Cannot import 'nowhere' for the balancer 'nowhere.Loud'.",
        "fractions.Fraction": "balancing: 'fractions.Fraction' is no balancer: it must derive from Balancer.",
    }.items():
        assert problem in refusal(ROWS, f"balancing={change}")


def test_a_class_of_the_users_own_in_the_working_directory_is_found(write, own):
    own.rename("own_loud.py")
    assert load_config(write(ROWS, "sub/c.yaml"), ["balancing=own_loud.Loud"]).balancing.cls.__name__ == "Loud"


OWN_INPUT = """
from polytask.data.inputs import TabularInput

class Sound(TabularInput):
    modality = "sound"
"""


def test_an_input_of_the_users_own_modality_needs_an_encoder(write, refusal):
    write(OWN_INPUT, "own_sound.py")
    sys.modules.pop("own_sound", None)
    message = refusal(ROWS, "inputs.row=own_sound.Sound")
    assert message == "c.yaml: model.encoders: no encoder reads sound by default; give one for the input 'row'."
    assert "the encoder 'mlp' reads tabular, but the input 'row' is sound." in refusal(
        ROWS, "inputs.row=own_sound.Sound", "model.encoders.row=mlp"
    )


def test_a_single_task_keeps_the_recipe_and_reads_no_other_target(write):
    changes = [
        "balancing=uncertainty",
        "training.selection=z/valid/recall",
        "training.early_stopping.metric=y/valid/mae",
    ]
    tree = "model.sharing={type: branching, tree: {layer1: [[y], [z]]}}"
    config = load_config(write(ROWS), [*changes, tree, "inputs.row.exclude=[a]", "tasks.z.target=label"])
    alone = config.only_task("y")
    assert alone.model.sharing.type == "hard"
    assert alone.model.encoders == config.model.encoders
    assert list(alone.tasks) == ["y"]
    assert alone.tasks["y"] == config.tasks["y"]
    assert alone.balancing.type == "equal"
    assert alone.inputs["row"].parameters["exclude"] == ["a", "label"]
    assert alone.training.selection == "mean_gain"
    assert alone.training.early_stopping.metric == "y/valid/mae"
    assert alone.training.optimizer == config.training.optimizer
    assert alone.name == config.name
    assert config.only_task("z").training.selection == "z/valid/recall"
    with pytest.raises(UserError, match=r"There is no task 'w'\. The tasks: 'y', 'z'\."):
        config.only_task("w")


names = st.text("abcxyzÄ 09_-|", min_size=1, max_size=6).filter(str.strip)
words = st.text("abc 0e-+:#", max_size=5)
rates = st.floats(1e-8, 1, exclude_max=True)


def component(name, **parameters):
    return st.fixed_dictionaries({"type": st.just(name)}, optional=parameters)


tasks = (
    st.just("regression")
    | component(
        "regression",
        weight=st.floats(0, 10),
        loss=st.sampled_from(["mse", "huber"]),
        hidden=st.lists(st.integers(1, 9)),
    )
    | component(
        "classification",
        target=words,
        class_weights=st.none() | st.just("balanced") | st.dictionaries(words, rates, max_size=2),
        metric=st.sampled_from(["accuracy", "auroc"]),
        classes=st.none() | st.integers(2, 5) | st.lists(words, min_size=2, max_size=3, unique=True),
    )
)
configs = st.fixed_dictionaries(
    {
        "data": st.fixed_dictionaries(
            {"train": names},
            optional={
                "missing": st.lists(words, max_size=2),
                "columns": st.dictionaries(words, st.sampled_from(["number", "text"]), max_size=2),
                "split": st.fixed_dictionaries({}, optional={"valid": st.floats(0, 0.4), "seed": st.integers(0)}),
            },
        ),
        "inputs": st.dictionaries(
            names, st.just("tabular") | component("tabular", exclude=st.lists(words)), min_size=1, max_size=1
        ),
        "tasks": st.dictionaries(names, tasks, min_size=1, max_size=3),
    },
    optional={
        "name": st.none() | names,
        "model": component("hard", share_until=st.none() | st.integers() | words).map(
            lambda sharing: {"sharing": sharing}
        ),
        "balancing": component("uncertainty", lr=st.none() | rates) | st.just("equal"),
        "training": st.fixed_dictionaries(
            {},
            optional={
                "epochs": st.integers(1, 10**9),
                "optimizer": component("adamw", lr=rates, betas=st.lists(rates, min_size=2, max_size=2)),
                "gradient_clip": st.none() | rates,
                "precision": st.sampled_from([32, "bf16-mixed"]),
                "early_stopping": st.none() | st.fixed_dictionaries({"patience": st.integers(1, 9)}),
                "transfer": st.fixed_dictionaries({"freeze": st.none() | st.booleans() | st.integers() | words}),
            },
        ),
    },
)


@settings(max_examples=60, deadline=None)
@given(configs)
def test_what_is_loaded_writes_itself_out_completely_and_loads_back_equal(values):
    config = Config.from_mapping(values)
    text = config.to_yaml()
    again = Config.from_mapping(parse_document(text, "again").data)
    assert again == config
    assert again.to_yaml() == text
