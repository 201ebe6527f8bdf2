"""Every encoder in turn."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from .cases import CASES, TEXT, TINY, Case, prepared, texts


@pytest.fixture
def make_texts() -> Callable[[list[int]], dict[str, torch.Tensor]]:
    """Random texts of these lengths."""
    return lambda lengths: texts(lengths, torch.Generator().manual_seed(1))


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    """Each encoder in turn."""
    return prepared(CASES[request.param])


@pytest.fixture(params=[name for name, case in CASES.items() if case.shape is TEXT])
def text_case(request: pytest.FixtureRequest) -> Case:
    """Each text encoder in turn."""
    return prepared(CASES[request.param])


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a folder with a small transformers model of a kind, random weights and all."""

    def make(kind: str, **options: Any) -> Path:
        from transformers import AutoConfig, AutoModel

        folder = tmp_path_factory.mktemp(kind)
        torch.manual_seed(0)
        AutoModel.from_config(AutoConfig.for_model(kind, **{**TINY, **options})).save_pretrained(folder)
        return folder

    return make
