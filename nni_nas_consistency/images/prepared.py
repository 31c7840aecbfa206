"""Test images of a folder, decoded and resized once, and mapped into memory from then on.

Two files: the pixels, uint8 [N, 3, side, side] as they lie in memory, and a JSON header, written last, with what they
were made from. Only the pages that are read take memory, and the system may drop those: 50,000 images of ImageNet have
7.5 GB here, and 30 GB as float32.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from nni_nas_consistency.errors import FileError
from nni_nas_consistency.files.atomic import write_text_atomically
from nni_nas_consistency.files.doors import make_folder
from nni_nas_consistency.files.progress import ShowProgress, silent
from nni_nas_consistency.files.strict_json import Json, file_errors, read_object
from nni_nas_consistency.images.datasets import Images
from nni_nas_consistency.images.folder import ImageFiles

FORMAT = "nni-nas-consistency prepared images 1"

DECODED_AT_ONCE = 64
"""Images per batch that a worker sends."""


def prepared(files: ImageFiles, cache: Path, *, progress: ShowProgress = silent) -> Images:
    """Return images as they are tested, resized, the centre cut out, mapped from a file that is made if missing.

    Args:
        files: The images.
        cache: Folder of such files; made if missing.
        progress: Shows the progress of decoding, counted in images.

    Returns:
        The images on the CPU, whatever the device of `files`.

    Raises:
        DataError: An image cannot be decoded.
        FileError: The file was made from other images or is damaged; or it cannot be written.
    """
    resizing = files.resizing
    name = f"{files.name}-{resizing.side}-{resizing.shorter_side}-{resizing.interpolation}"
    pixels, header = cache / f"{name}.uint8", cache / f"{name}.json"
    made_from: dict[str, Json] = {
        "format": FORMAT,
        "shape": [len(files), *files.shape[1:], files.shape[2]],
        "side": resizing.side,
        "shorter_side": resizing.shorter_side,
        "interpolation": resizing.interpolation,
        "files": files.sha256(with_files=True),
    }
    if os.path.lexists(header):
        _check_header(header, made_from, files.folder)
    else:
        _decode(files, pixels, progress)
        write_text_atomically(header, json.dumps(made_from, indent=1) + "\n")
    return _mapped(files, pixels, header)


def _check_header(header: Path, made_from: Mapping[str, Json], folder: Path) -> None:
    """See that a header says what the images that are asked for would be made from."""
    with file_errors(header):
        found = read_object(header)
        remedy = f"delete {header.name}, and they are decoded again, or give another --cache"
        if found.get("format") != FORMAT:
            raise ValueError(f"is no header of prepared images; {remedy}")
        if found != made_from:
            raise ValueError(f"belongs to other images than those in {folder}, or to these as they were; {remedy}")


def _decode(files: ImageFiles, path: Path, progress: ShowProgress) -> None:
    """Write the pixels of all images, whole or not at all; several processes that do so at once write the same file."""
    make_folder(path.parent)
    needed, free = _size(files), shutil.disk_usage(path.parent).free
    if needed > free:
        raise FileError(f"{path}: takes {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; give another --cache")
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file, progress(len(files), "images decoded") as advance:
            for batch in files.to("cpu").centres(DECODED_AT_ONCE):
                file.write(batch.numpy().tobytes())
                advance(len(batch))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise FileError(f"{path}: cannot be written ({error.strerror}); give another --cache") from error
    finally:
        temporary.unlink(missing_ok=True)
        with suppress(OSError):
            path.parent.rmdir()  # if it is empty, since nothing could be decoded


def _size(files: ImageFiles) -> int:
    """Return the bytes of all images after resizing."""
    _, channels, side = files.shape
    return len(files) * channels * side * side


def _mapped(files: ImageFiles, path: Path, header: Path) -> Images:
    size = path.stat().st_size if path.is_file() else 0
    if size != _size(files):
        raise FileError(f"{path}: has {size} bytes, not {_size(files)}; delete {header.name}, and it is made again")
    count, (_, channels, side) = len(files), files.shape
    # copy-on-write, so that torch has an array that it may write to, and the file stays as it is
    pixels = np.memmap(path, np.uint8, "c", shape=(count, channels, side, side))
    return Images(torch.from_numpy(pixels), files.y.cpu(), files.num_classes)
