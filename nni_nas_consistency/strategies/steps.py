"""Training steps: what several archs learn from one batch. Knows torch, nothing of NNI or Lightning.

All share one signature: `(supernet, images, labels, archs, *, backward) → losses`. The archs come in bundles: a single
arch runs alone, and those of a list as one stacked batch, to the same result up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import torch
from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.strategies.losses import hard_cross_entropy, soft_cross_entropy
from nni_nas_consistency.supernet.active import logits_of

Bundle: TypeAlias = "Arch | Sequence[Arch]"
"""An arch that runs alone, or several that run as one stacked batch."""

Backward: TypeAlias = "Callable[[Tensor], None]"


class TrainingStep(Protocol):
    """One training step."""

    def __call__(
        self, supernet: ModelSpace, images: Tensor, labels: Tensor, archs: Sequence[Bundle], *, backward: Backward
    ) -> Tensor:
        """Run the archs forward and backward on one batch, and return their losses.

        Args:
            supernet: A space after `make_supernet`, in training mode.
            images: [B, C, H, W].
            labels: int64 [B].
            archs: n archs, in bundles.
            backward: Computes the gradients of a loss and adds them to `.grad`; a trainer may want its own.

        Returns:
            The losses, detached, in the order of the archs: [n].
        """


def sandwich_step(
    supernet: ModelSpace,
    images: Tensor,
    labels: Tensor,
    archs: Sequence[Bundle],
    *,
    backward: Backward = torch.autograd.backward,
) -> Tensor:
    """In-place distillation: the first arch learns from the labels, all others from its softmax; see `TrainingStep`.

    The gradients are those of the mean of the n losses. By the sandwich rule the first arch is the largest, the second
    the smallest, and the others are sampled.

    Source: Universally Slimmable Networks (Yu & Huang 2019), algorithm 1.
    """
    n = count_archs(archs)
    images = images.contiguous(memory_format=torch.channels_last)
    teacher = logits_of(supernet, images, archs[0])
    first = hard_cross_entropy(teacher, labels)
    backward(first / n)
    target = teacher.detach().softmax(-1)
    losses = [first]
    for bundle in archs[1:]:
        loss = soft_cross_entropy(logits_of(supernet, images, bundle), target)
        backward(loss.sum() / n)
        losses.append(loss)
    return _joined(losses)


def multi_path_step(
    supernet: ModelSpace,
    images: Tensor,
    labels: Tensor,
    archs: Sequence[Bundle],
    *,
    backward: Backward = torch.autograd.backward,
) -> Tensor:
    """Every arch learns from the labels; see `TrainingStep`. The gradients are those of the sum of the n losses.

    With one arch this is single-path sampling (SPOS, Guo et al. 2020); with six, a step of recipe ans.
    """
    images = images.contiguous(memory_format=torch.channels_last)
    losses = []
    for bundle in archs:
        loss = hard_cross_entropy(logits_of(supernet, images, bundle), labels)
        backward(loss.sum())
        losses.append(loss)
    return _joined(losses)


def label_step(
    supernet: ModelSpace,
    images: Tensor,
    labels: Tensor,
    archs: Sequence[Bundle],
    *,
    backward: Backward = torch.autograd.backward,
) -> Tensor:
    """Every arch learns from the labels; see `TrainingStep`. The gradients are those of the mean of the n losses.

    The sandwich rule before its teacher has learnt something (docs/decisions/0006-late-teacher.md).
    """
    n = count_archs(archs)
    return multi_path_step(supernet, images, labels, archs, backward=lambda loss: backward(loss / n))


def count_archs(archs: Sequence[Bundle]) -> int:
    """Return how many archs bundles hold."""
    return sum(1 if isinstance(bundle, Arch) else len(bundle) for bundle in archs)


def _joined(losses: Sequence[Tensor]) -> Tensor:
    return torch.cat([loss.detach().reshape(-1) for loss in losses])
