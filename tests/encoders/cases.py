"""Every encoder once, small, with inputs it can read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from polytask import encoders
from polytask.encoders import Encoder
from polytask.graphs import Graphs
from polytask.shapes import AudioShape, GraphShape, ImageShape, SequenceShape, TabularShape, TextShape

ROWS = 5
TABLE = TabularShape(numeric=3, cardinalities=(4, 7))
TEXT = TextShape(vocabulary=50, length=16, padding=1)
WEIGHTED = TextShape(vocabulary=50, length=16, padding=1, weightings=2)
SERIES = SequenceShape(channels=3, length=16)
AUDIO = AudioShape(sample_rate=2000, samples=2400)
STEREO = AudioShape(sample_rate=2000, channels=2, samples=2400)
GRAPH = GraphShape(node_features=(4, 3), edge_features=(3, 2))
ALIKE_EDGES = GraphShape(node_features=(4, 3))
NUMBERS = GraphShape(node_features=(4, 3), node_numbers=2, edge_numbers=1)
NUMBERS_ALONE = GraphShape(node_numbers=3)
TINY = {
    "vocab_size": 50,
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 24,
    "pad_token_id": 1,
}


SPEECH = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8, 8, 8],
    "conv_stride": [5, 4, 2],
    "conv_kernel": [10, 4, 4],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
WHISPER = {
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "max_source_positions": 64,
    "num_mel_bins": 12,
    "vocab_size": 60,
    "pad_token_id": 1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
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
        if isinstance(self.shape, SequenceShape):
            return series([3 + 2 * row for row in range(rows)], random)
        if isinstance(self.shape, AudioShape):
            return recordings([200 * (2 + 2 * row) + 7 * row for row in range(rows)], self.shape, random)
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


def series(lengths: list[int], random: torch.Generator) -> dict[str, torch.Tensor]:
    """Random series, with zeros behind the shorter ones."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    values = torch.randn(*mask.shape, SERIES.channels, generator=random)
    return {"values": values.masked_fill(~mask.unsqueeze(2), 0.0), "mask": mask}


def recordings(lengths: list[int], shape: AudioShape, random: torch.Generator) -> dict[str, torch.Tensor]:
    """Random recordings, with zeros behind the shorter ones."""
    samples = torch.tensor(lengths)
    waves = 0.1 * torch.randn(len(lengths), shape.channels, max(lengths), generator=random)
    real = torch.arange(max(lengths)) < samples[:, None, None]
    return {"waveform": waves * real, "lengths": samples}


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
        numbers=torch.randn(sum(sizes), shape.node_numbers, generator=random) if shape.node_numbers else None,
        edge_numbers=torch.randn(sum(edges), shape.edge_numbers, generator=random) if shape.edge_numbers else None,
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
    "lstm": Case("lstm", SERIES, {"dim": 4, "hidden": 5, "depth": 2}),
    "lstm-both": Case("lstm", SERIES, {"dim": 4, "hidden": 5, "bidirectional": True}),
    "lstm-gru": Case("lstm", SERIES, {"dim": 4, "hidden": 5, "cell": "gru", "pooling": "max"}),
    "tcn": Case("tcn", SERIES, {"dim": 6, "depth": 2, "kernel": 3}),
    "tcn-last": Case("tcn", SERIES, {"dim": 6, "depth": 2, "normalization": "none", "pooling": "last"}),
    "tcn-both-ways": Case("tcn", SERIES, {"dim": 6, "depth": 3, "kernel": 3, "causal": False, "pooling": "max"}),
    "series_transformer": Case("series_transformer", SERIES, {"dim": 8, "heads": 2, "patch": 3}),
    "series_transformer-waves": Case(
        "series_transformer", SERIES, {"dim": 8, "heads": 2, "patch": 1, "positions": "sinusoidal", "pooling": "last"}
    ),
    "gcn": Case("gcn", GRAPH, {"dim": 8, "depth": 2}),
    "gcn-layer": Case("gcn", ALIKE_EDGES, {"dim": 8, "depth": 1, "normalization": "layer", "pooling": "sum"}),
    "gin": Case("gin", GRAPH, {"dim": 8, "depth": 2}),
    "gin-alike-edges": Case("gin", ALIKE_EDGES, {"dim": 8, "depth": 1, "residual": False, "pooling": "attention"}),
    "gin-numbers": Case("gin", NUMBERS, {"dim": 8, "depth": 1}),
    "gcn-numbers": Case("gcn", NUMBERS_ALONE, {"dim": 8, "depth": 1}),
    "gat-numbers": Case("gat", NUMBERS, {"dim": 8, "depth": 1, "heads": 2}),
    "gat": Case("gat", GRAPH, {"dim": 8, "depth": 2, "heads": 2}),
    "gat-none": Case("gat", ALIKE_EDGES, {"dim": 8, "depth": 1, "normalization": "none", "pooling": "max"}),
    "audio_cnn": Case("audio_cnn", AUDIO, {"width": 4, "depth": 2, "hidden": 6, "bands": 8}),
    "audio_cnn-mfcc": Case(
        "audio_cnn",
        STEREO,
        {"width": 4, "depth": 2, "hidden": None, "features": "mfcc", "bands": 5, "spectrum": "utterance"},
    ),
    "crnn": Case("crnn", AUDIO, {"width": 4, "convolutions": 2, "dim": 6, "hidden": 5, "bands": 8}),
    "crnn-max": Case(
        "crnn",
        AUDIO,
        {"width": 4, "convolutions": 1, "dim": 6, "hidden": 5, "depth": 2, "bands": 8, "subsampling": 1}
        | {"pooling": "max", "spectrum": "none"},
    ),
    "speech_model-wav2vec2": Case("speech_model", AUDIO, {"name_or_path": "wav2vec2", "pretrained": False}),
    "speech_model-wavlm": Case("speech_model", AUDIO, {"name_or_path": "wavlm", "pretrained": False}),
    "speech_model-sew": Case("speech_model", AUDIO, {"name_or_path": "sew", "pretrained": False, "pooling": "max"}),
    "speech_model-whisper": Case("speech_model", AUDIO, {"name_or_path": "whisper", "pretrained": False}),
    "auto_model-bert": Case("auto_model", TEXT, {"name_or_path": "bert", "pretrained": False}),
    "auto_model-albert": Case("auto_model", TEXT, {"name_or_path": "albert", "pretrained": False, "pooling": "last"}),
}


def prepared(case: Case) -> Case:
    if case.name not in ("auto_model", "speech_model"):
        return case
    from transformers import AutoConfig

    kind = case.parameters["name_or_path"]
    options = TINY if case.name == "auto_model" else WHISPER if kind == "whisper" else SPEECH
    architecture = AutoConfig.for_model(kind, **options).to_dict()
    return Case(case.name, case.shape, {**case.parameters, "architecture": architecture})
