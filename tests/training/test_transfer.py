import torch
from torch import nn

from polytask.encoders import MLP
from polytask.model import MultiTaskModel
from polytask.shapes import TabularShape
from polytask.sharing import Hard
from polytask.tasks import Classification, Regression
from polytask.training.transfer import Transfer


def model(share_until: int | None = None) -> MultiTaskModel:
    encoder = MLP(width=8, depth=2, shape=TabularShape(3))
    return MultiTaskModel({"row": encoder}, [Classification("a", classes=2), Regression("b")], Hard(share_until))


def learning(network: MultiTaskModel) -> list[bool]:
    return [
        all(parameter.requires_grad for parameter in stage.parameters())
        for _, _, stage in network.trunk.stages()
        if any(True for _ in stage.parameters())
    ]


def test_frozen_stages_do_not_learn_and_heads_do():
    network = model()
    Transfer(frozen=2).apply(network, epoch=0)
    stages = list(network.trunk.stages())
    for depth, _, stage in stages:
        assert all(parameter.requires_grad == (depth >= 2) for parameter in stage.parameters())
        assert stage.training == (depth >= 2)
    assert all(parameter.requires_grad for parameter in network.heads.parameters())


def test_stages_thaw_from_the_top():
    transfer = Transfer(frozen=3, unfreeze_every=2)
    assert [transfer.frozen_at(epoch) for epoch in range(9)] == [3, 3, 2, 2, 1, 1, 0, 0, 0]
    assert [Transfer(frozen=3).frozen_at(epoch) for epoch in (0, 9)] == [3, 3]


def test_thawing_lets_learn_again():
    network = model()
    transfer = Transfer(frozen=3, unfreeze_every=1)
    transfer.apply(network, 0)
    assert not any(learning(network))
    transfer.apply(network, 3)
    assert all(learning(network))


def test_layer_decay_gives_lower_rates_further_down_and_each_parameter_one_group():
    network = model(share_until=1)
    groups = Transfer(layer_decay=0.5).parameter_groups(network)
    scale = {parameter: group["lr_scale"] for group in groups for parameter in group["params"]}
    assert set(scale) == set(network.parameters())
    for depth, total, stage in network.trunk.stages():
        assert all(scale[parameter] == 0.5 ** (total - depth) for parameter in stage.parameters())
    assert all(scale[parameter] == 1.0 for parameter in network.heads.parameters())


def test_without_decay_there_is_one_group():
    network = model()
    (group,) = Transfer().parameter_groups(network)
    assert group["lr_scale"] == 1.0
    assert len(group["params"]) == len(list(network.parameters()))


def test_frozen_normalisation_keeps_its_statistics():
    network = model()
    first = next(stage for _, _, stage in network.trunk.stages())
    first.module = nn.Sequential(first.module, nn.BatchNorm1d(3))
    Transfer(frozen=1).apply(network.train(), 0)
    before = first.module[1].running_mean.clone()
    first.module[1](torch.randn(16, 3))
    assert torch.equal(before, first.module[1].running_mean)


def test_stages_can_be_frozen_for_some_epochs_beside_the_others():
    transfer = Transfer(frozen=1, spans=[(3, 1, 3), (2, 2, None)])
    assert [transfer.frozen_at(epoch) for epoch in range(5)] == [1, 3, 3, 2, 2]


def test_a_span_that_ends_lets_learn_again():
    network = model()
    transfer = Transfer(spans=[(2, 1, 2)])
    learns = []
    for epoch in range(3):
        transfer.apply(network, epoch)
        learns.append(all(learning(network)))
    assert learns == [True, False, True]
