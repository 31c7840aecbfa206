"""The active subnet: which arch, or which archs, a supernet's shared weights run as.

What runs is one immutable value, a `Run`, that all elastic modules of a supernet read; nothing calls back. One arch
slices the weights. Several archs run as one stacked batch, all images of the first, then all of the second, as wide as
the widest of them; channels that an arch lacks are zero after every batch norm, so that both ways agree.
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
"""NNI's form of an arch: label → choice."""


@dataclass(frozen=True)
class Run:
    """What the elastic modules of a supernet run.

    Args:
        archs: The archs; with several, each has an equal share of the batch, one after the other.
        statistics: What batch norms normalise with; None: as in torch, the batch's own in training mode, else the
            running ones.
    """

    archs: tuple[Arch, ...]
    statistics: Statistics | None = None


class Active:
    """Where the elastic modules of one supernet find what runs; all of them hold this one object.

    Args:
        run: What runs first.
        codec: How the archs of the space are written.
        nni_modules: Whether some modules are NNI's own, which are told each sample.
    """

    def __init__(self, run: Run, codec: Codec, *, nni_modules: bool) -> None:
        self.run = run
        self.codec = codec
        self.nni_modules = nni_modules


class ReadsActive:
    """Base of a space's own modules that ask which arch runs, beyond what their elastic layers do."""

    active: Active | None = None
    """Set by `make_supernet`; None in a space that is no supernet of ours, and in a frozen subnet."""


class Resolved:
    """A number that may depend on the arch: a constant, an NNI choice, or an expression of choices.

    Args:
        value: The number, choice or expression.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        self._mutables = dict(value.simplify()) if isinstance(value, Mutable) else {}
        self.labels: tuple[str, ...] = tuple(self._mutables)
        self._known: dict[Hashable, Any] = {}

    @property
    def varies(self) -> bool:
        """Whether it depends on the arch."""
        return bool(self.labels)

    def at(self, arch: Arch) -> Any:
        """Return what it is in an arch."""
        if not self.labels:
            return self.value
        choices = arch.choices[self.labels[0]] if len(self.labels) == 1 else tuple(map(arch.choices.get, self.labels))
        if choices not in self._known:
            sample = {label: nni_choice(self._mutables[label], arch.choices[label]) for label in self.labels}
            self._known[choices] = self.value.freeze(sample)
        return self._known[choices]

    @property
    def largest(self) -> Any:
        """The largest number that it can be."""
        return max(self.value.grid()) if isinstance(self.value, MutableExpression) else self.value


def width_of(value: Any) -> Resolved:
    """Return a number of channels that may depend on the arch.

    Raises:
        TypeError: The choices are not integers.
    """
    if isinstance(value, MutableExpression) and not all(type(width) is int for width in value.grid()):
        raise TypeError(f"{value} is not a choice of widths; give integers, or MutableExpression.to_int(…)")
    return Resolved(value)


@lru_cache(maxsize=4096)
def channels_present(widths: tuple[int, ...], channels: int, device: torch.device) -> Tensor:
    """Return which of the channels each arch of a stacked batch has: float32 [archs, channels], 0 or 1."""
    with torch.inference_mode(False):  # kept for later calls, also those that need gradients
        return (torch.arange(channels) < torch.tensor(widths)[:, None]).float().to(device)


@contextmanager
def active_subnet(supernet: ModelSpace, archs: Arch | Sequence[Arch] | Sample) -> Iterator[None]:
    """Run a supernet as one arch, or as several in batches made by `stack`; put back at the end what was active before.

    Args:
        supernet: A space after `make_supernet` or after training with a one-shot strategy.
        archs: One arch or NNI sample, whose slices run; or several archs that can be stacked.

    Raises:
        ValueError: The space is no supernet, the list is empty, or these archs cannot be stacked.
        InputError: A sample lacks a label, or has a choice that is not allowed.
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
    """Let a supernet run this from now on: one assignment for elastic modules, `resample` for NNI's own."""
    active = active_of(supernet)
    if active.nni_modules:
        set_sample(supernet, run.archs[0].sample)  # may raise, and then nothing has changed
    active.run = run


def active_of(supernet: ModelSpace) -> Active:
    """Return where the modules of a supernet find what runs.

    Raises:
        ValueError: The space is no supernet.
    """
    active = getattr(supernet, "active", None)
    if active is None:
        raise ValueError("the space is no supernet: train it with SandwichStrategy, or call make_supernet first")
    return cast("Active", active)


def arch_of(supernet: ModelSpace, arch: Arch | Sample) -> Arch:
    """Return an arch, of which an NNI sample may be given instead.

    Raises:
        InputError: A sample lacks a label, or has a choice that is not allowed.
    """
    return arch if isinstance(arch, Arch) else active_of(supernet).codec.arch(arch)


def _check_stacked(supernet: ModelSpace, archs: Sequence[Arch]) -> None:
    if not archs:
        raise ValueError("no arch is given; give one, or a list of at least one")
    if not can_stack(supernet, archs):
        raise ValueError("these archs do not share all modules and cannot be stacked; run them one by one")


def can_stack(space: ModelSpace, archs: Sequence[Arch]) -> bool:
    """Return whether these archs can run as one stacked batch: only chain spaces know."""
    ask = getattr(space, "can_stack", None)
    return ask is not None and bool(ask(archs))


def stack(x: Tensor, n: int) -> Tensor:
    """Return the batch that n archs run on at once: [B, C, H, W] → [n·B, C, H, W], image b of arch a at a·B + b."""
    return x.repeat(n, 1, 1, 1).contiguous(memory_format=torch.channels_last)


def unstack(x: Tensor, n: int) -> Tensor:
    """Return the outputs arch by arch: [n·B, K] → [n, B, K]."""
    return x.view(n, -1, x.shape[1])


def logits_of(supernet: ModelSpace, images: Tensor, archs: Arch | Sequence[Arch] | Sample) -> Tensor:
    """Return the logits of one arch, [B, K], or of several in one stacked batch, [n, B, K]."""
    network = cast("nn.Module", supernet)
    with active_subnet(supernet, archs):
        if isinstance(archs, Sequence):
            return unstack(network(stack(images, len(archs))), len(archs))
        return cast("Tensor", network(images))
