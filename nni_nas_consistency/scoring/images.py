"""Scoring on a data set: which views of its images archs are scored on, normalised batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.progress import ShowProgress, silent
from nni_nas_consistency.images.augmentation import Augmentation
from nni_nas_consistency.images.datasets import Images
from nni_nas_consistency.images.transforms import normalise
from nni_nas_consistency.scoring.scoring import BatchSource, Metric, Scoring
from nni_nas_consistency.supernet.statistics import BNStatistics

KEPT_BYTES = 2**30
"""Largest images, normalised, that are kept: 10,000 of CIFAR take 123 MB, 50,000 of ImageNet 30 GB. Others are
normalised anew for each segment of archs, which takes a hundredth of the time of scoring it."""


@dataclass(frozen=True, eq=False)
class Views:
    """Views of images, normalised when they are asked for.

    Args:
        images: The images, on any device or mapped from a file.
        augmentation: Only its mean and standard deviation are used.
        batch_size: Images per batch; the last batch of a view has those that are left.
        device: Where batches go.
        dtype: Type of the normalised images.
        orders: How often each image is seen: first in the order of the data set, then in shuffled orders.
        flip: Whether all these views are seen mirrored too, after the others.
    """

    images: Images
    augmentation: Augmentation
    batch_size: int
    device: torch.device | str
    dtype: torch.dtype = torch.float32
    orders: int = 1
    flip: bool = False

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.orders * (1 + self.flip) * -(-len(self.images) // self.batch_size)

    @property
    def bytes(self) -> int:
        """What all batches take in memory."""
        return self.orders * (1 + self.flip) * self.images.x.numel() * self.dtype.itemsize

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images, [B, C, H, W], and labels, int64 [B]."""
        for is_mirrored in (False, True) if self.flip else (False,):
            for order in range(self.orders):
                yield from self._view(order, is_mirrored)

    def _view(self, order: int, is_mirrored: bool) -> Iterator[tuple[Tensor, Tensor]]:
        shuffled = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(order))
        for start in range(0, len(self.images), self.batch_size):
            batch: slice | Tensor = slice(start, start + self.batch_size)
            if order > 0:
                batch = shuffled[batch].to(self.images.x.device)
            x = self.images.x[batch].to(self.device)
            x = normalise(x.flip(-1) if is_mirrored else x, self.augmentation)
            yield x.to(self.dtype), self.images.y[batch].to(self.device)


def image_scoring(
    test: Images,
    augmentation: Augmentation,
    *,
    device: torch.device | str | None = None,
    metric: Metric = "loss",
    bn: BNStatistics = "batch",
    batch_size: int = 512,
    train: Images | None = None,
    dtype: torch.dtype = torch.float32,
    orders: int = 1,
    flip: bool = False,
    progress: ShowProgress = silent,
) -> Scoring:
    """Return a `Scoring` on images, which are normalised once and kept if they are not too large.

    Args:
        test: The images to score on.
        augmentation: Only its mean and standard deviation are used.
        device: Where archs are scored; None: where the images are.
        metric: The metric to rank by, `loss` or `acc`.
        bn: The batch-norm statistics.
        batch_size: Images per batch; 512 in recipe nazarick.
        train: The images to estimate statistics from, for `bn="train"`.
        dtype: Type of the normalised images and of all features; statistics and losses of half precision are float32.
        orders: How often each image is scored, at least 1: first in the order of the data set, then in shuffled orders,
            so that the score is a mean over as many compositions of its batch. More than 1 is for `bn="batch"` only.
        flip: Whether each image is also scored mirrored, left to right; the score is the mean.
        progress: Shows the progress, counted in views of the images.

    Raises:
        InputError: `orders` is less than 1; or more, where the other images of a batch have no influence.
    """
    if orders < 1:
        raise InputError(f"orders is {orders}; score each image at least once")
    if orders > 1 and (bn != "batch" or batch_size >= len(test)):
        raise InputError(
            f"{orders} orders change nothing with statistics {bn!r} and {len(test)} images in batches of {batch_size}; "
            "several orders need bn='batch' and more than one batch"
        )
    place = test.x.device if device is None else device
    views = Views(test, augmentation, batch_size, place, dtype, orders, flip)
    calibration = None if train is None else _kept(Views(train, augmentation, batch_size, place, dtype), silent)
    return Scoring(metric, bn, _kept(views, progress), calibration)


def _kept(views: Views, progress: ShowProgress) -> BatchSource:
    """Return what gives the batches of views, which are kept if they are not too large."""
    if views.bytes > KEPT_BYTES:
        return lambda: views
    kept = []
    with progress(len(views), "batches normalised") as advance:
        for batch in views:
            kept.append(batch)
            advance(1)
    return lambda: kept
