"""Every encoder once, small, with inputs it can read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from polytask import encoders
from polytask.encoders import Encoder
from polytask.shapes import ImageShape, TabularShape, TextShape

ROWS = 5
TABLE = TabularShape(numeric=3, cardinalities=(4, 7))
TEXT = TextShape(vocabulary=50, length=16, padding=1)
WEIGHTED = TextShape(vocabulary=50, length=16, padding=1, weightings=2)
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
