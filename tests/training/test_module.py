"""The steps of training, against a bare PyTorch loop."""

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision

from polytask import balancing, optimization
from polytask.data.batch import Batch
from polytask.encoders import MLP
from polytask.model import MultiTaskModel
from polytask.shapes import TabularShape
from polytask.tasks import Classification, Regression
from polytask.training.module import MultiTaskModule
from polytask.training.selection import Best
from polytask.training.steps import StepBatches
from polytask.training.transfer import Transfer


def model() -> MultiTaskModel:
    torch.manual_seed(0)
    tasks = [Classification("a", classes=3, counts=[5, 5, 5]), Regression("b", mean=[0.0], std=[5.0])]
    return MultiTaskModel({"row": MLP(width=8, depth=2, shape=TabularShape(4))}, tasks)


def batches(number: int, seed: int = 0) -> list[Batch]:
    draw = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(number):
        inputs = {"row": {"numeric": torch.randn(16, 4, generator=draw), "categorical": torch.zeros(16, 0).long()}}
        targets = {
            "a": torch.randint(3, (16,), generator=draw),
            "b": 5 * torch.randn(16, 1, generator=draw),
        }
        masks = {"a": torch.rand(16, generator=draw) < 0.7, "b": torch.rand(16, 1, generator=draw) < 0.7}
        made.append(Batch.of(inputs, targets, masks, torch.arange(16)))
    return made


def module(network: MultiTaskModel, data: list[Batch], **options) -> MultiTaskModule:
    balancer = balancing.create(options.pop("balancer", "equal"))
    balancer.prepare(network.task_names)
    return MultiTaskModule(
        network,
        balancer,
        optimizer=optimization.optimizers.SGD(lr=0.1, momentum=0.0, weight_decay=0.0),
        lr_schedule=optimization.lr_schedules.Constant(),
        transfer=Transfer(),
        best=Best(),
        stopping=None,
        steps_per_epoch=len(data),
        epochs=2,
        **options,
    )


def fit(trained: MultiTaskModule, data: list[Batch], valid: list[Batch] | None = None, **options) -> None:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
    parts = ([StepBatches([batch]) for batch in data], valid)
    loaders = [None if part is None else torch.utils.data.DataLoader(part, batch_size=None) for part in parts]
    trainer.fit(trained, *loaders)


def bare(network: MultiTaskModel, data: list[Batch], clip: float | None) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):
        for batch in data:
            optimizer.zero_grad()
            sum(network.losses(batch).values()).backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
            optimizer.step()


def agree(one: MultiTaskModel, other: MultiTaskModel, **tolerance: float) -> None:
    for (name, value), expected in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(value, expected, **tolerance, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("clip", [None, 0.5])
def test_it_equals_a_bare_loop(clip: float | None):
    data, ours, theirs = batches(5), model(), model()
    fit(module(ours, data, gradient_clip=clip), data)
    bare(theirs, data, clip)
    agree(ours, theirs, rtol=1e-5, atol=1e-6)


def test_float16_with_a_scaler_and_clipping_is_near_the_bare_loop():
    data, ours, theirs = batches(5), model(), model()
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=2.0**10))
    fit(module(ours, data, gradient_clip=0.5), data, plugins=plugin)
    bare(theirs, data, 0.5)
    agree(ours, theirs, rtol=0.05, atol=0.01)


def test_a_step_in_which_nothing_is_labelled_changes_nothing():
    unlabelled = batches(1)[0]
    nothing = Batch.of(
        unlabelled.inputs,
        unlabelled.targets,
        {task: torch.zeros_like(mask) for task, mask in unlabelled.masks.items()},
        unlabelled.rows,
    )
    ours, theirs = model(), model()
    trained = module(ours, [nothing])
    fit(trained, [nothing])
    agree(ours, theirs, rtol=0, atol=0)
    assert trained.steps == 2


def test_history_has_losses_weights_scores_and_the_mean_gain():
    data = batches(4)
    trained = module(model(), data)
    fit(trained, data, batches(2, seed=1))
    assert [record["epoch"] for record in trained.epochs.history] == [1, 2]
    keys = {"a/train/loss", "a/train/weight", "a/valid/accuracy", "b/valid/mae", "valid/mean_gain", "lr", "step"}
    assert keys <= set(trained.epochs.history[-1])
    assert trained.epochs.best.epoch in (0, 1)


def test_the_balancers_parameters_learn_with_the_optimiser():
    data = batches(4)
    trained = module(model(), data, balancer="uncertainty")
    before = [parameter.detach().clone() for parameter in trained.balancer.parameters()]
    assert len(before) == 2
    fit(trained, data)
    after = list(trained.balancer.parameters())
    assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True))
