"""Data sets as tensors, and batches of them, where the network is.

CIFAR and the digits fit into any device's memory, so no worker processes: `Batches` picks, augments and yields
there, and its order and augmentation are functions of a seed, an epoch and a batch, so that a resumed run sees what
it would have seen. Nothing is downloaded unless asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from nni_nas_consistency.errors import DataError
from nni_nas_consistency.images.augmentation import Augmentation, augment, normalise

DIGITS_SPLIT_SEED = 2021
DIGITS_TRAINING_IMAGES = 1200


@dataclass(frozen=True, eq=False)
class Images:
    """Images and their labels, on one device.

    Args:
        x: uint8 [N, C, H, W], 0 to 255.
        y: int64 [N], 0 to num_classes - 1.
        num_classes: Number of classes K.

    Raises:
        DataError: The tensors are not of these types and shapes, or a label is out of range.
    """

    x: Tensor
    y: Tensor
    num_classes: int

    def __post_init__(self) -> None:
        if self.x.dtype != torch.uint8 or self.x.ndim != 4:
            raise DataError(f"images are {self.x.dtype} {list(self.x.shape)}; uint8 [N, C, H, W] is needed")
        if self.y.dtype != torch.int64 or self.y.shape != self.x.shape[:1]:
            raise DataError(f"labels are {self.y.dtype} {list(self.y.shape)}; int64 [{len(self.x)}] is needed")
        if len(self.y) and not (0 <= int(self.y.min()) and int(self.y.max()) < self.num_classes):
            raise DataError(f"labels {int(self.y.min())} to {int(self.y.max())} are not all in [0, {self.num_classes})")

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device | str) -> Images:
        """Return the same images on `device`."""
        return Images(self.x.to(device), self.y.to(device), self.num_classes)

    def first(self, n: int) -> Images:
        """Return the first `n` images.

        Raises:
            DataError: `n` is not in 1 to N.
        """
        if not 1 <= n <= len(self):
            raise DataError(f"{n} images were asked for; the data set has {len(self)}: ask for 1 to {len(self)}")
        return Images(self.x[:n], self.y[:n], self.num_classes)


def cifar100(root: str | Path, *, train: bool, download: bool = False) -> Images:
    """Return the 50,000 training or 10,000 test images of CIFAR-100, 3x32x32 in RGB, with their fine labels.

    Args:
        root: The folder that holds, or will hold, the published folder `cifar-100-python`.
        train: Whether to read the training part.
        download: Whether to fetch the published archive if the folder is missing or damaged.

    Raises:
        DataError: The folder is missing, a file in it is not the published one, or the download failed.
    """
    return _cifar(CIFAR100, Path(root).expanduser(), train=train, download=download)


def cifar10(root: str | Path, *, train: bool, download: bool = False) -> Images:
    """Return the 50,000 training or 10,000 test images of CIFAR-10, 3x32x32 in RGB.

    Args:
        root: The folder that holds, or will hold, the published folder `cifar-10-batches-py`.
        train: Whether to read the training part.
        download: Whether to fetch the published archive if the folder is missing or damaged.

    Raises:
        DataError: The folder is missing, a file in it is not the published one, or the download failed.
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
            f"{reader.url} could not be downloaded to {root} ({error}): check the network, or unpack it there by hand"
        ) from error


def _check_files(reader: type[CIFAR10], root: Path) -> None:
    folder = root / reader.base_folder
    remedy = f"add --download, or unpack {reader.url} there"
    if not folder.is_dir():
        raise DataError(f"{reader.__name__} is not in {root} (no folder {folder}): {remedy}")
    published = [*reader.train_list, *reader.test_list, (reader.meta["filename"], reader.meta["md5"])]
    for name, md5 in published:
        if not check_integrity(folder / name, md5):
            fault = "damaged (its MD5 is not the published one)" if (folder / name).is_file() else "missing"
            raise DataError(f"{folder / name} is {fault}; in {root}, {remedy}")


def digits(*, train: bool, size: int = 8) -> Images:
    """Return 1,200 training or 597 test images of handwritten digits, grey, that scikit-learn carries.

    The split is a permutation of the 1,797 images drawn with `DIGITS_SPLIT_SEED`; its first 1,200 are for training.

    Args:
        train: Whether to return the training part.
        size: Height and width in pixels, at least 8; above 8 the images are upsampled bilinearly.

    Raises:
        DataError: `size` is below 8.
    """
    if size < 8:
        raise DataError(f"digits of {size} pixels were asked for; they have 8 and can only be enlarged: give 8 or more")
    from sklearn.datasets import load_digits  # a second of import that no other data set needs

    data = load_digits()
    order = np.random.RandomState(DIGITS_SPLIT_SEED).permutation(len(data.target))
    part = order[:DIGITS_TRAINING_IMAGES] if train else order[DIGITS_TRAINING_IMAGES:]
    x = torch.from_numpy(data.images[part] * (255 / 16))[:, None].float().round()
    if size > 8:
        x = interpolate(x, (size, size), mode="bilinear").round()
    return Images(x.to(torch.uint8), torch.from_numpy(data.target[part]).long(), len(data.target_names))


