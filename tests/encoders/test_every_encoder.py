"""What holds for all encoders."""

import copy
import inspect
import io
import json
import pickle
from typing import Any, get_args, get_type_hints

import pytest
import torch
from torch import nn

from polytask import encoders
from polytask.components import FROM_DATA
from polytask.encoders import Encoder, Features
from polytask.encoders.encoder import Modality
from polytask.graphs import Graphs
from polytask.shapes import ImageShape, InputShape, TabularShape


def outputs_by_stage(encoder: Encoder, inputs: Any) -> list[Features]:
    features, found = inputs, []
    for name in encoder.stage_names:
        features = encoder.stages[name](features)
        found.append(features)
    return found


def rows_of(inputs: Any, rows: slice) -> Any:
    if isinstance(inputs, Graphs):
        return inputs.select(torch.arange(len(inputs))[rows])
    return {key: value[rows] for key, value in inputs.items()} if isinstance(inputs, dict) else inputs[rows]


def test_stages_end_in_a_vector_and_say_their_shapes(case):
    encoder, inputs = case.build().eval(), case.inputs()
    with torch.no_grad():
        found = outputs_by_stage(encoder, inputs)
        whole = encoder(inputs).values
    assert torch.equal(found[-1].values, whole)
    assert encoder.shape.kind == "vector"
    assert whole.shape == (5, encoder.shape.width)
    assert whole.isfinite().all()
    for name, features in zip(encoder.stage_names, found, strict=True):
        shape = encoder.stages[name].shape
        channels = {"vector": -1, "tokens": -1, "map": 1, "nodes": -1}[shape.kind]
        assert features.values.ndim == {"vector": 2, "tokens": 3, "map": 4, "nodes": 2}[shape.kind], name
        assert (features.graphs is not None) == (shape.kind == "nodes"), name
        assert features.values.shape[channels] == shape.width, name


def test_gradient_reaches_every_parameter(case):
    encoder = case.build().eval()
    # Enough rows that every id and every unit counts for something.
    encoder(case.inputs(rows=5)).values.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_rows_do_not_influence_each_other_in_evaluation(case):
    encoder, inputs = case.build().eval(), case.inputs()
    with torch.no_grad():
        together = encoder(inputs).values
        alone = torch.cat([encoder(rows_of(inputs, slice(row, row + 1))).values for row in range(5)])
    torch.testing.assert_close(alone, together, rtol=1e-3, atol=1e-4)


def test_a_stage_leaves_its_input_as_it_was(case):
    encoder, inputs = case.build(), case.inputs()
    features = inputs
    for name in encoder.stage_names:
        before = copy.deepcopy(features) if features is inputs else features.values.detach().clone()
        after = encoder.stages[name](features)
        if features is inputs:
            assert all(torch.equal(a, b) for a, b in zip(leaves(inputs), leaves(before), strict=True)), name
        else:
            assert torch.equal(features.values, before), name
        features = after


def leaves(inputs: Any) -> list[torch.Tensor]:
    if isinstance(inputs, Graphs):
        return [tensor for tensor in vars(inputs).values() if tensor is not None]
    return list(inputs.values()) if isinstance(inputs, dict) else [inputs]


def test_works_in_bfloat16_autocast_with_gradients(case):
    encoder, inputs = case.build(), case.inputs()
    with torch.autocast("cpu", torch.bfloat16):
        values = encoder(inputs).values
    values.float().sum().backward()
    assert values.isfinite().all()
    encoder.eval()
    with torch.no_grad():
        exact = encoder(inputs).values
        with torch.autocast("cpu", torch.bfloat16):
            close = encoder(inputs).values.float()
    torch.testing.assert_close(close, exact, rtol=0.1, atol=0.05 * float(exact.abs().max()))


def test_trains_on_one_row(case):
    if case.parameters.get("name") == "mobilenetv3_small_050":
        pytest.skip("timm's batch normalisation cannot train on a map of one position")
    case.build().train()(case.inputs(rows=1)).values.sum().backward()


def test_copies_and_pickles_are_equal_and_apart(case):
    encoder, inputs = case.build().eval(), case.inputs()
    expected = encoder(inputs).values
    for stage in encoder.stage_names:
        copy.deepcopy(encoder.stages[stage])
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert torch.equal(other(inputs).values, expected)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
    assert torch.equal(encoder(inputs).values, expected)


def test_no_module_or_parameter_belongs_to_two_stages(case):
    encoder = case.build()
    for members in (nn.Module.modules, nn.Module.parameters):
        found = [id(member) for name in encoder.stages for member in {*members(encoder.stages[name])}]
        assert len(found) == len({*found})


def test_reload_parameters_are_json_and_rebuild_the_same_network(case):
    encoder, inputs = case.build().eval(), case.inputs()
    saved = json.loads(json.dumps(encoder.for_reload(case.parameters)))
    buffer = io.BytesIO()
    torch.save(encoder.state_dict(), buffer)
    buffer.seek(0)
    torch.manual_seed(99)
    again = encoders.create(case.name, **saved, shape=case.shape).eval()
    again.load_state_dict(torch.load(buffer))
    assert again.stage_names == encoder.stage_names
    with torch.no_grad():
        assert torch.equal(again(inputs).values, encoder(inputs).values)


def test_building_depends_on_the_seed_alone_and_starts_in_training_mode(case):
    first, second = case.build(), case.build()
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert all(module.training for module in first.modules())


@pytest.mark.parametrize("name", encoders.names())
def test_signature_is_typed_documented_and_ends_in_the_shape(name):
    cls = encoders.family.get(name)
    assert cls.modality in get_args(Modality)
    signature = inspect.signature(cls)
    hints = get_type_hints(cls.__init__, include_extras=True)
    documented = inspect.getdoc(cls).partition("Args:")[2]
    for parameter in signature.parameters.values():
        assert parameter.name in hints, parameter
        assert f"\n    {parameter.name}: " in documented, parameter
    last = [*signature.parameters.values()][-1]
    assert (last.name, last.kind) == ("shape", inspect.Parameter.KEYWORD_ONLY)
    kind, mark = get_args(hints["shape"])
    assert mark is FROM_DATA
    assert kind in get_args(InputShape)
    assert last.default == (ImageShape() if cls.modality == "image" else inspect.Parameter.empty)


def test_family_lists_all_encoders():
    assert encoders.names() == (
        "audio_cnn",
        "auto_model",
        "bag",
        "bigru",
        "cnn",
        "crnn",
        "ft_transformer",
        "gat",
        "gcn",
        "gin",
        "lstm",
        "mlp",
        "resnet",
        "series_transformer",
        "speech_model",
        "tabular_resnet",
        "tcn",
        "text_cnn",
        "timm",
        "transformer",
        "vgg",
    )
    assert isinstance(encoders.create("mlp", shape=TabularShape(1)), encoders.MLP)
