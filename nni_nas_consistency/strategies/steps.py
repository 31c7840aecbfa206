"""Training steps: the gradients of several archs on one batch. Plain torch, independent of Lightning and strategies.

All share one signature: `(supernet, images, labels, archs, *, backward) → losses`. The archs come in bundles: a single
arch runs alone, a list of archs as one stacked batch; the results agree up to rounding.
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
"""One arch that runs alone, or several that run as one stacked batch."""

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
            backward: Called with each loss, to add its gradients to `.grad`; Lightning passes `manual_backward`.

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

    The gradients are those of the mean of the n losses. The first bundle is a single arch. By the sandwich rule it is
    the largest, the second arch is the smallest, and the others are sampled.

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

    Used by the sandwich rule before its teacher is any good (docs/decisions/0006-late-teacher.md).
    """
    n = count_archs(archs)
    return multi_path_step(supernet, images, labels, archs, backward=lambda loss: backward(loss / n))


def count_archs(archs: Sequence[Bundle]) -> int:
    """Return the number of archs in all bundles."""
    return sum(1 if isinstance(bundle, Arch) else len(bundle) for bundle in archs)


def _joined(losses: Sequence[Tensor]) -> Tensor:
    return torch.cat([loss.detach().reshape(-1) for loss in losses])
