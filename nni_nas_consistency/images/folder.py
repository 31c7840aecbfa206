"""Folders of images, one subfolder a class (Deng et al. 2009, ImageNet), which are decoded when they are needed.

Training reads random crops from worker processes: `ImageFiles`, which `loader.TrainingLoader` makes batches of. Test
images are decoded once, by `prepared.py`. Flips and normalisation are left to the device, by `transforms.py`.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2

from nni_nas_consistency.errors import DataError
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.images.draws import Draw, seed_of
from nni_nas_consistency.images.folder_options import FolderOptions, Resizing, class_names, classes_in, read_file_list

ORDER_SEED = 2022
"""Of the one order that the images of a folder have here. Files are sorted by class: the first images of that order
would be of one class, and batches of it would have statistics of their own."""

Decoded: TypeAlias = "Tensor | str"
"""Images, uint8 [B, C, H, W]; or what is wrong with a file, since an exception of a worker has a page of text."""


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Images in files, with their labels.

    Args:
        name: Which images of the folder they are, such as `train` or `val`.
        folder: What the names of the files are relative to.
        files: Their names, bytes [N]; an array, since a list of a million objects is copied into every worker.
        y: Their labels, int64 [N], on the device that batches go to.
        num_classes: Number of classes K.
        resizing: How they become squares.
        workers: Processes that decode; 0: this one does.
    """

    name: str
    folder: Path
    files: NDArray[np.bytes_]
    y: Tensor
    num_classes: int
    resizing: Resizing = field(default_factory=Resizing)
    workers: int = 0

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Classes K, channels C, and side in pixels."""
        return self.num_classes, 3, self.resizing.side

    def to(self, device: torch.device | str) -> ImageFiles:
        """Return the same images, whose batches go to `device`."""
        return replace(self, y=self.y.to(device))

    def first(self, n: int) -> ImageFiles:
        """Return the first `n` images.

        Raises:
            DataError: `n` is not in 1 to N.
        """
        if not 1 <= n <= len(self):
            raise DataError(
                f"the first {n} images were requested; the data set has {len(self)}: choose 1 to {len(self)}"
            )
        return replace(self, files=self.files[:n], y=self.y[:n])

    def path(self, index: int) -> Path:
        """Return the file of an image, the first being 0."""
        return self.folder / os.fsdecode(bytes(self.files[index]))

    def sha256(self, *, with_files: bool = False) -> str:
        """Return what tells these images from others: the SHA-256 of their names, and of nothing in the files.

        Args:
            with_files: Whether size and time of change of every file belong to it.
        """
        digest = hashlib.sha256()
        for index, name in enumerate(self.files):
            digest.update(bytes(name) + b"\n")
            if with_files:
                status = os.stat(self.path(index))
                digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def identity(self) -> dict[str, Json]:
        """Return what tells these images from others of the same data set: the SHA-256 of their names."""
        return {"files": self.sha256()}

    def pixels(self, draws: Iterable[Draw]) -> Iterator[Tensor]:
        """Yield the part of each draw: random crops, uint8 [B, 3, side, side], on the device of the labels.

        The crop of image i of a batch is drawn from `SeedSequence(seed, spawn_key=(*key, i))`.

        Raises:
            DataError: A file cannot be decoded.
        """
        return self._decoded(draws, _random_crop(self.resizing))

    def centres(self, batch_size: int) -> Iterator[Tensor]:
        """Yield all images in order, as they are tested: uint8 [B, 3, side, side], resized, the centre cut out.

        Raises:
            DataError: A file cannot be decoded.
        """
        starts = range(0, len(self), batch_size)
        draws = (Draw(torch.arange(start, min(start + batch_size, len(self))), 0, (start,)) for start in starts)
        return self._decoded(draws, _centre(self.resizing))

    def _decoded(self, draws: Iterable[Draw], transform: Callable[[Image.Image], Tensor]) -> Iterator[Tensor]:
        batches: DataLoader[Decoded] = DataLoader(
            _Decoder(self, transform),
            batch_size=None,
            sampler=map(_as_integers, draws),
            num_workers=self.workers,
            pin_memory=self.y.device.type == "cuda",
            generator=torch.Generator(),  # by default, every pass would draw from the global one
        )
        for decoded in batches:
            if isinstance(decoded, str):
                raise DataError(decoded)
            yield decoded.to(self.y.device, non_blocking=True)


def _as_integers(draw: Draw) -> tuple[list[int], int, int, tuple[int, ...]]:
    """Return what goes to a worker: images, place of the first one in its batch, seed and key."""
    return draw.images[draw.mine].tolist(), draw.mine.start, draw.seed, draw.key


class _Decoder(Dataset[Decoded]):
    """Decodes the images of a draw, in whichever process."""

    def __init__(self, images: ImageFiles, transform: Callable[[Image.Image], Tensor]) -> None:
        self.images, self.transform = images, transform

    def __getitem__(self, draw: tuple[Sequence[int], int, int, tuple[int, ...]]) -> Decoded:
        indices, first, seed, key = draw
        squares = []
        with torch.random.fork_rng(devices=[]):  # of which torchvision draws
            for place, index in enumerate(indices, first):
                torch.default_generator.manual_seed(seed_of(seed, *key, place))
                path = self.images.path(index)
                try:
                    squares.append(self.transform(_opened(path)))
                except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                    reason = str(error).partition("\n")[0].replace(str(path), "it").replace(repr(str(path)), "it")
                    return f"{path}: cannot be decoded ({reason}); replace the image, or remove it"
        return torch.stack(squares)


def _opened(path: Path) -> Image.Image:
    """Return an image as RGB, decoded to the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata and palettes, which ImageNet has
        with Image.open(path) as image:
            converted: Image.Image = image.convert("RGB")
    return converted


