import torch

from polytask.balancing.random_numbers import RandomNumbers


def test_what_was_drawn_is_drawn_again():
    torch.manual_seed(1)
    random = RandomNumbers({torch.device("cpu")})
    first = torch.rand(3)
    for _ in range(2):
        torch.randn(5)
        random.restore()
        assert torch.equal(torch.rand(3), first)
