"""Parameters and multiply-accumulates (MACs) as values, counted layer by layer without building a network.

Counted are the weights of convolutions, batch norms (scale and shift) and the classifier with its bias, and the
MACs of convolutions and the classifier for one image: the convention that gives the published constants.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from nni_nas_consistency.archs.arch import Arch


@dataclass(frozen=True)
class Cost:
    """What a part of a network costs.

    Args:
        params: Trained parameters.
        macs: Multiply-accumulates for one image.
    """

    params: int
    macs: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.params + other.params, self.macs + other.macs)


@runtime_checkable
class CostedLink(Protocol):
    """A part of a chain that knows what it costs."""

    def cost(self, arch: Arch, side: int) -> tuple[Cost, int]:
        """Return the cost at an input of `side` × `side` pixels, and the side of the output."""


def conv_cost(channels_in: int, channels_out: int, kernel: int, side: int, groups: int = 1) -> Cost:
    """Return the cost of a convolution without bias and its batch norm, at an output of `side` × `side` pixels."""
    weights = channels_in // groups * channels_out * kernel * kernel
    return Cost(weights + 2 * channels_out, weights * side * side)


def linear_cost(features_in: int, features_out: int) -> Cost:
    """Return the cost of a linear layer with bias."""
    return Cost((features_in + 1) * features_out, features_in * features_out)


def chain_cost(links: Iterable[CostedLink], arch: Arch, side: int) -> Cost:
    """Return the cost of a chain of links.

    Args:
        links: The links, first to last.
        arch: The arch.
        side: Side of the input images, in pixels.
    """
    total = Cost(0, 0)
    for link in links:
        cost, side = link.cost(arch, side)
        total += cost
    return total
