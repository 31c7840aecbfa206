"""The fast scorer: archs share the links in which their prefixes agree. Equal to `plain.py` to rounding.

Valid because a link's statistics depend on its prefix alone: those of each batch, the supernet's running ones, and
those re-estimated over a whole set, link by link. How archs share is in `trie.py`, what runs at once in `memory.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from nni.nas.nn.pytorch import ModelSpace
from torch import nn

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.scoring.memory import ImageChunk, Layout, image_chunks, layout_for
from nni_nas_consistency.scoring.plain import evaluation_mode
from nni_nas_consistency.scoring.scoring import Progress, Score, Scoring, image_scores
from nni_nas_consistency.scoring.trie import Walk, keys_of, sorted_by_keys
from nni_nas_consistency.spaces.chain import ChainSpace, Link
from nni_nas_consistency.supernet.active import active_of
from nni_nas_consistency.supernet.modules import ElasticBatchNorm2d
from nni_nas_consistency.supernet.statistics import Estimates, OfEachBatch, Recording, Running, Statistics, batch_norms

StatisticsOfRun: TypeAlias = "Callable[[Hashable], Statistics]"
"""Gives what batch norms normalise with in one run of a link."""


def shares_prefixes(space: ModelSpace) -> bool:
    """Return whether the prefix scorer can score a supernet: a chain of links whose batch norms are all elastic."""
    if not isinstance(space, ChainSpace) or not all(isinstance(link, Link) for link in space.links):
        return False
    norms = batch_norms(cast("nn.Module", space))
    return not active_of(space).nni_modules and all(isinstance(norm, ElasticBatchNorm2d) for norm in norms)


def score_prefixes(
    supernet: ModelSpace,
    segments: Iterable[Sequence[Arch]],
    scoring: Scoring,
    *,
    progress: Progress = lambda archs: None,
    layout: Layout | None = None,
) -> Iterator[list[Score]]:
    """Yield the scores of the archs of each segment; see `Scorer`. Archs share links with those of their segment only.

    Args:
        supernet: A chain space after `make_supernet`.
        segments: The archs to score; a segment takes least time if its archs are neighbours in sorted order.
        scoring: How.
        progress: Progress callback; the calls add up to the number of archs, unless the memory ran out in between.
        layout: What runs at once; None: what fits the free memory, and half of that if it does not after all.

    Raises:
        InputError: Half of the free memory does not hold one batch.
        TypeError: The space is no chain of links, or has batch norms that are not elastic.
        ValueError: There is no image to score.
    """
    if not shares_prefixes(supernet):
        raise TypeError(f"{type(supernet).__name__} is no chain whose prefixes can be shared; use the plain scorer")
    space = cast("ChainSpace", supernet)
    batches = list(scoring.test())
    if not batches:
        raise ValueError("no images to score on")
    images = None
    for archs in segments:
        if layout is None:
            layout = layout_for(space, archs, batches[0][0], len(batches))
        scores = None
        while scores is None:
            try:
                images = images or _images(scoring, layout)
                scores = _score_segment(space, archs, images, layout, progress)
            except torch.cuda.OutOfMemoryError:  # anew from the top, when this error no longer holds what filled it
                layout, images = layout.halved(), None
        yield scores


@dataclass(frozen=True, eq=False)
class _Images:
    """The images of a scoring, joined into chunks."""

    scored: list[ImageChunk]
    calibration: list[ImageChunk]
    scoring: Scoring

    @property
    def count(self) -> int:
        return sum(len(chunk.labels) for chunk in [*self.scored, *self.calibration])


def _images(scoring: Scoring, layout: Layout) -> _Images:
    source = scoring.calibration
    calibration = [] if source is None else image_chunks(source(), layout.batches)
    return _Images(image_chunks(scoring.test(), layout.batches), calibration, scoring)


@torch.no_grad()
def _score_segment(
    supernet: ChainSpace, archs: Sequence[Arch], images: _Images, layout: Layout, progress: Progress
) -> list[Score]:
    """Return the scores of archs, in their order."""
    distinct = sorted_by_keys(supernet, archs)
    done_by_one_image = len(archs) / len(distinct) / images.count
    seen = sum(len(chunk.labels) for chunk in images.scored)
    totals = torch.zeros(2, len(distinct), dtype=torch.float64, device=images.scored[0].images.device)
    with evaluation_mode(cast("nn.Module", supernet)), _run_put_back(supernet):
        estimates = Estimates(sum(chunk.batches for chunk in images.calibration))
        for chunk in images.calibration:
            for first, end, _ in Walk(supernet, distinct, layout.bundle, chunk, _recording(estimates, chunk)).leaves():
                progress(done_by_one_image * (end - first) * len(chunk.labels))
        for chunk in images.scored:
            statistics = _scoring_with(images.scoring, estimates, chunk)
            for first, end, logits in Walk(supernet, distinct, layout.bundle, chunk, statistics).leaves():
                scores = image_scores(logits, chunk.labels.repeat(end - first))
                totals[:, first:end] += scores.double().view(2, end - first, -1).sum(2)
                progress(done_by_one_image * (end - first) * len(chunk.labels))
    means = (totals / seen).T.tolist()
    of_keys = {keys_of(supernet, arch): Score(*mean) for arch, mean in zip(distinct, means, strict=True)}
    return [of_keys[keys_of(supernet, arch)] for arch in archs]


def _recording(estimates: Estimates, chunk: ImageChunk) -> StatisticsOfRun:
    return lambda run: Recording(estimates.of_run(run), chunk.batches)


def _scoring_with(scoring: Scoring, estimates: Estimates, chunk: ImageChunk) -> StatisticsOfRun:
    if scoring.bn == "batch":
        return lambda run: OfEachBatch(chunk.batches)
    if scoring.bn == "supernet":
        return lambda run: Running()
    return estimates.of_run


@contextmanager
def _run_put_back(supernet: ChainSpace) -> Iterator[None]:
    active = active_of(supernet)
    before = active.run
    try:
        yield
    finally:
        active.run = before