def _random_crop(resizing: Resizing) -> Callable[[Image.Image], Tensor]:
    scale, interpolation = (resizing.smallest_crop, 1.0), v2.InterpolationMode(resizing.interpolation)
    return _transform(v2.RandomResizedCrop(resizing.side, scale, interpolation=interpolation))


def _centre(resizing: Resizing) -> Callable[[Image.Image], Tensor]:
    interpolation = v2.InterpolationMode(resizing.interpolation)
    return _transform(v2.Resize(resizing.shorter_side, interpolation), v2.CenterCrop(resizing.side))


def _transform(*steps: Any) -> Callable[[Image.Image], Tensor]:
    composed: Callable[[Image.Image], Tensor] = v2.Compose([*steps, v2.PILToTensor()])
    return composed


def image_files(root: Path, options: FolderOptions, classes: int, *, train: bool) -> ImageFiles:
    """Return the training or test images of a folder that has `train/CLASS/FILE` and `val/CLASS/FILE`.

    Their order is drawn once and for all. Where images are held out, they are the test images, and `val` is not read.

    Args:
        root: The folder.
        options: How it is read.
        classes: How many classes it must have.
        train: Whether to return the training images.

    Raises:
        DataError: A folder is missing or empty, the classes are not those expected, or a held-out image is not there.
        FileError: The list of held-out images cannot be read.
    """
    split = "train" if train or options.holds_out else "val"
    folder = root / split
    if not folder.is_dir():
        other = "" if train else ", or hold out some of train, by --val-fraction or --val-files"
        raise DataError(f"{folder}: is no folder; name another --data-root{other}")
    files, labels = _listed(folder, classes)
    if split == "val" and classes_in(folder) != class_names(root):
        raise DataError(f"{root}: train and val have different class folders; give both the same ones")
    order = np.random.RandomState(ORDER_SEED).permutation(len(files))
    files, labels = files[order], labels[order]
    name = split
    if options.holds_out:
        held_out = _held_out(folder, files, labels, options)
        files, labels = (files[~held_out], labels[~held_out]) if train else (files[held_out], labels[held_out])
        name = "train" if train else _name_of_held_out(files)
    return ImageFiles(name, folder, files, torch.from_numpy(labels), classes, options.resizing, options.processes)


def _listed(folder: Path, classes: int) -> tuple[NDArray[np.bytes_], NDArray[np.int64]]:
    """Return names, relative to a folder, and labels of its images, as torchvision lists them."""
    try:
        found = ImageFolder(folder, allow_empty=True)
    except OSError as error:  # no class folder, or one that cannot be read
        raise DataError(f"{folder}: cannot be read ({str(error).partition(chr(10))[0]}); check its contents") from error
    if len(found.classes) != classes:
        raise DataError(f"{folder}: has {len(found.classes)} class folder(s) where {classes} are expected")
    labels = np.array(found.targets, dtype=np.int64)
    counts = np.bincount(labels, minlength=classes)
    if counts.min() == 0:
        empty = folder / found.classes[int(counts.argmin())]
        raise DataError(f"{empty}: has no image ({', '.join(IMG_EXTENSIONS)}); fill the folder, or remove the class")
    return np.array([os.fsencode(os.path.relpath(path, folder)) for path, _ in found.samples]), labels


def _held_out(
    folder: Path, files: NDArray[np.bytes_], labels: NDArray[np.int64], options: FolderOptions
) -> NDArray[np.bool_]:
    """Return which images are held out: by the list, or the first of each class."""
    if options.val_files is not None:
        names = np.array([os.fsencode(name) for name in read_file_list(options.val_files)])
        missing = names[~np.isin(names, files)]
        if len(missing):
            raise DataError(f"{options.val_files}: names {os.fsdecode(missing[0])!r}, which is no image of {folder}")
        chosen = np.isin(files, names)
    else:
        assert options.val_fraction is not None
        chosen = np.zeros(len(files), dtype=bool)
        for label in np.unique(labels):
            own = np.flatnonzero(labels == label)
            chosen[own[: round(options.val_fraction * len(own))]] = True
    if chosen.all() or not chosen.any():
        raise DataError(f"{folder}: {int(chosen.sum())} of {len(files)} images are held out; leave some on both sides")
    return chosen


def _name_of_held_out(files: NDArray[np.bytes_]) -> str:
    digest = hashlib.sha256(b"\n".join(sorted(files.tolist())))
    return f"held-out-{digest.hexdigest()[:8]}"
