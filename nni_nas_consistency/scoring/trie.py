"""The walk of the prefix scorer: depth first over the trie of sorted archs, one state a link.

All archs behind a node of the trie have the same keys so far, and so one state. A nested link runs once for each state,
at the widest output that the archs behind it need; each of these takes its first channels. Other links run once for
each distinct key. Up to `bundle` archs walk side by side as one stacked batch, padded with zero channels to the widest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.scoring.memory import ImageChunk
from nni_nas_consistency.spaces.chain import ChainSpace, Link, State
from nni_nas_consistency.supernet.active import Run, active_of, channels_present
from nni_nas_consistency.supernet.statistics import Statistics

Keys: TypeAlias = "tuple[Hashable, ...]"
"""The key of every link, which is all that counts of an arch."""


@dataclass(frozen=True)
class Node:
    """The archs from `first` to before `end` of the sorted list: one prefix of keys.

    Args:
        first: Index of the first arch.
        end: Index after the last one.
        parent: Place of the state that it comes from, among those that stand side by side.
    """

    first: int
    end: int
    parent: int = 0


class Walk:
    """One walk of sorted archs over one chunk of images. It sets what the supernet runs: put it back afterwards.

    Args:
        supernet: A chain space after `make_supernet`, in evaluation mode.
        archs: The archs, with distinct keys, in the order of `sorted_by_keys`.
        bundle: Most archs that walk side by side.
        chunk: The images.
        statistics: Gives what batch norms normalise with in one run of a link; its argument tells the runs apart.
    """

    def __init__(
        self,
        supernet: ChainSpace,
        archs: Sequence[Arch],
        bundle: int,
        chunk: ImageChunk,
        statistics: Callable[[Hashable], Statistics],
    ) -> None:
        self.links, self.active = cast("Sequence[Link]", supernet.links), active_of(supernet)
        self.archs, self.bundle, self.chunk, self.statistics = archs, bundle, chunk, statistics
        self.keys = [keys_of(supernet, arch) for arch in archs]

    def leaves(self) -> Iterator[tuple[int, int, Tensor]]:
        """Yield first and last (exclusive) arch of every bundle, and their logits [archs · images, K]."""
        return self._descend(0, [Node(0, len(self.archs))], self.chunk.images)

    def _descend(self, depth: int, nodes: list[Node], state: State) -> Iterator[tuple[int, int, Tensor]]:
        """Walk on from nodes that stand side by side in one state, before the link at this depth."""
        if depth == len(self.links):
            yield nodes[0].first, nodes[-1].end, cast("Tensor", state)
            return
        children = [child for place, node in enumerate(nodes) for child in self._split(node, place, depth)]
        if self.links[depth].nested:
            yield from self._descend_nested(depth, len(nodes), children, state)
        else:
            yield from self._descend_by_key(depth, len(nodes), children, state)

    def _descend_nested(
        self, depth: int, parents: int, children: list[Node], state: State
    ) -> Iterator[tuple[int, int, Tensor]]:
        """Run the link once, for each parent at the width of its widest child; each child takes its first channels."""
        widest = self._widest_children(depth, parents, children)
        after = self._run(depth, widest, state)
        for bundle in self._bundles(children):
            yield from self._descend(depth + 1, bundle, self._cut(depth, bundle, widest, after))

    def _descend_by_key(
        self, depth: int, parents: int, children: list[Node], state: State
    ) -> Iterator[tuple[int, int, Tensor]]:
        """Run the link once for each distinct key, for the parents that have a child of it."""
        by_key: dict[Hashable, list[Node]] = {}
        for child in children:
            by_key.setdefault(self.keys[child.first][depth], []).append(child)
        for key, alike in by_key.items():
            before = _gather(state, [child.parent for child in alike], parents)
            after = before if key is None else self._run(depth, alike, before)
            for first, bundle in self._enumerated_bundles(alike):
                places = list(range(first, first + len(bundle)))
                yield from self._descend(depth + 1, bundle, _gather(after, places, len(alike)))

    def _widest_children(self, depth: int, parents: int, children: list[Node]) -> list[Node]:
        """Return for each parent its child of the largest width."""
        widest: list[Node | None] = [None] * parents
        for child in children:
            best = widest[child.parent]
            if best is None or self._width(depth, child) > self._width(depth, best):
                widest[child.parent] = child
        return cast("list[Node]", widest)

    def _run(self, depth: int, nodes: list[Node], state: State) -> State:
        """Run a link for nodes that stand side by side, each as its first arch; what a narrower one lacks is zero."""
        archs = tuple(self.archs[node.first] for node in nodes)
        self.active.run = Run(archs, self.statistics((depth, nodes[0].first)))
        return self.links[depth](state)

    def _cut(self, depth: int, bundle: list[Node], widest: list[Node], after: State) -> State:
        """Return the state that each of a bundle goes on with: its parent's, cut to the channels that it has."""
        own, *carried = after if isinstance(after, tuple) else (after,)
        widths = [self._width(depth, node) for node in bundle]
        channels = max(widths)
        parents = [node.parent for node in bundle]
        own, *carried = (_gathered(x, parents, len(widest)) for x in (own[:, :channels], *carried))
        computed = [min(channels, self._width(depth, widest[parent])) for parent in parents]
        if any(width < there for width, there in zip(widths, computed, strict=True)):
            present = channels_present(tuple(widths), channels, own.device).to(own.dtype)
            own = (_by_arch(own, len(bundle)) * present[:, None, :, None, None]).flatten(0, 1)
        own = own.contiguous(memory_format=torch.channels_last) if own.dim() == 4 else own
        return (own, *carried) if carried else own

    def _width(self, depth: int, node: Node) -> int:
        return cast("int", self.keys[node.first][depth])

    def _bundles(self, nodes: list[Node]) -> Iterator[list[Node]]:
        """Yield nodes in bundles of equal size, as few as there can be."""
        count = math.ceil(len(nodes) / self.bundle)
        size = math.ceil(len(nodes) / count)
        for first in range(0, len(nodes), size):
            yield nodes[first : first + size]

    def _enumerated_bundles(self, nodes: list[Node]) -> Iterator[tuple[int, list[Node]]]:
        first = 0
        for bundle in self._bundles(nodes):
            yield first, bundle
            first += len(bundle)

    def _split(self, node: Node, place: int, depth: int) -> Iterator[Node]:
        """Yield the children of a node: its archs by the key of the link at this depth."""
        first = node.first
        for _, alike in groupby(self.keys[node.first : node.end], key=lambda keys: keys[depth]):
            end = first + len(list(alike))
            yield Node(first, end, place)
            first = end


def keys_of(supernet: ChainSpace, arch: Arch) -> Keys:
    """Return the key of every link of an arch."""
    return tuple(link.key(arch) for link in cast("Sequence[Link]", supernet.links))


def sorted_by_keys(supernet: ChainSpace, archs: Sequence[Arch]) -> list[Arch]:
    """Return one arch for each distinct tuple of keys, sorted by keys, in which absent links come first."""
    of_keys: dict[Keys, Arch] = {}
    for arch in archs:
        of_keys.setdefault(keys_of(supernet, arch), arch)
    return [of_keys[keys] for keys in sorted(of_keys, key=_order)]


def _order(keys: Keys) -> list[Any]:
    return [(key is not None, key) for key in keys]


def _gather(state: State, places: list[int], count: int) -> State:
    """Return, of a state of `count` archs side by side, the parts at some places."""
    if isinstance(state, tuple):
        return tuple(_gathered(x, places, count) for x in state)
    return _gathered(state, places, count)


def _gathered(x: Tensor, places: list[int], count: int) -> Tensor:
    if places == list(range(count)):
        return x
    return _by_arch(x, count)[places].flatten(0, 1)


def _by_arch(x: Tensor, count: int) -> Tensor:
    return x.reshape(count, -1, *x.shape[1:])
