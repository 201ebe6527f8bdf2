"""What cross_stitch, sluice and nddr have in common: the columns, and where they exchange features."""

import pytest
import torch

from polytask import sharing
from polytask.encoders.encoder import Stage
from polytask.errors import UserError
from polytask.features import FeatureShape

from ..encoders.cases import CASES
from .conftest import Layers

TASKS = ["age", "type", "values"]
SCHEMES = {"cross_stitch": {}, "sluice": {"subspaces": 1}, "nddr": {"after": "all"}}
STAGE_SIZES = {"bottom": 4 * 6 + 6, "middle": 6 * 5 + 5, "top": 5 * 3 + 3}

every = pytest.mark.parametrize("scheme", SCHEMES)


def trunk_of(encoder, scheme, tasks=TASKS, **parameters):
    torch.manual_seed(1)
    return sharing.create(scheme, **{**SCHEMES[scheme], **parameters}).build({"row": encoder}, tasks)


def features_of(trunk, inputs, tasks=TASKS, rows=None):
    return {task: features.values for task, features in trunk({"row": inputs}, tasks, rows or {}).features.items()}


@pytest.mark.parametrize(
    ("after", "stages"),
    [
        ("all", ["bottom", "middle", "top"]),
        ("inner", ["bottom", "middle"]),
        ("middle", ["middle"]),
        (2, ["middle"]),
        (-1, ["middle"]),
        (["top", 1], ["bottom", "top"]),
        ([3, -2, "bottom"], ["bottom", "top"]),
    ],
)
@every
def test_features_are_exchanged_behind_the_chosen_stages(encoder, scheme, after, stages):
    trunk = trunk_of(encoder, scheme, after=after)
    assert list(trunk.exchanges) == stages
    for stage, exchange in trunk.exchanges.items():
        assert list(exchange.mixers) == TASKS, stage


@pytest.mark.parametrize(("after", "last"), [("all", 2), ("inner", 1), ("bottom", 0)])
@every
def test_what_comes_behind_the_last_exchange_belongs_to_one_task(encoder, scheme, after, last):
    trunk = trunk_of(encoder, scheme, after=after)
    parts = trunk.parts()
    for depth, stage in enumerate(trunk.stage_names):
        reach = [part.tasks for part in parts if part.depth == depth and part.name.startswith(stage)]
        assert reach == ([tuple(TASKS)] * 3 if depth <= last else [(task,) for task in TASKS])
        reach = [part.tasks for part in parts if part.depth is None and part.name == f"exchange behind {stage}"]
        if depth > last or stage not in trunk.exchanges:
            assert reach == []
        else:
            assert reach == ([tuple(TASKS)] if depth < last else [(task,) for task in TASKS])


@every
def test_behind_the_last_exchange_only_wanted_rows_of_wanted_tasks_are_computed(encoder, scheme):
    trunk = trunk_of(encoder, scheme, after="bottom").eval()
    calls = []
    for stage in trunk.columns:
        for task in TASKS:
            trunk.columns[stage][task].register_forward_hook(
                lambda _, __, out, at=(stage, task): calls.append((*at, len(out.values)))
            )
    inputs = torch.randn(5, 4)
    found = features_of(trunk, inputs, ["type"], {"type": torch.tensor([1, 4])})
    before = [("bottom", task, 5) for task in TASKS]
    assert calls == [*before, ("middle", "type", 2), ("top", "type", 2)]
    torch.testing.assert_close(found["type"], features_of(trunk, inputs)["type"][[1, 4]])


@every
def test_first_stages_can_be_shared(encoder, scheme):
    trunk = trunk_of(encoder, scheme, share_until="bottom")
    assert list(trunk.exchanges) == ["middle", "top"]
    sizes = list(STAGE_SIZES.values())
    stages = {part.module: part for part in trunk.parts() if isinstance(part.module, Stage)}
    assert sum(p.numel() for stage in stages for p in stage.parameters()) == sizes[0] + 3 * sum(sizes[1:])
    assert next((part.name, part.tasks) for part in trunk.parts()) == ("bottom", tuple(TASKS))


