import copy
import pickle

import torch

from polytask.balancing.workspace import Workspace

CPU = torch.device("cpu")


def test_the_same_memory_is_given_out_again_where_it_is_large_enough():
    workspace = Workspace()
    large = workspace.take("a", (4, 5), torch.float32, CPU)
    assert workspace.take("a", (3, 2), torch.float32, CPU).data_ptr() == large.data_ptr()
    assert workspace.take("b", (3, 2), torch.float32, CPU).data_ptr() != large.data_ptr()
    assert workspace.take("a", (4, 5), torch.float64, CPU).dtype == torch.float64
    assert workspace.take("a", (5, 5), torch.float32, CPU).shape == (5, 5)


def test_copies_start_empty():
    workspace = Workspace()
    workspace.take("a", (1000,), torch.float32, CPU)
    for twin in (copy.deepcopy(workspace), pickle.loads(pickle.dumps(workspace))):
        assert not twin._buffers
