"""The gradients of rows without labels, against computations by hand."""

import copy
import math

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from polytask import sharing
from polytask.data.batch import Batch
from polytask.encoders import CNN, MLP
from polytask.errors import UserError
from polytask.model import MultiTaskModel
from polytask.shapes import ImageShape, TabularShape
from polytask.sharing.relations import Cascade
from polytask.tasks import Classification, MultiLabel, Regression
from polytask.tasks.unlabelled import Consistency, PseudoLabels
from polytask.training.processes import Processes
from polytask.training.semi_supervised import SemiSupervised, require_two_views
from polytask.training.views import Views

ROWS = 12
USES = {
    "kind": PseudoLabels(threshold=0.4, weight=2.0, ramp=0.5),
    "size": Consistency(weight=3.0, ramp=0.0),
    "tags": PseudoLabels(threshold=0.55),
}
MISSING = {
    "kind": torch.arange(ROWS) % 3 > 0,
    "size": (torch.arange(ROWS) < 5).unsqueeze(1),
    "tags": torch.stack([torch.arange(ROWS) < 4, torch.arange(ROWS) % 2 == 0], dim=1),
}


def network(scheme=None, dropout=0.0, relations=()):
    torch.manual_seed(0)
    tasks = [
        Classification("kind", classes=3, weight=0.5),
        Regression("size"),
        MultiLabel("tags", classes=2),
    ]
    encoder = MLP(width=6, depth=2, dropout=dropout, shape=TabularShape(4))
    return MultiTaskModel({"row": encoder}, tasks, scheme, relations)


def view(seed, rows=ROWS, missing=MISSING):
    draw = torch.Generator().manual_seed(seed)
    inputs = {"row": {"numeric": torch.randn(ROWS, 4, generator=draw), "categorical": torch.zeros(ROWS, 0).long()}}
    targets = {"kind": torch.zeros(ROWS).long(), "size": torch.zeros(ROWS, 1), "tags": torch.zeros(ROWS, 2)}
    masks = {task: ~mask for task, mask in missing.items()}
    chosen = torch.arange(rows) if isinstance(rows, int) else rows
    return Batch.of(inputs, targets, masks, torch.arange(ROWS)).part(chosen)


def views(rows=ROWS, missing=MISSING):
    return Views.of(view(1, rows, missing), view(2, rows, missing))


def gradients(model):
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def by_hand(model, progress):
    reference, output = model(view(1).inputs), model(view(2).inputs)
    losses = {}
    # At half of the ramp.
    ramp = math.exp(-5 * (1 - progress / 0.5) ** 2) if progress < 0.5 else 1.0
    probabilities, classes = reference["kind"].detach().softmax(1).max(1)
    chosen = MISSING["kind"] & (probabilities >= 0.4)
    entropies = torch.nn.functional.cross_entropy(output["kind"], classes, reduction="none")
    losses["kind"] = entropies[chosen].sum() / MISSING["kind"].sum()
    losses["size"] = (output["size"] - reference["size"].detach())[MISSING["size"]].square().mean()
    sure = reference["tags"].detach().sigmoid()
    chosen = MISSING["tags"] & ((sure >= 0.55) | (sure <= 0.45))
    entropies = torch.nn.functional.binary_cross_entropy_with_logits(
        output["tags"], (sure > 0.5).float(), reduction="none"
    )
    losses["tags"] = entropies[chosen].sum() / MISSING["tags"].sum()
    total = 0.5 * 2.0 * ramp * losses["kind"] + 3.0 * losses["size"] + losses["tags"]
    return losses, total


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 1.0])
def test_gradients_are_those_of_the_weighted_losses(progress):
    model = network()
    losses, total = by_hand(model, progress)
    total.backward()
    expected = gradients(model)
    assert all(gradient.any() for gradient in expected.values())
    model.zero_grad()
    found = SemiSupervised(model, USES).backward(views(), progress)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name])
    for task, loss in losses.items():
        torch.testing.assert_close(found[task].loss, loss.detach())
        assert not found[task].loss.requires_grad
        assert found[task].entries == MISSING[task].sum()
    assert found["size"].confident is None
    assert 0 < found["kind"].confident < 1


def test_gradients_are_added_and_scaled():
    model = network()
    step = SemiSupervised(model, USES)
    step.backward(views(), 1.0)
    once = gradients(model)
    step.backward(views(), 1.0, torch.amp.GradScaler("cpu", init_scale=4.0))
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, 5 * once[name])


@pytest.mark.parametrize("rows", [0, 1, 3, 4])
def test_any_number_of_rows_will_do(rows):
    model = network()
    found = SemiSupervised(model, USES).backward(views(rows), 1.0)
    lacking = [task for task, mask in MISSING.items() if mask[:rows].any()]
    assert list(found) == lacking
    assert all(step.loss.isfinite() for step in found.values())
    assert (model.heads["size"].weight.grad is None) == ("size" not in lacking)


