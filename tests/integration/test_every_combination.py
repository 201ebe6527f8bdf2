"""Every type of task with every other of its modality, every balancer, and every sharing scheme over every modality.

Each combination makes a training step, in which every task's own parameters learn, and a prediction.
"""

import itertools
from dataclasses import replace

import pytest
import torch

from polytask import balancing, sharing, tasks
from polytask.config import Config
from polytask.errors import UserError
from polytask.row_values import RowValues
from polytask.tasks.label_free import LabelFreeTask
from polytask.training.balanced_step import BalancedStep
from polytask.training.job import make_job

from ..sharing.schemes import NEEDED
from .worlds import ROW_TASKS, WORLDS, configuration, tasks_of, write_table

BALANCERS = {
    "static": {"weights": {}},
    "pivrg": {"references": {}},
    "gradient_cosine": {"main": ""},
    "ol_aux": {"main": ""},
    "meta_balance": {"main": ""},
    "annealed": {"main": "", "steps": 10},
    "auto_lambda": {"main": ""},
}
"""What balancers need, to be filled in with the tasks."""


FOR_POSITIONS = {
    "sluice": {"mix_layers": False},
    "mmoe": {"share_until": 1, "experts": 2},
    "cgc": {"share_until": 1, "task_experts": 1, "shared_experts": 1},
    "ple": {"share_until": 1, "task_experts": 1, "shared_experts": 1},
    "dselect_k": {"share_until": 1, "experts": 2},
    "adatt": {"share_until": 1, "task_experts": 1, "shared_experts": 1},
}
"""Forms of schemes in which features keep their positions: experts are whole stages."""

WITHOUT_POSITIONS = {"adversarial", "man"}
"""Schemes that put vectors side by side."""

NOTHING_TO_SKIP = {("adashare", "image"), ("adashare", "audio")}
"""Sharing schemes and modalities whose encoder here has no equal stages."""


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """For each modality a job with all its tasks, and a batch with labels for all of them."""
    folder = tmp_path_factory.mktemp("worlds")
    write_table(folder)
    found = {}

    def world(modality):
        if modality not in found:
            job = make_job(Config.model_validate(configuration(modality, folder)))
            job.model.train()
            found[modality] = job, next(iter(job.train.loader))
        return found[modality]

    return world


def built(job, wanted, scheme="hard", parameters=None):
    """A model of some of the tasks."""
    parameters = {"branching": {"tree": {-1: "apart"}}}.get(scheme, NEEDED.get(scheme, {})) | (parameters or {})
    description = replace(
        job.description,
        tasks={name: job.description.tasks[name] for name in wanted},
        sharing={"type": scheme, "parameters": parameters},
    )
    torch.manual_seed(0)
    return description.build(job.preparation.shapes)[0]


def _moves(parameter):
    return parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)


def check(model, batch, wanted, balancer=None):
    """A step that changes what each task's loss reaches, and a prediction for all rows."""
    batch = batch.without([task for task in batch.targets if task not in wanted])
    model.train()
    balancer = balancing.create("pcgrad") if balancer is None else balancer
    found = BalancedStep(model, balancer, dict.fromkeys(wanted, 1.0)).backward([batch], model.shared_parameters(), None)
    assert list(found.losses) == list(wanted) and all(loss.isfinite() for loss in found.losses.values())
    learns = {task: any(_moves(parameter) for parameter in model.heads[task].parameters()) for task in wanted}
    assert any(learns.values()) and (all(learns.values()) or type(balancer) is balancing.Tchebycheff), learns
    learned = [p for p in model.parameters() if p.grad is not None]
    assert all(p.grad.isfinite().all() for p in learned)
    torch.optim.SGD(learned, lr=1e-3).step()
    model.eval()
    answers = [task for task in wanted if not isinstance(model.tasks[task], LabelFreeTask)]
    with torch.no_grad():
        outputs = model(batch.inputs, answers)
    for task in answers:
        output = outputs[task]
        assert isinstance(output, RowValues) or output.isfinite().all()
        assert len(output) == len(batch)
        for values in model.tasks[task].decode(output).values():
            assert len(values) == len(batch)


def test_every_type_of_task_is_there():
    used = {settings["type"] for modality in WORLDS for settings in tasks_of(modality).values()}
    assert used == set(tasks.names())


@pytest.mark.parametrize(
    ("modality", "pair"),
    [
        (modality, pair)
        for modality in WORLDS
        for pair in itertools.combinations(tasks_of(modality), 2)
        if modality == "tabular" or not set(pair) <= set(ROW_TASKS)  # once is enough
    ],
)
def test_every_task_with_every_other(worlds, modality, pair):
    job, batch = worlds(modality)
    check(built(job, pair), batch, pair)


@pytest.mark.parametrize("modality", WORLDS)
@pytest.mark.parametrize("name", balancing.names())
def test_every_balancer(worlds, modality, name):
    job, batch = worlds(modality)
    wanted = ("class", "number", *WORLDS[modality][2])[:4]
    parameters = {**BALANCERS.get(name, {})}
    filled = {"weights": dict.fromkeys(wanted, 1.0), "references": dict.fromkeys(wanted, 1.0), "main": wanted[0]}
    parameters = {key: filled.get(key, value) for key, value in parameters.items()}
    balancer = balancing.create(name, **parameters)
    check(built(job, wanted), batch, wanted, balancer)


@pytest.mark.parametrize(
    ("scheme", "modality"),
    [pair for pair in itertools.product(sharing.names(), WORLDS) if pair not in NOTHING_TO_SKIP],
)
def test_every_sharing_scheme(worlds, modality, scheme):
    job, batch = worlds(modality)
    check(built(job, ("class", "number"), scheme), batch, ("class", "number"))


@pytest.mark.parametrize(
    ("scheme", "modality"),
    [
        pair
        for pair in itertools.product(sharing.names(), WORLDS)
        if pair not in NOTHING_TO_SKIP and pair[1] != "tabular"
    ],
)
def test_every_sharing_scheme_under_tasks_that_answer_at_each_position(worlds, modality, scheme):
    types = {name: settings["type"] for name, settings in WORLDS[modality][2].items()}
    positions = [name for name, each in types.items() if tasks.family.get(each).reads != "vector"]
    job, batch = worlds(modality)
    wanted = ("class", *positions)
    if scheme in WITHOUT_POSITIONS:
        with pytest.raises(UserError, match=rf"The task '{positions[0]}' reads .* scheme .* over the encoder .* gives"):
            built(job, wanted, scheme)
        return
    check(built(job, wanted, scheme, FOR_POSITIONS.get(scheme)), batch, wanted)


@pytest.mark.parametrize(("scheme", "modality"), sorted(NOTHING_TO_SKIP))
def test_a_scheme_that_needs_equal_stages_says_so(worlds, scheme, modality):
    with pytest.raises(UserError, match=f"{scheme} needs stages"):
        built(worlds(modality)[0], ("class", "number"), scheme)
