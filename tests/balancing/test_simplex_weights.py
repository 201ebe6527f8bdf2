import torch

from polytask.balancing.simplex_weights import SimplexWeights


def test_weights_start_equal_and_sum_to_1():
    learned = SimplexWeights()
    torch.testing.assert_close(learned.weights(["a", "b", "c", "d"]), torch.full((4,), 0.25).double())
    learned.replace(["a", "b"], torch.tensor([1.0, 0]).double())
    torch.testing.assert_close(learned.weights(["b", "a"]), torch.tensor([0, 1.0]).double())


def test_the_tasks_of_a_step_divide_their_part_among_themselves():
    learned = SimplexWeights()
    learned.replace(["a", "b", "c"], torch.tensor([0.5, 0.3, 0.2]).double())
    learned.replace(["c", "a"], torch.tensor([0.9, 0.1]).double())
    torch.testing.assert_close(learned.weights(["a", "b", "c"]), torch.tensor([0.07, 0.3, 0.63]).double())


def test_a_new_task_comes_with_the_mean_share():
    learned = SimplexWeights()
    learned.replace(["a", "b"], torch.tensor([0.8, 0.2]).double())
    torch.testing.assert_close(learned.weights(["a", "b", "c"]), torch.tensor([1.6, 0.4, 1]).double() / 3)


def test_tasks_without_any_share_are_equal():
    learned = SimplexWeights()
    learned.replace(["a", "b", "c"], torch.tensor([1.0, 0, 0]).double())
    torch.testing.assert_close(learned.weights(["b", "c"]), torch.full((2,), 0.5).double())
    learned.replace(["b", "c"], torch.tensor([1.0, 0]).double())
    torch.testing.assert_close(learned.weights(["b", "c"]), torch.tensor([1.0, 0]).double())
