"""Training steps: the gradients of several archs on one batch. Plain torch, independent of Lightning and strategies.

All share one signature, `(supernet, images, labels, archs, *, backward, threads) → losses`. The archs come in bundles:
a single arch runs alone, a list of archs as one stacked batch; the results agree up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias

import torch
from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor, nn

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.strategies.losses import hard_cross_entropy, pairwise_rank_loss, soft_cross_entropy
from nni_nas_consistency.strategies.threads import ArchThreads, Pass
from nni_nas_consistency.supernet.active import logits_of

Bundle: TypeAlias = "Arch | Sequence[Arch]"
"""One arch that runs alone, or several that run as one stacked batch."""

Backward: TypeAlias = "Callable[[Tensor], None]"


class TrainingStep(Protocol):
    """One training step."""

    def __call__(
        self,
        supernet: ModelSpace,
        images: Tensor,
        labels: Tensor,
        archs: Sequence[Bundle],
        *,
        backward: Backward,
        threads: ArchThreads | None = None,
    ) -> Tensor:
        """Run the archs forward and backward on one batch, and return their losses.

        Args:
            supernet: A space after `make_supernet`, in training mode.
            images: [B, C, H, W].
            labels: int64 [B].
            archs: n archs, in bundles.
            backward: Called with each loss, to add its gradients to `.grad`; Lightning passes `manual_backward`.
            threads: Run the bundles side by side and add their gradients, in place of `backward`; None: one by one.

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
    threads: ArchThreads | None = None,
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
    target = teacher.detach().softmax(-1)

    def student(network: ModelSpace, bundle: Bundle) -> tuple[Tensor, Tensor]:
        loss = soft_cross_entropy(logits_of(network, images, bundle), target)
        return loss.sum() / n, loss

    students = [partial(student, bundle=bundle) for bundle in archs[1:]]
    return _run([lambda _: (first / n, first), *students], supernet, backward, threads)


def multi_path_step(
    supernet: ModelSpace,
    images: Tensor,
    labels: Tensor,
    archs: Sequence[Bundle],
    *,
    backward: Backward = torch.autograd.backward,
    threads: ArchThreads | None = None,
) -> Tensor:
    """Every arch learns from the labels; see `TrainingStep`. The gradients are those of the sum of the n losses.

    With one arch this is single-path sampling (SPOS, Guo et al. 2020); with six, a step of recipe ans.
    """
    return _run(_label_passes(images, labels, archs, divisor=1), supernet, backward, threads)


def label_step(
    supernet: ModelSpace,
    images: Tensor,
    labels: Tensor,
    archs: Sequence[Bundle],
    *,
    backward: Backward = torch.autograd.backward,
    threads: ArchThreads | None = None,
) -> Tensor:
    """Every arch learns from the labels; see `TrainingStep`. The gradients are those of the mean of the n losses.

    Used by the sandwich rule before its teacher is any good (docs/decisions/0006-late-teacher.md).
    """
    passes = _label_passes(images, labels, archs, divisor=count_archs(archs))
    return _run(passes, supernet, backward, threads)


def pool_distillation_step(
    supernet: ModelSpace,
    images: Tensor,
    labels: Tensor,
    archs: Sequence[Bundle],
    *,
    backward: Backward = torch.autograd.backward,
    threads: ArchThreads | None = None,
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
    target = teacher.detach().softmax(-1)

    def student(network: ModelSpace, bundle: Bundle) -> tuple[Tensor, Tensor]:
        logits = logits_of(network, images, bundle)
        loss = 0.5 * hard_cross_entropy(logits, labels) + 2 * soft_cross_entropy(logits, target)
        return loss.sum(), loss

    students = [partial(student, bundle=bundle) for bundle in archs[1:]]
    others = count_archs(archs) - 1
    return _run([lambda _: (0.5 * others * first, first), *students], supernet, backward, threads)


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
    threads: ArchThreads | None = None,
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
        threads: As in `TrainingStep`; not used with a rank loss, which needs the losses of the archs before.
        weights: The weight of each arch, n of them; None: 1 each.
        rank: The order of losses to ask for, or None.

    Source: the organisers' demo of CVPR 2022 track 1, after Once-for-All (Cai et al. 2020), section 3.3.
    """
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        target = teacher(images).softmax(-1)
    earlier: list[Tensor] = []
    macs: list[int] = []

    def student(network: ModelSpace, bundle: Bundle, shares: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits_of(network, images, bundle)
        loss = (hard_cross_entropy(logits, labels) + soft_cross_entropy(logits, target)).reshape(-1)
        total = (shares.to(loss.dtype) * loss).sum()
        if rank is not None:
            own = [rank.macs(arch) for arch in ([bundle] if isinstance(bundle, Arch) else bundle)]
            before = _joined(earlier) if earlier else loss.new_zeros(0)
            total = total + rank.weight * pairwise_rank_loss(loss, own, before, macs)
            earlier.append(loss.detach())
            macs.extend(own)
        return total, loss

    shares = torch.tensor(weights or [1.0] * count_archs(archs), dtype=torch.float64, device=images.device)
    sizes = [count_archs([bundle]) for bundle in archs]
    passes = [
        partial(student, bundle=bundle, shares=of_bundle)
        for bundle, of_bundle in zip(archs, torch.split(shares, sizes), strict=True)
    ]
    return _run(passes, supernet, backward, threads if rank is None else None)


def _label_passes(images: Tensor, labels: Tensor, archs: Sequence[Bundle], *, divisor: int) -> list[Pass]:
    """Return a pass for each bundle, which learns from the labels; the sum of its losses is divided."""
    images = images.contiguous(memory_format=torch.channels_last)

    def learner(network: ModelSpace, bundle: Bundle) -> tuple[Tensor, Tensor]:
        loss = hard_cross_entropy(logits_of(network, images, bundle), labels)
        return loss.sum() / divisor, loss

    return [partial(learner, bundle=bundle) for bundle in archs]


def _run(passes: Sequence[Pass], supernet: ModelSpace, backward: Backward, threads: ArchThreads | None) -> Tensor:
    """Run passes forward and backward, and return their losses, detached: [n]."""
    if threads is not None:
        return _joined(threads.run(passes))
    losses = []
    for each in passes:
        total, loss = each(supernet)
        backward(total)
        losses.append(loss.detach())
    return _joined(losses)


def count_archs(archs: Sequence[Bundle]) -> int:
    """Return the number of archs in all bundles."""
    return sum(1 if isinstance(bundle, Arch) else len(bundle) for bundle in archs)


def _joined(losses: Sequence[Tensor]) -> Tensor:
    return torch.cat([loss.detach().reshape(-1) for loss in losses])
