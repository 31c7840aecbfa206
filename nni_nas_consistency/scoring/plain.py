"""The plain scorer: one arch at a time, image batch by image batch. What faster scorers must agree with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.supernet.active import Space, set_active_subnet
from nni_nas_consistency.supernet.statistics import BN_STATISTICS, BNStatistics, batch_statistics, estimated_statistics

Metric = Literal["loss", "acc"]
METRICS: tuple[Metric, ...] = get_args(Metric)

BatchSource = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Gives the batches anew at each call: images float [B, C, H, W], labels int64 [B]."""


@dataclass(frozen=True)
class Scoring:
    """How archs are scored.

    Args:
        metric: `loss`: negative mean cross-entropy, which ranked better in recipe nazarick; `acc`: top-1 accuracy, 0–1.
        bn: The batch-norm statistics.
        test: The batches that are scored; with `bn="batch"` their composition matters.
        train: The batches that statistics are estimated from, for `bn="train"`.

    Raises:
        ValueError: metric or bn is none of those allowed, or `bn="train"` has no training batches.
    """

    metric: Metric
    bn: BNStatistics
    test: BatchSource
    train: BatchSource | None = None

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"metric is {self.metric!r}; allowed are {', '.join(METRICS)}")
        if self.bn not in BN_STATISTICS:
            raise ValueError(f"bn is {self.bn!r}; allowed are {', '.join(BN_STATISTICS)}")
        if self.bn == "train" and self.train is None:
            raise ValueError("bn='train' needs training batches to estimate the statistics from")


def score_one_by_one(
    supernet: Space,
    blocks: Iterable[Sequence[Arch]],
    scoring: Scoring,
    *,
    advance: Callable[[float], None] = lambda archs: None,
) -> Iterator[list[float]]:
    """Yield the scores of each block of archs, higher is better.

    Args:
        supernet: A chain space after `make_supernet`.
        blocks: The archs to score.
        scoring: How.
        advance: Is told 1 for every arch done.
    """
    for archs in blocks:
        scores = []
        for score in score_archs(supernet, archs, scoring):
            scores.append(score)
            advance(1)
        yield scores


def score_archs(supernet: Space, archs: Iterable[Arch], scoring: Scoring) -> Iterator[float]:
    """Yield the score of each arch, higher is better.

    Args:
        supernet: A chain space after `make_supernet`.
        archs: The archs to score.
        scoring: How.
    """
    for arch in archs:
        with set_active_subnet(supernet, arch):
            score = score_network(cast("nn.Module", supernet), scoring)
        yield score  # outside, so that the caller finds the supernet as it was


@torch.no_grad()
def score_network(network: nn.Module, scoring: Scoring, *, report: Callable[[float], object] | None = None) -> float:
    """Return the score of a network as it stands: an extracted subnet, or a supernet with its active one.

    Args:
        network: The network.
        scoring: How.
        report: Is told the mean score so far after every batch.

    Raises:
        ValueError: There is no image to score.
    """
    total, images_seen = 0.0, 0
    with evaluation_mode(network), _statistics(network, scoring):
        for images, labels in scoring.test():
            total += float(image_scores(network(images), labels, scoring.metric).sum())
            images_seen += len(labels)
            if report is not None:
                report(total / images_seen)
    if not images_seen:
        raise ValueError("no images to score on")
    return total / images_seen


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and each module back into the mode that it had."""
    before = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def image_scores(logits: Tensor, labels: Tensor, metric: Metric) -> Tensor:
    """Return the score of each image, higher is better: [B] from logits [B, K] and labels [B]."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if metric == "acc":
        return (logits.argmax(-1) == labels).to(logits.dtype)
    return -F.cross_entropy(logits, labels, reduction="none")


def calibration_source(scoring: Scoring) -> BatchSource | None:
    """Return where batch-norm statistics are estimated from, or None if they are not."""
    return {"train": scoring.train, "test": scoring.test}.get(scoring.bn)


def _statistics(network: nn.Module, scoring: Scoring) -> AbstractContextManager[None]:
    source = calibration_source(scoring)
    if source is not None:
        return estimated_statistics(network, network, (images for images, _ in source()))
    return batch_statistics(network) if scoring.bn == "batch" else nullcontext()
