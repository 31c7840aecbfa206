"""Batches of a data set, transformed on the device where they are needed.

CIFAR and the digits fit into any device's memory and are picked there; images in files are decoded by worker processes.
The batches of `TrainingLoader` are functions of seed, epoch and index: a run that resumes sees what it would have seen
without the interruption.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from nni_nas_consistency.errors import CheckpointError, DataError, InputError
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.images.augmentation import UNMIXED, Augmentation, Mixing
from nni_nas_consistency.images.datasets import Images
from nni_nas_consistency.images.draws import Draw, generator_of
from nni_nas_consistency.images.mixing import mixed
from nni_nas_consistency.images.transforms import augment, normalise

Own = TypeVar("Own", bound="TrainingImages")


class TrainingImages(Protocol):
    """Images to train on: `datasets.Images`, or `folder.ImageFiles`, which are decoded when they are needed."""

    @property
    def y(self) -> Tensor:
        """Labels, int64 [N], on the device that batches go to."""

    @property
    def num_classes(self) -> int:
        """Number of classes K."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Classes K, channels C, and side in pixels."""

    def __len__(self) -> int:
        """Return the number of images N."""

    def to(self: Own, device: torch.device | str) -> Own:
        """Return the same images, whose batches go to `device`."""

    def first(self: Own, n: int) -> Own:
        """Return the first `n` images."""

    def identity(self) -> dict[str, Json]:
        """Return what tells these images from others of the same data set."""

    def pixels(self, draws: Iterable[Draw]) -> Iterator[Tensor]:
        """Yield the images of the part of each draw, uint8 [B, C, H, W], on the device of the labels."""


@dataclass(frozen=True, eq=False)
class EvaluationLoader:
    """Batches of all images in the order of the data set, normalised only; each `iter` is one pass.

    Args:
        images: The data set; batches are on its device.
        augmentation: Only its `mean` and `std` are used.
        batch_size: Images per batch, at least 1; the last batch has the images that are left.
        part: Of n processes, the i-th yields every n-th batch from the i-th on: (i, n) with i from 0.

    Raises:
        InputError: `batch_size` is below 1.
    """

    images: Images
    augmentation: Augmentation
    batch_size: int
    part: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        _check_batch_size(self.batch_size)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._starts())

    def _starts(self) -> range:
        first, step = self.part
        return range(first * self.batch_size, len(self.images), step * self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images, float32 [B, C, H, W], and labels, int64 [B]."""
        for start in self._starts():
            batch = slice(start, start + self.batch_size)
            yield normalise(self.images.x[batch], self.augmentation), self.images.y[batch]


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; it must be at least 1")


class TrainingLoader:
    """Shuffled, augmented batches for Lightning or any training loop; the position can be saved and restored.

    The order of epoch e is drawn from `SeedSequence(seed, spawn_key=(e,))` and the augmentation of its batch i from
    `SeedSequence(seed, spawn_key=(e, i))`, so neither depends on what was drawn before. Each `iter` starts the next
    epoch; the first `iter` after `load_state_dict` yields the remaining batches of the saved epoch.

    Args:
        images: The data set; batches are on the device of its labels.
        augmentation: The transforms of the images.
        batch_size: Images per batch, at least 1.
        seed: Seed of order and augmentation, at least 0.
        drop_last: Whether a last batch with fewer images is left out.
        mixing: How the images of a batch are mixed, and their labels smoothed.
        part: Of each batch, yield the i-th of n parts, (i, n) with i from 0, which n processes share; augmented as in
            the whole batch. A last batch of fewer than n images is left out.

    Raises:
        InputError: `batch_size`, `seed` or `part` is out of its range.
        DataError: There are too few images for one batch.
    """

    batch_sampler = None  # Lightning reads it from every object that has a `sampler`

    def __init__(
        self,
        images: TrainingImages,
        augmentation: Augmentation,
        *,
        batch_size: int,
        seed: int,
        drop_last: bool = False,
        mixing: Mixing = UNMIXED,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        _check_batch_size(batch_size)
        if seed < 0:
            raise InputError(f"seed is {seed}; it must be at least 0")
        self._part, parts = part
        if not 0 <= self._part < parts <= batch_size:
            raise InputError(
                f"part {self._part} of {parts} of batches of {batch_size} images does not exist: use a larger batch "
                "size, or fewer processes"
            )
        self._images, self._augmentation, self._mixing = images, augmentation, mixing
        self._batch_size, self._seed, self._parts = batch_size, seed, parts
        left = len(images) % batch_size
        self._length = len(images) // batch_size + int(left >= parts and not drop_last)
        if self._length == 0:
            raise DataError(
                f"{len(images)} images make no batch of {batch_size}: use more images or a smaller batch size"
            )
        self._start = (0, 0)  # epoch and batch at which the next `iter` starts
        self._next = (0, 0)  # epoch and batch that come next in the `iter` that is running

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch, even while a resumed epoch yields fewer."""
        return self._length

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images, float32 [B, C, H, W], and labels, int64 [B]; an epoch starts when its first batch is taken.

        Labels are probabilities, float32 [B, K], where they are smoothed or images mixed.
        """
        epoch, first = self._start
        self._start = (epoch + 1, 0)
        order = torch.randperm(len(self._images), generator=generator_of(self._seed, epoch)).to(self._images.y.device)
        starts = range(first * self._batch_size, self._length * self._batch_size, self._batch_size)
        draws = [
            Draw(order[start : start + self._batch_size], self._seed, (epoch, batch), (self._part, self._parts))
            for batch, start in enumerate(starts, first)
        ]
        for draw, pixels in zip(draws, self._images.pixels(draws), strict=True):
            batch = draw.key[1]
            self._next = (epoch, batch + 1) if batch + 1 < self._length else (epoch + 1, 0)
            generator = draw.generator()
            x = augment(pixels, self._augmentation, generator, batch=len(draw.images), first=draw.mine.start)
            labels = self._images.y[draw.images[draw.mine]]
            yield mixed(x, labels, self._images.num_classes, self._mixing, generator)

    def state_dict(self) -> dict[str, int]:
        """Return the seed, and the epoch and index of the batch that comes next."""
        epoch, batch = self._next
        return {"seed": self._seed, "epoch": epoch, "batch": batch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next `iter` continue at the saved batch.

        Raises:
            CheckpointError: The state was saved with a different seed, or there is no such batch here.
        """
        if set(state) != {"seed", "epoch", "batch"}:
            raise CheckpointError(
                f"the saved loader state has {sorted(state)}; it must have seed, epoch and batch: resume from a "
                "checkpoint of this package"
            )
        if state["seed"] != self._seed:
            raise CheckpointError(
                f"the checkpoint's batches were drawn with seed {state['seed']}, this run has seed {self._seed}: "
                "resume with the same seed"
            )
        if state["epoch"] < 0 or not 0 <= state["batch"] < self._length:
            raise CheckpointError(
                f"the checkpoint stopped before batch {state['batch']} of epoch {state['epoch']}, an epoch here has "
                f"batches 0 to {self._length - 1}: resume with the same images and batch size"
            )
        self._start = self._next = (state["epoch"], state["batch"])

    @property
    def sampler(self) -> TrainingLoader:
        """The loader itself: at the start of an epoch Lightning calls `loader.sampler.set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Make the next `iter` start this epoch, or continue it where `load_state_dict` restored a position in it.

        Lightning 2.6 does not restore the loader from a checkpoint written at the end of an epoch
        (`FitLoop.restarting`): without this call, a run resumed from there would repeat the batches of epoch 0.
        """
        if epoch != self._start[0]:
            self._start = (epoch, 0)
        self._next = self._start
