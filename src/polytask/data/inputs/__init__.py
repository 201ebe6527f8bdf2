"""Inputs: columns of a table as what an encoder reads."""

from polytask.components import Family
from polytask.data.inputs.graph import GraphInput
from polytask.data.inputs.image import ImageInput
from polytask.data.inputs.input import Input
from polytask.data.inputs.tabular import TabularInput
from polytask.data.inputs.text import TextInput

family: Family[Input] = Family(
    "input", Input, {"graph": GraphInput, "image": ImageInput, "tabular": TabularInput, "text": TextInput}
)
names = family.names
create = family.create

__all__ = ["GraphInput", "ImageInput", "Input", "TabularInput", "TextInput", "create", "family", "names"]
