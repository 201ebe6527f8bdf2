import pytest
import torch

from polytask import sharing
from polytask.errors import UserError
from polytask.features import Features

from ..encoders.cases import CASES
from .two_tasks import STARVED, UNRELATED, errors

TASKS = ["age", "type", "values"]
STAGE_SIZE = 4 * 6 + 6 + 6 * 5 + 5 + 5 * 3 + 3


def trunk_of(encoder, tasks=TASKS, **parameters):
    torch.manual_seed(1)
    return sharing.create("cross_stitch", **parameters).build({"row": encoder}, tasks)


def with_random_weights(trunk):
    for exchange in trunk.exchanges.values():
        for parameter in exchange.parameters():
            torch.nn.init.normal_(parameter)
    return trunk


def features_of(trunk, inputs, tasks=TASKS):
    return {task: features.values for task, features in trunk({"row": inputs}, tasks, {}).features.items()}


def weights_of(trunk, stage, *shape):
    mixers = trunk.exchanges[stage].mixers
    return torch.stack([mixers[task].weights.view(shape) for task in trunk.tasks])


def test_the_formula_with_one_weight_a_layer(encoder):
    trunk = with_random_weights(trunk_of(encoder, after=["bottom", "top"], fresh=True))
    inputs = torch.randn(5, 4)
    columns = [inputs] * 3
    for stage in ("bottom", "middle", "top"):
        columns = [trunk.columns[stage][task].module(x) for task, x in zip(TASKS, columns, strict=True)]
        if stage != "middle":
            weights = weights_of(trunk, stage, 3)
            columns = [sum(weights[i, j] * columns[j] for j in range(3)) for i in range(3)]
    torch.testing.assert_close(features_of(trunk, inputs), dict(zip(TASKS, columns, strict=True)))


def test_the_formula_with_one_weight_a_channel(encoder):
    trunk = with_random_weights(trunk_of(encoder, after="inner", per="channel", fresh=True))
    inputs = torch.randn(5, 4)
    columns = [inputs] * 3
    for stage, width in (("bottom", 6), ("middle", 5), ("top", 3)):
        columns = [trunk.columns[stage][task].module(x) for task, x in zip(TASKS, columns, strict=True)]
        if stage != "top":
            weights = weights_of(trunk, stage, 3, width)
            columns = [
                torch.stack([sum(weights[i, j, c] * columns[j][:, c] for j in range(3)) for c in range(width)], dim=1)
                for i in range(3)
            ]
    torch.testing.assert_close(features_of(trunk, inputs), dict(zip(TASKS, columns, strict=True)))


@pytest.mark.parametrize("per", ["layer", "channel"])
@pytest.mark.parametrize(("name", "channels"), [("cnn", 1), ("transformer", 2)])
def test_the_formula_on_maps_and_tokens(name, channels, per):
    case = CASES[name]
    trunk = with_random_weights(trunk_of(case.build(), TASKS[:2], after=1, per=per, fresh=True)).eval()
    stages = list(trunk.columns.values())
    found = [stages[0][task](case.inputs()) for task in TASKS[:2]]
    width = found[0].values.shape[channels]
    weights = weights_of(trunk, trunk.stage_names[0], 2, -1).expand(2, 2, width)
    if channels == 1:
        weights = weights[..., None, None]
    for i, task in enumerate(TASKS[:2]):
        # Masks pass by.
        features = Features(weights[i, 0] * found[0].values + weights[i, 1] * found[1].values, found[i].mask)
        for stage in stages[1:]:
            features = stage[task](features)
        torch.testing.assert_close(features_of(trunk, case.inputs(), TASKS[:2])[task], features.values)


def test_the_number_of_parameters(encoder):
    def count(tasks, **parameters):
        return sum(p.numel() for p in trunk_of(encoder, tasks, **parameters).parameters())

    for k in (2, 3):
        assert count(TASKS[:k]) == k * STAGE_SIZE + 3 * k**2
        assert count(TASKS[:k], per="channel") == k * STAGE_SIZE + (6 + 5 + 3) * k**2
        assert count(TASKS[:k], after="inner") == k * STAGE_SIZE + 2 * k**2


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_weights_start_with_the_most_for_oneself(encoder, per):
    tables = trunk_of(encoder, per=per, self_weight=0.8).learned()
    assert list(tables) == [f"exchange behind {stage}" for stage in ("bottom", "middle", "top")]
    for table in tables.values():
        assert table.rows == table.columns == tuple(TASKS)
        torch.testing.assert_close(table.values, torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]))


def test_rows_of_the_table_receive_and_channels_are_averaged(encoder):
    trunk = trunk_of(encoder, per="channel")
    with torch.no_grad():
        weights = trunk.exchanges["top"].mixers["type"].weights.view(3, 3)
        weights[2] = torch.tensor([1.0, 2.0, 6.0])
    table = trunk.learned()["exchange behind top"].values
    assert table[1, 2] == 3
    assert table[2, 1] == pytest.approx(0.05)


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_columns_that_start_alike_compute_what_the_encoder_does(encoder, per):
    inputs = torch.randn(5, 4)
    for features in features_of(trunk_of(encoder, per=per), inputs).values():
        torch.testing.assert_close(features, encoder(inputs).values)


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_identity_weights_are_separate_networks(encoder, per):
    trunk = trunk_of(encoder, per=per, self_weight=1.0, fresh=True)
    inputs = torch.randn(5, 4)
    found = features_of(trunk, inputs)
    for task in TASKS:
        expected = inputs
        for stage in trunk.columns.values():
            expected = stage[task].module(expected)
        torch.testing.assert_close(found[task], expected)
    # A task's loss has no gradient for another's column, then.
    found["age"].sum().backward()
    assert not trunk.columns["bottom"]["type"].module[0].weight.grad.any()
    assert trunk.columns["bottom"]["age"].module[0].weight.grad.any()


def test_equal_weights_behind_the_last_stage_are_one_ensemble(encoder):
    trunk = trunk_of(encoder, after="top", self_weight=1 / 3, fresh=True)
    first, *others = features_of(trunk, torch.randn(5, 4)).values()
    for other in others:
        torch.testing.assert_close(first, other)


def test_it_serves_unrelated_tasks_better_than_one_narrow_network():
    narrow = errors(UNRELATED, "hard").sum()
    assert errors(UNRELATED, "cross_stitch").sum() < 0.75 * narrow
    assert errors(UNRELATED, "cross_stitch", per="channel").sum() < 0.75 * narrow


def test_a_task_with_few_labels_gains_from_one_with_many():
    assert errors(STARVED, "cross_stitch")[0] < 0.85 * errors(STARVED, "hard", share_until=0)[0]


def test_an_unknown_kind_of_weights_is_refused():
    with pytest.raises(UserError, match="'per' must be 'layer' or 'channel', but 'task' was given"):
        sharing.create("cross_stitch", per="task")
