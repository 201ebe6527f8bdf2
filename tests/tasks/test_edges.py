import pytest
import torch
from sklearn.metrics import f1_score

from polytask.errors import UserError
from polytask.tasks import Edges


def test_edges_count_as_much_as_all_else():
    task = Edges("t", counts=[90, 10])
    target = torch.zeros(1, 10, 10, dtype=torch.long)
    target[0, 0] = 1
    loss = task.loss(torch.zeros(1, 1, 10, 10), target, torch.ones(1, 10, 10, dtype=torch.bool))
    assert float(loss) == pytest.approx(0.6931, rel=1e-3)
    weights = task.importance(target)
    assert float(weights[target == 1].sum()) == pytest.approx(float(weights[target == 0].sum()))
    assert (Edges("t", counts=[90, 10], balance=None).importance(target) == 1).all()
    assert float(task.baseline(1)) == pytest.approx(0, abs=1e-6), "even odds where both count the same"


def test_the_scores_are_those_of_thresholds():
    numbers = torch.Generator().manual_seed(0)
    target = (torch.rand(4, 6, 6, generator=numbers) < 0.2).long()
    output = torch.randn(4, 1, 6, 6, generator=numbers) + target[:, None]
    mask = torch.rand(4, 6, 6, generator=numbers) < 0.9
    task = Edges("t", counts=[90, 10])
    metrics = task.metrics()
    task.update_metrics(metrics, task.condensed(output), target, mask)
    shares, truth = output.sigmoid()[:, 0][mask], target[mask]
    scores = {t: f1_score(truth, shares >= t / 100) for t in range(1, 100)}
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found["f_score"] == pytest.approx(scores[50])
    assert found["best_f_score"] == pytest.approx(max(scores.values()))


def test_without_an_edge_there_is_no_score():
    task = Edges("t", counts=[90, 10])
    metrics = task.metrics()
    nothing = torch.zeros(1, 2, 2, dtype=torch.long)
    task.update_metrics(metrics, torch.full((1, 1, 2, 2), 0.3), nothing, torch.ones(1, 2, 2, dtype=torch.bool))
    assert all(value.isnan() for value in metrics.compute().values())


def test_wrong_parameters_are_named():
    with pytest.raises(UserError, match="edge is 0"):
        Edges("t", edge=0)
    with pytest.raises(UserError, match="balance is 0"):
        Edges("t", balance=0)
    with pytest.raises(UserError, match="no baseline without counts"):
        Edges("t").baseline(1)
