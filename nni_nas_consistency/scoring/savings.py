"""How much arithmetic the prefix scorer saves, counted from keys and costs, without running a network."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import cast

from nni.nas.nn.pytorch import ModelSpace

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.archs.cost import CostedLink, link_costs
from nni_nas_consistency.scoring.trie import keys_of
from nni_nas_consistency.spaces.chain import ChainSpace, Link, runs_at_widest


def saved_share(space: ModelSpace, segments: Iterable[Sequence[Arch]]) -> float | None:
    """Return the share of MACs, in [0, 1], that sharing prefixes saves against scoring archs one by one.

    Archs share with those of their segment. The padding of archs that run side by side is not counted.

    Args:
        space: A chain space, a supernet or not.
        segments: The archs, at least one.

    Returns:
        The share; None for a space whose links do not know their cost.
    """
    if not isinstance(space, ChainSpace) or not all(isinstance(link, CostedLink) for link in space.links):
        return None
    one_by_one = shared = 0
    for archs in segments:
        one_by_one += sum(space.complexity(arch).macs for arch in archs)
        shared += macs_of_walk(space, archs)
    return 1 - shared / one_by_one


def macs_of_walk(space: ChainSpace, archs: Sequence[Arch]) -> int:
    """Return the MACs for one image of scoring a segment: each link as often as `trie.Walk` runs it.

    A nested link runs once for each prefix before it, at its widest output; others once for each of their keys as well.

    Args:
        space: A chain space whose links know their cost.
        archs: The archs of the segment.
    """
    nested = [runs_at_widest(link) for link in cast("Sequence[Link]", space.links)]
    macs_of_run: dict[Hashable, int] = {}
    for keys, arch in {keys_of(space, arch): arch for arch in archs}.items():
        costs = link_costs(cast("Sequence[CostedLink]", space.links), arch, space.image_size)
        for depth, (at_widest, cost) in enumerate(zip(nested, costs, strict=True)):
            run = depth, keys[: depth if at_widest else depth + 1]
            macs_of_run[run] = max(macs_of_run.get(run, 0), cost.macs)  # an absent link costs nothing
    return sum(macs_of_run.values())
