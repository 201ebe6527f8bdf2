import logging
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polytask import sharing
from polytask.balancing import Equal
from polytask.data.batch import Batch
from polytask.errors import UserError
from polytask.model import MultiTaskModel
from polytask.sharing.discriminator import dann_ramp, gradient_reversal
from polytask.sharing.mixing import pooled
from polytask.tasks import Regression
from polytask.training.balanced_step import BalancedStep

from ..encoders.cases import CASES
from .domains import common_and_own, error, shortcut, trained

TASKS = ("age", "type", "values")
ROWS = {"age": torch.tensor([0, 3, 5]), "type": torch.tensor([1]), "values": torch.tensor([2, 4])}
SIZES = (4 * 6 + 6, 6 * 5 + 5, 5 * 3 + 3)


def trunk_of(encoder, tasks=TASKS, **parameters):
    torch.manual_seed(1)
    return sharing.create("adversarial", **parameters).build({"row": encoder}, tasks)


def inputs_of(rows=6):
    return {"row": torch.randn(rows, 4, generator=torch.Generator().manual_seed(3))}


def gradients(value, module):
    """By name; None where `value` does not depend on a parameter."""
    names, parameters = zip(*module.named_parameters(), strict=True)
    found = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
    return dict(zip(names, found, strict=True))


def in_turn(stages, features):
    for stage in stages.values():
        features = stage(features)
    return features.values


def test_reversal_leaves_values_and_turns_gradients():
    values = torch.randn(3, 2, requires_grad=True)
    reversed_ = gradient_reversal(values, 0.3)
    torch.testing.assert_close(reversed_, values)
    outer = torch.randn(3, 2)
    torch.testing.assert_close(torch.autograd.grad(reversed_, values, outer)[0], -0.3 * outer)


def test_features_are_the_shared_ones_and_the_tasks_own(encoder):
    trunk, inputs = trunk_of(encoder), inputs_of()
    found = trunk(inputs, TASKS, ROWS).features
    for task in TASKS:
        own = inputs["row"][ROWS[task]]
        expected = torch.cat([in_turn(encoder.stages, own), in_turn(trunk.private[task], own)], dim=1)
        torch.testing.assert_close(found[task].values, expected)
    firsts = [encoder.stages["bottom"], *(trunk.private[task]["bottom"] for task in TASKS)]
    assert len({tuple(stage.module[0].weight.flatten().tolist()) for stage in firsts}) == 4


def test_copies_of_pretrained_encoders_start_alike(encoder):
    encoder.pretrained = True
    features = trunk_of(encoder)(inputs_of(), TASKS, {}).features
    for task in TASKS:
        torch.testing.assert_close(features[task].values[:, :3], features[task].values[:, 3:])


@pytest.mark.parametrize(
    ("parameters", "private", "shape"),
    [
        ({}, sum(SIZES), 6),
        ({"private": False}, 0, 3),
        ({"private_until": "middle"}, sum(SIZES[:2]), 8),
        ({"common_until": "bottom"}, sum(SIZES[1:]), 6),
        ({"private_until": -1, "common_until": 1}, SIZES[1], 8),
    ],
)
def test_parameters_are_one_shared_encoder_the_private_ones_and_the_discriminator(encoder, parameters, private, shape):
    for layers in (0, 2):
        trunk = trunk_of(encoder, discriminator_layers=layers, **parameters)
        discriminator = layers * (3 * 3 + 3) + (3 * 3 + 3)
        assert sum(p.numel() for p in trunk.parameters()) == sum(SIZES) + 3 * private + discriminator
        assert sum(p.numel() for p in trunk.shared_parameters()) == sum(SIZES)
        assert {trunk.shape(task).width for task in TASKS} == {shape}
        assert trunk(inputs_of(), ["age"], {}).features["age"].values.shape == (6, shape)


def test_private_encoders_may_stand_on_the_first_shared_stages(encoder):
    trunk, inputs = trunk_of(encoder, common_until=1, private_until="middle"), inputs_of()
    found = trunk(inputs, TASKS, ROWS).features["type"].values
    own = trunk.private["type"]["middle"](encoder.stages["bottom"](inputs["row"][1:2])).values
    torch.testing.assert_close(found[:, 3:], own)


