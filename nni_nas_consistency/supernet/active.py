"""The active subnet: the arch, or the archs, that a supernet runs as.

What runs is one immutable value, a `Run`, which all elastic modules of a supernet read. One arch runs on slices of
the shared weights. Several archs run as one stacked batch, as wide as the widest of them: all images of the first arch,
then all of the second. The channels that an arch lacks are zero after every elastic layer, so that both ways agree.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias, cast

import torch
from nni.mutable import Mutable, MutableExpression
from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor, nn

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.archs.codecs import Codec
from nni_nas_consistency.supernet.nni_modules import nni_choice, set_sample
from nni_nas_consistency.supernet.statistics import Statistics

Sample: TypeAlias = "Mapping[str, Any]"
"""NNI's sample of an arch: label → choice."""


@dataclass(frozen=True)
class Run:
    """What the elastic modules of a supernet run.

    Args:
        archs: The archs; several share a stacked batch, in this order, with the same number of images each.
        statistics: The batch-norm statistics; None: as in torch, those of the batch in training mode, else the running
            ones.
    """

    archs: tuple[Arch, ...]
    statistics: Statistics | None = None


class Active:
    """Holds the current `Run` of one supernet; all its elastic modules refer to this one object.

    Args:
        run: The first run.
        codec: The codec of the space.
        nni_modules: Whether the supernet has modules of NNI, which need `set_sample` besides.
    """

    def __init__(self, run: Run, codec: Codec, *, nni_modules: bool) -> None:
        self.run = run
        self.codec = codec
        self.nni_modules = nni_modules


class ReadsActive:
    """Base of modules of a space whose forward pass depends on the active arch beyond what their layers do."""

    active: Active | None = None
    """Set by `make_supernet`; None in a plain space, in a supernet of NNI's strategies and in a frozen subnet."""


class Resolved:
    """A value that may depend on the arch: a constant, a choice of NNI, or an expression of choices.

    Args:
        value: The constant, choice or expression.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        self._mutables = dict(value.simplify()) if isinstance(value, Mutable) else {}
        self.labels: tuple[str, ...] = tuple(self._mutables)
        self._known: dict[Hashable, Any] = {}

    @property
    def varies(self) -> bool:
        """Whether the value depends on the arch."""
        return bool(self.labels)

    def at(self, arch: Arch) -> Any:
        """Return the value in an arch.

        Raises:
            KeyError: The arch has no choice for a label.
            SampleValidationError: A choice of the arch is not allowed.
        """
        if not self.labels:
            return self.value
        choices = arch.choices[self.labels[0]] if len(self.labels) == 1 else tuple(map(arch.choices.get, self.labels))
        if choices not in self._known:
            sample = {label: nni_choice(self._mutables[label], arch.choices[label]) for label in self.labels}
            self._known[choices] = self.value.freeze(sample)
        return self._known[choices]

    @property
    def largest(self) -> Any:
        """The largest value over all archs."""
        return max(self.value.grid()) if isinstance(self.value, MutableExpression) else self.value


def width_of(value: Any) -> Resolved:
    """Return a number of channels that may depend on the arch.

    Args:
        value: An integer, a choice of integers, or an expression that gives integers.

    Raises:
        TypeError: Some value is not an integer.
    """
    if isinstance(value, MutableExpression) and not all(type(width) is int for width in value.grid()):
        raise TypeError(f"{value} is not a choice of widths; give integers, or MutableExpression.to_int(…)")
    return Resolved(value)


@lru_cache(maxsize=4096)
def channels_present(widths: tuple[int, ...], channels: int, device: torch.device) -> Tensor:
    """Return a mask of the channels that each arch of a stacked batch has: float32 [archs, channels], 0 or 1."""
    with torch.inference_mode(False):  # kept for later calls, also those that need gradients
        return (torch.arange(channels) < torch.tensor(widths)[:, None]).float().to(device)


@contextmanager
def active_subnet(supernet: ModelSpace, archs: Arch | Sequence[Arch] | Sample) -> Iterator[None]:
    """Set the active subnet of a supernet, and restore the previous one on exit.

    Args:
        supernet: A space after `make_supernet`, or after training with a one-shot strategy of this package.
        archs: One arch or NNI sample; or several archs, for images stacked by `stack`.

    Raises:
        ValueError: The space is not a supernet, the list is empty, or these archs cannot be stacked.
        InputError: A sample lacks a label, or a choice is not allowed.
    """
    several = isinstance(archs, Sequence) and not isinstance(archs, Arch)
    active = active_of(supernet)
    before = active.run
    if several:
        run = Run(tuple(cast("Sequence[Arch]", archs)))
        _check_stacked(supernet, run.archs)
    else:
        run = Run((arch_of(supernet, cast("Arch | Sample", archs)),))
    set_run(supernet, run)
    try:
        yield
    finally:
        set_run(supernet, before)


def set_run(supernet: ModelSpace, run: Run) -> None:
    """Set what a supernet runs from now on: one assignment for elastic modules, `set_sample` for NNI's."""
    active = active_of(supernet)
    if active.nni_modules:
        set_sample(supernet, run.archs[0].sample)  # first: if it raises, nothing has changed
    active.run = run


def active_of(supernet: ModelSpace) -> Active:
    """Return what holds the current run of a supernet.

    Raises:
        ValueError: The space is not a supernet.
    """
    active = getattr(supernet, "active", None)
    if active is None:
        raise ValueError("the space is not a supernet: train it with SandwichStrategy, or call make_supernet first")
    return cast("Active", active)


def arch_of(supernet: ModelSpace, arch: Arch | Sample) -> Arch:
    """Return the arch of an arch or of NNI's sample.

    Raises:
        InputError: A sample lacks a label, a choice is not allowed, or choices differ that the space ties.
    """
    arch = arch if isinstance(arch, Arch) else active_of(supernet).codec.arch(arch)
    domain = getattr(supernet, "domain", None)
    if domain is not None:
        domain.check_ties(arch)
    return arch


def _check_stacked(supernet: ModelSpace, archs: Sequence[Arch]) -> None:
    if not archs:
        raise ValueError("the list of archs is empty; give at least one")
    if not can_stack(supernet, archs):
        raise ValueError("these archs do not use the same modules and cannot be stacked; run them one by one")


def can_stack(space: ModelSpace, archs: Sequence[Arch]) -> bool:
    """Return whether archs can run as one stacked batch: those of a chain space that differ in widths only."""
    ask = getattr(space, "can_stack", None)
    return ask is not None and bool(ask(archs))


def stack(x: Tensor, n: int) -> Tensor:
    """Return the stacked batch of n archs: [B, C, H, W] → [n·B, C, H, W], image b of arch a at a·B + b."""
    return x.repeat(n, 1, 1, 1).contiguous(memory_format=torch.channels_last)


def unstack(x: Tensor, n: int) -> Tensor:
    """Return the logits of a stacked batch by arch: [n·B, K] → [n, B, K]."""
    return x.view(n, -1, x.shape[1])


def logits_of(supernet: ModelSpace, images: Tensor, archs: Arch | Sequence[Arch] | Sample) -> Tensor:
    """Return the logits of one arch, [B, K], or of several as one stacked batch, [n, B, K]; see `active_subnet`."""
    network = cast("nn.Module", supernet)
    with active_subnet(supernet, archs):
        if isinstance(archs, Sequence):
            return unstack(network(stack(images, len(archs))), len(archs))
        return cast("Tensor", network(images))