def test_batch_normalisation_can_have_one_row():
    torch.manual_seed(0)
    model = MultiTaskModel({"image": CNN(4, 2, shape=ImageShape(1, 10, 10))}, [Classification("kind", classes=3)])
    for rows in (1, 4):
        images = torch.randn(rows, 1, 10, 10)
        mask = {"kind": torch.zeros(rows).bool()}
        both = (Batch.of({"image": each}, {}, mask, torch.arange(rows)) for each in (images, images.flip(3)))
        found = SemiSupervised(model, {"kind": Consistency()}).backward(Views.of(*both), 1.0)
        assert found["kind"].loss.isfinite()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_tasks_that_do_not_learn_so_get_no_gradient_of_their_own():
    model = network()
    SemiSupervised(model, {"size": Consistency()}).backward(views(), 1.0)
    assert model.heads["size"].weight.grad.any()
    assert model.heads["kind"].weight.grad is None
    assert all(parameter.grad is not None for parameter in model.trunk.parameters())


def test_only_what_learns_gets_a_gradient():
    model = network()
    model.trunk.requires_grad_(False)
    SemiSupervised(model, {"size": Consistency()}).backward(views(), 1.0)
    assert model.heads["size"].weight.grad.any()
    model.heads.requires_grad_(False)
    model.zero_grad()
    found = SemiSupervised(model, {"size": Consistency()}).backward(views(), 1.0)
    assert found["size"].loss > 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_gradient_is_lost_under_autocast():
    model = network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        SemiSupervised(model, USES).backward(views(), 1.0)
    found = gradients(model)
    assert all(gradient is not None and gradient.any() for gradient in found.values())


def test_tasks_that_read_others_can_learn_so():
    model = network(relations=[Cascade(task="kind", reads="size")])
    found = SemiSupervised(model, {"kind": PseudoLabels(threshold=0.0)}).backward(views(), 1.0)
    assert found["kind"].entries == MISSING["kind"].sum()
    assert model.heads["kind"].weight.grad.any()


def test_an_adversary_learns_from_labelled_rows_alone():
    model = network(sharing.create("adversarial"))
    adversary = model.trunk.adversary
    before = copy.deepcopy(adversary.state_dict())
    SemiSupervised(model, USES).backward(views(), 1.0)
    assert all(torch.equal(value, before[name]) for name, value in adversary.state_dict().items())
    assert all(parameter.grad is None for parameter in adversary.parameters())
    assert model.trunk.training
    assert any(parameter.grad is not None for parameter in model.trunk.private.parameters())


def test_a_task_without_probabilities_is_refused():
    with pytest.raises(UserError, match=r"pseudo_labels needs probabilities, but the task 'size' \(Regression\)"):
        SemiSupervised(network(), {"size": PseudoLabels()})


def test_views_that_are_always_the_same_are_refused_where_they_are_compared():
    rows = view(1)
    plain, drawing = network(), network(dropout=0.01)
    message = "training.tasks.size.unlabelled compares two views .* no input is augmented, and the network has no"
    with pytest.raises(UserError, match=message):
        require_two_views(plain, {"kind": PseudoLabels(), "size": Consistency()}, rows)
    require_two_views(plain, {"kind": PseudoLabels()}, rows)
    before, state = copy.deepcopy(drawing.state_dict()), torch.get_rng_state()
    require_two_views(drawing, {"size": Consistency()}, rows)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in drawing.state_dict().items())
    own_head = Classification("kind", classes=3, hidden=[4], dropout=0.5)
    encoder = MLP(width=6, depth=2, shape=TabularShape(4))
    half = MultiTaskModel({"row": encoder}, [own_head, Regression("size")])
    require_two_views(half, {"kind": Consistency()}, rows)
    with pytest.raises(UserError, match="training.tasks.size"):
        require_two_views(half, {"kind": Consistency(), "size": Consistency()}, rows)


def test_looking_for_randomness_leaves_batch_statistics_as_they_are():
    model = MultiTaskModel({"image": CNN(4, 2, shape=ImageShape(1, 10, 10))}, [Regression("size")])
    rows = Batch.of({"image": torch.randn(4, 1, 10, 10)}, {}, {}, torch.arange(4))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match="no dropout"):
        require_two_views(model, {"size": Consistency()}, rows)
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


CASES = {
    "some in each": ROWS,
    "one row": 1,
    "no row of a task in one process": torch.tensor([0, 1, 6, 7, 9]),
    "none": 0,
}


def steps(processes=None):
    found = {}
    for name, rows in CASES.items():
        chosen = torch.arange(rows) if isinstance(rows, int) else rows
        if processes is not None:
            chosen = chosen[processes.rank :: processes.count]
        model = network()
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        shown = SemiSupervised(model, USES).backward(views(chosen), 0.3, processes=processes)
        found[name] = gradients(model), {task: tuple(step) for task, step in shown.items()}
    return found


def work(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(steps(Processes.join()), f"{folder}/{rank}.pt")


def test_processes_do_together_what_one_does(tmp_path):
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    expected = steps()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        for name, (own, shown) in found.items():
            for parameter, gradient in expected[name][0].items():
                torch.testing.assert_close(own[parameter], gradient, msg=f"{name}: {parameter}")
            assert shown.keys() == expected[name][1].keys()
            for task, step in shown.items():
                for one, other in zip(step, expected[name][1][task], strict=True):
                    assert one == pytest.approx(other)
