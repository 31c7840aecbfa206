"""Supernet checkpoints: safetensors files of the shared weights, with space and provenance as metadata.

Unlike pickles they run no code when they are read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from nni.nas.nn.pytorch import ModelSpace
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nni_nas_consistency.errors import CheckpointError
from nni_nas_consistency.files.checkpoint_header import (
    FORMAT,
    FORMAT_1,
    checkpoint_path,
    read_checkpoint_header,
)


def save_supernet(path: Path, supernet: ModelSpace, about: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: The file; an older one is replaced.
        supernet: A space after `make_supernet`.
        about: How it was made: recipe, data, seed, …, as plain JSON values.

    Raises:
        CheckpointError: The file cannot be written.
    """
    metadata = {"format": FORMAT, "space": json.dumps(space_identity(supernet)), "about": json.dumps(dict(about))}
    # copies, since safetensors refuses tensors that share memory: those of a module that is registered twice
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in _weights(supernet).items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, temporary, metadata)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written ({error}); give a folder that exists and has room") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_supernet(path: Path, supernet: ModelSpace) -> dict[str, Any]:
    """Load the weights of a checkpoint into a supernet, and return how they were made.

    Args:
        path: The file; or the name of a supernet that comes with the package, such as `resnet20-cifar100`.
        supernet: A space after `make_supernet`, with the same arguments as the space of the checkpoint.

    Raises:
        CheckpointError: There is no such file, it is not a supernet checkpoint, or was trained for a different space.
    """
    header = read_checkpoint_header(path)
    _check_space(path, header.space, space_identity(supernet))
    try:
        with safe_open(checkpoint_path(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); copy or train it again") from error
    if header.format == FORMAT_1:
        tensors = {_present_name(name): tensor for name, tensor in tensors.items()}
    _check_tensors(path, tensors, _weights(supernet))
    cast("nn.Module", supernet).load_state_dict(tensors, strict=True)
    return dict(header.about)


def weights_sha256(supernet: ModelSpace) -> str:
    """Return the SHA-256 of the weights and running statistics of a supernet."""
    return sha256_of(tensor for _, tensor in sorted(_weights(supernet).items()))


def sha256_of(tensors: Iterable[Tensor]) -> str:
    """Return the SHA-256 of the types, shapes and values of tensors, in this order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def space_identity(space: ModelSpace) -> dict[str, Any]:
    """Return the class and the arguments of a search space, as plain JSON values."""
    identity: dict[str, Any] = json.loads(json.dumps({"class": type(space).__name__, **space.args}, default=repr))
    return identity


def _check_space(path: Path, written: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    different = [
        f"{key} {written.get(key)!r} instead of {wanted.get(key)!r}"
        for key in sorted(written.keys() | wanted.keys())
        if written.get(key) != wanted.get(key)
    ]
    if different:
        raise CheckpointError(
            f"{path}: was trained for a different space: {', '.join(different)}; "
            "use the space and the data it was trained with"
        )


def _check_tensors(path: Path, written: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuse tensors of other names or sizes before any is copied into the supernet."""
    for name in sorted(written.keys() | wanted.keys()):
        sizes = [tuple(tensors[name].shape) if name in tensors else None for tensors in (written, wanted)]
        if sizes[0] != sizes[1]:
            raise CheckpointError(
                f"{path}: the size of {name} is {sizes[0]} instead of {sizes[1]}; train it again with this version"
            )


def _weights(supernet: ModelSpace) -> dict[str, Tensor]:
    return dict(cast("nn.Module", supernet).state_dict())


def _present_name(name: str) -> str:
    """Return the present name of a tensor in a ResNet20 checkpoint of format 1."""
    match = re.fullmatch(r"stages\.(\d+)\.(shortcut\.)?(conv|bn)\.(\w+)", name)
    if match is None:
        return name.replace("stages.", "links.", 1)
    link, shortcut, layer, tensor = match.groups()
    if shortcut:
        return f"links.{link}.shortcut.project.{layer}.{tensor}"
    position = {0: "conv", 1: "conv1"}.get(int(link), "conv1" if int(link) % 2 else "conv2")
    return f"links.{link}.{position}.{layer}.{tensor}"
