"""The fast scorer: archs share the stages in which their prefixes agree. Equal to `subnet.py` to rounding.

Valid because a stage's statistics depend on its prefix alone: those of each batch, the supernet's running ones, and
those re-estimated over a whole set, stage by stage. How archs share is in `walk.py`, what runs at once in `blocks.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.scoring.memory import ImageBlock, Layout, image_blocks, layout_for
from nni_nas_consistency.scoring.plain import Scoring, calibration_source, evaluation_mode, image_scores
from nni_nas_consistency.scoring.trie import Moments, Node, Walk
from nni_nas_consistency.supernet.active import Space
from nni_nas_consistency.supernet.batch_norm import group_statistics
from nni_nas_consistency.supernet.modules import SlimmableBatchNorm2d, Stage, width_at
from nni_nas_consistency.supernet.statistics import batch_norms


def score_prefixes(
    supernet: Space,
    blocks: Iterable[Sequence[Arch]],
    scoring: Scoring,
    *,
    advance: Callable[[float], None] = lambda archs: None,
    layout: Layout | None = None,
) -> Iterator[list[float]]:
    """Yield the scores of each block of archs, higher is better; archs share stages with those of their block only.

    Args:
        supernet: A chain space after `make_supernet`.
        blocks: The archs to score; a block takes least time if its archs are neighbours in sorted order.
        scoring: How.
        advance: Is told of archs done, and of parts of one; the calls add up to the number of archs, unless the memory
            ran out in between.
        layout: What runs at once; None: what fits the free memory, and half of that if it does not after all.

    Raises:
        InputError: Half of the free memory does not hold one batch.
        TypeError: The space has batch norms that are none of NNI's mutable ones.
        ValueError: There is no image to score.
    """
    if not all(isinstance(norm, SlimmableBatchNorm2d) for norm in batch_norms(cast("nn.Module", supernet))):
        raise TypeError("the space has batch norms that are no MutableBatchNorm2d; score it with the plain scorer")
    batches = list(scoring.test())
    if not batches:
        raise ValueError("no images to score on")
    fitting = layout or layout_for(supernet, batches[0][0], len(batches))
    images = None
    for archs in blocks:
        scores = None
        while scores is None:
            try:
                images = images or _images(scoring, fitting)
                scores = _score_block(supernet, archs, images, fitting, advance)
            except torch.cuda.OutOfMemoryError:  # anew from the top, when this error no longer holds what filled it
                fitting, images = fitting.halved(), None
        yield scores


@dataclass(frozen=True, eq=False)
class _Images:
    """The images of a scoring, joined into blocks, and what is made of them."""

    scored: list[ImageBlock]
    calibration: list[ImageBlock]
    scoring: Scoring


def _images(scoring: Scoring, layout: Layout) -> _Images:
    source = calibration_source(scoring)
    calibration = [] if source is None else image_blocks(source(), layout.batches)
    return _Images(image_blocks(scoring.test(), layout.batches), calibration, scoring)


@torch.no_grad()
def _score_block(
    supernet: Space, archs: Sequence[Arch], images: _Images, layout: Layout, advance: Callable[[float], None]
) -> list[float]:
    """Return the scores of archs, in their order."""
    stages = cast("Sequence[Stage]", supernet.stages)
    samples = [supernet.sample(arch) for arch in archs]
    keys = [tuple(width_at(stage.out, sample) for stage in stages) for sample in samples]
    distinct = sorted(set(keys))
    seen = sum(len(block.labels) for block in images.scored)
    each = len(archs) / len(distinct) / (seen + sum(len(block.labels) for block in images.calibration))
    totals = torch.zeros(len(distinct), dtype=torch.float64, device=images.scored[0].images.device)
    with evaluation_mode(cast("nn.Module", supernet)), _put_back(supernet):
        estimated = _Estimated(sum(block.batches for block in images.calibration))
        for block in images.calibration:
            for lo, hi, _ in Walk(supernet, distinct, layout, block, estimated.record).leaves():
                advance(each * (hi - lo) * len(block.labels))
        statistics = {"batch": _of_batch, "supernet": _of_supernet}.get(images.scoring.bn, estimated.recall)
        for block in images.scored:
            for lo, hi, logits in Walk(supernet, distinct, layout, block, statistics).leaves():
                scores = image_scores(logits, block.labels.repeat(hi - lo), images.scoring.metric)
                totals[lo:hi] += scores.double().view(hi - lo, -1).sum(1)
                advance(each * (hi - lo) * len(block.labels))
    score_of = dict(zip(distinct, (totals / seen).tolist(), strict=True))
    return [score_of[key] for key in keys]


@contextmanager
def _put_back(supernet: Space) -> Iterator[None]:
    active = supernet.active
    if active is None:
        raise ValueError("the space is no supernet: train it with SandwichStrategy, or call make_supernet first")
    before = active.widths, active.masks, active.scales
    active.masks = None
    try:
        yield
    finally:
        active.widths, active.masks, active.scales = before


def _of_batch(norm: nn.BatchNorm2d, x: Tensor, node: Node) -> Moments:
    return group_statistics(x, node.archs * node.batches)


def _of_supernet(norm: nn.BatchNorm2d, x: Tensor, node: Node) -> Moments:
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean[None, : x.shape[1]], norm.running_var[None, : x.shape[1]]


class _Estimated:
    """Statistics re-estimated over a set: the mean over its batches, which all count alike, at every node.

    Args:
        batches: How many batches the set has.
    """

    def __init__(self, batches: int) -> None:
        self.batches = batches
        self.moments: dict[tuple[nn.BatchNorm2d, int], Tensor] = {}

    def record(self, norm: nn.BatchNorm2d, x: Tensor, node: Node) -> Moments:
        """Return the statistics of each batch, and add them to those of the set."""
        mean, var = _of_batch(norm, x, node)
        pixels = x.numel() // (x.shape[1] * len(mean))
        unbiased = var * (pixels / (pixels - 1))
        moments = torch.stack([mean, unbiased]).view(2, node.archs, node.batches, -1).sum(2) / self.batches
        key = norm, node.lo
        self.moments[key] = self.moments[key] + moments if key in self.moments else moments
        return mean, var

    def recall(self, norm: nn.BatchNorm2d, x: Tensor, node: Node) -> Moments:
        """Return the statistics of the set."""
        mean, var = self.moments[norm, node.lo]
        return mean, var
