"""Scoring on images: which views of a data set archs are scored on, normalised once and kept."""

from __future__ import annotations

from dataclasses import replace

import torch

from nni_nas_consistency.errors import InputError
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
) -> Scoring:
    """Return how archs are scored on images, which are normalised once and kept.

    Args:
        test: The images to score on.
        augmentation: Its mean and standard deviation are used, nothing else of it.
        metric: `loss` or `acc`.
        bn: The batch-norm statistics.
        batch_size: Images a batch; 512 in recipe nazarick.
        train: Images for `bn="train"`.
        dtype: Of the normalised images, and so of all features; statistics and losses of half precision are float32.
        orders: How often each image is scored, at least 1: first in the order of the data set, then in shuffled ones.
            The mean is so taken over this many compositions of its batch; for `bn="batch"` only.
        flip: Whether each image is also scored mirrored, left to right, and the mean taken.

    Raises:
        InputError: Several orders where no other image of a batch matters.
    """
    if orders > 1 and (bn != "batch" or batch_size >= len(test)):
        raise InputError(
            f"{orders} orders change nothing with statistics {bn!r} and {len(test)} images in batches of "
            f"{batch_size}; several orders are for 'batch' and more than one batch"
        )
    views = [test, *(_shuffled(test, order) for order in range(1, orders))]
    views += [replace(view, x=view.x.flip(-1)) for view in views] if flip else []
    scored = [(x.to(dtype), y) for view in views for x, y in EvaluationLoader(view, augmentation, batch_size)]
    calibration = None
    if train is not None:
        calibration = [(x.to(dtype), y) for x, y in EvaluationLoader(train, augmentation, batch_size)]
    return Scoring(metric, bn, lambda: scored, None if calibration is None else lambda: calibration)


def _shuffled(images: Images, seed: int) -> Images:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).to(images.x.device)
    return replace(images, x=images.x[order], y=images.y[order])