def test_batches(images: Images, augmentation: Augmentation, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Return an iterator over all images in order, normalised, the last batch as large as what is left.

    Args:
        images: The data set, on the device where the batches shall be.
        augmentation: Of which only `mean` and `std` are used.
        batch_size: Images a batch, at least 1.

    Returns:
        Pairs of images, float32 [B, C, H, W], and labels, int64 [B].

    Raises:
        ValueError: `batch_size` is below 1.
    """
    _check_batch_size(batch_size)
    pairs = zip(torch.split(images.x, batch_size), torch.split(images.y, batch_size), strict=True)
    return ((normalise(x, augmentation), y) for x, y in pairs)


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")


class Batches:
    """Augmented batches of a data set, for Lightning or any loop; its place can be saved and restored.

    The order of epoch e is drawn from `SeedSequence(seed, spawn_key=(e,))`, the augmentation of its batch i from
    `SeedSequence(seed, spawn_key=(e, i))`: neither depends on what was drawn before. Each `iter` goes through the
    epoch after the last that was begun; the first one after `load_state_dict` through what the saved epoch had left.

    Args:
        images: The data set, on the device where the batches shall be.
        augmentation: What is done to each image.
        batch_size: Images a batch, at least 1.
        seed: At least 0.
        shuffle: Whether every epoch has an order of its own; otherwise each has that of `images`.
        drop_last: Whether a last batch of fewer images is left out.

    Raises:
        ValueError: `batch_size` or `seed` is out of its range, or the epoch would have no batch.
    """

    batch_sampler = None  # Lightning reads it wherever it finds a `sampler`

    def __init__(
        self,
        images: Images,
        augmentation: Augmentation,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        _check_batch_size(batch_size)
        if seed < 0:
            raise ValueError(f"seed is {seed}; it must be at least 0")
        self._images, self._augmentation = images, augmentation
        self._batch_size, self._seed, self._shuffle = batch_size, seed, shuffle
        self._length = len(images) // batch_size if drop_last else -(-len(images) // batch_size)
        if self._length == 0:
            raise DataError(f"{len(images)} images make no batch of {batch_size}; give more images or smaller batches")
        self._begin = self._next = (0, 0)  # epoch and batch: where the next `iter` begins, what comes next in this one

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch, also while a resumed one is shorter."""
        return self._length

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images, float32 [B, C, H, W], and labels, int64 [B]; the epoch begins with the first batch taken."""
        epoch, first = self._begin
        self._begin = (epoch + 1, 0)
        order = self._order(epoch)
        for batch in range(first, self._length):
            self._next = (epoch, batch + 1) if batch + 1 < self._length else (epoch + 1, 0)
            chosen = order[batch * self._batch_size : (batch + 1) * self._batch_size]
            x = augment(self._images.x[chosen], self._augmentation, _generator(self._seed, epoch, batch))
            yield x, self._images.y[chosen]

    def _order(self, epoch: int) -> Tensor:
        count = len(self._images)
        order = torch.randperm(count, generator=_generator(self._seed, epoch)) if self._shuffle else torch.arange(count)
        return order.to(self._images.x.device)

    def state_dict(self) -> dict[str, int]:
        """Return the seed and the epoch and index of the batch that comes next."""
        epoch, batch = self._next
        return {"seed": self._seed, "epoch": epoch, "batch": batch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next `iter` go on at the saved batch.

        Raises:
            ValueError: The state is of another seed, or its batch is beyond this epoch's last.
        """
        if set(state) != {"seed", "epoch", "batch"}:
            raise ValueError(f"a state of Batches has seed, epoch and batch; this one has {sorted(state)}")
        if state["seed"] != self._seed:
            raise ValueError(f"the saved batches had seed {state['seed']}, these have {self._seed}: use the same seed")
        if state["epoch"] < 0 or not 0 <= state["batch"] < self._length:
            place = f"batch {state['batch']} of epoch {state['epoch']}"
            raise ValueError(f"the saved {place} is none of the {self._length} here: use the same data and batch size")
        self._begin = self._next = (state["epoch"], state["batch"])

    @property
    def sampler(self) -> Batches:
        """Itself: Lightning calls `loader.sampler.set_epoch` when an epoch begins."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Let the next `iter` begin this epoch, unless it goes through this one anyway.

        Lightning 2.6 does not hand back the state in a checkpoint that was written at the end of an epoch
        (`FitLoop.restarting`): a run resumed from there would otherwise see the orders of epoch 0 once more.
        """
        if epoch != self._begin[0]:
            self._begin = (epoch, 0)
        self._next = self._begin


def _generator(seed: int, *key: int) -> torch.Generator:
    # torch's CPU generator uses 32 bits of its seed: of 100,000 batches one or two pairs share their draws
    word = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(word[0]))
