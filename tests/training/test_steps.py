"""What a step is made of."""

import torch

from polytask.data.batch import Batch
from polytask.training.steps import StepBatches, moved
from polytask.training.views import Views


def batch(start):
    known = torch.tensor([[True], [False], [True]])
    return Batch.of({"x": torch.ones(3, 2)}, {"a": torch.ones(3, 1)}, {"a": known}, start + torch.arange(3))


def test_a_step_is_moved_with_all_that_it_has():
    step = StepBatches([batch(0), batch(3)], Views.of(batch(6), batch(6)), ("a",))
    there = step.to(torch.device("meta"))
    assert [each.rows.device.type for each in there.batches] == ["meta", "meta"]
    assert there.views.reference.rows.device.type == there.views.other.rows.device.type == "meta"
    assert there.turn == ("a",)
    assert StepBatches([batch(0)]).to(torch.device("meta")).views is None


def test_a_batch_that_is_there_already_is_not_touched():
    whole = batch(0)
    assert moved(whole, torch.device("cpu")) is whole
