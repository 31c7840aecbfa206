"""The fast scorer: archs share the links in which their prefixes agree. Equal to `plain.py` up to rounding.

Valid because a link's batch-norm statistics depend on its prefix alone: those of each batch, the supernet's running
ones, and those re-estimated over a whole set, link by link. How archs share is in `trie.py`, what runs at once in
`memory.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor, nn

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.files.progress import Progress
from nni_nas_consistency.scoring.memory import ImageChunk, Layout, image_chunks, layout_for
from nni_nas_consistency.scoring.plain import evaluation_mode
from nni_nas_consistency.scoring.scoring import Score, Scoring, image_scores
from nni_nas_consistency.scoring.trie import Walk, keys_of, sorted_by_keys
from nni_nas_consistency.spaces.chain import ChainSpace, Link
from nni_nas_consistency.supernet.active import active_of
from nni_nas_consistency.supernet.modules import ElasticBatchNorm2d
from nni_nas_consistency.supernet.statistics import Estimates, OfEachBatch, Recording, Running, Statistics, batch_norms

StatisticsOfRun: TypeAlias = "Callable[[Hashable], Statistics]"
"""Returns what batch norms normalise with in one run of a link."""


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
        scoring: How to score.
        progress: Progress callback; the calls add up to the number of archs, unless the memory ran out in between.
        layout: What runs at once; None: what fits the free memory. Where that runs out after all, half is tried.

    Raises:
        InputError: The memory does not hold one batch.
        TypeError: The space is no chain of links, or has batch norms that are not elastic.
        ValueError: The space is no supernet; or there is no image to score on, or none to estimate statistics from.
    """
    if not shares_prefixes(supernet):
        raise TypeError(f"{type(supernet).__name__} is no chain whose prefixes can be shared; use the plain scorer")
    space = cast("ChainSpace", supernet)
    scored = _Size.of(scoring.test())
    if not scored.images:
        raise ValueError("no images to score on")
    calibration = _Size(0, 0) if scoring.calibration is None else _Size.of(scoring.calibration())
    if scoring.calibration is not None and not calibration.images:
        raise ValueError("no images to estimate batch-norm statistics from")
    for archs in segments:
        if layout is None:
            first, _ = next(iter(scoring.test()))
            layout = layout_for(space, archs, first, scored.batches)
        scores = None
        while scores is None:
            try:
                images = _Images(scoring, layout.batches, scored.images, calibration)
                scores = _score_segment(space, archs, images, layout.bundle, progress)
            except torch.cuda.OutOfMemoryError:  # anew from the top, when this error no longer holds what filled it
                layout = layout.halved()
        yield scores


@dataclass(frozen=True)
class _Size:
    """How many images there are, and in how many batches."""

    images: int
    batches: int

    @classmethod
    def of(cls, batches: Iterable[tuple[Tensor, Tensor]]) -> _Size:
        sizes = [len(labels) for _, labels in batches]
        return cls(sum(sizes), len(sizes))


@dataclass(frozen=True, eq=False)
class _Images:
    """The images of a scoring, which come in chunks; no more than one is held.

    Args:
        scoring: How to score.
        batches: Most batches per chunk.
        count: Number of images that archs are scored on.
        calibration: How many images batch-norm statistics are re-estimated from; 0 if they are not.
    """

    scoring: Scoring
    batches: int
    count: int
    calibration: _Size

    def calibration_chunks(self) -> Iterator[ImageChunk]:
        """Yield what batch-norm statistics are re-estimated from."""
        source = self.scoring.calibration
        return iter(()) if source is None else image_chunks(source(), self.batches)

    def scored_chunks(self) -> Iterator[ImageChunk]:
        """Yield what archs are scored on."""
        return image_chunks(self.scoring.test(), self.batches)

    def statistics(self, estimates: Estimates, chunk: ImageChunk) -> StatisticsOfRun:
        """Return what batch norms normalise with while a chunk is scored."""
        if self.scoring.bn == "batch":
            return lambda run: OfEachBatch(chunk.batches)
        if self.scoring.bn == "supernet":
            return lambda run: Running()
        return estimates.of_run


@torch.no_grad()
def _score_segment(
    supernet: ChainSpace, archs: Sequence[Arch], images: _Images, bundle: int, progress: Progress
) -> list[Score]:
    """Return the scores of archs, in their order."""
    distinct = sorted_by_keys(supernet, archs)
    bundle = bundle if supernet.can_stack(distinct) else 1
    passes = len(distinct) * (images.count + images.calibration.images)

    def report(done: int) -> None:
        progress(len(archs) * done / passes)

    device = next(cast("nn.Module", supernet).parameters()).device
    totals = torch.zeros(2, len(distinct), dtype=torch.float64, device=device)
    with evaluation_mode(cast("nn.Module", supernet)), _run_put_back(supernet):
        estimates = Estimates(images.calibration.batches)
        for chunk in images.calibration_chunks():
            for places, _ in Walk(supernet, distinct, bundle, chunk, _recording(estimates, chunk)).leaves():
                report(len(places) * len(chunk.labels))
        for chunk in images.scored_chunks():
            totals += _summed_scores(
                Walk(supernet, distinct, bundle, chunk, images.statistics(estimates, chunk)), report
            )
    means = (totals / images.count).T.tolist()
    score_of = {keys_of(supernet, arch): Score(*mean) for arch, mean in zip(distinct, means, strict=True)}
    return [score_of[keys_of(supernet, arch)] for arch in archs]


def _summed_scores(walk: Walk, report: Callable[[int], None]) -> Tensor:
    """Return the scores of the archs of a walk, summed over its images: float64 [2, archs]."""
    labels = walk.chunk.labels
    order: list[int] = []
    sums = []
    for places, logits in walk.leaves():
        scores = image_scores(logits, labels.repeat(len(places)))
        sums.append(scores.double().view(2, len(places), -1).sum(2))
        order += places
        report(len(places) * len(labels))
    place_of = sorted(range(len(order)), key=order.__getitem__)
    return torch.cat(sums, 1)[:, place_of]


def _recording(estimates: Estimates, chunk: ImageChunk) -> StatisticsOfRun:
    return lambda run: Recording(estimates.of_run(run), chunk.batches)


@contextmanager
def _run_put_back(supernet: ChainSpace) -> Iterator[None]:
    active = active_of(supernet)
    before = active.run
    try:
        yield
    finally:
        active.run = before
