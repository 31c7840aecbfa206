"""Scoring on a data set: which views of its images archs are scored on, normalised once and kept."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.progress import ShowProgress, silent
from nni_nas_consistency.images.augmentation import Augmentation
from nni_nas_consistency.images.datasets import Images
from nni_nas_consistency.images.loader import EvaluationLoader
from nni_nas_consistency.scoring.scoring import Metric, Scoring
from nni_nas_consistency.supernet.statistics import BNStatistics


def image_scoring(
    test: Images,
    augmentation: Augmentation,
    *,
    metric: Metric = "loss",
    bn: BNStatistics = "batch",
    batch_size: int = 512,
    train: Images | None = None,
    dtype: torch.dtype = torch.float32,
    orders: int = 1,
    flip: bool = False,
    progress: ShowProgress = silent,
) -> Scoring:
    """Return a `Scoring` on images, which are normalised once and kept.

    Args:
        test: The images to score on.
        augmentation: Only its mean and standard deviation are used.
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
    mirrored = (False, True) if flip else (False,)
    scored: list[tuple[Tensor, Tensor]] = []
    with progress(orders * len(mirrored), "views of the images") as advance:
        for is_mirrored in mirrored:
            for order in range(orders):
                view = test if order == 0 else _shuffled(test, order)
                view = replace(view, x=view.x.flip(-1)) if is_mirrored else view
                scored += _normalised(view, augmentation, batch_size, dtype)
                advance(1)
    calibration = None if train is None else _normalised(train, augmentation, batch_size, dtype)
    return Scoring(metric, bn, lambda: scored, None if calibration is None else lambda: calibration)


def _normalised(
    images: Images, augmentation: Augmentation, batch_size: int, dtype: torch.dtype
) -> list[tuple[Tensor, Tensor]]:
    return [(x.to(dtype), y) for x, y in EvaluationLoader(images, augmentation, batch_size)]


def _shuffled(images: Images, seed: int) -> Images:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).to(images.x.device)
    return replace(images, x=images.x[order], y=images.y[order])