def test_a_private_encoder_that_ends_with_tokens_gives_their_mean():
    case = CASES["transformer"]
    built = case.build()
    trunk, inputs = trunk_of(built, private_until="embed").eval(), case.inputs()
    found = trunk({"row": inputs}, TASKS, {}).features["age"].values
    torch.testing.assert_close(found[:, built.shape.width :], pooled(trunk.private["age"]["embed"](inputs)))


def test_nothing_is_computed_for_tasks_that_are_not_wanted(encoder):
    trunk, calls = trunk_of(encoder), []
    for task in TASKS:
        trunk.private[task]["top"].register_forward_hook(lambda *_, task=task: calls.append(task))
    trunk(inputs_of(), ["type"], ROWS)
    assert calls == ["type"]


@pytest.mark.parametrize(("schedule", "progress"), [("constant", 0.1), ("dann", 0.1), ("dann", 0.0), ("dann", None)])
def test_the_discriminator_learns_at_full_strength_and_the_shared_encoder_unlearns(encoder, schedule, progress):
    trunk, inputs = trunk_of(encoder, strength=0.4, schedule=schedule), inputs_of()
    if progress is not None:
        trunk.set_progress(progress)
    ramp = 1 if schedule == "constant" or progress is None else 2 / (1 + math.exp(-10 * progress)) - 1
    assert progress is None or dann_ramp(progress) == pytest.approx(2 / (1 + math.exp(-10 * progress)) - 1)
    penalty = trunk(inputs, TASKS, ROWS).penalties["discriminator"]

    scores = trunk.adversary.discriminator(in_turn(encoder.stages, inputs["row"])).log_softmax(1)
    by_hand = -(scores[[0, 3, 5], 0].mean() + scores[1, 1] + scores[[2, 4], 2].mean())
    torch.testing.assert_close(penalty, by_hand)
    found, plain = gradients(penalty, trunk), gradients(by_hand, trunk)
    for name, gradient in found.items():
        if name.startswith("private"):
            assert gradient is None
        elif name.startswith("adversary"):
            torch.testing.assert_close(gradient, plain[name])
        else:
            # A ramp left out stands for its end, 1.
            torch.testing.assert_close(gradient, -0.4 * ramp * plain[name])


def test_without_strength_the_encoder_is_left_alone_and_the_discriminator_learns(encoder):
    trunk = trunk_of(encoder, strength=0, orthogonality=0)
    found = gradients(trunk(inputs_of(), TASKS, ROWS).penalties["discriminator"], trunk)
    assert all(found[name].abs().sum() > 0 for name in found if name.startswith("adversary"))
    assert all(found[name].abs().sum() == 0 for name in found if name.startswith("shared"))


@pytest.mark.parametrize("form", ["raw", "normalized"])
def test_orthogonality_is_the_product_of_shared_and_private_features(encoder, form):
    trunk, inputs = trunk_of(encoder, orthogonality=0.2, orthogonality_form=form), inputs_of()
    output = trunk(inputs, TASKS, ROWS)
    expected = 0
    for task in TASKS:
        for i in range(3):
            for j in range(3):
                rows = output.features[task].values
                scale = 1
                if form == "normalized":
                    scale = rows[:, :3].norm(dim=1) * rows[:, 3:].norm(dim=1) * len(rows)
                expected += 0.2 * (rows[:, i] * rows[:, 3 + j] / scale).sum().square()
    torch.testing.assert_close(output.penalties["orthogonality"], expected)
    found = gradients(output.penalties["orthogonality"], trunk)
    assert all((gradient is None) == name.startswith("adversary") for name, gradient in found.items())


def test_normalized_orthogonality_is_at_most_its_strength_for_each_task(encoder):
    encoder.pretrained = True  # so that shared and private features are the same
    trunk = trunk_of(encoder, orthogonality=0.2)
    one_row = dict.fromkeys(TASKS, torch.tensor([0]))
    assert trunk(inputs_of(), TASKS, one_row).penalties["orthogonality"].item() == pytest.approx(0.6)
    assert 0 < trunk(inputs_of(), TASKS, ROWS).penalties["orthogonality"].item() < 0.6


