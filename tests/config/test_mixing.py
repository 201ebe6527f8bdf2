"""Mixed rows in a configuration."""

import pytest

from polytask.config import Config
from polytask.data.mixing import CutMix, Mixup
from polytask.errors import UserError
from polytask.training.mixed_batches import mixings_of

TASKS = {"kind": "classification", "tags": "multi_label", "age": "regression"}


def config(own, inputs=None, **others) -> Config:
    values = {"data": {"train": "t.csv"}, "inputs": inputs or {"image": "image"}, "tasks": TASKS}
    return Config.from_mapping({**values, **others, "training": {"tasks": own}})


def test_it_is_a_component_with_the_papers_defaults():
    found = config({"kind": {"mixing": "cutmix"}, "tags": {"mixing": {"type": "mixup", "probability": 0.5}}})
    made = mixings_of(found)
    assert isinstance(made["kind"], CutMix) and isinstance(made["tags"], Mixup)
    assert (made["kind"].alpha, made["kind"].probability) == (1.0, 1.0)
    assert (made["tags"].alpha, made["tags"].probability) == (0.2, 0.5)
    assert found.to_mapping()["training"]["tasks"]["kind"]["mixing"] == {
        "type": "cutmix",
        "alpha": 1.0,
        "probability": 1.0,
    }
    assert Config.from_mapping(found.to_mapping()) == found
    assert config({"age": {"mixing": None}}).training.tasks["age"].mixing is None


def test_equal_settings_are_one_mixing():
    made = mixings_of(config({"kind": {"mixing": "mixup"}, "tags": {"mixing": {"type": "mixup", "alpha": 0.2}}}))
    assert made["kind"] is made["tags"]
    made = mixings_of(config({"kind": {"mixing": "mixup"}, "tags": {"mixing": {"type": "mixup", "alpha": 0.3}}}))
    assert made["kind"] is not made["tags"]


def test_a_baseline_has_its_tasks_mixing():
    alone = config({"kind": {"mixing": "cutmix"}, "tags": {"lr_scale": 2.0}}).only_task("kind")
    assert list(mixings_of(alone)) == ["kind"]


@pytest.mark.parametrize(
    ("own", "inputs", "message"),
    [
        ({"kind": {"mixing": "cutmax"}}, None, "training.tasks.kind.mixing: .*Did you mean 'cutmix'"),
        ({"kind": {"mixing": {"alpha": 1}}}, None, "training.tasks.kind.mixing: the mixing has no 'type'"),
        ({"kind": {"mixing": {"type": "mixup", "alpha": 0}}}, None, "kind.mixing.alpha: alpha is 0"),
        ({"kind": {"mixing": {"type": "mixup", "beta": 1}}}, None, "training.tasks.kind.mixing.beta: "),
        (
            {"age": {"mixing": "mixup"}},
            None,
            r"training.tasks.age.mixing: the task 'age' \(regression\) predicts numbers, but .* classification, mu",
        ),
        (
            {"kind": {"mixing": "mixup"}},
            {"review": {"type": "text", "column": "review"}},
            r"kind.mixing: the input 'review' \(text\) cannot be mixed: mixup .* 'image', 'tabular'",
        ),
        (
            {"kind": {"mixing": "cutmix"}},
            {"row": "tabular"},
            r"kind.mixing: the input 'row' \(tabular\) cannot be mixed: cutmix .* that can be: 'image'",
        ),
        ({"kinds": {"mixing": "mixup"}}, None, "training.tasks.kinds: there is no task of this name. Did you mean"),
    ],
)
def test_what_is_wrong_is_told_with_its_key(own, inputs, message):
    with pytest.raises(UserError, match=message):
        config(own, inputs)
