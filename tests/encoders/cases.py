"""Every encoder once, small, with inputs it can read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from polytask import encoders
from polytask.encoders import Encoder
from polytask.graphs import Graphs
from polytask.shapes import GraphShape, ImageShape, TabularShape, TextShape

ROWS = 5
TABLE = TabularShape(numeric=3, cardinalities=(4, 7))
TEXT = TextShape(vocabulary=50, length=16, padding=1)
WEIGHTED = TextShape(vocabulary=50, length=16, padding=1, weightings=2)
GRAPH = GraphShape(node_features=(4, 3), edge_features=(3, 2))
ALIKE_EDGES = GraphShape(node_features=(4, 3))
TINY = {
    "vocab_size": 50,
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 24,
    "pad_token_id": 1,
}


@dataclass
class Case:
    """An encoder, how to build it, and what it reads."""

    name: str
    shape: Any
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> Encoder:
        torch.manual_seed(0)
        return encoders.create(self.name, **self.parameters, shape=self.shape)

    def inputs(self, rows: int = ROWS, seed: int = 0) -> Any:
        """Random inputs; every column of a vocabulary or a category occurs where there are enough rows."""
        random = torch.Generator().manual_seed(seed)
        if isinstance(self.shape, ImageShape):
            return torch.randn(rows, self.shape.channels, self.shape.height, self.shape.width, generator=random)
        if isinstance(self.shape, TabularShape):
            codes = [torch.randint(n, (rows,), generator=random) for n in self.shape.cardinalities]
            numeric = torch.randn(rows, self.shape.numeric, generator=random)
            return {"numeric": numeric, "categorical": torch.stack(codes, dim=1)}
        if isinstance(self.shape, GraphShape):
            return graphs([1 + 2 * row for row in range(rows)], self.shape, random)
        found = texts([3 + 2 * row for row in range(rows)], random)
        if self.shape.weightings:
            weights = torch.rand(*found["ids"].shape, self.shape.weightings, generator=random)
            found["weights"] = weights * found["mask"].unsqueeze(2)
        return found


def texts(lengths: list[int], random: torch.Generator) -> dict[str, torch.Tensor]:
    longest = max(lengths)
    mask = torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)
    ids = torch.randint(5, TEXT.vocabulary, (len(lengths), longest), generator=random)
    return {"ids": ids.masked_fill(~mask, TEXT.padding), "mask": mask}


def graphs(sizes: list[int], shape: GraphShape, random: torch.Generator) -> Graphs:
    """Random graphs: a ring of the nodes (none of one node), each edge in both directions."""
    rings = [torch.arange(size if size > 1 else 0) for size in sizes]
    ends = [torch.stack([ring, ring.roll(1)]) for ring in rings]
    both = [torch.cat([pair, pair.flip(0)], dim=1) for pair in ends]
    edges = [pair.shape[1] for pair in both]
    return Graphs.of(
        codes(sum(sizes), shape.node_features, random),
        torch.cat(both, dim=1),
        codes(sum(edges), shape.edge_features, random),
        torch.tensor(sizes),
        torch.tensor(edges),
    )


def codes(count: int, features: Sequence[int], random: torch.Generator) -> torch.Tensor:
    """Random features, all values of which occur where there is room for them."""
    start, columns = 0, []
    for values in features:
        columns.append(start + torch.randint(values, (count,), generator=random))
        columns[-1][:values] = start + torch.arange(values)[:count]
        start += values
    return torch.stack(columns, dim=1) if columns else torch.empty(count, 0, dtype=torch.int64)


CASES = {
    "mlp": Case("mlp", TABLE, {"width": 8, "depth": 2, "dropout": 0.1}),
    "tabular_resnet": Case("tabular_resnet", TABLE, {"width": 8, "depth": 2}),
    "tabular_resnet-layer": Case("tabular_resnet", TABLE, {"width": 8, "depth": 2, "normalization": "layer"}),
    "ft_transformer": Case("ft_transformer", TABLE, {"dim": 8, "depth": 2, "heads": 2, "residual_dropout": 0.1}),
    "cnn": Case("cnn", ImageShape(1, 10, 10), {"width": 4}),
    "cnn-hidden": Case("cnn", ImageShape(3, 20, 12), {"width": 4, "hidden": 6, "normalization": "group"}),
    "cnn-none": Case("cnn", ImageShape(1, 3, 4), {"width": 4, "depth": 1, "grid": 1, "normalization": "none"}),
    "resnet": Case("resnet", ImageShape(1, 12, 12)),
    "vgg": Case("vgg", ImageShape(1, 10, 10)),
    "timm-sequence": Case("timm", ImageShape(1, 32, 32), {"name": "mobilenetv3_small_050"}),
    "timm-transformer": Case("timm", ImageShape(1, 32, 32), {"name": "vit_tiny_patch16_224"}),
    "bag": Case("bag", TEXT, {"dim": 8}),
    "bag-hidden": Case("bag", TEXT, {"dim": 8, "hidden": 6, "dropout": 0.1}),
    "bag-weighted": Case("bag", WEIGHTED, {"dim": 8, "std": 0.2}),
    "bag-weighted-hidden": Case("bag", WEIGHTED, {"dim": 8, "hidden": 6, "dropout": 0.1}),
    "bigru": Case("bigru", TEXT, {"dim": 6, "hidden": 5, "depth": 2}),
    "bigru-mean": Case("bigru", TEXT, {"dim": 6, "hidden": 5, "pooling": "mean"}),
    "bigru-last": Case("bigru", TEXT, {"dim": 6, "hidden": 5, "pooling": "last"}),
    "text_cnn": Case("text_cnn", TEXT, {"dim": 6, "filters": 4}),
    "transformer": Case("transformer", TEXT, {"dim": 8, "heads": 2}),
    "transformer-cls": Case(
        "transformer", TEXT, {"dim": 8, "heads": 2, "depth": 1, "positions": "sinusoidal", "pooling": "cls"}
    ),
    "gcn": Case("gcn", GRAPH, {"dim": 8, "depth": 2}),
    "gcn-layer": Case("gcn", ALIKE_EDGES, {"dim": 8, "depth": 1, "normalization": "layer", "pooling": "sum"}),
    "gin": Case("gin", GRAPH, {"dim": 8, "depth": 2}),
    "gin-alike-edges": Case("gin", ALIKE_EDGES, {"dim": 8, "depth": 1, "residual": False, "pooling": "attention"}),
    "gat": Case("gat", GRAPH, {"dim": 8, "depth": 2, "heads": 2}),
    "gat-none": Case("gat", ALIKE_EDGES, {"dim": 8, "depth": 1, "normalization": "none", "pooling": "max"}),
    "auto_model-bert": Case("auto_model", TEXT, {"name_or_path": "bert", "pretrained": False}),
    "auto_model-albert": Case("auto_model", TEXT, {"name_or_path": "albert", "pretrained": False, "pooling": "last"}),
}


def prepared(case: Case) -> Case:
    if case.name != "auto_model":
        return case
    from transformers import AutoConfig

    kind = case.parameters["name_or_path"]
    architecture = AutoConfig.for_model(kind, **TINY).to_dict()
    return Case(case.name, case.shape, {**case.parameters, "architecture": architecture})
