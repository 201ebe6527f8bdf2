import pytest
import torch
from torch import nn

from polytask.modules import NamedModules


def test_names_that_module_dict_refuses_are_allowed():
    names = ["type", "values", "float", "items", "keys", "forward", "training", "a b", "ä/1"]
    modules = NamedModules({name: nn.Linear(1, 1) for name in names})
    assert list(modules) == names
    assert len(modules) == len(names)
    assert modules["type"] is next(iter(modules.children()))
    assert modules.training is True


@pytest.mark.parametrize("name", ["", "a.b", "."])
def test_names_that_break_state_dictionaries_are_refused(name):
    with pytest.raises(ValueError, match="cannot name a module"):
        NamedModules({name: nn.Identity()})


def test_it_is_a_mapping_in_order():
    first, second = nn.Linear(2, 1), nn.Identity()
    modules = NamedModules({"b": first, "a": second})
    assert list(modules.items()) == [("b", first), ("a", second)]
    assert "a" in modules
    assert "c" not in modules
    assert "training" not in modules
    with pytest.raises(KeyError):
        modules["c"]


def test_parameters_are_registered_under_the_names_and_travel_in_state_dictionaries():
    modules = NamedModules({"type": nn.Linear(2, 3), "values": nn.Linear(3, 1, bias=False)})
    assert [name for name, _ in modules.named_parameters()] == ["type.weight", "type.bias", "values.weight"]
    other = NamedModules({"type": nn.Linear(2, 3), "values": nn.Linear(3, 1, bias=False)})
    other.load_state_dict(modules.state_dict())
    torch.testing.assert_close(other["type"].weight, modules["type"].weight)


def test_modes_and_types_reach_the_modules():
    modules = NamedModules({"a": nn.Dropout()})
    assert not modules.eval()["a"].training
    assert next(NamedModules({"a": nn.Linear(1, 1)}).double().parameters()).dtype == torch.float64


def test_an_empty_mapping_is_fine():
    assert len(NamedModules({})) == 0
