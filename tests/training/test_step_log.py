import pytest
import torch

from polytask.training.semi_supervised import UnlabelledStep
from polytask.training.step_log import NonFiniteLoss, StepLog


def add(log: StepLog, rows: int = 1, weight: float | None = None, **losses: float) -> None:
    weights = None if weight is None else torch.full((len(losses),), weight)
    log.add(tuple(losses), torch.tensor(list(losses.values())), weights, [rows] * len(losses))


def test_epoch_means_weigh_each_batch_by_its_labelled_rows():
    log = StepLog(["a", "b"], every=10)
    log.add(("a", "b"), torch.tensor([1.0, 5.0]), torch.tensor([1.0, 2.0]), [4, 1])
    log.add(("a",), torch.tensor([4.0]), torch.tensor([3.0]), [2])
    log.flush()
    means = log.epoch_means()
    assert means["a/train/loss"] == pytest.approx((1.0 * 4 + 4.0 * 2) / 6)
    assert means["b/train/loss"] == pytest.approx(5.0)
    assert means["a/train/weight"] == pytest.approx(2.0)
    assert means["b/train/weight"] == pytest.approx(2.0)


def test_a_task_without_labels_has_no_mean_and_a_balancer_may_have_no_weights():
    log = StepLog(["a", "b"], every=1)
    add(log, a=1.0)
    assert set(log.epoch_means()) == {"a/train/loss"}


def test_it_looks_at_the_numbers_at_intervals_only():
    log, looks = StepLog(["a"], every=3), []
    log.listener = lambda log: looks.append(log.batches)
    for _ in range(7):
        add(log, a=1.0)
    assert looks == [3, 6]


def test_a_batch_without_weights_leaves_those_of_the_others():
    log = StepLog(["a"], every=10)
    add(log, a=1.0, weight=0.5)
    add(log, a=1.0)
    add(log, a=1.0, weight=1.5)
    log.flush()
    assert log.epoch_means()["a/train/weight"] == pytest.approx(1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_named_with_its_batch(value: float):
    log = StepLog(["a", "b"], every=5)
    for _ in range(3):
        add(log, a=1.0, b=1.0)
    add(log, a=1.0, b=value)
    with pytest.raises(NonFiniteLoss, match=r"task 'b'.*batch 4.*lower training.optimizer.lr"):
        log.flush()


def test_a_new_epoch_forgets_the_means():
    log = StepLog(["a"], every=1)
    add(log, a=7.0)
    log.start_epoch()
    add(log, a=1.0)
    assert log.epoch_means()["a/train/loss"] == 1.0
    assert log.batches == 2


def test_penalties_have_means_over_batches_and_must_be_numbers():
    log = StepLog(["a"], every=1)
    for value in (1.0, 3.0):
        log.add(("a",), torch.ones(1), None, [1], {"distance": torch.tensor(value)})
    assert log.epoch_means() == {"a/train/loss": 1.0, "sharing/train/distance": 2.0}
    with pytest.raises(NonFiniteLoss, match=r"penalty 'distance' of model\.sharing became nan at batch 3"):
        log.add(("a",), torch.ones(1), None, [1], {"distance": torch.tensor(float("nan"))})


def test_rows_without_labels_have_means_over_their_entries():
    log = StepLog(["a", "b"], every=2)
    sure = UnlabelledStep(torch.tensor(2.0), torch.tensor(0.5), 10)
    log.add(("a",), torch.ones(1), None, [1], unlabelled={"a": sure, "b": UnlabelledStep(torch.tensor(7.0), None, 3)})
    # A step in which nothing is labelled.
    log.add((), torch.empty(0), None, [], unlabelled={"a": UnlabelledStep(torch.tensor(0.5), torch.tensor(0.0), 5)})
    means = log.epoch_means()
    assert means == {
        "a/train/loss": 1.0,
        "a/train/unlabelled": pytest.approx((2 * 10 + 0.5 * 5) / 15),
        "a/train/confident": pytest.approx(0.5 * 10 / 15),
        "b/train/unlabelled": 7.0,
    }
    log.add((), torch.empty(0), None, [], unlabelled={"b": UnlabelledStep(torch.tensor(float("inf")), None, 3)})
    with pytest.raises(NonFiniteLoss, match=r"loss of task 'b' on rows without labels became inf at batch 3"):
        log.flush()


def test_rows_count_what_they_count_in_the_mean_of_a_batch():
    log = StepLog(["a", "b"], every=2)
    for a, b, total in ((1.0, 5.0, 0.5), (4.0, 7.0, 1.5), (9.0, 9.0, 0.0)):
        log.add(("a", "b"), torch.tensor([a, b]), None, [4, 2], totals={"b": torch.tensor(total)})
    log.add(("a",), torch.tensor([2.0]), None, [2], {"distance": torch.tensor(3.0)})
    log.flush()
    means = log.epoch_means()
    assert means["a/train/loss"] == pytest.approx((4 * (1 + 4 + 9) + 2 * 2) / 14)
    assert means["b/train/loss"] == pytest.approx((0.5 * 5 + 1.5 * 7) / 2)
    assert means["sharing/train/distance"] == 3.0


def test_an_epoch_goes_on_from_its_state():
    whole, first, second = (StepLog(["a", "b"], every=4) for _ in range(3))
    for number in range(7):
        for log in (whole, first if number < 5 else second):
            if number == 5 and log is second:
                second.load_state_dict(first.state_dict())
            tasks, losses = ("a", "b")[: 1 + number % 2], torch.tensor([0.1, 0.7])[: 1 + number % 2]
            shown = {"a": UnlabelledStep(torch.tensor(float(number)), torch.tensor(0.25), number + 1)}
            penalties = {"distance": torch.tensor(float(number))}
            log.add(tasks, losses, losses, [3, number][: len(tasks)], penalties, unlabelled=shown)
    assert second.state_dict() == whole.state_dict()
    assert second.epoch_means() == whole.epoch_means()
    assert second.batches == 7
