"""A pool: the archs that a training draws from, instead of the whole space; a value, without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.errors import InputError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Pool:
    """Archs to draw from.

    Args:
        archs: At least one, in the order in which they are drawn first.
        weights: Of each arch, at least 0: archs are drawn independently, with probabilities in proportion. None: archs
            are drawn in passes, each once a pass.

    Raises:
        InputError: There are no archs, or the weights are not one for each, negative, not finite, or sum to 0.
    """

    archs: tuple[Arch, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.archs:
            raise InputError("the pool is empty; give at least one arch")
        if self.weights is None:
            return
        if len(self.weights) != len(self.archs):
            raise InputError(f"the pool has {len(self.archs)} archs and {len(self.weights)} weights; give one for each")
        for arch, weight in zip(self.archs, self.weights, strict=True):
            if not 0 <= weight < math.inf:
                raise InputError(f"the weight of arch {arch.code!r} is {weight}; it must be a number of at least 0")
        if not 0 < sum(self.weights) < math.inf:
            raise InputError(
                f"the weights of the pool sum to {sum(self.weights)}; the sum must be above 0 and finite, or no arch "
                "could be drawn"
            )


def every(items: Mapping[str, Item], step: int) -> dict[str, Item]:
    """Return the first item of a list, and every so many after it: of 50,000 archs and a step of 250, 200.

    Raises:
        InputError: `step` is below 1.
    """
    if step < 1:
        raise InputError(f"a step of {step} archs makes no pool; give at least 1")
    return {name: items[name] for name in list(items)[::step]}


def some(items: Mapping[str, Item], count: int, seed: int) -> dict[str, Item]:
    """Return so many items of a list, drawn at random without repetition, in the order in which they were drawn.

    Raises:
        InputError: The list is shorter.
    """
    if count > len(items):
        raise InputError(f"a pool of {count} archs cannot be drawn from {len(items)}; ask for fewer")
    return {name: items[name] for name in Random(seed).sample(list(items), count)}
