import pytest
import torch

from polytask import sharing
from polytask.errors import UserError

from ..encoders.cases import CASES
from .fitting import columns, error_of

TASKS = ["age", "type", "values"]
WIDTHS = {"bottom": 6, "middle": 5, "top": 3}
TRUNK = 4 * 6 + 6 + 6 * 5 + 5 + 5 * 3 + 3


def trunk_of(encoder, after="all", tasks=TASKS):
    return sharing.FiLM(after).build({"row": encoder}, tasks)


def moved(trunk):
    with torch.no_grad():
        for parameter in trunk.modulations.parameters():
            parameter.add_(torch.randn_like(parameter))
    return trunk


def test_the_start_is_hard_sharing(encoder):
    inputs = torch.randn(5, 4)
    expected = encoder(inputs).values
    for features in trunk_of(encoder)({"row": inputs}, TASKS, {}).features.values():
        torch.testing.assert_close(features.values, expected)


@pytest.mark.parametrize("after", ["all", ["bottom", "top"], ["middle"]])
def test_each_task_scales_and_shifts_the_channels_behind_each_chosen_stage(encoder, after):
    trunk = moved(trunk_of(encoder, after))
    inputs = torch.randn(5, 4)
    found = trunk({"row": inputs}, TASKS, {}).features
    for task in TASKS:
        hidden = inputs
        for name, stage in encoder.stages.items():
            hidden = stage.module(hidden)
            if after == "all" or name in after:
                modulation = trunk.modulations[name][task]
                hidden = (1 + modulation.scale) * hidden + modulation.shift
        torch.testing.assert_close(found[task].values, hidden)


def test_on_maps_the_numbers_are_the_same_at_all_positions_of_a_channel():
    case = CASES["cnn"]
    encoder = case.build().eval()
    trunk = moved(sharing.FiLM(["conv2"]).build({"image": encoder}, TASKS)).eval()
    stages = list(encoder.stages.values())
    modulation = trunk.modulations["conv2"]["type"]
    hidden = stages[1](stages[0](case.inputs())).values
    hidden = (1 + modulation.scale)[None, :, None, None] * hidden + modulation.shift[None, :, None, None]
    expected = stages[3].module(stages[2].module(hidden))
    found = trunk({"image": case.inputs()}, ["type"], {}).features["type"].values
    torch.testing.assert_close(found, expected)


def test_on_tokens_the_numbers_are_the_same_for_all_tokens_and_the_mask_stays():
    case = CASES["bigru"]
    encoder = case.build().eval()
    trunk = moved(sharing.FiLM(["embed"]).build({"text": encoder}, TASKS)).eval()
    modulation = trunk.modulations["embed"]["age"]
    stages = list(encoder.stages.values())
    features = stages[0](case.inputs())
    features = features._replace(values=(1 + modulation.scale) * features.values + modulation.shift)
    for stage in stages[1:]:
        features = stage(features)
    found = trunk({"text": case.inputs()}, TASKS, {}).features["age"].values
    torch.testing.assert_close(found, features.values)


@pytest.mark.parametrize("after", ["all", ["middle"], ["top", "bottom"]])
def test_two_numbers_for_each_task_and_channel_are_added(encoder, after):
    trunk = trunk_of(encoder, after)
    width = sum(width for name, width in WIDTHS.items() if after == "all" or name in after)
    assert sum(p.numel() for p in trunk.parameters()) == TRUNK + len(TASKS) * 2 * width
    assert sum(p.numel() for p in trunk.shared_parameters()) == TRUNK


def test_stages_run_once_for_all_rows_up_to_the_first_modulation_and_then_for_each_tasks_rows(encoder):
    trunk = trunk_of(encoder, ["middle"])
    calls = []
    for name, stage in encoder.stages.items():
        stage.register_forward_hook(lambda _, given, found, name=name: calls.append((name, len(found.values))))
    rows = {"age": torch.tensor([0, 1]), "type": torch.tensor([4]), "values": None}
    found = trunk({"row": torch.randn(5, 4)}, TASKS, rows).features
    assert calls == [("bottom", 5), ("middle", 5), ("top", 2), ("top", 1), ("top", 5)]
    assert [len(features.values) for features in found.values()] == [2, 1, 5]
    calls.clear()
    trunk({"row": torch.randn(5, 4)}, ["type"], rows)
    assert calls == [("bottom", 5), ("middle", 5), ("top", 1)]
    calls.clear()
    assert trunk({"row": torch.randn(5, 4)}, [], {}).features == {}
    assert calls == []


def test_one_task_alone_runs_on_its_own_rows_from_the_input_on(encoder):
    trunk = trunk_of(encoder, "all", ["only"])
    calls = []
    for stage in encoder.stages.values():
        stage.register_forward_hook(lambda _, given, found: calls.append(len(found.values)))
    inputs, rows = torch.randn(5, 4), torch.tensor([3, 1])
    found = trunk({"row": inputs}, ["only"], {"only": rows}).features["only"].values
    assert calls == [2, 2, 2]
    torch.testing.assert_close(found, encoder(inputs[rows]).values)


def test_how_far_tasks_are_from_hard_sharing_is_reported(encoder):
    trunk = trunk_of(encoder, ["top"])
    with torch.no_grad():
        trunk.modulations["top"]["type"].scale.copy_(torch.tensor([3.0, 0.0, -4.0]))
        trunk.modulations["top"]["age"].shift.fill_(-2.0)
    learned = trunk.learned()
    assert learned["scale"].rows == tuple(TASKS)
    assert learned["scale"].columns == ("top",)
    torch.testing.assert_close(learned["scale"].values, torch.tensor([[0.0], [(25 / 3) ** 0.5], [0.0]]))
    torch.testing.assert_close(learned["shift"].values, torch.tensor([[2.0], [0.0], [0.0]]))


def test_tasks_that_want_the_same_of_other_columns_gain():
    train, test, sizes = columns(6, 256, seed=0), columns(6, 500, seed=1), (6, 16, 16)
    film = error_of(sharing.FiLM(["embed"]), sizes, train, test, steps=200)
    hard = error_of(sharing.Hard(), sizes, train, test, steps=200)
    assert film < 0.6 * hard


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ("top", r"film: after must be 'all' or a list of stages, such as \[top\], not 'top'"),
        ([], "film: after names no stage. Name at least one, or say 'all'"),
        (["tap"], r"no stage 'tap'.*Did you mean 'top'\?.*'bottom', 'middle', 'top'"),
    ],
)
def test_what_is_no_choice_of_stages_is_refused(encoder, after, message):
    with pytest.raises(UserError, match=message):
        trunk_of(encoder, after)
