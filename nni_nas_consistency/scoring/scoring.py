"""How archs are scored: images, batch-norm statistics, and the metric that counts. Both metrics come from one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.progress import Progress
from nni_nas_consistency.supernet.statistics import BN_STATISTICS, BNStatistics

Metric = Literal["loss", "acc"]
METRICS: tuple[Metric, ...] = get_args(Metric)

BatchSource = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Returns the batches, anew at each call: images float [B, C, H, W], labels int64 [B]."""


@dataclass(frozen=True)
class Scoring:
    """How archs are scored.

    Args:
        metric: The metric to rank by. `loss`: negative mean cross-entropy, as recipe nazarick ranks; `acc`: top-1
            accuracy, 0–1.
        bn: The batch-norm statistics; see `supernet.statistics`.
        test: The batches to score on; with `bn="batch"` their composition matters.
        train: The batches to estimate statistics from, for `bn="train"`.

    Raises:
        InputError: metric or bn is none of those allowed, or `bn="train"` has no training batches.
    """

    metric: Metric
    bn: BNStatistics
    test: BatchSource
    train: BatchSource | None = None

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise InputError(f"metric is {self.metric!r}; allowed are {', '.join(METRICS)}")
        if self.bn not in BN_STATISTICS:
            raise InputError(f"bn is {self.bn!r}; allowed are {', '.join(BN_STATISTICS)}")
        if self.bn == "train" and self.train is None:
            raise InputError("bn='train' needs training batches to estimate the statistics from")

    @property
    def calibration(self) -> BatchSource | None:
        """The batches that batch-norm statistics are estimated from, or None if they are not estimated."""
        return {"train": self.train, "test": self.test}.get(self.bn)


@dataclass(frozen=True)
class Score:
    """The score of an arch by both metrics; higher is better.

    Args:
        loss: Negative mean cross-entropy.
        acc: Top-1 accuracy, 0–1.
    """

    loss: float
    acc: float

    def of(self, metric: Metric) -> float:
        """Return the score by one metric."""
        return self.loss if metric == "loss" else self.acc


class Scorer(Protocol):
    """A function that scores archs: `prefix.score_prefixes`, or `plain.score_one_by_one`, the reference."""

    def __call__(
        self, supernet: ModelSpace, segments: Iterable[Sequence[Arch]], scoring: Scoring, *, progress: Progress
    ) -> Iterator[list[Score]]:
        """Yield the scores of the archs of each segment.

        Args:
            supernet: A space after `make_supernet`.
            segments: The archs, as parts of a sorted list; archs of one segment may share work.
            scoring: How to score.
            progress: Progress callback.
        """


def image_scores(logits: Tensor, labels: Tensor) -> Tensor:
    """Return negative cross-entropy and correctness (0 or 1) of each image: [2, B], from logits [B, K] and labels."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    right = (logits.argmax(-1) == labels).to(logits.dtype)
    return torch.stack([-F.cross_entropy(logits, labels, reduction="none"), right])
