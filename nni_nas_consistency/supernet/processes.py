"""Batch norm with the statistics of the images that all processes have.

torch's SyncBatchNorm is a module of one width, for GPUs alone; this is a function, for the width of the active arch.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor


class _Total(torch.autograd.Function):
    """The sum over all processes. The gradient of what a process adds is the sum of the gradients in all of them.

    torch's own function for this is deprecated.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the sum."""
        summed = x.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the sum of the gradients."""
        summed = gradients[0].clone()
        dist.all_reduce(summed)
        return summed


def _total(x: Tensor) -> Tensor:
    return cast("Tensor", _Total.apply(x))  # type: ignore[no-untyped-call]


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
    rows = wide.permute(0, 2, 3, 1).reshape(archs, -1, c)
    pixels = _total(torch.tensor(float(rows.shape[1]), dtype=wide.dtype, device=x.device))
    mean = _total(rows.sum(1)) / pixels
    centred = rows - mean[:, None]
    var = _total(centred.square().sum(1)) / pixels
    y = centred * ((var + eps).rsqrt() * weight)[:, None] + bias[:, None]
    features = y.view(b, h, w, c).permute(0, 3, 1, 2).to(x.dtype)
    return features, (mean.detach(), (var * pixels / (pixels - 1)).detach())
