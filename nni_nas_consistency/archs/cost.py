"""Parameters and multiply-accumulates (MACs) of an arch, counted stage by stage without building a network.

Counted are the weights of convolutions, batch norms (scale and shift) and the classifier with its bias, and the
MACs of convolutions and the classifier for one image: the convention that gives the released constants.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol


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


class CostedStage(Protocol):
    """A stage that knows what it costs."""

    def cost(self, widths: Mapping[str, int], side: int) -> tuple[Cost, int]:
        """Return the cost at these widths on `side` × `side` features, and the side that comes out."""


def conv_cost(channels_in: int, channels_out: int, kernel: int, side: int) -> Cost:
    """Return the cost of a convolution without bias and the batch norm after it.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        kernel: Side of the kernel, in pixels.
        side: Side of the output, in pixels.
    """
    weights = channels_in * channels_out * kernel * kernel
    return Cost(weights + 2 * channels_out, weights * side * side)


def linear_cost(features_in: int, features_out: int) -> Cost:
    """Return the cost of a linear layer with bias."""
    return Cost((features_in + 1) * features_out, features_in * features_out)


def chain_cost(stages: Iterable[CostedStage], widths: Mapping[str, int], side: int) -> Cost:
    """Return the cost of a chain of stages.

    Args:
        stages: The stages, first to last.
        widths: The width of every label, in channels.
        side: Side of the input images, in pixels.
    """
    total = Cost(0, 0)
    for stage in stages:
        cost, side = stage.cost(widths, side)
        total += cost
    return total
