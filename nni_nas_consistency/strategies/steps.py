"""Training steps: the gradients of several archs on one batch. Plain torch, independent of Lightning and strategies.

All share one signature: `(supernet, images, labels, archs, *, backward) → losses`. The archs come in bundles: a single
arch runs alone, a list of archs as one stacked batch; the results agree up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor, nn

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.strategies.losses import hard_cross_entropy, pairwise_rank_loss, soft_cross_entropy
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


def pool_distillation_step(
    supernet: ModelSpace,
    images: Tensor,
    labels: Tensor,
    archs: Sequence[Bundle],
    *,
    backward: Backward = torch.autograd.backward,
) -> Tensor:
    """The first arch learns from the labels, all others from these and from its softmax; see `TrainingStep`.

    The first bundle is a single arch: the largest. The loss of each other arch is ½ CE(labels) + 2 CE(softmax of the
    first), the teacher detached; that of the first is ½ CE(labels) for each of them. The gradients are those of the sum
    of all losses. As published, the teacher runs once for every other arch; batch norms use the statistics of the
    batch, so that once, with as many times its loss, is the same.

    Returns:
        Of the first arch its cross-entropy, of the others their losses, detached: [n].

    Source: recipe ans (second place of CVPR 2021 NAS track 1), the loss of its phases 2 to 4.
    """
    images = images.contiguous(memory_format=torch.channels_last)
    teacher = logits_of(supernet, images, archs[0])
    first = hard_cross_entropy(teacher, labels)
    backward(0.5 * (count_archs(archs) - 1) * first)
    target = teacher.detach().softmax(-1)
    losses = [first]
    for bundle in archs[1:]:
        logits = logits_of(supernet, images, bundle)
        loss = 0.5 * hard_cross_entropy(logits, labels) + 2 * soft_cross_entropy(logits, target)
        backward(loss.sum())
        losses.append(loss)
    return _joined(losses)


@dataclass(frozen=True)
class RankLoss:
    """The order of losses that a step asks for; see `losses.pairwise_rank_loss`.

    Args:
        weight: Its weight in the sum of losses, above 0.
        macs: Returns the MACs of an arch.
    """

    weight: float
    macs: Callable[[Arch], int]


def frozen_teacher_step(
    supernet: ModelSpace,
    images: Tensor,
    labels: Tensor,
    archs: Sequence[Bundle],
    *,
    backward: Backward = torch.autograd.backward,
    teacher: nn.Module,
    weights: Sequence[float] | None = None,
    rank: RankLoss | None = None,
) -> Tensor:
    """Every arch learns from the labels and from the softmax of a trained network; see `TrainingStep`.

    The loss of an arch is the sum of both cross-entropies; the gradients are those of the weighted sum of all losses
    and, where asked for, of the rank loss.

    Args:
        supernet: A space after `make_supernet`, in training mode.
        images: [B, C, H, W].
        labels: int64 [B].
        archs: n archs, in bundles.
        backward: Called with each loss.
        teacher: Maps images to logits [B, K]; it is not trained.
        weights: The weight of each arch, n of them; None: 1 each.
        rank: The order of losses to ask for, or None.

    Source: the organisers' demo of CVPR 2022 track 1, after Once-for-All (Cai et al. 2020), section 3.3.
    """
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        target = teacher(images).softmax(-1)
    left = list(weights or [1.0] * count_archs(archs))
    losses: list[Tensor] = []
    macs: list[int] = []
    for bundle in archs:
        logits = logits_of(supernet, images, bundle)
        loss = (hard_cross_entropy(logits, labels) + soft_cross_entropy(logits, target)).reshape(-1)
        total = (loss.new_tensor(left[: len(loss)]) * loss).sum()
        if rank is not None:
            own = [rank.macs(arch) for arch in ([bundle] if isinstance(bundle, Arch) else bundle)]
            earlier = _joined(losses) if losses else loss.new_zeros(0)
            total = total + rank.weight * pairwise_rank_loss(loss, own, earlier, macs)
            macs += own
        backward(total)
        losses.append(loss.detach())
        left = left[len(loss) :]
    return _joined(losses)


def count_archs(archs: Sequence[Bundle]) -> int:
    """Return the number of archs in all bundles."""
    return sum(1 if isinstance(bundle, Arch) else len(bundle) for bundle in archs)


def _joined(losses: Sequence[Tensor]) -> Tensor:
    return torch.cat([loss.detach().reshape(-1) for loss in losses])
