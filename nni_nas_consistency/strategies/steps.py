"""One training step over several archs: the sandwich rule with in-place distillation.

Universally Slimmable Networks (Yu & Huang 2019), algorithm 1: the largest arch learns from the labels, the smallest
and sampled ones from the largest, and the gradients of all are summed. Knows torch, nothing of NNI or Lightning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.strategies.losses import hard_cross_entropy, soft_cross_entropy
from nni_nas_consistency.supernet.active import Space, logits_of

Loss = Callable[[Tensor, Tensor], Tensor]


def sandwich_step(
    supernet: Space,
    images: Tensor,
    labels: Tensor,
    archs: Sequence[Arch],
    *,
    distill: bool = True,
    stacked: bool = False,
    backward: Callable[[Tensor], None] = torch.autograd.backward,
) -> Tensor:
    """Run n archs forward and backward on one batch; the gradients of loss / n of all are added to `.grad`.

    Args:
        supernet: A chain space after `make_supernet`, in training mode.
        images: [B, C, H, W].
        labels: int64 [B].
        archs: The n archs. With `distill` the first one teaches: the largest by the sandwich rule.
        distill: Whether all archs but the first learn from the softmax of the first, detached; else from the labels.
        stacked: Whether the archs after the first run as one masked batch; the result is the same to rounding.
        backward: What computes the gradients; a trainer may want its own.

    Returns:
        The losses, detached, one an arch: [n].
    """
    n = len(archs)
    images = images.contiguous(memory_format=torch.channels_last)
    teacher = logits_of(supernet, images, archs[0])
    losses = [hard_cross_entropy(teacher, labels)]
    backward(losses[0] / n)

    student_loss: Loss = hard_cross_entropy
    target = labels
    if distill:
        student_loss, target = soft_cross_entropy, teacher.detach().softmax(-1)
    students = archs[1:]
    for group in [students] if stacked and students else students:
        loss = student_loss(logits_of(supernet, images, group), target)
        backward(loss.sum() / n)
        losses.append(loss)
    return torch.cat([loss.detach().reshape(-1) for loss in losses])
