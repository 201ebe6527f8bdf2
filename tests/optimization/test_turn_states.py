"""An optimiser's state of its own for each turn, against an optimiser for each turn."""

import copy
import io

import pytest
import torch
from torch import nn

from polytask.optimization import TurnStates, optimizers

TURNS = [("a",), ("b",), ("a",), ("a", "b"), ("b",), ("b",), ("a", "b"), ("a",)]
RATES = {"adam": 0.05, "adamw": 0.05, "sgd": 0.05}


def network() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"shared": nn.Linear(3, 3), "a": nn.Linear(3, 1), "b": nn.Linear(3, 1)})


def backward(net: nn.ModuleDict, turn: tuple[str, ...], seed: int) -> None:
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
    sum(net[task](net["shared"](rows).tanh()).square().mean() for task in turn).backward()


def step(net, optimizer, states, turn, seed) -> None:
    backward(net, turn, seed)
    states.enter(turn)
    optimizer.step()
    optimizer.zero_grad()


def built(name: str, parameters) -> torch.optim.Optimizer:
    return optimizers.create(name, lr=RATES[name]).build([{"params": list(parameters)}])


@pytest.mark.parametrize("name", sorted(RATES))
def test_each_turn_has_an_optimiser_of_its_own_over_what_is_shared(name):
    net, by_hand = network(), network()
    optimizer = built(name, net.parameters())
    states = TurnStates(optimizer, list(net["shared"].parameters()))
    shared = {turn: built(name, by_hand["shared"].parameters()) for turn in dict.fromkeys(TURNS)}
    heads = built(name, [*by_hand["a"].parameters(), *by_hand["b"].parameters()])
    for seed, turn in enumerate(TURNS):
        step(net, optimizer, states, turn, seed)
        backward(by_hand, turn, seed)
        shared[turn].step()
        heads.step()
        by_hand.zero_grad()
        for one, other in zip(net.parameters(), by_hand.parameters(), strict=True):
            assert torch.equal(one, other)


def test_alternating_with_as_many_adams_as_tasks():
    net, by_hand = network(), network()
    optimizer = built("adam", net.parameters())
    states = TurnStates(optimizer, list(net["shared"].parameters()))
    adams = {t: torch.optim.Adam([*by_hand["shared"].parameters(), *by_hand[t].parameters()], lr=0.05) for t in "ab"}
    for seed in range(10):
        task = "aab"[seed % 3]
        step(net, optimizer, states, (task,), seed)
        backward(by_hand, (task,), seed)
        adams[task].step()
        by_hand.zero_grad()
    for one, other in zip(net.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_it_makes_a_difference():
    kept, common = network(), network()
    for net, apart in ((kept, True), (common, False)):
        optimizer = built("adam", net.parameters())
        states = TurnStates(optimizer, list(net["shared"].parameters()))
        for seed, turn in enumerate(TURNS):
            backward(net, turn, seed)
            states.enter(turn if apart else ("all",))
            optimizer.step()
            optimizer.zero_grad()
    assert not torch.allclose(kept["shared"].weight, common["shared"].weight)


@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_saved_state_goes_on_as_it_would_have(after):
    whole = network()
    optimizer = built("adamw", whole.parameters())
    states = TurnStates(optimizer, list(whole["shared"].parameters()))
    for seed, turn in enumerate(TURNS[:after]):
        step(whole, optimizer, states, turn, seed)
    file = io.BytesIO()
    torch.save({"net": whole.state_dict(), "optimizer": optimizer.state_dict(), "turns": states.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    part = copy.deepcopy(network())
    part.load_state_dict(saved["net"])
    other = built("adamw", part.parameters())
    other.load_state_dict(saved["optimizer"])
    restored = TurnStates(other, list(part["shared"].parameters()))
    restored.load_state_dict(saved["turns"])
    for seed, turn in list(enumerate(TURNS))[after:]:
        step(whole, optimizer, states, turn, seed)
        step(part, other, restored, turn, seed)
    for one, same in zip(whole.parameters(), part.parameters(), strict=True):
        assert torch.equal(one, same)
