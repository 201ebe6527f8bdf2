"""What importing costs, and what the package offers."""

import subprocess
import sys

import pytest

import polytask as pt


def imported(code: str) -> set[str]:
    """The top-level modules that are loaded after `code`, in a fresh process."""
    listing = f"{code}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    return set(
        subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True).stdout.split()
    )


def test_importing_polytask_imports_nothing_heavy():
    assert not imported("import polytask") & {"torch", "lightning", "pandas", "pyarrow", "torchmetrics", "pydantic"}


def test_help_imports_nothing_heavy():
    code = "import sys\nfrom polytask.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    assert not imported(code) & {"torch", "lightning", "pandas", "pyarrow", "torchmetrics", "pydantic"}


def test_balancing_needs_torch_only():
    assert not imported("import polytask.balancing") & {"lightning", "pandas", "pyarrow", "torchmetrics", "pydantic"}


def test_the_public_surface_is_there():
    for name in pt.__all__:
        assert getattr(pt, name) is not None
    assert set(pt.__all__) <= set(dir(pt))
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        pt.nonsense  # noqa: B018


def test_the_drop_in_of_the_design():
    import torch

    trunk, heads = torch.nn.Linear(3, 4), {"seg": torch.nn.Linear(4, 1), "depth": torch.nn.Linear(4, 1)}
    features = trunk(torch.randn(5, 3))
    balancer = pt.balancing.create("equal")
    balancer.backward({name: head(features).pow(2).mean() for name, head in heads.items()}, shared=trunk.parameters())
    assert all(parameter.grad is not None for parameter in trunk.parameters())


def test_a_model_from_python():
    import torch

    model = pt.MultiTaskModel(
        encoders={"image": pt.encoders.CNN(width=4, shape=pt.shapes.ImageShape(3, 16, 16))},
        sharing=pt.sharing.Hard(),
        tasks=[pt.tasks.Classification("label", classes=10), pt.tasks.Regression("age")],
    )
    outputs = model({"image": torch.randn(2, 3, 16, 16)})
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {"label": (2, 10), "age": (2, 1)}
