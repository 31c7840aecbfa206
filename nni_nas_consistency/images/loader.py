"""Batches of a data set whose images all lie on one device, where they are picked and transformed.

CIFAR and the digits fit into any device's memory, so there are no worker processes. The batches of `TrainingLoader` are
functions of seed, epoch and index: a run that resumes sees what it would have seen without the interruption.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nni_nas_consistency.errors import CheckpointError, DataError, InputError
from nni_nas_consistency.images.augmentation import UNMIXED, Augmentation, Mixing
from nni_nas_consistency.images.datasets import Images
from nni_nas_consistency.images.mixing import mixed
from nni_nas_consistency.images.transforms import augment, normalise


@dataclass(frozen=True, eq=False)
class EvaluationLoader:
    """Batches of all images in the order of the data set, normalised only; each `iter` is one pass.

    Args:
        images: The data set; batches are on its device.
        augmentation: Only its `mean` and `std` are used.
        batch_size: Images per batch, at least 1; the last batch has the images that are left.

    Raises:
        InputError: `batch_size` is below 1.
    """

    images: Images
    augmentation: Augmentation
    batch_size: int

    def __post_init__(self) -> None:
        _check_batch_size(self.batch_size)

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images, float32 [B, C, H, W], and labels, int64 [B]."""
        for start in range(0, len(self.images), self.batch_size):
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
        images: The data set; batches are on its device.
        augmentation: The transforms of the images.
        batch_size: Images per batch, at least 1.
        seed: Seed of order and augmentation, at least 0.
        drop_last: Whether a last batch with fewer images is left out.
        mixing: How the images of a batch are mixed, and their labels smoothed.

    Raises:
        InputError: `batch_size` or `seed` is out of its range.
        DataError: There are too few images for one batch.
    """

    batch_sampler = None  # Lightning reads it from every object that has a `sampler`

    def __init__(
        self,
        images: Images,
        augmentation: Augmentation,
        *,
        batch_size: int,
        seed: int,
        drop_last: bool = False,
        mixing: Mixing = UNMIXED,
    ) -> None:
        _check_batch_size(batch_size)
        if seed < 0:
            raise InputError(f"seed is {seed}; it must be at least 0")
        self._images, self._augmentation, self._mixing = images, augmentation, mixing
        self._batch_size, self._seed = batch_size, seed
        self._length = len(images) // batch_size if drop_last else -(-len(images) // batch_size)
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
        order = torch.randperm(len(self._images), generator=_generator(self._seed, epoch)).to(self._images.x.device)
        for batch in range(first, self._length):
            self._next = (epoch, batch + 1) if batch + 1 < self._length else (epoch + 1, 0)
            chosen = order[batch * self._batch_size : (batch + 1) * self._batch_size]
            generator = _generator(self._seed, epoch, batch)
            x = augment(self._images.x[chosen], self._augmentation, generator)
            yield mixed(x, self._images.y[chosen], self._images.num_classes, self._mixing, generator)

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


def _generator(seed: int, *key: int) -> torch.Generator:
    # torch's CPU generator uses 32 bits of its seed: of 100,000 batches, one or two pairs share their draws
    word = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(word[0]))
