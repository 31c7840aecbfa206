"""The header of a checkpoint: what a supernet or network is, and how it was made; without weights and without torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from nni_nas_consistency.errors import CheckpointError, FileError
from nni_nas_consistency.files.doors import check_input
from nni_nas_consistency.files.strict_json import Json, decode, fields_of, json_value, object_of, one_line, shown

FORMAT_1 = "nni-nas-consistency supernet 1"
FORMAT = "nni-nas-consistency supernet 2"
NETWORK_FORMAT = "nni-nas-consistency network 1"
"""Of the network of one arch."""
LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors format."""

SHIPPED = Path(str(files("nni_nas_consistency"))) / "assets"
"""The folder of the supernets that come with the package; the JSON file of the same name says what each reached."""

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""Torch's names of the types of safetensors; types that no supernet has keep theirs."""


@dataclass(frozen=True)
class TensorHeader:
    """Type and shape of a tensor.

    Args:
        dtype: Torch's name of the type, such as `float32`.
        shape: The sizes.
    """

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


@dataclass(frozen=True)
class CheckpointHeader:
    """The header of a checkpoint.

    Args:
        format: `FORMAT`, or `FORMAT_1` of version 0.1, whose tensors have other names; `NETWORK_FORMAT` for a network.
        space: Class and arguments of the search space.
        about: How the supernet was made: recipe, data, seed, ….
        sha256: Of the content, as `supernet.checkpoint.checkpoint_sha256` defines it; None in files that were written
            before there was one.
        tensors: Type and shape of each tensor, by name.
        sharing: How archs share weights, such as `conv=end,bn=end,fc=full`; None: by one kernel per layer.
        arch: The code of the arch whose network it is; None: it is a supernet.
    """

    format: str
    space: Mapping[str, Any]
    about: Mapping[str, Any]
    sha256: str | None
    tensors: Mapping[str, TensorHeader]
    sharing: str | None = None
    arch: str | None = None


def checkpoint_path(path: Path) -> Path:
    """Return the file of a checkpoint: the path itself, or the file of a supernet that comes with the package."""
    # os.path.isfile, since that of Path raises where a name is too long
    return path if os.path.isfile(path) else shipped_supernets().get(str(path), path)


def shipped_supernets() -> dict[str, Path]:
    """Return the supernets that come with the package, by name."""
    return {file.stem: file for file in sorted(SHIPPED.glob("*.safetensors"))}


def read_checkpoint_header(path: Path) -> CheckpointHeader:
    """Return the header of a supernet's checkpoint.

    Args:
        path: The file; or the name of a supernet that comes with the package, such as `resnet20-cifar100`.

    Raises:
        CheckpointError: There is no such file, it is not a supernet checkpoint, or its header is damaged.
    """
    header = read_weights_header(path)
    if header.arch is not None:
        raise CheckpointError(f"{path}: is the network of one arch, no supernet; `nni-consistency train` writes one")
    return header


def read_weights_header(path: Path) -> CheckpointHeader:
    """Return the header of the checkpoint of a supernet, or of the network of one arch.

    Args:
        path: As for `read_checkpoint_header`.

    Raises:
        CheckpointError: There is no such file, it is neither, or its header is damaged.
    """
    _check_is_there(path)
    header = _header(path)
    metadata = _metadata(path, header.pop("__metadata__", None))
    try:
        return CheckpointHeader(
            str(metadata["format"]),
            _json_object(metadata, "space"),
            _json_object(metadata, "about"),
            _sha256(metadata),
            {name: _tensor(value, f"tensor {name}") for name, value in header.items()},
            _text(metadata, "sharing"),
            _text(metadata, "arch") if metadata["format"] == NETWORK_FORMAT else None,
        )
    except ValueError as error:
        raise CheckpointError(f"{path}: {one_line(error)}; copy or train it again") from error
    except RecursionError as error:
        raise CheckpointError(f"{path}: its metadata is nested too deeply; copy or train it again") from error


def _check_is_there(path: Path) -> None:
    try:
        check_input(checkpoint_path(path))
    except FileError as error:
        raise CheckpointError(
            f"{error}; a checkpoint is the supernet.safetensors of a training run, or one of those that come with the "
            f"package: {', '.join(shipped_supernets())}"
        ) from error


def _header(path: Path) -> dict[str, object]:
    try:
        return object_of(decode(_header_text(path)), "the header")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not a safetensors file; `nni-consistency train` writes one") from error


def _header_text(path: Path) -> str:
    """Return the JSON text at the beginning of a safetensors file, whose length the first eight bytes tell."""
    try:
        with checkpoint_path(path).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            return file.read(length).decode() if length <= LARGEST_HEADER else "{}"
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); copy it again") from error


def _metadata(path: Path, written: object) -> dict[str, object]:
    try:
        metadata = object_of(written, "the metadata")
    except ValueError:
        metadata = {}
    if metadata.get("format") == NETWORK_FORMAT and "arch" in metadata:
        return metadata
    if metadata.get("format") not in (FORMAT, FORMAT_1):
        raise CheckpointError(f"{path}: is not a supernet checkpoint; `nni-consistency train` writes one")
    return metadata


def _json_object(metadata: Mapping[str, object], key: str) -> dict[str, Json]:
    """Return the object whose JSON text an entry of the metadata is."""
    text = metadata.get(key)
    if not isinstance(text, str):
        raise ValueError(f"its metadata has no text {key!r}")
    try:
        value = decode(text)
    except ValueError as error:
        raise ValueError(f"{key!r} of its metadata is not JSON") from error
    return {name: json_value(item, f"{key} {name}") for name, item in object_of(value, key).items()}


def _sha256(metadata: Mapping[str, object]) -> str | None:
    digest = metadata.get("sha256")
    if digest is None or (isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest)):
        return digest
    raise ValueError(f"its sha256 is {shown(digest)}; expected 64 hexadecimal digits")


def _text(metadata: Mapping[str, object], key: str) -> str | None:
    text = metadata.get(key)
    if text is None or isinstance(text, str):
        return text
    raise ValueError(f"its {key} is {shown(text)}; expected a text")


def _tensor(value: object, what: str) -> TensorHeader:
    """Return what the header says of a tensor; its offsets are checked by safetensors, when the tensors are read."""
    dtype, shape, _ = fields_of(object_of(value, what), what, ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or not re.fullmatch("[A-Z0-9_]+", dtype):
        raise ValueError(f"dtype of {what} is {shown(dtype)}; expected a name such as F32")
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 2**63 for size in shape):
        raise ValueError(f"shape of {what} is no list of sizes")
    return TensorHeader(DTYPES.get(dtype, dtype), tuple(shape))
