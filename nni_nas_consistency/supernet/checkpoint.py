"""Supernet checkpoints: the shared weights as safetensors, with what they are as metadata. No code runs on reading."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nni_nas_consistency.errors import CheckpointError

FORMAT = "nni-nas-consistency supernet 1"

SHIPPED = Path(str(files("nni_nas_consistency"))) / "assets"
"""Where the supernets that come with the package are; next to each, in a JSON file of its name, what it reached."""


def save_supernet(path: Path, supernet: Any, about: Mapping[str, Any]) -> None:
    """Write a supernet; the file appears whole or not at all.

    Args:
        path: Where to.
        supernet: A chain space after `make_supernet`.
        about: What made it (recipe, data, seed, …), plain JSON values.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    metadata = {"format": FORMAT, "space": json.dumps(_identity(supernet)), "about": json.dumps(dict(about))}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in supernet.state_dict().items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, temporary, metadata)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written ({error}); give a folder that exists and has room") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_supernet(path: Path, supernet: Any) -> dict[str, Any]:
    """Load weights into a supernet and return what made them.

    Args:
        path: The file; or the name of a supernet that comes with the package, such as `resnet20-cifar100`.
        supernet: A chain space after `make_supernet`, of the same space as the file's.

    Raises:
        CheckpointError: There is no such file, it is no supernet of ours, or of another space.
    """
    shipped = {file.stem: file for file in SHIPPED.glob("*.safetensors")}
    try:
        with safe_open(path if path.is_file() else shipped.get(str(path), path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError(f"{path}: is no supernet checkpoint; `nni-consistency train` writes one")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}); give the supernet.safetensors of a training run, or one of those that "
            f"come with the package: {', '.join(sorted(shipped))}"
        ) from error
    written, wanted = json.loads(metadata["space"]), _identity(supernet)
    if written != wanted:
        different = ", ".join(
            f"{key} {written.get(key)!r} instead of {wanted.get(key)!r}"
            for key in sorted(written.keys() | wanted.keys())
            if written.get(key) != wanted.get(key)
        )
        raise CheckpointError(
            f"{path}: holds a supernet of another space: {different}; give the data it was trained on"
        )
    supernet.load_state_dict(tensors, strict=True)
    about: dict[str, Any] = json.loads(metadata["about"])
    return about


def weights_sha256(supernet: Any) -> str:
    """Return what tells the weights and running statistics of one supernet from those of another."""
    return sha256_of(tensor for _, tensor in sorted(supernet.state_dict().items()))


def sha256_of(tensors: Iterable[Tensor]) -> str:
    """Return the SHA-256 of tensors, in this order: their types, shapes and values."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _identity(supernet: Any) -> dict[str, Any]:
    return {"class": type(supernet).__name__, **supernet.args}
