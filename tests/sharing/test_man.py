import pytest
import torch

from polytask import sharing
from polytask.errors import UserError

from .domains import error, shortcut, trained

TASKS = ("age", "type", "values")
ROWS = {"age": torch.tensor([0, 3, 5]), "type": torch.tensor([1]), "values": torch.tensor([2, 4])}


def trunk_of(encoder, scheme="man", **parameters):
    torch.manual_seed(1)
    return sharing.create(scheme, **parameters).build({"row": encoder}, TASKS)


def inputs_of():
    return {"row": torch.randn(6, 4, generator=torch.Generator().manual_seed(3))}


def gradients(value, module):
    names, parameters = zip(*module.named_parameters(), strict=True)
    found = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
    return dict(zip(names, found, strict=True))


def objectives(trunk, loss):
    """J_D and J_s as in the paper, row by row."""
    features = inputs_of()["row"]
    for stage in trunk.shared.values():
        features = stage(features)
    probabilities = trunk.adversary.discriminator(features.values).softmax(1)
    of_discriminator, of_encoder = 0, 0
    for number, task in enumerate(TASKS):
        for row in ROWS[task].tolist():
            share = 1 / len(ROWS[task])
            if loss == "nll":
                of_discriminator -= share * probabilities[row, number].log()
                of_encoder += share * probabilities[row, number].log()
            else:
                for other in range(3):
                    of_discriminator += share * (probabilities[row, other] - float(other == number)) ** 2
                    of_encoder += share * (probabilities[row, other] - 1 / 3) ** 2
    return of_discriminator, of_encoder


@pytest.mark.parametrize("loss", ["nll", "l2"])
def test_each_side_gets_the_gradient_of_its_own_objective(encoder, loss):
    trunk = trunk_of(encoder, loss=loss, strength=0.3)
    penalties = trunk(inputs_of(), TASKS, ROWS).penalties
    assert list(penalties) == ["discriminator", "invariance"]
    of_discriminator, of_encoder = objectives(trunk, loss)
    torch.testing.assert_close(penalties["discriminator"], of_discriminator)
    torch.testing.assert_close(penalties["invariance"], 0.3 * of_encoder)
    for_discriminator, for_encoder = gradients(of_discriminator, trunk), gradients(0.3 * of_encoder, trunk)
    learning, hiding = (gradients(penalty, trunk) for penalty in penalties.values())
    for name in learning:
        part = name.partition(".")[0]
        if part == "adversary":
            torch.testing.assert_close(learning[name], for_discriminator[name])
            assert hiding[name] is None
        elif part == "shared":
            torch.testing.assert_close(hiding[name], for_encoder[name])
            assert learning[name] is None
        else:
            assert learning[name] is None
            assert hiding[name] is None


def test_nll_and_gradient_reversal_are_the_same(encoder):
    options = {"strength": 0.3, "discriminator_layers": 1, "orthogonality": 0.02}
    adversarial, man = trunk_of(encoder, "adversarial", **options), trunk_of(encoder, **options)
    man.load_state_dict(adversarial.state_dict(), strict=False)
    one = gradients(sum(adversarial(inputs_of(), TASKS, ROWS).penalties.values()), adversarial)
    two = gradients(sum(man(inputs_of(), TASKS, ROWS).penalties.values()), man)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name])


def test_l2_is_content_where_the_discriminator_cannot_decide(encoder):
    trunk = trunk_of(encoder, loss="l2")
    with torch.no_grad():
        for parameter in trunk.adversary.discriminator[-1].parameters():
            parameter.zero_()
    penalties = trunk(inputs_of(), TASKS, ROWS).penalties
    assert penalties["invariance"].item() == 0
    assert penalties["discriminator"].item() == pytest.approx(3 * ((2 / 3) ** 2 + 2 * (1 / 3) ** 2))


def test_the_ramp_multiplies_the_encoders_objective_alone(encoder):
    trunk = trunk_of(encoder, schedule="dann")
    whole = trunk(inputs_of(), TASKS, ROWS).penalties
    trunk.set_progress(0.0)
    begun = trunk(inputs_of(), TASKS, ROWS).penalties
    assert begun["invariance"].item() == 0 != whole["invariance"].item()
    torch.testing.assert_close(begun["discriminator"], whole["discriminator"])


def test_the_encoder_is_given_its_objective_in_each_kth_step_and_the_discriminator_in_all(encoder):
    trunk = trunk_of(encoder, discriminator_steps=3)
    every = trunk(inputs_of(), TASKS, ROWS).penalties["invariance"]
    assert every.item() != 0  # where nobody counts
    given = []
    for step in range(7):
        for _ in range(2):  # two batches accumulated for one step
            trunk.set_progress(step / 7)
            penalties = trunk(inputs_of(), TASKS, ROWS).penalties
            assert penalties["discriminator"].item() > 0
            given.append(penalties["invariance"].item())
        if step == 3:  # a run that was stopped and goes on
            state = trunk.state_dict()
            trunk = trunk_of(encoder, discriminator_steps=3)
            trunk.load_state_dict(state)
    assert [value == pytest.approx(every.item()) for value in given] == [
        step in {2, 5} for step in range(7) for _ in "ab"
    ]
    assert {value for value in given if value != pytest.approx(every.item())} == {0}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"loss": "hinge"}, "'loss' must be one of 'nll', 'l2', but 'hinge' was given"),
        ({"discriminator_steps": 0}, "'discriminator_steps' must be at least 1, but 0 was given"),
    ],
)
def test_parameters_out_of_their_limits_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        sharing.MAN(**parameters)


def test_parameters_are_those_of_adversarial_with_a_deeper_discriminator(encoder):
    encoder_size, hidden, linear = 30 + 35 + 18, 3 * 3 + 3, 3 * 3 + 3
    assert sum(p.numel() for p in trunk_of(encoder).parameters()) == 4 * encoder_size + hidden + linear


@pytest.mark.parametrize(("loss", "strength"), [("nll", 1.0), ("l2", 2.0)])
def test_shortcuts_that_tell_the_domain_are_kept_out(loss, strength):
    errors = {}
    for name, parameters in {
        "shared": {"scheme": "hard"},
        "man": {"scheme": "man", "private": False, "loss": loss, "strength": strength},
    }.items():
        trunk, heads = trained(data=shortcut(0, 100), width=4, steps=150, **parameters)
        errors[name] = error(trunk, heads, shortcut(1000, 500, holds=0.5))
    assert errors["man"] < errors["shared"] - 0.08
