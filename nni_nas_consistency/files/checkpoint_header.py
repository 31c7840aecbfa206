"""The header of a checkpoint: what a supernet is and how it was made, read without its weights and without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from nni_nas_consistency.errors import CheckpointError, FileError
from nni_nas_consistency.files.doors import check_input

FORMAT_1 = "nni-nas-consistency supernet 1"
FORMAT = "nni-nas-consistency supernet 2"
LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors format."""

SHIPPED = Path(str(files("nni_nas_consistency"))) / "assets"
"""The folder of the supernets that come with the package; the JSON file of the same name says what each reached."""


@dataclass(frozen=True)
class CheckpointHeader:
    """The metadata of a checkpoint.

    Args:
        format: `FORMAT`, or `FORMAT_1` of version 0.1, whose tensors have other names.
        space: Class and arguments of the search space.
        about: How the supernet was made: recipe, data, seed, ….
    """

    format: str
    space: Mapping[str, Any]
    about: Mapping[str, Any]


def checkpoint_path(path: Path) -> Path:
    """Return the file of a checkpoint: the path itself, or the file of a supernet that comes with the package."""
    return path if path.is_file() else shipped_supernets().get(str(path), path)


def shipped_supernets() -> dict[str, Path]:
    """Return the supernets that come with the package, by name."""
    return {file.stem: file for file in sorted(SHIPPED.glob("*.safetensors"))}


def read_checkpoint_header(path: Path) -> CheckpointHeader:
    """Return the metadata of a checkpoint.

    Args:
        path: The file; or the name of a supernet that comes with the package, such as `resnet20-cifar100`.

    Raises:
        CheckpointError: There is no such file, or it is not a supernet checkpoint.
    """
    try:
        check_input(checkpoint_path(path))
    except FileError as error:
        raise CheckpointError(
            f"{error}; a checkpoint is the supernet.safetensors of a training run, or one of those that come with the "
            f"package: {', '.join(shipped_supernets())}"
        ) from error
    try:
        with checkpoint_path(path).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= LARGEST_HEADER else {}
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); copy it again") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not a safetensors file; `nni-consistency train` writes one") from error
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or metadata.get("format") not in (FORMAT, FORMAT_1):
        raise CheckpointError(f"{path}: is not a supernet checkpoint; `nni-consistency train` writes one")
    return CheckpointHeader(metadata["format"], _object(metadata, "space", path), _object(metadata, "about", path))


def _object(metadata: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(metadata[key])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: its metadata has no {key!r} that can be read; train or copy it again"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: {key!r} of its metadata is not a JSON object; train or copy it again")
    return value
