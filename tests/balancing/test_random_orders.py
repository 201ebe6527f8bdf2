import copy

import torch

from polytask.balancing.random_orders import RandomOrders


def test_each_task_meets_every_other_one_once():
    for count in (1, 2, 5, 40):
        orders = RandomOrders(0).draw(count)
        assert orders.shape == (count, count - 1)
        for task, order in enumerate(orders.tolist()):
            assert sorted([*order, task]) == list(range(count))


def test_orders_stay_until_the_next_step():
    orders = RandomOrders(3)
    first = orders.draw(6)
    assert torch.equal(orders.draw(6), first)
    orders.advance(6)
    assert not torch.equal(orders.draw(6), first)


def test_all_orders_are_about_as_frequent():
    orders = RandomOrders(0)
    counts = {}
    for _ in range(900):
        order = tuple(orders.draw(4)[1].tolist())
        counts[order] = counts.get(order, 0) + 1
        orders.advance(4)
    assert len(counts) == 6
    assert min(counts.values()) > 110


def test_the_seed_decides():
    assert torch.equal(RandomOrders(1).draw(9), RandomOrders(1).draw(9))
    assert not torch.equal(RandomOrders(1).draw(9), RandomOrders(2).draw(9))


def test_a_saved_or_copied_state_goes_on_as_the_original(tmp_path):
    original, loaded = RandomOrders(0), RandomOrders(5)
    original.advance(7)
    torch.save(original.state_dict(), tmp_path / "state.pt")
    loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    copied = copy.deepcopy(original)
    for orders in (original, loaded, copied):
        orders.advance(7)
    assert torch.equal(loaded.draw(7), original.draw(7))
    assert torch.equal(copied.draw(7), original.draw(7))
