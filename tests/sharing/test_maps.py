"""Schemes under tasks that read maps: what a task reads of the finer maps is its own mixture of them too."""

import pytest
import torch
from tests.sharing.schemes import CHOOSING, SCHEMES

from polytask import MultiTaskModel, UserError, sharing
from polytask.data.batch import Batch
from polytask.encoders import CNN, ResNet
from polytask.features import Features
from polytask.shapes import ImageShape
from polytask.sharing.experts import mixture_of_all, some_experts
from polytask.sharing.ltb import mixtures
from polytask.tasks import Classification, Segmentation

IMAGE = ImageShape(3, 32, 32)
NO_MAPS = {
    *("adatt", "adversarial", "cgc", "dselect_k", "man", "mmoe", "ple", "adatt-one-own-expert", "cgc-one-own-expert"),
    *("dselect_k-static", "mmoe-layers", "ple-three-levels", "adversarial-fully-shared", "adversarial-small-private"),
    *("man-l2", "sluice", "nddr-shortcut"),
}
"""Schemes that make vectors, at least as they are set by default."""
OTHERWISE = {
    "sluice": ("sluice", {"mix_layers": False}),
    "nddr-shortcut": ("nddr", {"shortcut": False}),
}


def model_of(scheme, parameters, encoder=None):
    torch.manual_seed(0)
    tasks = [
        Segmentation("age", classes=3, width=4, stride=1, image_size=[32, 32]),
        Classification("type", classes=3),
        Segmentation("mood", classes=3, width=4, stride=1, image_size=[32, 32]),
    ]
    encoder = encoder or CNN(8, 3, shape=IMAGE)
    return MultiTaskModel({"image": encoder}, tasks, sharing.create(scheme, **parameters))


def batch():
    torch.manual_seed(1)
    targets = {name: torch.randint(3, (4, 32, 32)) for name in ("age", "mood")} | {"type": torch.randint(3, (4,))}
    masks = {name: torch.ones(each.shape, dtype=torch.bool) for name, each in targets.items()}
    return Batch.of({"image": torch.randn(4, 3, 32, 32)}, targets, masks, torch.arange(4))


@pytest.mark.parametrize("name", SCHEMES)
def test_a_step_and_a_prediction_over_maps(name):
    scheme, parameters = SCHEMES[name]
    if name in NO_MAPS:
        with pytest.raises(UserError, match=r"gives one vector a row|one vector a row, but some task"):
            model_of(scheme, parameters)
        return
    if name == "covariance-heads":
        with pytest.raises(UserError, match="no linear layer"):
            model_of(scheme, parameters)
        return
    # Skipping takes stages that keep the shape of what they read.
    encoder = ResNet(18, shape=IMAGE) if scheme == "adashare" else None
    model = model_of(scheme, parameters, encoder).train()
    found = model.objectives(batch())
    (sum(found.losses.values()) + sum(found.penalties.values())).backward()
    heads = {name: p for name, p in model.named_parameters() if name.startswith("heads.")}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in heads.values())
    for part in model.trunk_parts():
        parameters_of = [p for p in part.module.parameters() if p.requires_grad]
        # What chooses has a warm-up, in which nothing is chosen.
        assert scheme in CHOOSING or not parameters_of or any(p.grad is not None for p in parameters_of), part.name
    model.eval()
    outputs = model(batch().inputs)
    assert outputs["age"].shape == (4, 3, 32, 32) and outputs["type"].shape == (4, 3)
    some = model(batch().inputs, ["mood"], {"mood": torch.tensor([2, 0])})["mood"]
    torch.testing.assert_close(some, outputs["mood"][[2, 0]], rtol=1e-4, atol=1e-5)


def test_sluice_and_nddr_can_leave_their_stages_apart():
    for scheme, parameters in (OTHERWISE["sluice"], OTHERWISE["nddr-shortcut"]):
        assert model_of(scheme, parameters)(batch().inputs)["age"].shape == (4, 3, 32, 32)


@pytest.mark.parametrize(
    "name", ["mmoe-stages", "ple-stages", "ltb", "stacked_experts", "mtan", "stacked_experts-input"]
)
def test_a_finer_map_is_mixed_as_the_last_one_is(name):
    """A loss on a finer map alone reaches what mixes, or attends, as much as one on the last map."""
    scheme, parameters = SCHEMES[name]
    torch.manual_seed(0)
    model = model_of(scheme, parameters).train()
    features = model.trunk(batch().inputs, list(model.task_names), {}).features["age"]
    reached = {}
    for place, each in (("finer", features.levels[-1]), ("last", features.values)):
        gradients = torch.autograd.grad(
            each.square().sum(), list(model.trunk.parameters()), retain_graph=True, allow_unused=True
        )
        names = [n for n, _ in model.trunk.named_parameters()]
        reached[place] = {n for n, g in zip(names, gradients, strict=True) if g is not None and g.abs().sum() > 0}
    assert reached["finer"] <= reached["last"] or name in CHOOSING
    before = {n for n in reached["last"] if "conv2" in n}
    assert before and before == {n for n in reached["finer"] if "conv2" in n}, "of all experts, nodes or attentions"
    if name != "mtan":
        mixers = {n for n in reached["last"] if any(word in n for word in ("gate", "fusion", "ends", "logits"))}
        assert mixers & reached["finer"], "what mixes the values mixes the finer maps"


def test_mixtures_add_up_levels_of_their_own_and_leave_those_in_common():
    torch.manual_seed(0)
    common, own = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4, 4)
    outputs = Features(torch.randn(2, 5, 6, 2, 2), levels=(common, own))
    weights = torch.rand(2, 5)
    whole = mixture_of_all([outputs], weights)
    parts = mixture_of_all([some_experts(outputs, 0, 2), some_experts(outputs, 2, 5)], weights)
    for found in (whole, parts):
        torch.testing.assert_close(found.values, torch.einsum("be,bechw->bchw", weights, outputs.values))
        torch.testing.assert_close(found.levels[0], common)
        torch.testing.assert_close(found.levels[1], torch.einsum("be,bechw->bchw", weights, own))
    nodes = [Features(torch.randn(2, 6, 2, 2), levels=(torch.randn(2, 3, 4, 4),)) for _ in range(3)]
    shares = torch.rand(2, 3)
    for share, found in zip(shares, mixtures(nodes, shares), strict=True):
        torch.testing.assert_close(found.levels[0], sum(s * n.levels[0] for s, n in zip(share, nodes, strict=True)))
