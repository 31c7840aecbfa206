"""Which statistics the batch norms of a network normalise with while it is scored.

supernet: the running ones, which every subnet moved. train, test: those of this subnet, averaged over batches of
training or test images, as `torch.optim.swa_utils.update_bn` does. batch: of each scored batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor, nn

BNStatistics = Literal["supernet", "train", "test", "batch"]
BN_STATISTICS: tuple[BNStatistics, ...] = get_args(BNStatistics)


def batch_norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    """Return the batch norms of a network."""
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Normalise with the statistics of each batch and leave the running ones alone; put back what was set before."""
    norms = batch_norms(network)
    with _put_back(norms):
        for norm in norms:
            norm.training, norm.momentum = True, 0.0
        yield


@contextmanager
def estimated_statistics(
    network: nn.Module, forward: Callable[[Tensor], Tensor], batches: Iterable[Tensor]
) -> Iterator[None]:
    """Normalise with statistics averaged over batches, all counting alike; put back the former ones afterwards.

    Args:
        network: The network, or the supernet whose active subnet `forward` runs; must be in evaluation mode inside.
        forward: Runs one batch of images [B, C, H, W].
        batches: The images to estimate from; at least one batch.

    Raises:
        ValueError: There is no batch.
    """
    norms = batch_norms(network)
    with _put_back(norms):
        for norm in norms:
            norm.reset_running_stats()
            norm.training, norm.momentum = True, None
        ran = 0
        with torch.no_grad():
            for ran, images in enumerate(batches, 1):  # noqa: B007 - counts the batches
                forward(images)
        if not ran:
            raise ValueError("no images to estimate batch-norm statistics from")
        for norm in norms:
            norm.training = False
        yield


@contextmanager
def _put_back(norms: list[nn.BatchNorm2d]) -> Iterator[None]:
    modes = [(norm.training, norm.momentum) for norm in norms]
    buffers = [{name: value.clone() for name, value in norm.named_buffers()} for norm in norms]
    try:
        yield
    finally:
        for norm, (training, momentum), former in zip(norms, modes, buffers, strict=True):
            norm.training, norm.momentum = training, momentum
            for name, value in norm.named_buffers():
                value.copy_(former[name])
