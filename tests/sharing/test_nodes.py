"""Features of graphs' nodes: pooled, weighted by row, computed for some rows."""

import torch

from polytask.encoders import Features, FeatureShape
from polytask.sharing.experts import MLPExperts, StageExperts, mixture
from polytask.sharing.mixing import pooled, weighted_sum
from polytask.sharing.mtan import Extractor
from polytask.sharing.sharing import select_rows

from ..encoders.cases import CASES, GRAPH, graphs

SIZES = (2, 1, 3)


def features(seed=0):
    draw = torch.Generator().manual_seed(seed)
    return Features(torch.randn(6, 4, generator=draw), None, graphs([*SIZES], GRAPH, draw))


def test_pooled_nodes_are_the_mean_of_each_graph():
    nodes = features()
    expected = torch.stack([part.mean(0) for part in nodes.values.split(SIZES)])
    torch.testing.assert_close(pooled(nodes), expected)


def test_a_row_weighs_all_its_nodes():
    draw = torch.Generator().manual_seed(1)
    nodes, weights = features(), torch.rand(3, 2, generator=draw)
    other = torch.randn(6, 4, generator=draw)
    of_node = weights.repeat_interleave(torch.tensor(SIZES), dim=0)
    expected = of_node[:, :1] * nodes.values + of_node[:, 1:] * other
    torch.testing.assert_close(weighted_sum([nodes, nodes._replace(values=other)], weights).values, expected)
    both = nodes._replace(values=torch.stack([nodes.values, other], dim=1))
    found = mixture(both, weights)
    torch.testing.assert_close(found.values, expected)
    assert found.graphs is nodes.graphs


def test_weights_that_all_rows_have_in_common_are_those_of_all_nodes():
    nodes, weights = features(), torch.tensor([[0.25, 0.5]])
    both = nodes._replace(values=torch.stack([nodes.values, 2 * nodes.values], dim=1))
    torch.testing.assert_close(mixture(both, weights).values, 1.25 * nodes.values)


def test_experts_over_pooled_nodes_give_vectors():
    found = MLPExperts(4, (5,), 3)(features())
    assert found.values.shape == (3, 3, 5)
    assert found.graphs is None


def test_experts_of_stages_keep_the_graphs():
    case = CASES["gin"]
    encoder, inputs = case.build().eval(), case.inputs()
    embedded = encoder.stages["embed"](inputs)
    from polytask.modules import NamedModules

    expert = NamedModules({name: encoder.stages[name] for name in ("layer1", "layer2")})
    found = StageExperts([expert], 1)(embedded)
    assert found.graphs is inputs
    expected = encoder.stages["layer2"](encoder.stages["layer1"](embedded)).values
    torch.testing.assert_close(found.values[:, 0], expected)


def test_rows_of_nodes_are_their_graphs_nodes():
    nodes = features()
    found = select_rows(nodes, torch.tensor([2, 0]))
    assert torch.equal(found.values, nodes.values[[3, 4, 5, 0, 1]])
    assert found.graphs.nodes.tolist() == [3, 2]
    assert select_rows(nodes, None) is nodes
    raw = select_rows({"molecule": nodes.graphs}, torch.tensor([1]))["molecule"]
    assert raw.nodes.tolist() == [1]


def test_mtan_hands_on_nodes_as_nodes_and_as_vectors():
    nodes = features()
    to_nodes = Extractor(FeatureShape("nodes", 4), FeatureShape("nodes", 5), 3).eval()
    assert to_nodes(nodes, torch.zeros(6, 5)).shape == (6, 5)
    to_vector = Extractor(FeatureShape("nodes", 4), FeatureShape("vector", 5), 3).eval()
    torch.testing.assert_close(to_vector(nodes, torch.zeros(3, 5)), to_vector.extract(pooled(nodes)))
