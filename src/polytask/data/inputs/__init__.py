"""Inputs: columns of a table as what an encoder reads."""

from polytask.components import Family
from polytask.data.inputs.audio import AudioInput
from polytask.data.inputs.graph import GraphInput
from polytask.data.inputs.graph_columns import GraphColumnsInput
from polytask.data.inputs.graph_table import GraphTableInput
from polytask.data.inputs.image import ImageInput
from polytask.data.inputs.input import Input
from polytask.data.inputs.sequence import SequenceInput
from polytask.data.inputs.tabular import TabularInput
from polytask.data.inputs.text import TextInput

family: Family[Input] = Family(
    "input",
    Input,
    {
        "audio": AudioInput,
        "graph": GraphInput,
        "graph_columns": GraphColumnsInput,
        "graph_table": GraphTableInput,
        "image": ImageInput,
        "sequence": SequenceInput,
        "tabular": TabularInput,
        "text": TextInput,
    },
)
names = family.names
create = family.create

__all__ = [
    "AudioInput",
    "GraphColumnsInput",
    "GraphInput",
    "GraphTableInput",
    "ImageInput",
    "Input",
    "SequenceInput",
    "TabularInput",
    "TextInput",
    "create",
    "family",
    "names",
]
