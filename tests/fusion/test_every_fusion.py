"""What holds for every fusion: missing modalities, the order of rows, modalities by themselves and together."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask import fusion
from polytask.encoders import Encoder, Stage
from polytask.errors import UserError
from polytask.features import Features, FeatureShape
from polytask.fusion import FusedEncoder, Inputs
from polytask.partial import PartialInput
from polytask.sharing.sharing import select_rows

from ..encoders import cases as encoder_cases
from .cases import CASES, HELD, ROWS, FusedCase, partial

every = pytest.mark.parametrize("case", CASES)
NAMES = ("picture", "text", "row")


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def answerable(inputs):
    """The rows that have any of the inputs."""
    return select_rows(inputs, torch.tensor(sorted({row for name in inputs for row in HELD[name]})))


@every
def test_every_row_gets_a_vector(case):
    encoder = CASES[case].build().eval()
    assert encoder.shape.kind == "vector"
    for inputs in (CASES[case].whole(), answerable(CASES[case].inputs())):
        values = encoder(inputs).values
        rows = len(next(value if isinstance(value, PartialInput) else range(ROWS) for value in inputs.values()))
        assert values.shape == (rows, encoder.shape.width)
        assert values.isfinite().all()


@every
def test_what_a_row_lacks_does_not_matter(case):
    encoder, whole = CASES[case].build().eval(), CASES[case].whole()
    other = CASES[case].whole(seed=1)
    for name in whole:
        lacking = {**whole, name: partial(whole[name], (0, 2))}
        mixed = {**whole, name: partial(other[name], (1, 3, 4))}
        with torch.no_grad():
            close(encoder(lacking).values[[0, 2]], encoder(whole).values[[0, 2]])
            close(encoder({**whole, name: partial(whole[name], ())}).values[[1, 3]], encoder(lacking).values[[1, 3]])
            assert not torch.allclose(encoder(lacking).values[1], encoder(whole).values[1])
            assert not torch.allclose(encoder(mixed).values[1], encoder(lacking).values[1])


@every
def test_an_input_that_is_not_there_is_one_that_all_rows_lack(case):
    encoder, whole = CASES[case].build().eval(), CASES[case].whole()
    name, *_ = whole
    others = {key: value for key, value in whole.items() if key != name}
    close(encoder(others).values, encoder({**whole, name: partial(whole[name], ())}).values)


@every
def test_rows_of_one_modality_give_the_same_alone_and_among_others(case):
    encoder = CASES[case].build().eval()
    inputs = answerable(CASES[case].inputs())
    together = encoder(inputs).values
    for row in range(len(together)):
        alone = select_rows(inputs, torch.tensor([row]))
        close(encoder(alone).values, together[row : row + 1])
        there = {name: value.values for name, value in alone.items() if value.values is not None}
        close(encoder(there).values, together[row : row + 1])


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(ROWS)), case=st.sampled_from([*CASES]), seed=st.integers(0, 3))
def test_rows_in_another_order_are_the_same_rows(order, case, seed):
    encoder = BUILT[case]
    inputs = CASES[case].inputs(seed)
    rows = torch.tensor([row for row in order if any(row in HELD[name] for name in inputs)])
    with torch.no_grad():
        expected = encoder(select_rows(inputs, rows.sort().values)).values
        close(encoder(select_rows(inputs, rows)).values[rows.argsort()], expected)


BUILT = {case: CASES[case].build().eval() for case in CASES}


class Watched(Stage):
    """A stage that counts the rows it sees."""

    def __init__(self, stage):
        super().__init__(stage, stage.shape)
        self.rows = []

    def forward(self, features):
        found = self.module(features)
        self.rows.append(len(found.values))
        return found


@pytest.mark.parametrize("case", ["fused", "fused-transformer"])
def test_an_encoder_sees_the_rows_that_have_its_input_and_no_others(case):
    built = {name: encoder_cases.CASES[kind].build() for name, kind in (("picture", "cnn"), ("text", "transformer"))}
    watched = {}
    for name, encoder in built.items():
        stages = dict(encoder.stages.items())
        first = next(iter(stages))
        stages[first] = watched[name] = Watched(stages[first])
        built[name].stages = type(encoder.stages)(stages)
    encoder = fusion.create(CASES[case].name, **CASES[case].parameters).build(built)
    whole = CASES[case].whole()
    encoder({"picture": partial(whole["picture"], (0, 3)), "text": partial(whole["text"], (1, 2, 4))})
    assert (watched["picture"].rows, watched["text"].rows) == ([2], [3])
    encoder({"picture": partial(whole["picture"], ()), "text": whole["text"]})
    assert (watched["picture"].rows, watched["text"].rows) == ([2], [3, 5])


@every
def test_gradients_reach_every_parameter(case):
    encoder = CASES[case].build()
    encoder(answerable(CASES[case].inputs())).values.square().sum().backward()
    assert not [name for name, parameter in encoder.named_parameters() if parameter.grad is None]


@every
def test_state_and_copies_are_complete(case):
    encoder = CASES[case].build()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
    again = CASES[case].build()
    again.load_state_dict(encoder.state_dict())
    inputs = CASES[case].whole()
    expected = encoder.eval()(inputs).values
    close(again.eval()(inputs).values, expected)
    close(copy.deepcopy(encoder)(inputs).values, expected)


@every
def test_one_input_alone_is_a_fusion_too(case):
    built = {"row": encoder_cases.CASES["mlp"].build()}
    encoder = fusion.create(CASES[case].name, **CASES[case].parameters).build(built).eval()
    assert encoder({"row": encoder_cases.CASES["mlp"].inputs()}).values.isfinite().all()


def test_encoders_that_start_from_weights_make_a_fusion_that_does():
    built = {name: encoder_cases.CASES["mlp"].build() for name in ("a", "b")}
    assert not fusion.Concat().build(built).pretrained
    built["b"].pretrained = True
    assert fusion.Concat().build(built).pretrained


def test_tasks_with_an_answer_at_each_position_are_refused():
    with pytest.raises(UserError, match="reads one input, but the model has 3: 'picture', 'text', 'row'"):
        CASES["fused"].build().take_end()


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("concat", {"width": 0}, "'width' must be at least 1"),
        ("concat", {"drop": 1.0}, "'drop' must be at least 0 and less than 1"),
        ("attention", {"dim": 6, "heads": 4}, "'heads' must divide 'dim'"),
        ("perceiver", {"latents": 0}, "'latents' must be at least 1"),
        ("shared_transformer", {"pooling": "max"}, "'pooling' must be one of"),
    ],
)
def test_parameters_have_limits(name, parameters, message):
    with pytest.raises(UserError, match=message):
        fusion.create(name, **parameters)


def test_maps_need_a_width_that_rows_and_columns_can_share():
    with pytest.raises(UserError, match="'dim' must be a multiple of 4, but 6 was given"):
        FusedCase("shared_transformer", {"dim": 6, "heads": 2}).build()
    FusedCase("shared_transformer", {"dim": 6, "heads": 2}, ("text", "row")).build()


class Plain(Encoder):
    """An encoder whose last stage has positions."""

    modality = "image"

    def __init__(self, kind):
        super().__init__({"all": Stage(torch.nn.Identity(), FeatureShape(kind, 3))})


def test_encoders_without_a_vector_are_averaged_over_their_positions():
    encoder = fusion.Concat(depth=0).build({"map": Plain("map"), "tokens": Plain("tokens")})
    maps, tokens = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 3)
    expected = torch.cat([maps.mean((2, 3)), tokens.mean(1)], dim=1)
    close(encoder({"map": maps, "tokens": tokens}).values, expected)


# -- what the model hides -----------------------------------------------------------------------------------------


def inputs_of(rows):
    return {
        "a": torch.arange(float(rows)),
        "b": PartialInput(torch.arange(rows - 1.0), torch.arange(rows - 1), rows),
        "c": {"ids": torch.arange(rows)[:, None]},
    }


def there(inputs, rows):
    found = torch.zeros(rows, len(inputs), dtype=torch.bool)
    for column, value in enumerate(inputs.values()):
        found[value.rows if isinstance(value, PartialInput) else slice(None), column] = True
    return found


def test_hidden_inputs_are_the_share_asked_for_and_never_all_of_a_row():
    torch.manual_seed(0)
    rows = 4000
    read = Inputs(("a", "b", "c"), drop=0.3).read(inputs_of(rows), training=True)
    left = there(read, rows)
    assert left.any(1).all()
    # Each of three is hidden with 0.3, but for one of them where all would be: 0.3 - 0.027 / 3.
    hidden = (~left[:-1]).float().mean(0)
    torch.testing.assert_close(hidden, torch.full((3,), 0.3 - 0.027 / 3), rtol=0.1, atol=0)
    assert not left[-1, 1]


def test_hidden_inputs_keep_the_rows_that_are_left():
    torch.manual_seed(1)
    rows = 50
    read = Inputs(("a", "b", "c"), drop=0.5).read(inputs_of(rows), training=True)
    for name, value in read.items():
        values = value.values["ids"][:, 0] if name == "c" else value.values
        assert torch.equal(values.long(), value.rows)


def test_a_row_with_one_input_keeps_it():
    given = {
        "a": PartialInput(torch.zeros(2), torch.tensor([0, 2]), 3),
        "b": PartialInput(torch.zeros(1), torch.tensor([1]), 3),
    }
    read = Inputs(("a", "b"), drop=0.99).read(given, training=True)
    assert read["a"] is given["a"] and read["b"] is given["b"]


def test_nothing_is_hidden_or_drawn_in_evaluation_or_without_drop():
    before = torch.get_rng_state()
    given = inputs_of(5)
    assert Inputs(("a", "b", "c"), drop=0.5).read(given, training=False) == given
    assert Inputs(("a", "b", "c"), drop=0.0).read(given, training=True) == given
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"d": torch.zeros(2)}, "no input 'd'.*Its inputs: 'a', 'b', 'c'"),
        ({}, "at least one input"),
        ({"a": torch.zeros(2), "b": torch.zeros(3)}, "same number of rows"),
        ({"a": PartialInput(torch.zeros(1), torch.tensor([0]), 2)}, "Row 1 of the batch has none of the inputs"),
    ],
)
def test_inputs_that_do_not_go_together_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        Inputs(("a", "b", "c"), drop=0.0).read(given, training=False)


def test_a_fused_encoder_knows_its_inputs():
    encoder = CASES["fused-graphs"].build()
    assert isinstance(encoder, FusedEncoder)
    assert encoder.inputs == ("molecule", "text")
    assert encoder.stage_names == ("encoders", "block1", "pool")
    assert isinstance(encoder.eval()(CASES["fused-graphs"].whole()), Features)
