import pytest
import torch

from polytask import sharing
from polytask.errors import UserError

from .one_unit import error
from .test_mmoe import SHARED_SIZE, TASKS, features_of, softmax
from .test_ple import HIDDEN, perceptrons


def trunk_of(encoder, tasks=TASKS, **parameters):
    torch.manual_seed(1)
    return sharing.create("adatt", **parameters).build({"row": encoder}, tasks)


@pytest.mark.parametrize(("own", "shared"), [(1, 0), (1, 1), (2, 0), (2, 3)])
@pytest.mark.parametrize("levels", [1, 2])
def test_all_experts_are_fused_and_a_units_own_are_added(encoder, own, shared, levels):
    trunk = trunk_of(encoder, task_experts=own, shared_experts=shared, levels=levels, hidden=[HIDDEN])
    for level in trunk.levels:
        for _, fusion in level.units():
            if fusion.own is not None:
                torch.nn.init.normal_(fusion.own)
    inputs = torch.randn(4, 4)
    counts = [own] * 3 + [shared] * (shared > 0)
    flowing = [encoder(inputs).values] * len(counts)
    for number, level in enumerate(trunk.levels):
        if number == 0:
            (together,) = level.experts
            outputs = perceptrons(together, flowing[0])
        else:
            outputs = [
                output for group, x in zip(level.experts, flowing, strict=True) for output in perceptrons(group, x)
            ]
        fusions = [fusion for _, fusion in level.units()]
        assert len(fusions) == (len(counts) if number < levels - 1 else 3)
        made = []
        for unit, fusion in enumerate(fusions):
            gate, x = fusion.gate.map, flowing[unit]
            weights = softmax(x @ gate.weight.T + gate.bias)
            total = sum(weights[:, [place]] * output for place, output in enumerate(outputs))
            start = sum(counts[:unit])
            for place in range(counts[unit]):
                total = total + outputs[start + place] * (1 if counts[unit] == 1 else fusion.own[place])
            made.append(total)
        flowing = made
    for found, expected in zip(features_of(trunk, inputs).values(), flowing, strict=True):
        torch.testing.assert_close(found, expected)


def test_what_is_added_starts_as_the_mean_of_the_units_own_experts(encoder):
    trunk = trunk_of(encoder, task_experts=4)
    assert trunk.levels[0].fusions["age"].own.tolist() == [0.25] * 4
    table = trunk.learned()["own experts in level 1"]
    assert table.values.tolist() == [[0.25] * 4] * 3
    assert (table.rows, table.columns) == (tuple(TASKS), tuple(f"expert {number}" for number in range(1, 5)))
    assert "own experts in level 1" not in trunk_of(encoder, task_experts=1).learned()


def test_one_task_with_one_expert_has_twice_what_it_computes(encoder):
    trunk = trunk_of(encoder, ["only"], task_experts=1, shared_experts=0, levels=1, share_until=1)
    inputs = torch.randn(4, 4)
    torch.testing.assert_close(features_of(trunk, inputs, ["only"])["only"], 2 * encoder(inputs).values)


def test_it_has_this_many_parameters(encoder):
    trunk = trunk_of(encoder, task_experts=2, shared_experts=3, hidden=[HIDDEN])
    count = 2 * 3 + 3
    experts = count * (3 * HIDDEN + HIDDEN) + count * (HIDDEN * HIDDEN + HIDDEN)
    first_gates, last_gates = 4 * (3 * count + count), 3 * (HIDDEN * count + count)
    first_own, last_own = 3 * 2 + 3, 3 * 2
    total = SHARED_SIZE + experts + first_gates + last_gates + first_own + last_own
    assert sum(p.numel() for p in trunk.parameters()) == total
    assert sum(p.numel() for p in trunk.shared_parameters()) == total - last_gates - last_own


def test_stages_can_be_its_experts(encoder):
    trunk = trunk_of(encoder, share_until=1, task_experts=1, shared_experts=1)
    expected = 4 * 6 + 6 + 4 * (6 * 5 + 5) + 4 * (6 * 4 + 4) + 4 * (5 * 3 + 3) + 3 * (5 * 4 + 4)
    assert sum(p.numel() for p in trunk.parameters()) == expected
    assert features_of(trunk, torch.randn(2, 4))["age"].shape == (2, 3)


def test_tasks_with_nothing_in_common_gain_over_hard_sharing():
    assert error("adatt", share_until=1, task_experts=1, shared_experts=1) < 0.4 * error("hard")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"task_experts": 0}, "'task_experts' must be at least 1"),
        ({"shared_experts": -1}, "'shared_experts' must be at least 0"),
        ({"levels": 0}, "'levels' must be at least 1"),
        ({"levels": "top"}, "adatt: 'levels' is 'top'"),
        ({"share_until": 0}, "adatt: 'share_until' is 0, but the gates cannot read the raw input of Layers"),
    ],
)
def test_bad_parameters_are_refused(encoder, parameters, message):
    with pytest.raises(UserError, match=message):
        trunk_of(encoder, **parameters)
