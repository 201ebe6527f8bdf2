"""Outputs and targets of dense tasks, test-sized."""

import torch

from polytask.tasks import DenseRegression, Depth, Edges, Normals, Segmentation

SIZE = (8, 12)

TASKS = {
    "segmentation": lambda **more: Segmentation("t", classes=3, counts=[70, 20, 10], **more),
    "segmentation-dice": lambda **more: Segmentation("t", classes=3, dice=0.7, counts=[70, 20, 10], **more),
    "segmentation-weighted": lambda **more: Segmentation(
        "t", classes=["a", "b", "c"], counts=[70, 20, 0], dice=0.5, class_weights={"a": 0.2, "c": 3.0}, **more
    ),
    "depth": lambda **more: Depth("t", mean=[3.0], std=[0.7], **more),
    "depth-mse": lambda **more: Depth("t", loss="mse", mean=[3.0], std=[0.7], **more),
    "depth-huber": lambda **more: Depth("t", loss="huber", mean=[3.0], std=[0.7], **more),
    "depth-berhu": lambda **more: Depth("t", loss="berhu", mean=[3.0], std=[0.7], **more),
    "depth-silog": lambda **more: Depth("t", loss="silog", mean=[1.0], std=[0.3], **more),
    "normals": lambda **more: Normals("t", mean=[0.1, 0.2, 0.9], **more),
    "dense_regression": lambda **more: DenseRegression("t", mean=[1.0, -1.0], std=[2.0, 0.5], **more),
    "edges": lambda **more: Edges("t", counts=[90, 10], **more),
}


def target_of(task, rows=5, seed=0):
    """A target and a mask: the first row has no label."""
    numbers = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, *SIZE, generator=numbers) < 0.7
    mask[0] = False
    shape = (rows, *SIZE)
    if isinstance(task, Segmentation | Edges):
        target = torch.randint(3 if isinstance(task, Segmentation) else 2, shape, generator=numbers)
        return target.masked_fill(~mask, 0), mask
    if isinstance(task, Depth):
        target = 1 + 4 * torch.rand(rows, 1, *SIZE, generator=numbers)
    else:
        target = torch.randn(rows, 3 if isinstance(task, Normals) else 2, *SIZE, generator=numbers)
    if isinstance(task, Normals):
        target = torch.nn.functional.normalize(target, dim=1)
    return target.masked_fill(~mask[:, None], 0), mask


def output_of(task, rows=5, seed=1, size=SIZE):
    """What a head could give."""
    return torch.randn(rows, task.outputs, *size, generator=torch.Generator().manual_seed(seed))
