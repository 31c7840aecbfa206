"""The walk of the prefix scorer: depth first over the trie of sorted archs, one state per link.

All archs below a node of the trie have the same keys so far, and so one state. A nested link runs once for each state,
at the widest output that the archs below it need; each of these takes its leading channels. Other links run once for
each distinct key, and a link that is absent passes the state on. Up to `bundle` archs walk side by side as one stacked
batch, padded with zero channels to the widest.
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
from nni_nas_consistency.supernet.batch_norm import computed
from nni_nas_consistency.supernet.statistics import Statistics

Keys: TypeAlias = "tuple[Hashable, ...]"
"""The key of every link: archs with the same keys are the same network."""


@dataclass(frozen=True)
class Node:
    """The archs from `first` to before `end` of the sorted list, which share a prefix of keys.

    Args:
        first: Index of the first arch.
        end: Index after the last one.
        parent: Place of its parent node among those that stand side by side.
    """

    first: int
    end: int
    parent: int


class Walk:
    """One walk of sorted archs over one chunk of images. It sets what the supernet runs: put it back afterwards.

    Args:
        supernet: A chain space after `make_supernet`, in evaluation mode.
        archs: The archs, with distinct keys, in the order of `sorted_by_keys`.
        bundle: Most archs that walk side by side; 1 for archs that cannot be stacked.
        chunk: The images.
        statistics: Returns what batch norms normalise with in one run of a link; its argument tells the runs apart.
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

    def leaves(self) -> Iterator[tuple[list[int], Tensor]]:
        """Yield the indices of the archs of each bundle, and their logits [archs · images, K]."""
        root = Node(0, len(self.archs), parent=0)
        yield from self._descend(0, [root], self.chunk.images)

    def _descend(self, depth: int, nodes: list[Node], state: State) -> Iterator[tuple[list[int], Tensor]]:
        """Walk on from nodes that stand side by side in one state, before the link at this depth."""
        if depth == len(self.links):
            yield [node.first for node in nodes], cast("Tensor", state)
            return
        children = self._children(depth, nodes)
        absent = [child for child in children if self._key(depth, child) is None]
        present = [child for child in children if self._key(depth, child) is not None]
        if absent:
            yield from self._descend(depth + 1, absent, _gather(state, _parents(absent), len(nodes)))
        if present and self.links[depth].nested:
            yield from self._descend_nested(depth, present, state, len(nodes))
        elif present:
            yield from self._descend_by_key(depth, present, state, len(nodes))

    def _descend_nested(
        self, depth: int, children: list[Node], state: State, parents: int
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Run the link once, for each parent at the width of its widest child; each child takes its first channels."""
        widest = self._widest_by_parent(depth, children)
        after = self._run(depth, list(widest.values()), _gather(state, list(widest), parents))
        for bundle in self._bundles(children):
            yield from self._descend(depth + 1, bundle, self._cut(depth, bundle, widest, after))

    def _descend_by_key(
        self, depth: int, children: list[Node], state: State, parents: int
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Run the link once for each distinct key, for all parents that have a child of it."""
        by_key: dict[Hashable, list[Node]] = {}
        for child in children:
            by_key.setdefault(self._key(depth, child), []).append(child)
        for alike in by_key.values():
            after = self._run(depth, alike, _gather(state, _parents(alike), parents))
            yield from self._descend(depth + 1, alike, after)

    def _children(self, depth: int, nodes: list[Node]) -> list[Node]:
        """Return the children of nodes: their archs by the key of the link at this depth."""
        children = []
        for place, node in enumerate(nodes):
            first = node.first
            for _, alike in groupby(self.keys[node.first : node.end], key=lambda keys: keys[depth]):
                end = first + len(list(alike))
                children.append(Node(first, end, place))
                first = end
        return children

    def _key(self, depth: int, node: Node) -> Hashable:
        return self.keys[node.first][depth]

    def _width(self, depth: int, node: Node) -> int:
        """Return the width after a nested link, which is its key."""
        return cast("int", self.keys[node.first][depth])

    def _widest_by_parent(self, depth: int, children: list[Node]) -> dict[int, Node]:
        """Return the widest child of each parent that has one, by the place of the parent."""
        widest: dict[int, Node] = {}
        for child in children:
            known = widest.get(child.parent)
            if known is None or self._width(depth, child) > self._width(depth, known):
                widest[child.parent] = child
        return widest

    def _bundles(self, nodes: list[Node]) -> Iterator[list[Node]]:
        """Yield nodes in as few bundles as there can be, all of about one size."""
        count = math.ceil(len(nodes) / self.bundle)
        size = math.ceil(len(nodes) / count)
        for first in range(0, len(nodes), size):
            yield nodes[first : first + size]

    def _run(self, depth: int, nodes: list[Node], state: State) -> State:
        """Run a link for nodes that stand side by side, each as its first arch; what a narrower one lacks is zero."""
        archs = tuple(self.archs[node.first] for node in nodes)
        self.active.run = Run(archs, self.statistics((depth, nodes[0].first)))
        after = self.links[depth](state)
        # several children go on from this state, so that a batch norm at the end of the link is computed now
        return tuple(map(computed, after)) if isinstance(after, tuple) else computed(after)

    def _cut(self, depth: int, bundle: list[Node], widest: dict[int, Node], after: State) -> State:
        """Return the state that each of a bundle goes on with: its parent's, cut to the channels that it has."""
        own, *carried = after if isinstance(after, tuple) else (after,)
        widths = [self._width(depth, node) for node in bundle]
        channels = max(widths)
        place_of = {parent: place for place, parent in enumerate(widest)}
        places = [place_of[node.parent] for node in bundle]
        own = _gathered(own[:, :channels], places, len(widest))
        carried = [_gathered(x, places, len(widest)) for x in carried]
        computed = [min(channels, self._width(depth, widest[node.parent])) for node in bundle]
        if widths != computed:  # some has channels of a wider sibling, which must not be seen
            present = channels_present(tuple(widths), channels, own.device).to(own.dtype)
            present = present.view(len(bundle), 1, channels, *[1] * (own.dim() - 2))
            own = (_by_arch(own, len(bundle)) * present).flatten(0, 1)
        if own.dim() == 4:
            own = own.contiguous(memory_format=torch.channels_last)
        return (own, *carried) if carried else own


def keys_of(supernet: ChainSpace, arch: Arch) -> Keys:
    """Return the key of every link of an arch."""
    return tuple(link.key(arch) for link in cast("Sequence[Link]", supernet.links))


def sorted_by_keys(supernet: ChainSpace, archs: Sequence[Arch]) -> list[Arch]:
    """Return one arch for each distinct tuple of keys, sorted by keys; absent links come first.

    Raises:
        ArchError: An arch is none of the space: labels that the domain ties differ.
    """
    arch_of: dict[Keys, Arch] = {}
    for arch in archs:
        supernet.domain.check_ties(arch)
        arch_of.setdefault(keys_of(supernet, arch), arch)
    return [arch_of[keys] for keys in sorted(arch_of, key=sortable)]


def sortable(value: Hashable) -> tuple[Any, ...]:
    """Return what sorts values of mixed types: None, then by type; numbers and texts by value, tuples item by item."""
    if value is None:
        return ()
    kind = type(value).__name__
    if isinstance(value, tuple):
        return kind, [sortable(item) for item in value]
    if isinstance(value, (int, float, str)):
        return kind, value
    return kind, repr(value)


def _parents(nodes: list[Node]) -> list[int]:
    return [node.parent for node in nodes]


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
