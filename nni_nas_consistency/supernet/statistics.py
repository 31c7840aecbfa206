"""Which statistics batch norms normalise with while archs are scored.

supernet: the running ones, which every subnet moved. train, test: those of this subnet, averaged over batches of
training or test images, as `torch.optim.swa_utils.update_bn` does. batch: of each scored batch. For a network, two
context managers set them; for the prefix scorer they are values, of the protocol `Statistics`.
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
"""Mean and variance of every channel, [groups, C] both; a group is a batch of one arch, or all that there is."""


class Statistics(Protocol):
    """What the batch norms of a supernet normalise with in one run."""

    def moments(self, norm: nn.BatchNorm2d, x: Tensor, archs: int) -> Moments:
        """Return mean and variance for the input x, [archs · images, C, H, W], of a batch norm."""


@dataclass(frozen=True)
class OfEachBatch:
    """The statistics of each batch.

    Args:
        batches: How many batches of each arch run at once.
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
    """Statistics that are re-estimated over a set of batches, all counting alike, for one run of a link.

    Args:
        total: How many batches the set has.
        means: Mean and unbiased variance by batch norm, summed up while the set runs: [2, archs, C].
    """

    total: int
    means: dict[nn.BatchNorm2d, Tensor] = field(default_factory=dict)

    def moments(self, norm: nn.BatchNorm2d, x: Tensor, archs: int) -> Moments:
        """Return mean and variance over the set: [archs, C]."""
        mean, var = self.means[norm]
        return mean, var


@dataclass(frozen=True)
class Recording:
    """The statistics of each batch, which are added to an estimate.

    Args:
        estimate: What they are added to.
        batches: How many batches of each arch run at once.
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
        total: How many batches the set has.
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
