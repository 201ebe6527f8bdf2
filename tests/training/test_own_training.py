"""What single tasks do by themselves: rates, clipping, slowing down, stopping."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from polytask.config import Config
from polytask.encoders import MLP
from polytask.errors import UserError
from polytask.model import MultiTaskModel
from polytask.optimization import lr_schedules
from polytask.optimization.optimizers import AdamW
from polytask.shapes import TabularShape
from polytask.sharing import Hard
from polytask.tasks import Classification, Regression
from polytask.training.job import make_job
from polytask.training.module import MultiTaskModule
from polytask.training.own_training import OwnTraining, Rates, Slowing, Stopping, TaskRecipe
from polytask.training.train import resume, train
from polytask.training.transfer import Transfer

ROWS = 90


def model(share_until=None):
    torch.manual_seed(0)
    tasks = [Classification("kind", classes=2), Regression("size"), Regression("extra")]
    return MultiTaskModel({"row": MLP(width=4, depth=2, shape=TabularShape(3))}, tasks, Hard(share_until))


@pytest.fixture
def table(tmp_path):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(ROWS, 3))
    found = pd.DataFrame(x, columns=["u", "v", "w"])
    found["kind"] = np.where(x[:, 0] > 0, "yes", "no")
    found["size"] = x[:, 1] + 0.1 * draw.normal(size=ROWS)
    found["extra"] = draw.normal(size=ROWS)
    path = tmp_path / "t.csv"
    found.to_csv(path, index=False)
    return path


def config(table, *, valid=0.2, **changes):
    values = {
        "data": {"train": str(table), "split": {"valid": valid}},
        "inputs": {"row": {"type": "tabular", "columns": "*"}},
        "tasks": {"kind": "classification", "size": "regression", "extra": "regression"},
        "model": {"encoders": {"row": {"type": "mlp", "width": 8, "depth": 2}}},
        **changes,
    }
    values["training"] = {"epochs": 4, "batch_size": 16, "tensorboard": False, **values.get("training", {})}
    return Config.from_mapping(values)


# -- rates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share_until", [None, 1, 0])
def test_each_parameter_is_in_one_group_with_the_scales_of_all_it_belongs_to(share_until):
    network = model(share_until)
    transfer = Transfer(layer_decay=0.5, tasks={"size": Rates(2.0, 0.3)}, encoders={"row": Rates(10.0, 0.1)})
    groups = transfer.parameter_groups(network)
    placed = {parameter: group for group in groups for parameter in group["params"]}
    assert len(placed) == sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
    assert placed[network.heads["size"].weight].items() >= {"lr_scale": 2.0, "own_decay": 0.3, "task": "size"}.items()
    head = placed[network.heads["kind"].weight]
    assert head["lr_scale"] == 1.0 and not {"own_decay", "task"} & set(head)
    for part in network.trunk.parts():
        own = part.tasks == ("size",)
        for parameter in part.module.parameters():
            expected = 10.0 * 0.5 ** (len(network.trunk.stage_names) - part.depth) * (2.0 if own else 1.0)
            assert placed[parameter]["lr_scale"] == expected
            assert placed[parameter]["own_decay"] == (0.3 if own else 0.1)


def test_a_decay_of_ones_own_spares_what_the_optimisers_spares():
    weight, bias = torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(2))
    optimizer = AdamW(weight_decay=0.5).build([{"params": [weight, bias], "own_decay": 0.2, "task": "a"}])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]
    assert all("own_decay" not in group for group in optimizer.param_groups)


def test_a_task_that_is_trained_otherwise_changes_no_others_first_step(table):
    plain, other = (
        make_job(config(table, training={"optimizer": {"type": "sgd"}, "gradient_clip": None, "tasks": tasks}))
        for tasks in ({}, {"size": {"lr_scale": 10.0, "weight_decay": 0.5}})
    )
    moved = []
    for job in (plain, other):
        before = {name: value.clone() for name, value in job.model.named_parameters()}
        optimizer = job.module.configure_optimizers()
        sum(job.model.losses(next(iter(job.train)).batches[0]).values()).backward()
        optimizer.step()
        moved.append({name: value - before[name] for name, value in job.model.named_parameters()})
    # The bias has no decay; the warm-up's rate is the same for all.
    torch.testing.assert_close(moved[1]["heads.size.bias"], 10 * moved[0]["heads.size.bias"])
    for name in moved[0]:
        if "heads.size" not in name:
            assert torch.equal(moved[0][name], moved[1][name])


def test_clipping_concerns_a_tasks_own_parameters():
    network = model(1)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    OwnTraining(network, {"size": TaskRecipe(gradient_clip=0.1)}).clip()
    own = [*network.heads["size"].parameters()]
    own += [p for part in network.trunk.parts() if part.tasks == ("size",) for p in part.module.parameters()]
    assert len(own) > 2
    norm = torch.cat([parameter.grad.flatten() for parameter in own]).norm()
    assert norm == pytest.approx(0.1, rel=1e-3)
    assert all((p.grad == 1).all() for p in network.parameters() if not any(p is each for each in own))


# -- slowing down and stopping --------------------------------------------------------------------------------------


def followed(recipe, share_until=None, name="cosine"):
    network = model(share_until)
    own = OwnTraining(network, {"size": recipe})
    optimizer = AdamW(lr=0.1).build(Transfer(tasks={"size": Rates()}).parameter_groups(network))
    return network, own, lr_schedules.create(name).build(optimizer, 100, 10), optimizer


def rates_of(network, optimizer):
    found = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    return found[id(network.heads["size"].weight)], found[id(network.heads["kind"].weight)]


@pytest.mark.parametrize("name", ["constant", "cosine", "plateau"])
def test_a_task_that_gets_no_better_learns_more_slowly(name):
    network, own, schedule, optimizer = followed(TaskRecipe(slowing=Slowing(0.5, 1)), name=name)
    ratios = []
    for epoch, value in enumerate([3.0, 2.0, 2.0, 2.5, 2.0, 2.0, 1.0, 1.5]):
        own.epoch_end({"size": {"mae": value}}, ["size", "kind"], epoch, schedule)
        schedule.step()
        mine, others = rates_of(network, optimizer)
        ratios.append(mine / others)
        assert schedule.lr == pytest.approx(others)
    assert ratios == pytest.approx([1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25])
    assert own.rates(schedule) == {"size/train/lr": pytest.approx(schedule.lr * 0.25)}


def test_patience_does_not_run_out_while_a_task_takes_no_part():
    _, own, schedule, _ = followed(TaskRecipe(stopping=Stopping(2, "mae")))
    for epoch in range(5):
        own.epoch_end({"size": {"mae": 2.0}}, ["kind"], epoch, schedule)
    assert not own.stopped
    for epoch in range(5, 8):
        own.epoch_end({"size": {"mae": 2.0}}, ["size"], epoch, schedule)
    assert own.stopped == {"size": 7}


@pytest.mark.parametrize(
    ("how", "share_until", "left"),
    [("freeze_head", None, False), ("leave_loss", None, True), ("freeze_head", 0, True)],
)
def test_stopping_freezes_the_head_or_leaves_the_loss(how, share_until, left):
    network, own, schedule, _ = followed(TaskRecipe(stopping=Stopping(1, "mae"), when_stopped=how), share_until)
    for epoch, value in enumerate([1.0, 2.0, 0.5]):
        own.epoch_end({"size": {"mae": value}, "kind": {"accuracy": 0.5}}, ["size", "kind"], epoch, schedule)
    assert own.stopped == {"size": 1}
    assert own.left == ({"size"} if left else set())
    assert own.best["size"].epoch == 2 and own.best["kind"].epoch == 0
    own.begin_epoch()
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert {"heads.size.weight", "heads.size.bias"} <= frozen
    assert not any(name.startswith("heads.kind") for name in frozen)
    assert (len(frozen) > 2) == (share_until == 0)
    assert not own.all_stopped


def run(table, folder, **changes):
    return train(config(table, **changes), folder)


def head(checkpoint, task):
    return checkpoint["state_dict"][f"model.heads.{task}.weight"]


@pytest.mark.parametrize("how", ["freeze_head", "leave_loss"])
def test_a_stopped_task_in_a_run(table, tmp_path, how):
    own = {"early_stopping": {"patience": 1, "min_delta": 10.0}, "when_stopped": how}
    folder = run(table, tmp_path / "run", training={"tasks": {"size": own}, "keep_best_per_task": True})
    summary = folder.read_summary()
    assert summary["tasks"]["size"]["stopped_epoch"] == 2
    assert summary["tasks"]["kind"]["stopped_epoch"] is None
    assert "Task 'size' has stopped after epoch 2" in folder.log.read_text()
    history = pd.read_csv(folder.metrics)
    assert history["size/train/loss"].isna().tolist() == [False, False, how == "leave_loss", how == "leave_loss"]
    assert history["size/valid/mae"].notna().all()
    # Its best epoch may come later, as what is shared goes on learning.
    for task in ("kind", "size", "extra"):
        metric = summary["tasks"][task]["metric"]
        values = history[f"{task}/valid/{metric}"]
        best = values.idxmax() if metric == "accuracy" else values.idxmin()
        assert summary["tasks"][task]["best_epoch"] == best + 1
        assert summary["tasks"][task]["best_value"] == pytest.approx(values[best])
        kept = torch.load(folder.best_of(task), weights_only=True)
        assert len(kept["polytask"]["epochs"]["history"]) == best + 1
    last = torch.load(folder.last, weights_only=True)
    assert last["polytask"]["own"]["stopped"] == {"size": 1}


def test_a_frozen_head_stays_as_it_is_and_its_loss_goes_on(table, tmp_path, monkeypatch):
    weights = []
    original = MultiTaskModule.on_train_epoch_end

    def noting(self):
        weights.append({name: value.detach().clone() for name, value in self.model.named_parameters()})
        original(self)

    monkeypatch.setattr(MultiTaskModule, "on_train_epoch_end", noting)
    own = {"early_stopping": {"patience": 1, "min_delta": 10.0}}
    run(table, tmp_path / "run", training={"tasks": {"size": own}})
    assert torch.equal(weights[1]["heads.size.weight"], weights[3]["heads.size.weight"])
    assert not torch.equal(weights[1]["heads.kind.weight"], weights[3]["heads.kind.weight"])
    assert not torch.equal(weights[0]["heads.size.weight"], weights[1]["heads.size.weight"])


def test_when_all_have_stopped_training_ends(table, tmp_path):
    own = {"early_stopping": {"patience": 1, "min_delta": 10.0}}
    folder = run(table, tmp_path / "run", training={"tasks": dict.fromkeys(("kind", "size", "extra"), own)})
    assert folder.read_summary()["epochs"] == 2


def test_a_schedule_skips_the_turns_of_a_task_that_has_left(table, tmp_path):
    own = {"early_stopping": {"patience": 1, "min_delta": 10.0}, "when_stopped": "leave_loss"}
    changes = {"schedule": {"type": "alternating", "order": "round_robin"}, "training": {"tasks": {"size": own}}}
    folder = run(table, tmp_path / "run", **changes)
    steps = pd.read_csv(folder.metrics)["step"].diff().tolist()[1:]
    assert steps[0] * 2 == pytest.approx(steps[1] * 3) and steps[1] == steps[2]


RESUMED = {
    "stopping": {"tasks": {"size": {"early_stopping": {"patience": 1, "min_delta": 10.0}}}},
    "leaving": {
        "tasks": {"size": {"early_stopping": {"patience": 1, "min_delta": 10.0}, "when_stopped": "leave_loss"}}
    },
    "slowing": {
        "tasks": {"size": {"lr_scale": 3.0, "gradient_clip": 0.1, "lr_on_plateau": {"patience": 0, "factor": 0.1}}}
    },
    "turns": {"optimizer_states": "per_task", "encoders": {"row": {"lr_scale": 0.5, "weight_decay": 0.1}}},
}


@pytest.mark.parametrize("case", sorted(RESUMED))
@pytest.mark.parametrize("stop", [11, 14])
def test_a_resumed_run_goes_on_as_it_would_have(table, tmp_path, train_until, case, stop):
    training = {**RESUMED[case], "checkpoint_every": 3, "epochs": 4, "keep_best_per_task": True}
    settings = config(table, schedule={"type": "alternating", "order": "random"}, training=training)
    whole = train(settings, tmp_path / "whole")
    train_until(settings, tmp_path / "part", stop * whole.read_summary()["steps"] // 20)
    part = resume(tmp_path / "part")
    assert part.metrics.read_text() == whole.metrics.read_text()
    one, other = (torch.load(folder.last, weights_only=True)["state_dict"] for folder in (whole, part))
    assert all(torch.equal(one[name], other[name]) for name in one)
    for task in ("kind", "size"):
        kept = [torch.load(each.best_of(task), weights_only=True)["polytask"]["steps"] for each in (whole, part)]
        assert kept[0] == kept[1]


def test_states_of_ones_own_change_an_alternating_run_and_no_joint_one(table, tmp_path):
    for schedule, same in (({"type": "joint"}, True), ({"type": "alternating", "order": "random"}, False)):
        losses = []
        for states in ("shared", "per_task"):
            folder = run(
                table,
                tmp_path / f"{schedule['type']}-{states}",
                schedule=schedule,
                training={"optimizer_states": states, "epochs": 2},
            )
            losses.append(folder.metrics.read_text())
        assert (losses[0] == losses[1]) == same


# -- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"tasks": {"sice": {"lr_scale": 2.0}}}, r"training\.tasks\.sice.*no task of this name.*size"),
        ({"encoders": {"rows": {}}}, r"training\.encoders\.rows.*no input of this name.*row"),
        (
            {"tasks": {"size": {"early_stopping": {"metric": "accuracy"}}}},
            r"early_stopping\.metric.*no metric 'accuracy'",
        ),
        ({"tasks": {"size": {"lr_scale": 0.0}}}, r"training\.tasks\.size\.lr_scale"),
        ({"tasks": {"size": {"when_stopped": "stop"}}}, r"freeze_head"),
    ],
)
def test_mistakes_name_the_key(table, training, message):
    with pytest.raises(UserError, match=f"(?s){message}"):
        config(table, training=training)


@pytest.mark.parametrize("key", ["early_stopping", "lr_on_plateau"])
def test_without_validation_data_no_task_can_be_followed(table, key):
    with pytest.raises(UserError, match=rf"training\.tasks\.size\.{key} goes by scores"):
        make_job(config(table, valid=0.0, training={"tasks": {"size": {key: {}}}}))


def test_what_is_written_is_json(table, tmp_path):
    folder = run(table, tmp_path / "run", valid=0.0)
    tasks = json.loads(folder.summary.read_text())["tasks"]
    assert all(task["best_epoch"] is None and task["best_value"] is None for task in tasks.values())
    assert math.isfinite(pd.read_csv(folder.metrics)["size/train/loss"].iloc[-1])
