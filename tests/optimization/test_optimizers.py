import inspect
from typing import get_type_hints

import pytest
import torch
from torch import nn

from polytask.errors import UserError
from polytask.optimization import optimizers


def layers():
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Embedding(5, 4))


def decays(optimizer):
    return {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}


def test_optimisers_are_listed_and_built_by_name():
    assert optimizers.names() == ("adam", "adamw", "sgd")
    built = optimizers.create("sgd", lr=0.5, momentum=0.8, nesterov=True).build([{"params": layers().parameters()}])
    assert isinstance(built, torch.optim.SGD)
    group = built.param_groups[0]
    assert (group["lr"], group["momentum"], group["nesterov"]) == (0.5, 0.8, True)


@pytest.mark.parametrize("name", optimizers.names())
def test_every_parameter_is_typed_and_documented(name):
    cls = optimizers.family.get(name)
    hints = get_type_hints(cls.__init__)
    for parameter in list(inspect.signature(cls.__init__).parameters)[1:]:
        assert parameter in hints
        assert f"        {parameter}: " in cls.__doc__


@pytest.mark.parametrize(
    ("name", "expected"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)],
)
def test_parameters_reach_pytorch(name, expected):
    parameters = {"momentum": 0.5} if name == "sgd" else {"betas": (0.8, 0.95), "eps": 1e-6}
    built = optimizers.create(name, lr=0.2, weight_decay=0.3, **parameters).build([{"params": layers().parameters()}])
    assert type(built) is expected
    group = built.param_groups[0]
    assert {key: group[key] for key in ("lr", "weight_decay", *parameters)} == {
        "lr": 0.2,
        "weight_decay": 0.3,
        **parameters,
    }


def test_matrices_decay_and_vectors_do_not():
    model = layers()
    built = optimizers.AdamW(weight_decay=0.1).build([{"params": model.parameters()}])
    assert decays(built) == {p: 0.1 if p.ndim > 1 else 0.0 for p in model.parameters()}


def test_all_decay_if_asked_for():
    model = layers()
    built = optimizers.AdamW(weight_decay=0.1, decay_all=True).build([{"params": model.parameters()}])
    assert set(decays(built).values()) == {0.1}
    assert len(built.param_groups) == 1


def test_groups_scale_the_rate_and_may_set_their_own_decay():
    low, high, own = nn.Linear(2, 2), nn.Linear(2, 2), nn.Parameter(torch.zeros(3, 3))
    built = optimizers.AdamW(lr=0.1, weight_decay=0.2).build(
        [
            {"params": low.parameters(), "lr_scale": 0.5, "name": "low"},
            {"params": list(high.parameters())},
            {"params": [own], "weight_decay": 0.0},
        ]
    )
    rates = {p: group["lr"] for group in built.param_groups for p in group["params"]}
    assert rates == {**dict.fromkeys(low.parameters(), 0.05), **dict.fromkeys(high.parameters(), 0.1), own: 0.1}
    assert decays(built)[own] == 0
    assert decays(built)[high.weight] == 0.2
    assert [group.get("name") for group in built.param_groups] == ["low", "low", None, None, None]


def test_a_step_is_that_of_pytorch_with_the_same_groups():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    built = optimizers.AdamW(lr=0.1, weight_decay=0.5).build([{"params": ours.parameters()}])
    plain = torch.optim.AdamW(
        [{"params": [theirs.weight], "weight_decay": 0.5}, {"params": [theirs.bias], "weight_decay": 0}], lr=0.1
    )
    for model, optimizer in ((ours, built), (theirs, plain)):
        for _ in range(3):
            model(torch.ones(4, 3)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize(("device", "dtype", "fused"), [("cpu", torch.float64, True), ("meta", None, None)])
def test_the_step_is_fused_on_the_cpu_alone(name, device, dtype, fused):
    model = nn.Linear(3, 2, device=device, dtype=dtype)
    built = optimizers.create(name).build([{"params": model.parameters()}])
    assert {group["fused"] for group in built.param_groups} == {fused}


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("adamw", {"lr": 0.0}, r"lr is 0\.0"),
        ("adamw", {"weight_decay": -1.0}, r"weight_decay is -1\.0"),
        ("adam", {"betas": (0.9, 1.0)}, r"betas are \[0\.9, 1\.0\]"),
        ("adam", {"betas": (0.9,)}, r"betas are \[0\.9\]"),
        ("sgd", {"momentum": 1.0}, r"momentum is 1\.0"),
        ("sgd", {"momentum": 0.0, "nesterov": True}, "nesterov needs a momentum"),
    ],
)
def test_bad_parameters_are_refused(name, parameters, message):
    with pytest.raises(UserError, match=message):
        optimizers.create(name, **parameters)


def test_nothing_to_optimise_is_refused():
    with pytest.raises(UserError, match="no parameters to optimise"):
        optimizers.SGD().build([{"params": []}])
