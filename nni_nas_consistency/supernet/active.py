"""The active subnet: which arch, or which archs, a supernet's shared weights run as.

One arch slices the weights. Several archs run as one stacked batch at full width, all images of the first, then all
of the second; channels that an arch lacks are masked to zero after every batch norm, so that both ways agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from nni_nas_consistency.archs.arch import Arch, WidthForm
from nni_nas_consistency.archs.cost import Cost

Scales: TypeAlias = Callable[[nn.BatchNorm2d, Tensor], tuple[Tensor, Tensor]]
"""Gives a batch norm and its input the scale and shift of each channel, in each group of images: [groups, C] both."""


class ActiveSubnet:
    """What the slimmable modules of one supernet run as; one object that all of them hold.

    Args:
        largest: The largest width of every label, in channels.
    """

    def __init__(self, largest: Mapping[str, int]) -> None:
        self.largest = dict(largest)
        self.widths: Mapping[str, int] = self.largest
        self.masks: Mapping[str, Tensor] | None = None
        """For a stacked batch, 0 or 1 for every label: [n archs, largest width]."""
        self.scales: Scales | None = None
        """Where a scorer has statistics of its own, what batch norms scale and shift with."""


class Space(Protocol):
    """A search space as this folder, the scorers and the strategies see it; `spaces.chain.ChainSpace` is one."""

    form: WidthForm
    stages: nn.ModuleList
    active: ActiveSubnet | None
    """What a supernet runs as; None while the space is no supernet."""
    stackable: bool
    """Whether all archs use the same modules, so that several can run as one stacked batch."""

    @property
    def largest(self) -> Arch:
        """The arch of the largest widths."""

    @property
    def smallest(self) -> Arch:
        """The arch of the smallest widths."""

    def sample(self, arch: Arch) -> dict[str, int]:
        """Return the width of every label."""

    def complexity(self, arch: Arch) -> Cost:
        """Return parameters and MACs."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits [B, K] from images [B, C, H, W]."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the weights."""

    def modules(self) -> Iterator[nn.Module]:
        """Return all modules, the space itself first."""


class set_active_subnet:  # noqa: N801 - reads as a function, like torch.set_grad_enabled
    """Set what a supernet runs as, at once; used in a `with`, put back at the end what was set before.

    Args:
        supernet: A chain space after `make_supernet`.
        archs: One arch, whose slices run from now on; or several, for batches made by `stack`.

    Raises:
        ValueError: The space is no supernet; the list is empty; or it is given and archs do not share all modules.
    """

    def __init__(self, supernet: Space, archs: Arch | Sequence[Arch]) -> None:
        if supernet.active is None:
            raise ValueError("the space is no supernet: train it with SandwichStrategy, or call make_supernet first")
        active = self._active = supernet.active
        self._before = active.widths, active.masks
        if isinstance(archs, Arch):
            active.widths, active.masks = supernet.sample(archs), None
        elif not archs:
            raise ValueError("no arch is given; give one, or a list of at least one")
        elif not supernet.stackable:
            raise ValueError("archs with identity shortcuts cannot be stacked; use one arch, or shortcut='projection'")
        else:
            device = next(supernet.parameters()).device
            samples = [supernet.sample(arch) for arch in archs]
            active.widths, active.masks = active.largest, channel_masks(samples, active.largest, device)

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._active.widths, self._active.masks = self._before


def channel_masks(
    samples: Sequence[Mapping[str, int]], largest: Mapping[str, int], device: torch.device
) -> dict[str, Tensor]:
    """Return for every label which channels each arch has: float32 [n archs, largest width], 0 or 1."""
    widths = torch.tensor([[sample[label] for label in largest] for sample in samples])
    channel = torch.arange(max(largest.values()))
    present = (channel < widths[:, :, None]).float().to(device)
    return {label: present[:, index, :width] for index, (label, width) in enumerate(largest.items())}


def stack(x: Tensor, n: int) -> Tensor:
    """Return the batch that n archs run on at once: [B, C, H, W] → [n·B, C, H, W], image b of arch a at a·B + b."""
    return x.repeat(n, 1, 1, 1).contiguous(memory_format=torch.channels_last)


def unstack(x: Tensor, n: int) -> Tensor:
    """Return what each arch made of the batch: [n·B, K] → [n, B, K]."""
    return x.view(n, -1, x.shape[1])


def logits_of(supernet: Space, images: Tensor, archs: Arch | Sequence[Arch]) -> Tensor:
    """Return the logits of one arch, [B, K], or of several in one stacked batch, [n, B, K]."""
    with set_active_subnet(supernet, archs):
        if isinstance(archs, Arch):
            return supernet(images)
        return unstack(supernet(stack(images, len(archs))), len(archs))
