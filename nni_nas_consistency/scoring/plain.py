"""The plain scorer: one arch at a time, batch by batch, for any space. The reference for faster scorers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import cast

import torch
from nni.nas.nn.pytorch import ModelSpace
from torch import nn

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.files.progress import Progress
from nni_nas_consistency.scoring.scoring import Score, Scoring, image_scores
from nni_nas_consistency.supernet.active import Sample, active_of, active_subnet, arch_of
from nni_nas_consistency.supernet.statistics import batch_statistics, estimated_statistics


def score_one_by_one(
    supernet: ModelSpace,
    segments: Iterable[Sequence[Arch]],
    scoring: Scoring,
    *,
    progress: Progress = lambda archs: None,
) -> Iterator[list[Score]]:
    """Yield the scores of the archs of each segment; see `Scorer`."""
    for archs in segments:
        scores = []
        for score in score_archs(supernet, archs, scoring):
            scores.append(score)
            progress(1)
        yield scores


def score_archs(supernet: ModelSpace, archs: Iterable[Arch | Sample], scoring: Scoring) -> Iterator[Score]:
    """Yield the score of each arch or NNI sample.

    Args:
        supernet: A space after `make_supernet`.
        archs: The archs to score.
        scoring: How to score.
    """
    for arch in archs:
        with active_subnet(supernet, arch):
            if active_of(supernet).nni_modules and scoring.calibration is not None:
                # NNI's batch norms do not let statistics be averaged over batches: its frozen subnets' do
                network = supernet.freeze(arch_of(supernet, arch).sample)
            else:
                network = cast("nn.Module", supernet)
            score = score_network(network, scoring)
        yield score  # outside, so that the caller finds the supernet as it was


@torch.no_grad()
def score_network(network: nn.Module, scoring: Scoring, *, report: Callable[[Score], object] | None = None) -> Score:
    """Return the score of a network: an extracted subnet, or a supernet that runs its active subnet.

    Args:
        network: The network.
        scoring: How to score.
        report: Called after every batch with the mean score so far.

    Raises:
        ValueError: There is no image to score on, or none to estimate statistics from.
    """
    loss, right, images_seen = 0.0, 0.0, 0
    score = Score(0.0, 0.0)
    with evaluation_mode(network), _statistics(network, scoring):
        for images, labels in scoring.test():
            loss_of_batch, right_of_batch = image_scores(network(images), labels).sum(1).tolist()
            loss, right, images_seen = loss + loss_of_batch, right + right_of_batch, images_seen + len(labels)
            score = Score(loss / images_seen, right / images_seen)
            if report is not None:
                report(score)
    if not images_seen:
        raise ValueError("no images to score on")
    return score


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode; restore the mode of each module afterwards."""
    before = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def _statistics(network: nn.Module, scoring: Scoring) -> AbstractContextManager[None]:
    if scoring.calibration is not None:
        return estimated_statistics(network, network, (images for images, _ in scoring.calibration()))
    return batch_statistics(network) if scoring.bn == "batch" else nullcontext()
