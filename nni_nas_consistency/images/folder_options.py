"""How a folder of images is read, as values: sizes, crops, which images are held out, where decoded ones are kept.

Nothing here imports torch, so that the command line checks a folder at once; `folder.py` decodes, `prepared.py` keeps.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from nni_nas_consistency.errors import DataError, InputError
from nni_nas_consistency.files.doors import check_input
from nni_nas_consistency.files.strict_json import Json, file_errors

Interpolation = Literal["bilinear", "bicubic"]

MOST_WORKERS = 256


@dataclass(frozen=True)
class Resizing:
    """How images of any size become squares.

    Args:
        side: Side of the squares, in pixels.
        shorter_side: Test images are resized to this shorter side before the square in their centre is cut out.
        interpolation: Of both resizings.
        smallest_crop: Training images are random crops of at least this share of the area, of an aspect ratio from 3/4
            to 4/3, resized to the square (Szegedy et al. 2015, arXiv:1409.4842, section 6).

    Raises:
        InputError: A length is below 1, `shorter_side` is below `side`, or `smallest_crop` is not in (0, 1].
    """

    side: int = 224
    shorter_side: int = 256
    interpolation: Interpolation = "bilinear"
    smallest_crop: float = 0.08

    def __post_init__(self) -> None:
        if not 1 <= self.side <= self.shorter_side:
            raise InputError(f"side is {self.side}; choose 1 to {self.shorter_side}, the shorter side after resizing")
        if not 0 < self.smallest_crop <= 1:
            raise InputError(f"smallest_crop is {self.smallest_crop}; it is a share of the area, above 0 and at most 1")


def resizing_to(side: int) -> Resizing:
    """Return how images become squares of any side: in the proportion of 224 to 256 that ImageNet has."""
    return Resizing(side, max(side, round(side * 256 / 224)))


@dataclass(frozen=True)
class FolderOptions:
    """How a folder of images is read that has `train/CLASS/FILE` and, unless images are held out, `val/CLASS/FILE`.

    Args:
        resizing: How images become squares.
        val_fraction: The share of the images of each class in `train` that are held out and take the place of `val`.
        val_files: A text file with the images of `train` that are held out instead, one `CLASS/FILE` a line.
        cache: Folder of the decoded images; None: `prepared`, in the folder itself.
        workers: Processes that decode; 0: this one does; None: one for each processor, at most 8.

    Raises:
        InputError: A value is out of range, or images are held out in two ways.
    """

    resizing: Resizing = Resizing()
    val_fraction: float | None = None
    val_files: Path | None = None
    cache: Path | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise InputError(f"--val-fraction {self.val_fraction}: it is a share of the images, above 0 and below 1")
        if self.val_fraction is not None and self.val_files is not None:
            raise InputError("both --val-fraction and --val-files hold images out; give one of them")
        if self.workers is not None and not 0 <= self.workers <= MOST_WORKERS:
            raise InputError(f"--workers {self.workers}: choose 0 to {MOST_WORKERS} processes")

    @property
    def processes(self) -> int:
        """Number of processes that decode besides this one."""
        return min(8, len(os.sched_getaffinity(0))) if self.workers is None else self.workers

    @property
    def holds_out(self) -> bool:
        """Whether test images are some of those in `train`."""
        return self.val_fraction is not None or self.val_files is not None

    def settings(self, *, train: bool) -> dict[str, Json]:
        """Return what decides the images that are seen: not where they are kept, nor what decodes them.

        Args:
            train: Whether images are trained on; test images have no random crops.
        """
        held_out: dict[str, Json] = {}
        if self.val_fraction is not None:
            held_out["val_fraction"] = self.val_fraction
        if self.val_files is not None:
            held_out["val_files"] = hashlib.sha256("\n".join(read_file_list(self.val_files)).encode()).hexdigest()
        resizing: dict[str, Json] = asdict(self.resizing)
        if not train:
            del resizing["smallest_crop"]
        return resizing | held_out

    def check(self, root: Path, name: str, classes: int) -> None:
        """See that a folder has the classes of a data set, and that held-out images are named; no image is looked at.

        Args:
            root: The folder.
            name: The data set.
            classes: Number of its classes.

        Raises:
            InputError: It has not, or the list of held-out images cannot be read.
        """
        found = class_names(root)
        if len(found) != classes:
            raise DataError(f"{root}: has {len(found)} class folder(s), {name} has {classes}; name another --data-root")
        if self.val_files is not None:
            read_file_list(self.val_files)


def class_names(root: Path) -> list[str]:
    """Return the names of the classes in `train`, or in `val` where there is no `train`, sorted.

    Raises:
        DataError: There is neither, or one cannot be read.
    """
    for split in ("train", "val"):
        if (root / split).is_dir():
            return classes_in(root / split)
    raise DataError(f"{root}: has neither train nor val; a folder of images has train/CLASS/FILE and val/CLASS/FILE")


def classes_in(split: Path) -> list[str]:
    """Return the names of the folders in `train` or `val`, sorted.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return sorted(entry.name for entry in os.scandir(split) if entry.is_dir())
    except OSError as error:
        raise DataError(f"{split}: cannot be read ({error.strerror}); check its permissions") from error


def read_file_list(path: Path) -> list[str]:
    """Return the lines of a list of files, at least one; empty lines are left out.

    Raises:
        FileError: The list cannot be read or is empty, or a line appears twice.
    """
    check_input(path)
    with file_errors(path):
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not lines:
            raise ValueError("names no images; give one CLASS/FILE a line")
        if len(set(lines)) < len(lines):
            twice = next(line for line in lines if lines.count(line) > 1)
            raise ValueError(f"{twice!r} appears twice; keep one of them")
        return lines
