"""Batch norm with the statistics of the images that all processes have.

torch's SyncBatchNorm is a module of one width, for GPUs alone; this is a function, for the width of the active arch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.distributed.nn.functional import all_reduce


def normalise_over_processes(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return features that are normalised over all processes; gradients flow through the statistics too.

    Every process must call this at the same time, and run its backward pass in the same order. The gradients are those
    of the sum of the losses of all processes.

    Args:
        x: Features of this process, [archs · images, C, H, W].
        weight: [archs, C].
        bias: [archs, C].
        eps: Added to the variance.

    Returns:
        The features, in the type of x, and the mean and the unbiased variance, both [archs, C], detached.
    """
    archs, c = weight.shape
    b, _, h, w = x.shape
    wide = x if x.dtype == torch.float64 else x.float()
    total = cast("Callable[[Tensor], Tensor]", all_reduce)
    rows = wide.permute(0, 2, 3, 1).reshape(archs, -1, c)
    pixels = total(torch.tensor(float(rows.shape[1]), dtype=wide.dtype, device=x.device))
    mean = total(rows.sum(1)) / pixels
    centred = rows - mean[:, None]
    var = total(centred.square().sum(1)) / pixels
    y = centred * ((var + eps).rsqrt() * weight)[:, None] + bias[:, None]
    features = y.view(b, h, w, c).permute(0, 3, 1, 2).to(x.dtype)
    return features, (mean.detach(), (var * pixels / (pixels - 1)).detach())
