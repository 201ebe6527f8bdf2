import subprocess
import sys

import pytest

from polytask import encoders
from polytask.errors import MissingExtra
from polytask.shapes import AudioShape, GraphShape, ImageShape, TextShape


@pytest.mark.parametrize(
    ("name", "parameters", "library", "extra"),
    [
        ("resnet", {"shape": ImageShape()}, "torchvision", "vision"),
        ("vgg", {"shape": ImageShape()}, "torchvision", "vision"),
        ("timm", {"name": "resnet18", "shape": ImageShape()}, "timm", "vision"),
        ("gin", {"shape": GraphShape((3,))}, "torch_geometric", "graph"),
        ("speech_model", {"name_or_path": "hubert", "shape": AudioShape(16000)}, "transformers", "audio"),
        ("auto_model", {"name_or_path": "bert", "shape": TextShape(10)}, "transformers", "text"),
    ],
)
def test_says_what_to_install(monkeypatch, name, parameters, library, extra):
    for module in [module for module in sys.modules if module.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    message = f"The encoder '{name}' needs the library '{library}'.*pip install 'polytask\\[{extra}\\]'"
    with pytest.raises(MissingExtra, match=message):
        encoders.create(name, **parameters)


def test_importing_the_encoders_imports_no_optional_library():
    code = (
        "import sys, polytask.encoders, polytask.data.inputs\n"
        "optional = ('timm', 'torchvision', 'transformers', 'tokenizers', 'torch_geometric', 'rdkit', 'soundfile')\n"
        "print([name for name in optional if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
