"""Fusions: several inputs, each with its encoder, as one."""

from polytask.components import Family
from polytask.fusion.attention import Attention
from polytask.fusion.concat import Concat
from polytask.fusion.fusion import FUSED, FusedEncoder, Fusion, Inputs
from polytask.fusion.modalities import ModalityEncoders
from polytask.fusion.one_encoder import OneEncoder, joined_outputs, own_rows
from polytask.fusion.perceiver import Perceiver
from polytask.fusion.shared_transformer import SharedTransformer

family: Family[Fusion] = Family(
    "fusion",
    Fusion,
    {
        "attention": Attention,
        "concat": Concat,
        "one_encoder": OneEncoder,
        "perceiver": Perceiver,
        "shared_transformer": SharedTransformer,
    },
)
names = family.names
create = family.create

__all__ = [
    "FUSED",
    "Attention",
    "Concat",
    "FusedEncoder",
    "Fusion",
    "Inputs",
    "ModalityEncoders",
    "OneEncoder",
    "Perceiver",
    "SharedTransformer",
    "create",
    "family",
    "joined_outputs",
    "names",
    "own_rows",
]
