"""The statistics that batch norms normalise with while archs are scored.

`supernet`: the running statistics, which all subnets updated. `train`, `test`: re-estimated for each subnet over
training or test images, as `torch.optim.swa_utils.update_bn` does. `batch`: those of each scored batch. Two context
managers set them for a network; the prefix scorer passes them as values, see `Statistics`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nni_nas_consistency.supernet.batch_norm import group_statistics

BNStatistics = Literal["supernet", "train", "test", "batch"]
BN_STATISTICS: tuple[BNStatistics, ...] = get_args(BNStatistics)

Moments: TypeAlias = "tuple[Tensor, Tensor]"
"""Mean and variance of every channel, both [groups, C]; a group is a batch of one arch, an arch, or all images."""


class Statistics(Protocol):
    """The batch-norm statistics of one run of a supernet."""

    def moments(self, norm: nn.BatchNorm2d, x: Tensor, archs: int) -> Moments:
        """Return the mean and variance to normalise the input x of a batch norm with: [archs · images, C, H, W]."""


@dataclass(frozen=True)
class OfEachBatch:
    """The statistics of each batch.

    Args:
        batches: Batches of each arch in the input.
    """

    batches: int = 1

    def moments(self, norm: nn.BatchNorm2d, x: Tensor, archs: int) -> Moments:
        """Return mean and biased variance of each batch: [archs · batches, C]."""
        return group_statistics(x, archs * self.batches)


@dataclass(frozen=True)
class Running:
    """The supernet's running statistics."""

    def moments(self, norm: nn.BatchNorm2d, x: Tensor, archs: int) -> Moments:
        """Return the running mean and variance of the first C channels: [1, C]."""
        assert norm.running_mean is not None and norm.running_var is not None
        return norm.running_mean[None, : x.shape[1]], norm.running_var[None, : x.shape[1]]


@dataclass(frozen=True)
class Estimate:
    """Statistics re-estimated for one run of a link: the average over all batches of a calibration set.

    Args:
        total: Batches of the calibration set.
        means: Mean and unbiased variance by batch norm, [2, archs, C], summed up over the batches so far.
    """

    total: int
    means: dict[nn.BatchNorm2d, Tensor] = field(default_factory=dict)

    def moments(self, norm: nn.BatchNorm2d, x: Tensor, archs: int) -> Moments:
        """Return mean and variance over the calibration set: [archs, C]."""
        mean, var = self.means[norm]
        return mean, var


@dataclass(frozen=True)
class Recording:
    """The statistics of each batch, which are added to an estimate on the way.

    Args:
        estimate: The estimate.
        batches: Batches of each arch in the input.
    """

    estimate: Estimate
    batches: int

    def moments(self, norm: nn.BatchNorm2d, x: Tensor, archs: int) -> Moments:
        """Return mean and biased variance of each batch: [archs · batches, C]."""
        mean, var = group_statistics(x, archs * self.batches)
        pixels = x.numel() // (x.shape[1] * len(mean))
        unbiased = var * (pixels / (pixels - 1))
        of_arch = torch.stack([mean, unbiased]).view(2, archs, self.batches, -1).sum(2) / self.estimate.total
        means = self.estimate.means
        means[norm] = means[norm] + of_arch if norm in means else of_arch
        return mean, var


class Estimates:
    """The estimates of all runs of links in one walk.

    Args:
        total: Batches of the calibration set.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._of_run: dict[Hashable, Estimate] = {}

    def of_run(self, run: Hashable) -> Estimate:
        """Return the estimate of one run of a link."""
        return self._of_run.setdefault(run, Estimate(self.total))


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms of a network, of any dimension."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Normalise with the statistics of each batch, without updating the running ones; restore all settings on exit."""
    norms = batch_norms(network)
    with _put_back(norms):
        for norm in norms:
            norm.training, norm.momentum = True, 0.0
        yield


@contextmanager
def estimated_statistics(
    network: nn.Module, forward: Callable[[Tensor], Tensor], batches: Iterable[Tensor]
) -> Iterator[None]:
    """Normalise with statistics re-estimated over batches, the average of all; restore the former ones on exit.

    Args:
        network: A network in evaluation mode, or a supernet whose active subnet `forward` runs.
        forward: Runs a batch of images [B, C, H, W].
        batches: The images to estimate from.

    Raises:
        ValueError: There are no batches.
    """
    norms = batch_norms(network)
    with _put_back(norms):
        for norm in norms:
            norm.reset_running_stats()
            norm.training, norm.momentum = True, None
        seen = 0
        with torch.no_grad():
            for images in batches:
                forward(images)
                seen += 1
        if seen == 0:
            raise ValueError("no images to estimate batch-norm statistics from")
        for norm in norms:
            norm.training = False
        yield


@contextmanager
def _put_back(norms: list[_BatchNorm]) -> Iterator[None]:
    modes = [(norm.training, norm.momentum) for norm in norms]
    buffers = [{name: value.clone() for name, value in norm.named_buffers()} for norm in norms]
    try:
        yield
    finally:
        for norm, (training, momentum), former in zip(norms, modes, buffers, strict=True):
            norm.training, norm.momentum = training, momentum
            for name, value in norm.named_buffers():
                value.copy_(former[name])
