import pytest
from torch import nn

from polytask.training.differences import differing_tensors, differing_values, first_of


def test_tensors_that_one_lacks_or_that_have_another_shape():
    there = {"a": nn.Linear(2, 3), "b": nn.Linear(3, 3)}
    here = {"a": nn.Linear(2, 4, bias=False), "c": nn.Linear(3, 3, bias=False)}
    assert differing_tensors(there, there) == []
    assert differing_tensors(there, here) == [
        "a.weight [3, 2] there, [4, 2] here",
        "a.bias [3] only there",
        "b.weight [3, 3] only there",
        "b.bias [3] only there",
        "c.weight [3, 3] only here",
    ]


@pytest.mark.parametrize(
    ("there", "here", "expected"),
    [
        ({"x": 1.0, "y": [1, 2]}, {"x": 1.0 + 1e-9, "y": [1.0, 2]}, []),
        ({"x": 1.0}, {"x": 1.1}, ["x: 1 there, 1.1 here"]),
        ({"x": {"y": 1}}, {"x": {"y": 2}}, ["x y: 1 there, 2 here"]),
        ({"x": 1}, {"y": 1}, ["x only there", "y only here"]),
        ({"x": True}, {"x": 1.5}, ["x: true there, 1.5 here"]),
        ({"x": [1, 2]}, {"x": [1]}, ["x: [1, 2] there, [1] here"]),
        ({"x": "a" * 200}, {"x": "b"}, ['x: "' + "a" * 59 + '... there, "b" here']),
        ({"c": [{"name": "p", "mean": 1}]}, {"c": [{"name": "p", "mean": 2}]}, ["c 'p' mean: 1 there, 2 here"]),
        ({"c": [{"name": "p"}, {"name": "q"}]}, {"c": [{"name": "q"}]}, ["c 'p' only there"]),
        ({"c": [{"name": "p"}, {"name": "q"}]}, {"c": [{"name": "q"}, {"name": "p"}]}, ["c in another order"]),
    ],
)
def test_values(there, here, expected):
    assert list(differing_values(there, here)) == expected


def test_the_first_few_are_named_and_the_rest_counted():
    assert first_of(["a", "b", "c"]) == "a; b; c"
    assert first_of(["a", "b", "c", "d", "e"]) == "a; b; c; and 2 more"
