"""Reordering the channels inside residual blocks by importance, so that narrower subnets keep the important ones.

Subnets take leading channels. Nothing outside a block depends on the order of the channels inside it, so the function
of the largest arch stays the same; what narrower archs compute changes, and is meant to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from nni.nas.nn.pytorch import ModelSpace
from torch import nn

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.spaces.resnet20 import ResidualEntry, ResidualExit
from nni_nas_consistency.supernet.modules import ElasticBank


@torch.no_grad()
def reorder_inner_channels(space: ModelSpace) -> None:
    """Sort the channels inside every residual block by Σ |weights of the second convolution that read them|, in place.

    Args:
        space: A space of residual blocks, a supernet or not.

    Raises:
        InputError: The space has no residual blocks, or several kernels for one convolution (`supernet.sharing`).

    Source: Once-for-All (Cai et al. 2020), section 3.3, as the organisers' demo of CVPR 2022 track 1 does it: outputs
    of the first convolution, its batch norm, and inputs of the second convolution.
    """
    blocks = list(_residual_blocks(cast("nn.Module", space)))
    if not blocks:
        raise InputError(f"{type(space).__name__} has no residual blocks, whose inner channels could be reordered")
    for entry, leave in blocks:
        first, norm, second = entry.conv1.conv, entry.conv1.bn, leave.conv2.conv
        if any(isinstance(layer, ElasticBank) for layer in (first, norm, second)):
            raise InputError("inner channels are reordered where all archs share one kernel; do it before unsharing")
        order = second.weight.abs().sum((0, 2, 3)).argsort(descending=True, stable=True)
        for tensor in (first.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.copy_(tensor[order])
        second.weight.copy_(second.weight[:, order])


def _residual_blocks(space: nn.Module) -> Iterator[tuple[Any, Any]]:
    """Yield the two halves of each residual block."""
    halves = [module for module in space.modules() if isinstance(module, (ResidualEntry, ResidualExit))]
    yield from zip(halves[::2], halves[1::2], strict=True)
