"""Checkpoints: safetensors files of a supernet's weights, or a network's, with space and provenance as metadata.

Unlike pickles they run no code when they are read, and the SHA-256 of their content tells damage.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from nni.nas.nn.pytorch import ModelSpace
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.errors import CheckpointError, FileError
from nni_nas_consistency.files.atomic import write_bytes_atomically
from nni_nas_consistency.files.checkpoint_header import (
    FORMAT,
    FORMAT_1,
    NETWORK_FORMAT,
    TensorHeader,
    checkpoint_path,
    read_checkpoint_header,
    read_weights_header,
)
from nni_nas_consistency.files.strict_json import decode, json_value
from nni_nas_consistency.supernet.active import active_of
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.supernet.sharing import FULL, sharing_of_checkpoint

AnySpace = TypeVar("AnySpace", bound=ModelSpace)

FLOATS = ("float64", "float32", "float16", "bfloat16")


def save_supernet(path: Path, supernet: ModelSpace, about: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: The file; an older one is replaced.
        supernet: A space after `make_supernet`.
        about: How it was made: recipe, data, seed, …, as plain JSON values.

    Raises:
        CheckpointError: The file cannot be written, or a number in `about` is not finite.
    """
    metadata = {"format": FORMAT, "space": json.dumps(space_identity(supernet))}
    sharing = active_of(supernet).sharing
    if sharing != FULL:
        metadata["sharing"] = str(sharing)
    _save(path, _weights(supernet), metadata, about)


def save_network(path: Path, network: nn.Module, space: ModelSpace, arch: Arch, about: Mapping[str, Any]) -> None:
    """Write the network of one arch atomically.

    Args:
        path: The file; an older one is replaced.
        network: The network in plain layers.
        space: The space that it is of, not a supernet.
        arch: Its arch.
        about: How it was made, as plain JSON values.

    Raises:
        CheckpointError: As `save_supernet`.
    """
    metadata = {"format": NETWORK_FORMAT, "space": json.dumps(space_identity(space)), "arch": arch.code}
    _save(path, network.state_dict(), metadata, about)


def load_network(path: Path, network: nn.Module, space: ModelSpace) -> dict[str, Any]:
    """Load the weights of a checkpoint into the network of its arch, and return how they were made.

    Args:
        path: The file.
        network: The network in plain layers.
        space: The space that it is of, with the arguments of the checkpoint.

    Raises:
        CheckpointError: As `load_supernet`.
    """
    header = read_weights_header(path)
    _check_space(path, header.space, space_identity(space))
    _check_tensors(path, header.tensors, network.state_dict())
    network.load_state_dict(_undamaged(path, header.sha256), strict=True)
    return dict(header.about)


def _save(path: Path, weights: Mapping[str, Tensor], metadata: dict[str, str], about: Mapping[str, Any]) -> None:
    try:
        metadata["about"] = json.dumps(dict(about))
        json_value(decode(metadata["about"]), "about")
    except ValueError as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error
    # copies, since safetensors refuses tensors that share memory: those of a module that is registered twice
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
    metadata["sha256"] = checkpoint_sha256(tensors, metadata)
    try:
        write_bytes_atomically(path, save(tensors, metadata))
    except FileError as error:
        raise CheckpointError(str(error)) from error


def supernet_of(path: Path, space: AnySpace) -> tuple[AnySpace, dict[str, Any]]:
    """Turn a space, in place, into the supernet of a checkpoint, and return it with how it was made.

    Args:
        path: As for `load_supernet`.
        space: A space that is not a supernet yet, with the same arguments as the space of the checkpoint.

    Raises:
        CheckpointError: As `load_supernet`.
    """
    supernet = make_supernet(space, sharing=sharing_of_checkpoint(path))
    return supernet, load_supernet(path, supernet)


