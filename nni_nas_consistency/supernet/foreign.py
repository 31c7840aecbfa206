"""Weights that others wrote: torch or safetensors files of tensors by name, read without running code in them."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nni_nas_consistency.errors import CheckpointError
from nni_nas_consistency.files.strict_json import one_line


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name.

    Args:
        path: A safetensors file or one of `torch.save`: tensors by name, or such a mapping under `model`.

    Raises:
        CheckpointError: The file cannot be read, or holds something else.
    """
    try:
        with path.open("rb") as file:
            is_torch = file.read(2)[:1] in (b"P", b"\x80")
        content = _of_torch(path) if is_torch else load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: is neither a torch nor a safetensors file ({one_line(error)})") from error
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not content or not all(isinstance(each, Tensor) for each in content.values()):
        raise CheckpointError(
            f"{path}: holds no tensors by name; give the state dict of a network, or one under 'model'"
        )
    return {str(name): tensor for name, tensor in content.items()}


def _of_torch(path: Path) -> object:
    """Return the content of a file of `torch.save`; anything but tensors and plain values is refused."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # the words that a training was begun with
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a pickle of something else: torch raises several kinds, in many lines
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: cannot be read without running code in it ({first})") from error
