import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics as reference

from polytask.errors import UserError
from polytask.features import FeatureShape
from polytask.labels import TargetSummary
from polytask.tasks import Regression


def test_it_works_in_python_without_data():
    task = Regression("age")
    assert (task.name, task.columns, task.outputs) == ("age", ("age",), 1)
    assert task.make_head(FeatureShape("vector", 4))(torch.zeros(2, 4)).shape == (2, 1)
    target = torch.randn(5, 1)
    assert task.loss(target, target, torch.ones(5, 1).bool()) == 0


@pytest.mark.parametrize(
    ("loss", "function"),
    [("mse", F.mse_loss), ("l1", F.l1_loss), ("huber", lambda a, b: F.huber_loss(a, b, delta=0.5))],
)
def test_the_loss_is_that_of_pytorch_on_the_standardised_labelled_entries(loss, function):
    task = Regression(["a", "b"], loss=loss, delta=0.5, mean=[10.0, -1.0], std=[4.0, 0.1])
    z, output = torch.randn(7, 2), torch.randn(7, 2)
    mask = torch.rand(7, 2) < 0.6
    mask[0] = True
    target = (z * torch.tensor([4.0, 0.1]) + torch.tensor([10.0, -1.0])).masked_fill(~mask, 0)
    torch.testing.assert_close(task.loss(output, target, mask), function(output[mask], z[mask]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", ["mse", "l1", "huber"])
def test_the_loss_and_its_gradient_do_not_depend_on_the_units(loss):
    output = torch.randn(6, 1)
    seconds = torch.randn(6, 1) * 300 + 1000
    found = []
    for unit in (1.0, 3600.0):
        task = Regression("t", loss=loss, mean=[1000 / unit], std=[300 / unit])
        o = output.clone().requires_grad_()
        value = task.loss(o, seconds / unit, torch.ones(6, 1).bool())
        value.backward()
        found.append((value.detach(), o.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_an_output_without_any_label_has_no_gradient_and_no_nan():
    task = Regression(["a", "b"])
    output = torch.randn(3, 2, requires_grad=True)
    task.loss(output, torch.zeros(3, 2), torch.tensor([[True, False]] * 3)).backward()
    assert output.grad[:, 0].all()
    assert not output.grad[:, 1].any()


def test_the_loss_is_in_float32_where_the_output_is_half():
    task = Regression("y", mean=[1e5], std=[1e4])
    output = torch.zeros(3, 1, dtype=torch.float16)
    loss = task.loss(output, torch.full((3, 1), 1.2e5), torch.ones(3, 1).bool())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(4)


def test_metrics_are_in_the_users_units():
    task = Regression("y", mean=[50.0], std=[20.0])
    generator = np.random.default_rng(0)
    target, prediction = generator.normal(50, 20, (40, 1)), generator.normal(50, 20, (40, 1))
    metrics = task.metrics()
    output = torch.tensor((prediction - 50) / 20, dtype=torch.float32)
    task.update_metrics(metrics, output, torch.tensor(target, dtype=torch.float32), torch.ones(40, 1).bool())
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found == pytest.approx(
        {
            "mae": reference.mean_absolute_error(target, prediction),
            "rmse": reference.root_mean_squared_error(target, prediction),
            "r2": reference.r2_score(target, prediction),
            "pearson": np.corrcoef(target.T, prediction.T)[0, 1],
            "spearman": np.corrcoef(target.T.argsort().argsort(), prediction.T.argsort().argsort())[0, 1],
        },
        rel=1e-4,
    )
    assert set(metrics) == set(task.metric_names)


def test_the_metrics_of_the_baseline_on_its_own_training_rows_are_the_standard_deviation_and_zero():
    target = torch.tensor([[1.0], [2.0], [6.0]])
    task = Regression("y", mean=[3.0], std=[target.std(correction=0).item()])
    metrics = task.metrics()
    task.update_metrics(metrics, task.baseline(3), target, torch.ones(3, 1).bool())
    values = metrics.compute()
    assert float(values["rmse"]) == pytest.approx(target.std(correction=0).item())
    assert float(values["r2"]) == pytest.approx(0, abs=1e-6)


def test_predictions_are_in_the_users_units_and_several_are_named_by_their_columns():
    columns = Regression("y", mean=[50.0], std=[20.0]).decode(torch.tensor([[0.0], [1.5]], requires_grad=True))
    np.testing.assert_allclose(columns[""], [50, 80])
    columns = Regression(["a", "b"], mean=[1.0, 2.0], std=[1.0, 10.0]).decode(torch.ones(1, 2))
    assert {name: values.tolist() for name, values in columns.items()} == {"a": [2.0], "b": [12.0]}


def test_the_data_complete_the_parameters_as_plain_values():
    summary = TargetSummary(labelled=9, mean=np.array([1.5]), std=np.array([2.0]))
    parameters = Regression.complete({"target": "y", "loss": "l1"}, summary)
    assert json.loads(json.dumps(parameters)) == {"target": "y", "loss": "l1", "mean": [1.5], "std": [2.0]}
    assert Regression(**parameters).state_dict()["mean"].tolist() == [1.5]


def test_the_target_is_described_from_the_parameters():
    spec = Regression.target_spec({"target": ["a", "b"], "name": "both"})
    assert (spec.kind, spec.columns) == ("numbers", ("a", "b"))
    assert Regression.target_spec({"name": "y"}).columns == ("y",)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "needs a target"),
        ({"target": "y", "loss": "mae"}, "no loss 'mae'. Allowed: 'mse', 'l1', 'huber'"),
        ({"target": "y", "delta": 0.0}, "delta is 0.0"),
        ({"target": ["a", "b"], "mean": [1.0], "std": [1.0]}, "2 outputs, but 1 means and 1 std"),
        ({"target": "y", "mean": [1.0], "std": [0.0]}, r"std is \[0.0\]"),
        ({"target": "y", "metric": "r"}, "no metric 'r'"),
        ({"target": "y", "weight": float("nan")}, "weight is nan"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        Regression(**parameters)