@every
def test_a_task_alone_gets_the_encoder(encoder, scheme):
    inputs = torch.randn(5, 4)
    expected = encoder(inputs).values
    more = {"mix_layers": False} if scheme == "sluice" else {}
    trunk = trunk_of(encoder, scheme, ["only"], **more)
    torch.testing.assert_close(features_of(trunk, inputs, ["only"])["only"], expected)
    rows = {"only": torch.tensor([3, 0])}
    torch.testing.assert_close(features_of(trunk, inputs, ["only"], rows)["only"], expected[[3, 0]])
    assert sum(p.numel() for p in trunk.parameters()) == sum(STAGE_SIZES.values())
    assert trunk.learned() == {}


@every
def test_columns_start_alike_or_fresh_and_pretrained_ones_always_alike(encoder, scheme):
    def weights(**parameters):
        stages = trunk_of(encoder, scheme, **parameters).columns["middle"]
        return [stages[task].module[0].weight for task in TASKS]

    first, *others = weights()
    assert all(torch.equal(first, other) for other in others)
    first, *others = weights(fresh=True)
    assert first is encoder.stages["middle"].module[0].weight
    assert not any(torch.equal(first, other) for other in others)
    encoder.pretrained = True
    first, *others = weights(fresh=True)
    assert all(torch.equal(first, other) for other in others)


@every
def test_the_state_goes_on_after_a_copy(encoder, scheme):
    trunk = trunk_of(encoder, scheme, fresh=True)
    features_of(trunk.train(), torch.randn(8, 4))  # statistics of normalisations
    again = trunk_of(Layers(), scheme)
    again.load_state_dict(trunk.state_dict())
    inputs = torch.randn(3, 4)
    torch.testing.assert_close(features_of(again.eval(), inputs), features_of(trunk.eval(), inputs))


@every
def test_a_stage_without_parameters_before_the_columns_differ_has_no_exchange(scheme):
    encoder = Layers()
    plain = Stage(torch.nn.Identity(), FeatureShape("vector", 4))
    encoder.stages._modules = {"input": plain, **encoder.stages._modules}
    assert list(trunk_of(encoder, scheme, after="all").exchanges) == ["bottom", "middle", "top"]
    assert list(trunk_of(encoder, scheme, after="input").exchanges) == ["input"]


@every
def test_an_encoder_of_one_stage_has_an_exchange(scheme):
    encoder = CASES["bag"].build()
    assert list(trunk_of(encoder, scheme, after="inner").exchanges) == ["embed"]


@pytest.mark.parametrize("name", ["cnn", "bigru", "transformer", "resnet"])
@every
def test_columns_run_in_low_precision(scheme, name):
    case = CASES[name]
    trunk = trunk_of(case.build(), scheme).train()
    with torch.autocast("cpu", torch.bfloat16):
        found = trunk({"row": case.inputs()}, TASKS, {})
        loss = sum(values.values.float().square().mean() for values in found.features.values())
    (loss + sum(found.penalties.values())).backward()
    for parameter_name, parameter in trunk.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"after": []}, "'after' must name at least one stage, or be 'all' or 'inner', but it is empty"),
        ({"after": "midle"}, r"no stage 'midle'.*Did you mean 'middle'\?"),
        ({"after": ["top", 7]}, "7 stages were asked for, but the encoder has 3"),
        (
            {"after": 0},
            r"'NAME' over the encoder Layers cannot .* before the first stage.*'bottom', 'middle'",
        ),
        (
            {"after": "bottom", "share_until": 1},
            r"'NAME' over the encoder Layers .* behind the stage 'bottom': .*may name: 'middle', 'top'",
        ),
        ({"share_until": 3}, "tasks share all stages of the encoder Layers, and no columns are left for 'NAME'"),
        ({"share_until": "topp"}, r"no stage 'topp'.*Did you mean 'top'\?"),
        ({"self_weight": 1.1}, "'self_weight' must be from 0 to 1, but 1.1 was given"),
        ({"self_weight": -0.1}, "'self_weight' must be from 0 to 1"),
        ({"self_weight": float("nan")}, "'self_weight' must be from 0 to 1"),
    ],
)
@every
def test_bad_parameters_are_refused(encoder, scheme, parameters, message):
    with pytest.raises(UserError, match=message.replace("NAME", scheme)):
        trunk_of(encoder, scheme, **parameters)
