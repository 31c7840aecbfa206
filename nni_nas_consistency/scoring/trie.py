"""The walk of the prefix scorer: depth first over sorted archs, one state a stage.

A stage runs once for each input it sees, at the widest output that the archs behind it need; each of these takes its
first channels. Up to `bundle` archs walk side by side as one stacked batch: all images of the first arch, then all of
the second, padded with zero channels to the widest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TypeAlias, cast

import torch
from nni.mutable import Categorical
from torch import Tensor, nn

from nni_nas_consistency.scoring.memory import ImageBlock, Layout
from nni_nas_consistency.supernet.active import Space
from nni_nas_consistency.supernet.modules import Stage, State, width_at

Key: TypeAlias = "tuple[int, ...]"
"""The width that comes out of each stage, which is all that counts of an arch."""

Moments: TypeAlias = "tuple[Tensor, Tensor]"
"""Mean and variance of channels, [groups, C] both."""

Statistics: TypeAlias = "Callable[[nn.BatchNorm2d, Tensor, Node], Moments]"
"""What a batch norm normalises its input with, at a node of the walk."""


@dataclass(frozen=True)
class Family:
    """The archs from `lo` to before `hi` of the sorted list: one prefix, and so one state."""

    lo: int
    hi: int


@dataclass(frozen=True, eq=False)
class Node:
    """One run of a stage.

    Args:
        lo: The first arch that the run is for; no other run of this stage has the same.
        archs: How many archs stand side by side.
        batches: How many batches of each do.
        present: Which channels each arch of the bundle has, float [archs, C] of 0 and 1; None: all.
    """

    lo: int
    archs: int
    batches: int
    present: Tensor | None


class Walk:
    """One walk of sorted archs over one block of images. It sets the supernet's widths and scales: put them back.

    Args:
        supernet: A chain space after `make_supernet`, in evaluation mode.
        keys: The archs, distinct and sorted.
        layout: Of which `bundle` and `multiple` are used.
        block: The images.
        statistics: What batch norms normalise with.
    """

    def __init__(
        self, supernet: Space, keys: Sequence[Key], layout: Layout, block: ImageBlock, statistics: Statistics
    ) -> None:
        assert supernet.active is not None
        if not supernet.stackable and layout.bundle * layout.multiple > 1:
            raise ValueError("archs with identity shortcuts walk alone, at their exact widths: bundle=1, multiple=1")
        self.stages, self.active = cast("Sequence[Stage]", supernet.stages), supernet.active
        self.keys, self.layout, self.block, self.statistics = keys, layout, block, statistics
        self.sliceable = supernet.stackable  # not where a width decides on the modules, as with identity shortcuts

    def leaves(self) -> Iterator[tuple[int, int, Tensor]]:
        """Yield first and last (exclusive) arch of every bundle, and their logits [archs · images, K]."""
        return self._descend(0, [Family(0, len(self.keys))], self.block.images)

    def _descend(self, depth: int, families: list[Family], state: State) -> Iterator[tuple[int, int, Tensor]]:
        if depth == len(self.stages):
            yield families[0].lo, families[-1].hi, cast("Tensor", state)
            return
        children = [(parent, child) for parent, family in enumerate(families) for child in self._split(family, depth)]
        for siblings in [children] if self.sliceable else [[child] for child in children]:
            wanted = [0] * len(families)
            for parent, child in siblings:
                wanted[parent] = max(wanted[parent], self.keys[child.lo][depth])
            after = self._run(depth, siblings[0][1].lo, wanted, state)
            size = math.ceil(len(siblings) / math.ceil(len(siblings) / self.layout.bundle))
            for first in range(0, len(siblings), size):
                bundle = siblings[first : first + size]
                taken = self._take(depth, bundle, wanted, after)
                yield from self._descend(depth + 1, [child for _, child in bundle], taken)

    def _split(self, family: Family, depth: int) -> Iterator[Family]:
        lo = family.lo
        for _, alike in groupby(self.keys[family.lo : family.hi], key=lambda key: key[depth]):
            hi = lo + len(list(alike))
            yield Family(lo, hi)
            lo = hi

    def _run(self, depth: int, lo: int, wanted: list[int], state: State) -> State:
        """Run a stage at the widest of the wanted widths; what a family does not want is zero."""
        stage = self.stages[depth]
        channels = self._channels(stage, max(wanted))
        present = None if min(wanted) == channels else _present(tuple(wanted), channels, self.block.labels.device)
        node = Node(lo, len(wanted), self.block.batches, present)
        self.active.widths = {stage.out.label: channels} if isinstance(stage.out, Categorical) else {}
        self.active.scales = lambda norm, x: self._scales(norm, x, node)
        return stage(state)

    def _scales(self, norm: nn.BatchNorm2d, x: Tensor, node: Node) -> tuple[Tensor, Tensor]:
        c = x.shape[1]
        mean, var = self.statistics(norm, x, node)
        scale = norm.weight[:c] * (var + norm.eps).rsqrt()
        shift = norm.bias[:c] - mean * scale
        if node.present is None:
            return scale, shift
        present = node.present.to(scale.dtype).repeat_interleave(max(1, len(scale) // len(node.present)), 0)
        return scale * present, shift * present

    def _take(self, depth: int, bundle: Sequence[tuple[int, Family]], wanted: list[int], state: State) -> State:
        """Return the state that each of a bundle goes on with: its parent's, cut to the channels that it has."""
        own, *carried = state if isinstance(state, tuple) else (state,)
        widths = [self.keys[child.lo][depth] for _, child in bundle]
        channels = self._channels(self.stages[depth], max(widths))
        parents = [parent for parent, _ in bundle]
        own, *carried = (_gather(x, parents, len(wanted)) for x in (own[:, :channels], *carried))
        if any(width < min(channels, wanted[parent]) for width, parent in zip(widths, parents, strict=True)):
            present = _present(tuple(widths), channels, own.device).to(own.dtype)
            own = (_by_arch(own, len(bundle)) * present[:, None, :, None, None]).flatten(0, 1)
        own = own.contiguous(memory_format=torch.channels_last) if own.dim() == 4 else own
        return (own, *carried) if carried else own

    def _channels(self, stage: Stage, width: int) -> int:
        multiple = self.layout.multiple
        return min(-(-width // multiple) * multiple, width_at(stage.out, self.active.largest))


@lru_cache(maxsize=4096)
def _present(widths: tuple[int, ...], channels: int, device: torch.device) -> Tensor:
    """Return which of so many channels each arch of a bundle has: 0 or 1, [archs, channels]."""
    return (torch.arange(channels) < torch.tensor(widths)[:, None]).float().to(device)


def _gather(x: Tensor, parents: Sequence[int], count: int) -> Tensor:
    """Return, of a stacked batch of `count` parents, each child's parent's part."""
    if list(parents) == list(range(count)):
        return x
    return _by_arch(x, count)[list(parents)].flatten(0, 1)


def _by_arch(x: Tensor, count: int) -> Tensor:
    return x.reshape(count, -1, *x.shape[1:])
