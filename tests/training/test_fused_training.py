"""What trains a model of several inputs: rates by input, what is hidden, costs, saved models."""

import pytest
import torch

from polytask import UserError, fusion, sharing
from polytask.data.batch import Batch
from polytask.fusion import FUSED
from polytask.model import MultiTaskModel
from polytask.partial import PartialInput
from polytask.tasks import Classification, Regression
from polytask.training.costs import count_costs
from polytask.training.own_training import Rates
from polytask.training.transfer import Transfer

from ..encoders import cases
from ..fusion.cases import ENCODERS, HELD, ROWS, partial

NAMES = ("picture", "text", "row")


def encoders():
    return {name: cases.CASES[ENCODERS[name]].build() for name in NAMES}


def whole(seed=0):
    return {name: cases.CASES[ENCODERS[name]].inputs(ROWS, seed) for name in NAMES}


def model(made=None, scheme=None):
    torch.manual_seed(0)
    tasks = [Classification("kind", classes=3), Regression("size", mean=[0.0], std=[1.0])]
    return MultiTaskModel(encoders(), tasks, scheme, fusion=made)


def batch(inputs):
    targets = {"kind": torch.tensor([0, 1, 2, 0, 1]), "size": torch.randn(ROWS, 1)}
    masks = {"kind": torch.tensor([1, 1, 0, 1, 0]).bool(), "size": torch.tensor([[0], [1], [1], [0], [1]]).bool()}
    return Batch.of(inputs, targets, masks, torch.arange(ROWS))


MADE = {
    "concat": fusion.Concat(width=6),
    "attention": fusion.Attention(dim=8, hidden=4),
    "perceiver": fusion.Perceiver(dim=8, latents=3, depth=1, heads=2),
    "shared_transformer": fusion.SharedTransformer(dim=8, depth=1, heads=2),
}


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("scheme", [sharing.Hard(), sharing.Hard(share_until=0), sharing.MMoE(share_until="encoders")])
def test_a_model_learns_from_rows_that_lack_inputs(made, scheme):
    network = model(MADE[made], scheme)
    inputs = {name: partial(value, HELD[name]) for name, value in whole().items()}
    losses = network.losses(batch(inputs))
    assert set(losses) == {"kind", "size"}
    sum(losses.values()).backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in network.parameters())
    found = network.eval()(inputs)
    assert found["kind"].shape == (ROWS, 3)


def test_several_inputs_without_a_fusion_are_side_by_side():
    network = model()
    assert network.trunk.stage_names == ("encoders", "layer1")
    assert network.trunk.input == FUSED


def test_an_input_can_lack_or_be_unknown():
    network = model().eval()
    inputs = whole()
    text = network({"text": inputs["text"]})["kind"]
    both = network({"text": inputs["text"], "row": partial(inputs["row"], ())})["kind"]
    torch.testing.assert_close(text, both)
    with pytest.raises(UserError, match="no input 'texts'. Did you mean 'text'"):
        network({"texts": inputs["text"]})


def test_inputs_are_hidden_in_training_alone_and_alike_for_all_tasks():
    network = model(fusion.SharedTransformer(dim=8, depth=1, heads=2, dropout=0.0, drop=0.6), sharing.Hard(0))
    for part in network.trunk.parts():
        for module in part.module.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    seen = []
    for part in network.trunk.parts():
        if part.depth == 0:
            part.module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    inputs = whole()
    network.train()(inputs)
    assert len(seen) == 2
    rows = [
        {name: value.rows.tolist() for name, value in each.items() if isinstance(value, PartialInput)} for each in seen
    ]
    assert rows[0] == rows[1] != {}
    seen.clear()
    network.eval()(inputs)
    assert not any(isinstance(value, PartialInput) for each in seen for value in each.values())


@pytest.mark.parametrize("scheme", [sharing.Hard(), sharing.Hard(share_until=0), sharing.CrossStitch()])
@pytest.mark.parametrize("made", MADE)
def test_rates_of_an_input_are_those_of_what_serves_it_alone(made, scheme):
    network = model(MADE[made], scheme)
    transfer = Transfer(encoders={"text": Rates(0.1, 0.5), "row": Rates(3.0, None)})
    groups = transfer.parameter_groups(network)
    scales = {parameter: group["lr_scale"] for group in groups for parameter in group["params"]}
    assert len(scales) == len(list(network.parameters()))
    found = {}
    for name, parameter in network.named_parameters():
        for each in NAMES:
            if "encoders" in name and f".{each}." in name:
                found.setdefault(each, set()).add(scales[parameter])
                break
        else:
            found.setdefault(None, set()).add(scales[parameter])
    assert found == {"text": {0.1}, "row": {3.0}, "picture": {1.0}, None: {1.0}}


def test_costs_are_those_of_a_row_with_all_inputs():
    network, single = model(MADE["shared_transformer"]), model(MADE["shared_transformer"])
    row = {name: partial(value, (0,)).values for name, value in whole().items()}
    costs = count_costs(network, single, row)
    assert costs.together.shared == sum(p.numel() for p in network.trunk.parameters())
    assert costs.together.multiply_adds < costs.separate.multiply_adds
    without = count_costs(network, single, {"text": row["text"]})
    assert without.together.multiply_adds < costs.together.multiply_adds


def test_a_model_of_several_inputs_is_described():
    network = model(MADE["perceiver"])
    assert [part.name for part in network.parts()] == [
        "encoders",
        "cross",
        "block1",
        "pool",
        "head of kind",
        "head of size",
    ]
    assert "encoders" in network.mermaid()
    assert network.describe()


def test_a_task_costs_what_the_inputs_of_its_rows_cost():
    network, single = model(MADE["shared_transformer"]), model(MADE["shared_transformer"])
    row = {name: partial(value, (0,)).values for name, value in whole().items()}
    costs = count_costs(network, single, row, {"kind": ["picture"], "size": ["text", "row"]})
    first, *behind = network.trunk.parts()
    own = {name: sum(p.numel() for m in first.module.of_input(name) for p in m.parameters()) for name in NAMES}
    later = sum(p.numel() for part in behind for p in part.module.parameters())
    assert costs.tasks["kind"].shared == own["picture"] + later
    assert costs.tasks["size"].shared == own["text"] + own["row"] + later
    heads = sum(p.numel() for p in network.heads.parameters())
    assert costs.separate.own == sum(own.values()) + 2 * later + heads
    assert costs.tasks["kind"].multiply_adds < costs.together.multiply_adds
    apart = count_costs(network, single, {"picture": row["picture"]}).tasks["kind"].multiply_adds
    assert costs.tasks["kind"].multiply_adds == apart
