import pytest

from polytask.config.document import parse_document
from polytask.config.overrides import apply_overrides
from polytask.errors import UserError

TEXT = """\
training:
  epochs: 10
  optimizer: adamw
  stops: null
data:
  missing: [a, {b: 1}]
  columns: {x.y: text}
"""


def apply(*overrides, default=None):
    return apply_overrides(parse_document(TEXT, "c.yaml"), overrides, lambda *_: default)


def test_a_value_is_replaced_and_its_place_is_the_override():
    changed = apply("training.epochs=3")
    assert changed.data["training"]["epochs"] == 3
    assert changed.place(("training", "epochs")) == "the override 'training.epochs=3'"
    assert changed.place(("training", "optimizer")) == "c.yaml, line 3"


def test_the_document_itself_stays_as_it_is():
    document = parse_document(TEXT, "c.yaml")
    apply_overrides(document, ["training.epochs=3", "data.missing=[]"], lambda *_: None)
    assert document.data == parse_document(TEXT, "c.yaml").data
    assert document.origins == parse_document(TEXT, "c.yaml").origins


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("true", True),
        ("null", None),
        ("", None),
        ("word", "word"),
        ("[1, 2]", [1, 2]),
        ("{a: b}", {"a": "b"}),
        ("a=b", "a=b"),
        ("' x'", " x"),
    ],
)
def test_values_are_yaml(text, value):
    assert apply(f"name={text}").data["name"] == value


def test_later_overrides_go_before_earlier_ones():
    assert apply("name=a", "name=b").data["name"] == "b"


def test_the_lines_below_a_replaced_value_are_forgotten():
    changed = apply("data.missing=[x]")
    assert changed.place(("data", "missing", 0)) == "the override 'data.missing=[x]'"


def test_parents_that_are_not_there_are_made():
    changed = apply("a.b.c=1")
    assert changed.data["a"] == {"b": {"c": 1}}
    assert changed.place(("a", "x")) == "the override 'a.b.c=1'"


def test_the_short_form_of_a_component_takes_settings():
    assert apply("training.optimizer.lr=0.1").data["training"]["optimizer"] == {"type": "adamw", "lr": 0.1}


def test_a_component_that_stands_there_by_default_takes_settings():
    assert apply("balancing.x=1", default={"type": "equal"}).data["balancing"] == {"type": "equal", "x": 1}
    assert apply("training.stops.after=1").data["training"]["stops"] == {"after": 1}


def test_lists_are_entered_by_position():
    assert apply("data.missing.0=z", "data.missing.1.b=2").data["data"]["missing"] == ["z", {"b": 2}]


def test_keys_with_dots_are_quoted():
    assert apply('data.columns."x.y"=number').data["data"]["columns"] == {"x.y": "number"}


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            "training.epochs",
            "The override 'training.epochs' has no '='. Write key=value, for example training.epochs=3.",
        ),
        ("=3", "The override '=3' does not name a key."),
        (" =3", "does not name a key"),
        ("a..b=3", "does not name a key"),
        (".a=3", "does not name a key"),
        ("a.=3", "does not name a key"),
        ('a."b=3', "does not name a key"),
        ("a=[1", "The override 'a=[1', line 1, column 3: this is not valid YAML"),
        ("a=*", 'Text that starts with * goes in quotes: "*".'),
        ("training.epochs.x=1", "The override 'training.epochs.x=1' goes into 'epochs', which is 10 and has no keys."),
        ("data.missing.5=1", "goes into a list of 2 entries, which are counted from 0: '5' is none of them."),
        ("data.missing.x=1", "'x' is none of them"),
    ],
)
def test_what_is_not_an_override_is_the_users_error(override, problem):
    with pytest.raises(UserError) as raised:
        apply(override)
    assert problem in str(raised.value)
