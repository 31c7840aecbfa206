"""Which images make a batch, and the seed of all that is random in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Draw:
    """A batch that is to be made.

    Args:
        images: Indices into the data set, int64 [B].
        seed: Seed of the training.
        key: Epoch and index of the batch, which tell its random numbers from those of others.
        part: Which part of it is made here, (i, n) for the i-th of n from 0; the random numbers are those of the whole.
    """

    images: Tensor
    seed: int
    key: tuple[int, ...]
    part: tuple[int, int] = (0, 1)

    @property
    def mine(self) -> slice:
        """The images of the part, as places in the batch."""
        index, parts = self.part
        return slice(index * len(self.images) // parts, (index + 1) * len(self.images) // parts)

    def generator(self) -> torch.Generator:
        """Return a generator on the CPU for what is drawn for the whole batch."""
        return generator_of(self.seed, *self.key)


def generator_of(seed: int, *key: int) -> torch.Generator:
    """Return a generator on the CPU that is seeded from `SeedSequence(seed, spawn_key=key)`."""
    return torch.Generator().manual_seed(seed_of(seed, *key))


def seed_of(seed: int, *key: int) -> int:
    """Return 64 bits of `SeedSequence(seed, spawn_key=key)`."""
    # torch's CPU generator uses 32 bits of its seed: of 100,000 batches, one or two pairs share their draws
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)[0])