def test_normalized_orthogonality_has_finite_gradients_where_features_vanish(encoder):
    with torch.no_grad():
        for parameter in encoder.stages["top"].parameters():
            parameter.zero_()
    trunk = trunk_of(encoder)
    found = gradients(trunk(inputs_of(), TASKS, ROWS).penalties["orthogonality"], trunk)
    assert all(gradient.isfinite().all() for gradient in found.values() if gradient is not None)


def test_penalties_are_left_out_where_they_have_no_strength_or_no_private_encoders(encoder):
    assert set(trunk_of(encoder)(inputs_of(), TASKS, ROWS).penalties) == {"discriminator", "orthogonality"}
    for parameters in ({"orthogonality": 0}, {"private": False}):
        assert set(trunk_of(encoder, **parameters)(inputs_of(), TASKS, ROWS).penalties) == {"discriminator"}


def test_where_all_rows_are_labelled_for_all_tasks_the_adversary_rests_and_a_warning_says_so_once(encoder, caplog):
    trunk = trunk_of(encoder)
    with caplog.at_level(logging.WARNING, "polytask"):
        for _ in range(2):
            assert set(trunk(inputs_of(), TASKS, {"age": None}).penalties) == {"orthogonality"}
    assert [record.name for record in caplog.records] == ["polytask"]
    assert "every row is labelled for all tasks, so there is nothing for the adversary to tell apart" in caplog.text


def test_a_step_of_some_tasks_is_shown_to_the_adversary(encoder, caplog):
    trunk, inputs = trunk_of(encoder), inputs_of()
    # As where tasks take turns: all rows of this step are of one task.
    penalty = trunk(inputs, ["type"], {"type": None}).penalties["discriminator"]
    scores = trunk.adversary.discriminator(in_turn(encoder.stages, inputs["row"]))
    torch.testing.assert_close(penalty, F.cross_entropy(scores, torch.ones(6, dtype=torch.long)))
    assert not caplog.records
    nothing = torch.tensor([], dtype=torch.long)
    assert "discriminator" not in trunk(inputs, ["type"], {"type": nothing}).penalties


def test_one_task_alone_has_no_adversary(encoder):
    trunk = trunk_of(encoder, ["only"])
    assert trunk.adversary is None
    trunk.set_progress(0.5)
    assert set(trunk(inputs_of(), ["only"], {}).penalties) == {"orthogonality"}
    assert trunk.learned() == {}


def test_what_the_discriminator_takes_tasks_for_is_told(encoder):
    trunk = trunk_of(encoder)
    torch.testing.assert_close(trunk.learned()["discriminator"].values, torch.full((3, 3), 1 / 3))
    with torch.no_grad():
        linear = trunk.adversary.discriminator[0]
        linear.weight.zero_()
        linear.bias.copy_(torch.tensor([50.0, 0.0, 0.0]))
    for _ in range(200):
        trunk(inputs_of(), TASKS[:2], ROWS)
    table = trunk.learned()["discriminator"]
    assert table.rows == table.columns == TASKS
    expected = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [1 / 3, 1 / 3, 1 / 3]])
    torch.testing.assert_close(table.values, expected, atol=1e-4, rtol=0)


def test_half_precision_does_not_overflow(encoder):
    with torch.no_grad():
        for stage in encoder.stages.values():
            stage.module[0].weight.mul_(10)
    trunk = trunk_of(encoder, orthogonality=1e5, orthogonality_form="raw")
    rows = {task: torch.arange(first, 600, 3) for first, task in enumerate(TASKS)}
    with torch.autocast("cpu", torch.bfloat16):
        penalties = trunk(inputs_of(600), TASKS, rows).penalties
    assert {penalty.dtype for penalty in penalties.values()} == {torch.float32}
    assert all(penalty.isfinite() for penalty in penalties.values())


