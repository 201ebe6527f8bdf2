"""Pretrained weights from a local file."""

from __future__ import annotations

import logging
import pickle
import textwrap
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from polytask.errors import UserError, listing

logger = logging.getLogger("polytask")

_WRAPPERS = ("state_dict", "model")
"""Keys under which training scripts put the weights beside other things."""

_PREFIXES = ("_orig_mod.", "module.")
"""What torch.compile and data parallelism put before every name."""


def read_weights(path: str) -> dict[str, Tensor]:
    """The tensors by name in a `.safetensors` or PyTorch file; no code of the file is run.

    Raises:
        UserError: There is no such file, or it holds no weights.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(
            f"There is no weights file '{path}'. 'pretrained' takes true (the library's own weights, downloaded), "
            "false, or the path of a .pth or .safetensors file."
        )
    try:
        if file.suffix == ".safetensors":
            content: Any = load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read as weights: {in_short(error)}") from error
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"'{path}' holds no weights: a mapping from names to tensors (a state dictionary) is expected.")
    return {_bare(name): value for name, value in content.items()}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str, ignored: Collection[str] = ()) -> None:
    """Put weights into `model`, and tell what does not fit.

    Args:
        model: Receives the weights.
        weights: The tensors by name.
        source: Where they come from, for messages.
        ignored: Beginnings of names that are left out without a word, in the model and in the weights: the
            classifier's.

    Raises:
        UserError: A tensor has another shape, or nothing fits.
    """
    skipped = tuple(ignored)
    own = {name: value for name, value in model.state_dict().items() if not name.startswith(skipped)}
    given = {name: value for name, value in weights.items() if not name.startswith(skipped)}
    for name in own.keys() & given.keys():
        if own[name].shape != given[name].shape:
            raise UserError(
                f"'{source}' is for another network: its tensor '{name}' is {_size(given[name])}, but the encoder's is "
                f"{_size(own[name])}."
            )
    tell_mismatch(own, own.keys() - given.keys(), given.keys() - own.keys(), source)
    model.load_state_dict(given, strict=False)


def tell_mismatch(known: Collection[str], missing: Collection[str], unexpected: Collection[str], source: str) -> None:
    """Warn of tensors that the weights lack (they start at random) or have too many.

    Args:
        known: The names of the encoder's tensors.
        missing: Those of them that the weights lack.
        unexpected: The weights' tensors that the encoder has no place for.
        source: Where the weights come from.

    Raises:
        UserError: All are missing.
    """
    known, missing, unexpected = _counted(known), _counted(missing), _counted(unexpected)
    if missing == known:
        raise UserError(
            f"Nothing in '{source}' fits the encoder: it expects tensors such as {listing(missing, limit=3)}, "
            f"but the file has {listing(unexpected, limit=3) or 'none'}."
        )
    if missing:
        logger.warning(
            "'%s' lacks %d of %d tensors, which start at random: %s.",
            source,
            len(missing),
            len(known),
            listing(missing),
        )
    if unexpected:
        logger.warning(
            "'%s' holds %d more tensors than the encoder has a place for: %s.",
            source,
            len(unexpected),
            listing(unexpected),
        )


def _counted(names: Collection[str]) -> list[str]:
    # Old files lack batch normalisation's count of batches, which nothing reads.
    return sorted(name for name in names if not name.endswith("num_batches_tracked"))


def adapt_channels(kernel: Tensor, channels: int) -> Tensor:
    """A first convolution's kernel `[out, in, h, w]` for another number of channels: `[out, channels, h, w]`.

    For one channel the kernel is summed, so that a grey image gives what the same image in colour would; for others its
    channels are repeated and scaled by `in / channels`, so that values keep their scale.
    """
    known = kernel.shape[1]
    if channels == known:
        return kernel
    if channels == 1:
        return kernel.sum(dim=1, keepdim=True)
    order = torch.arange(channels) % known
    return kernel[:, order] * (known / channels)


def cannot_download(name: str, error: BaseException, where: str | None = None) -> UserError:
    """The error for pretrained weights that could not be fetched.

    Args:
        name: The network's name.
        error: What went wrong.
        where: The weights' address, where there is one.
    """
    place = f" from {where}" if where else ""
    return UserError(
        f"The pretrained weights of '{name}' could not be downloaded: {in_short(error)} "
        f"Download them{place} on a machine that can, and give the file's path: pretrained: /path/to/weights.pth"
    )


def in_short(error: BaseException) -> str:
    """An error's message on one line of moderate length, or its name where it has none."""
    return textwrap.shorten(str(error), width=240, placeholder="...") or type(error).__name__


def _bare(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    return name


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a single number"
