"""Parameters and multiply-accumulates (MACs) as values, counted layer by layer without building a network.

Counted are the weights of convolutions, batch norms (scale and shift) and the classifier with its bias, and the
MACs of convolutions and the classifier for one image: the convention that gives the published constants.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol, runtime_checkable

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


@lru_cache(maxsize=4096)
def conv_cost(channels_in: int, channels_out: int, kernel: int, side: int, groups: int = 1) -> Cost:
    """Return the cost of a convolution without bias and its batch norm, at an output of `side` × `side` pixels."""
    weights = channels_in // groups * channels_out * kernel * kernel
    return Cost(weights + 2 * channels_out, weights * side * side)


def linear_cost(features_in: int, features_out: int) -> Cost:
    """Return the cost of a linear layer with bias."""
    return Cost((features_in + 1) * features_out, features_in * features_out)


def resnet20_cost(arch: Arch, shape: tuple[int, int, int], shortcut: Literal["projection", "standalone"]) -> Cost:
    """Return the cost of a ResNet-20 from its widths; `spaces.resnet20` counts the same, link by link.

    Args:
        arch: The arch; no network reads its last width.
        shape: Classes, channels and side of the images.
        shortcut: Whether every block has a 1×1 projection, or only those that change the shape, as `ResNet20Space`.
    """
    classes, channels, side = shape
    widths = [int(str(arch.choices[f"w{layer}"])) for layer in range(1, 20)]
    total = conv_cost(channels, widths[0], 3, side)
    for block in range(9):
        width_in, width_mid, width_out = widths[2 * block : 2 * block + 3]
        if block in (3, 6):
            side = -(-side // 2)
        total += conv_cost(width_in, width_mid, 3, side) + conv_cost(width_mid, width_out, 3, side)
        if shortcut == "projection" or block in (0, 3, 6) or width_in != width_out:
            total += conv_cost(width_in, width_out, 1, side)
    return total + linear_cost(widths[-1], classes)


def chain_cost(links: Iterable[CostedLink], arch: Arch, side: int) -> Cost:
    """Return the cost of a chain of links.

    Args:
        links: The links, first to last.
        arch: The arch.
        side: Side of the input images, in pixels.
    """
    params = macs = 0
    for cost in link_costs(links, arch, side):
        params, macs = params + cost.params, macs + cost.macs
    return Cost(params, macs)


def link_costs(links: Iterable[CostedLink], arch: Arch, side: int) -> Iterator[Cost]:
    """Yield the cost of each link of a chain; see `chain_cost`."""
    for link in links:
        cost, side = link.cost(arch, side)
        yield cost
