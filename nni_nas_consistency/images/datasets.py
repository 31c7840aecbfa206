"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) and the handwritten digits that come with scikit-learn, as tensors.

`loader.py` makes batches of them. Nothing is downloaded without `download=True`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from nni_nas_consistency.errors import DataError
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.images.draws import Draw

DIGITS_SPLIT_SEED = 2021
DIGITS_TRAINING_IMAGES = 1200


@dataclass(frozen=True, eq=False)
class Images:
    """Images and their labels, on one device.

    Args:
        x: The images, uint8 [N, C, H, W], 0 to 255.
        y: Their labels, int64 [N], 0 to num_classes - 1.
        num_classes: Number of classes K.

    Raises:
        DataError: A tensor has another dtype or shape, or a label is out of range.
    """

    x: Tensor
    y: Tensor
    num_classes: int

    def __post_init__(self) -> None:
        if self.x.dtype != torch.uint8 or self.x.ndim != 4:
            raise DataError(f"images are {self.x.dtype} {list(self.x.shape)}; they must be uint8 [N, C, H, W]")
        if self.y.dtype != torch.int64 or self.y.shape != self.x.shape[:1]:
            raise DataError(f"labels are {self.y.dtype} {list(self.y.shape)}; they must be int64 [{len(self.x)}]")
        if len(self.y) and not (0 <= int(self.y.min()) and int(self.y.max()) < self.num_classes):
            raise DataError(
                f"labels range from {int(self.y.min())} to {int(self.y.max())}; "
                f"with {self.num_classes} classes they must lie in 0 to {self.num_classes - 1}"
            )

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device | str) -> Images:
        """Return the same images on `device`."""
        return Images(self.x.to(device), self.y.to(device), self.num_classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Classes K, channels C, and side in pixels."""
        return self.num_classes, self.x.shape[1], self.x.shape[2]

    def first(self, n: int) -> Images:
        """Return the first `n` images.

        Raises:
            DataError: `n` is not in 1 to N.
        """
        if not 1 <= n <= len(self):
            raise DataError(
                f"the first {n} images were requested; the data set has {len(self)}: choose 1 to {len(self)}"
            )
        return Images(self.x[:n], self.y[:n], self.num_classes)

    def at(self, indices: Sequence[int]) -> Images:
        """Return the images at these indices, in this order; the first image is 0.

        Raises:
            DataError: There is no such image.
        """
        if not all(0 <= index < len(self) for index in indices):
            raise DataError(f"image {max(indices)} was requested; the data set has those from 0 to {len(self) - 1}")
        return Images(self.x[list(indices)], self.y[list(indices)], self.num_classes)

    def identity(self) -> dict[str, Json]:
        """Return what tells these images from others of the same data set: nothing, since they are as published."""
        return {}

    def pixels(self, draws: Iterable[Draw]) -> Iterator[Tensor]:
        """Yield the images of the part of each draw, uint8 [B, C, H, W]."""
        for draw in draws:
            yield self.x[draw.images[draw.mine]]


def cifar100(root: str | Path, *, train: bool, download: bool = False) -> Images:
    """Return the 50,000 training or 10,000 test images of CIFAR-100, 3×32×32 RGB, with their fine labels.

    Args:
        root: The folder that holds, or will hold, the published folder `cifar-100-python`.
        train: Whether to return the training images.
        download: Whether to download the published archive where the folder is missing or damaged.

    Raises:
        DataError: The folder or a file is missing, a file's MD5 is not the published one, or the download failed.
    """
    return _cifar(CIFAR100, Path(root).expanduser(), train=train, download=download)


def cifar10(root: str | Path, *, train: bool, download: bool = False) -> Images:
    """Return the 50,000 training or 10,000 test images of CIFAR-10, 3×32×32 RGB.

    Args:
        root: The folder that holds, or will hold, the published folder `cifar-10-batches-py`.
        train: Whether to return the training images.
        download: Whether to download the published archive where the folder is missing or damaged.

    Raises:
        DataError: The folder or a file is missing, a file's MD5 is not the published one, or the download failed.
    """
    return _cifar(CIFAR10, Path(root).expanduser(), train=train, download=download)


def _cifar(reader: type[CIFAR10], root: Path, *, train: bool, download: bool) -> Images:
    if download:
        _download(reader, root)
    _check_files(reader, root)
    data = reader(root, train=train)
    x = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    return Images(x, torch.tensor(data.targets), len(data.classes))


def _download(reader: type[CIFAR10], root: Path) -> None:
    try:
        reader(root, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{reader.url} could not be downloaded to {root} ({error}): check the network, or unpack the archive there"
        ) from error


def _check_files(reader: type[CIFAR10], root: Path) -> None:
    folder = root / reader.base_folder
    remedy = f"add --download (download=True in Python), or unpack {reader.url} in {root}"
    if not folder.is_dir():
        raise DataError(f"{reader.__name__} is not in {root} (no folder {folder}): {remedy}")
    published = [*reader.train_list, *reader.test_list, (reader.meta["filename"], reader.meta["md5"])]
    for name, md5 in published:
        if not check_integrity(folder / name, md5):
            fault = "damaged (its MD5 is not the published one)" if (folder / name).is_file() else "missing"
            raise DataError(f"{folder / name} is {fault}: {remedy}")


def digits(*, train: bool, size: int = 8) -> Images:
    """Return 1,200 training or 597 test images of scikit-learn's handwritten digits, greyscale; nothing is downloaded.

    The 1,797 images are permuted with `DIGITS_SPLIT_SEED`; the first 1,200 are the training images.

    Args:
        train: Whether to return the training images.
        size: Height and width in pixels, at least 8; above 8 the images are upsampled bilinearly.

    Raises:
        DataError: `size` is below 8.
    """
    if size < 8:
        raise DataError(f"size is {size}; the digits have 8×8 pixels and are only upsampled: give 8 or more")
    from sklearn.datasets import load_digits  # takes a second to import; the other data sets do not need it

    data = load_digits()
    order = np.random.RandomState(DIGITS_SPLIT_SEED).permutation(len(data.target))
    part = order[:DIGITS_TRAINING_IMAGES] if train else order[DIGITS_TRAINING_IMAGES:]
    x = torch.from_numpy(data.images[part] * (255 / 16))[:, None].float().round()
    if size > 8:
        x = interpolate(x, (size, size), mode="bilinear").round()
    return Images(x.to(torch.uint8), torch.from_numpy(data.target[part]).long(), len(data.target_names))