def load_supernet(path: Path, supernet: ModelSpace) -> dict[str, Any]:
    """Load the weights of a checkpoint into a supernet, and return how they were made.

    Floating-point weights become those of the supernet's type: precision `64-true` trains others than are scored.

    Args:
        path: The file; or the name of a supernet that comes with the package, such as `resnet20-cifar100`.
        supernet: A space after `make_supernet`, with the arguments and the sharing of the checkpoint.

    Raises:
        CheckpointError: There is no such file, it is not a supernet checkpoint, is damaged, or was trained for a
            different space or with a different sharing.
    """
    header = read_checkpoint_header(path)
    present = _present_name if header.format == FORMAT_1 else str
    _check_space(path, header.space, space_identity(supernet))
    written, wanted = sharing_of_checkpoint(path), active_of(supernet).sharing
    if written != wanted:
        raise CheckpointError(
            f"{path}: shares weights by {written} instead of {wanted}; make the supernet with "
            f"make_supernet(space, sharing=Sharing.parse({str(written)!r}))"
        )
    _check_tensors(path, {present(name): tensor for name, tensor in header.tensors.items()}, _weights(supernet))
    tensors = _undamaged(path, header.sha256)
    weights = {present(name): tensor for name, tensor in tensors.items()}
    cast("nn.Module", supernet).load_state_dict(weights, strict=True)
    return dict(header.about)


def _undamaged(path: Path, sha256: str | None) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, once their SHA-256 is the one of its header, if that has one."""
    try:
        with safe_open(checkpoint_path(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = file.metadata()
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); copy or train it again") from error
    found = checkpoint_sha256(tensors, metadata)
    if sha256 not in (found, None):
        raise CheckpointError(
            f"{path}: is damaged: the SHA-256 of its content is {found[:12]}…, expected {sha256[:12]}…; copy or train "
            "it again"
        )
    return tensors


def checkpoint_sha256(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of a checkpoint's content, which its metadata carry as `sha256`.

    It is that of these bytes: of each other entry of the metadata, in the order of the sorted keys, a line
    `format nni-nas-consistency supernet 2`; then of each tensor, in the order of the sorted names, a line
    `links.0.conv.bn.bias torch.float32 [16]` and the values, row by row and little-endian, as safetensors writes them.
    Lines are UTF-8 and end with a line feed; names sort by code point.

    Args:
        tensors: By the name that they have in the file.
        metadata: The entries; `sha256` is left out.
    """
    digest = hashlib.sha256()
    for key in sorted(metadata.keys() - {"sha256"}):
        digest.update(f"{key} {metadata[key]}\n".encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def weights_sha256(supernet: ModelSpace) -> str:
    """Return the SHA-256 of the weights and running statistics of a supernet."""
    return sha256_of(tensor for _, tensor in sorted(_weights(supernet).items()))


def sha256_of(tensors: Iterable[Tensor]) -> str:
    """Return the SHA-256 of the types, shapes and values of tensors, in this order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
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


def _check_tensors(path: Path, written: Mapping[str, TensorHeader], wanted: Mapping[str, Tensor]) -> None:
    """Refuse tensors of other names, types or shapes before any is read."""
    for name in sorted(written.keys() | wanted.keys()):
        found = written.get(name)
        expected = _described(wanted[name]) if name in wanted else None
        if found is None or expected is None or not _can_load(found, expected):
            raise CheckpointError(
                f"{path}: the tensor {name!r} is {found or 'missing'}, expected {expected or 'none of this name'}; "
                "train it again with this version"
            )


def _described(tensor: Tensor) -> TensorHeader:
    return TensorHeader(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


def _can_load(found: TensorHeader, expected: TensorHeader) -> bool:
    """Return whether a tensor has the shape that is expected, and its type or another floating-point type."""
    both_are_floats = found.dtype in FLOATS and expected.dtype in FLOATS
    return found.shape == expected.shape and (found.dtype == expected.dtype or both_are_floats)


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


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