def test_a_step_adds_the_penalties_gradients_to_the_tasks(encoder):
    torch.manual_seed(1)
    model = MultiTaskModel({"row": encoder}, [Regression(task) for task in TASKS], sharing.Adversarial(strength=1))
    masks = {task: torch.zeros(6, 1, dtype=torch.bool) for task in TASKS}
    for task in TASKS:
        masks[task][ROWS[task]] = True
    batch = Batch.of(inputs_of(), {task: torch.ones(6, 1) for task in TASKS}, masks, torch.arange(6))
    found = model.objectives(batch)
    whole = sum([*found.losses.values(), *found.penalties.values()])
    expected = gradients(whole, model)
    step = BalancedStep(model, Equal(), dict.fromkeys(TASKS, 1.0))
    step.backward([batch], model.trunk.shared_parameters(), None)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"strength": -0.1}, "'strength' must be a number, 0 or more, but -0.1 was given"),
        ({"orthogonality": math.nan}, "'orthogonality' must be a number, 0 or more, but nan was given"),
        ({"schedule": "linear"}, "'schedule' must be one of 'constant', 'dann', but 'linear' was given"),
        ({"orthogonality_form": "cosine"}, "'orthogonality_form' must be one of 'normalized', 'raw', but 'cosine'"),
        ({"discriminator_layers": -1}, "'discriminator_layers' must be at least 0, but -1 was given"),
        ({"private": False, "private_until": 1}, "describe private encoders, but 'private' is false"),
        ({"private": False, "common_until": "bottom"}, "describe private encoders, but 'private' is false"),
    ],
)
def test_parameters_out_of_their_limits_are_refused(parameters, message):
    for name in ("adversarial", "man"):
        with pytest.raises(UserError, match=message):
            sharing.create(name, **parameters)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"common_until": "top"}, "Nothing is left of the private encoders: they end with stage 3, and the first 3"),
        ({"private_until": 0}, "Nothing is left of the private encoders.*or private: false"),
        ({"private_until": "midle"}, r"no stage 'midle'.*Did you mean 'middle'"),
    ],
)
def test_stages_that_do_not_fit_are_refused(encoder, parameters, message):
    with pytest.raises(UserError, match=message):
        trunk_of(encoder, **parameters)


def test_shared_and_private_features_learn_what_is_common_and_what_is_not():
    """25 rows a domain are too few to learn it separately, and one narrow network cannot hold it."""
    optimizer, errors = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.12), {}
    for name, parameters in {
        "shared": {"scheme": "hard"},
        "separate": {"scheme": "hard", "share_until": 0},
        "adversarial": {"scheme": "adversarial"},
    }.items():
        runs = []
        for seed in range(3):
            options = {"width": 2, "steps": 60, "optimizer": optimizer, "seed": seed}
            trunk, heads = trained(data=common_and_own(seed, 25), **options, **parameters)
            runs.append(error(trunk, heads, common_and_own(1000 + seed, 500)))
        errors[name] = sum(runs) / 3
    assert errors["adversarial"] < min(errors["shared"], errors["separate"]) - 0.03


def test_the_adversary_keeps_shortcuts_out_that_tell_the_domain():
    """One column tells domain and label while training; where it does not, those who rely on it err."""
    errors, told = {}, {}
    for name, parameters in {
        "shared": {"scheme": "hard"},
        "separate": {"scheme": "hard", "share_until": 0},
        "watched": {"scheme": "adversarial", "private": False, "strength": 0.0},
        "adversarial": {"scheme": "adversarial", "private": False, "strength": 1.0},
    }.items():
        trunk, heads = trained(data=shortcut(0, 100), width=4, steps=150, **parameters)
        errors[name] = error(trunk, heads, shortcut(1000, 500, holds=0.5))
        if trunk.learned():
            told[name] = trunk.learned()["discriminator"].values.diagonal().mean().item()
    assert errors["adversarial"] < min(errors["shared"], errors["separate"], errors["watched"]) - 0.08
    # A quarter is what guessing one of four domains gives.
    assert told["adversarial"] < 0.4
    assert told["watched"] > 0.5


def test_the_discriminators_hidden_layers_are_as_wide_as_the_features(encoder):
    trunk = trunk_of(encoder, discriminator_layers=1)
    kinds = [type(module) for module in trunk.adversary.discriminator]
    assert kinds == [nn.Linear, nn.ReLU, nn.Linear]
