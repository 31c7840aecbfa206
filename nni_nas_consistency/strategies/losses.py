"""The losses of a training step: cross-entropy against labels, against a teacher's softmax; order of several losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy against soft labels, at temperature 1.

    Args:
        logits: Those of one student, [B, K], or of N, [N, B, K].
        target: The teacher's probabilities, [B, K], rows summing to 1; pass them detached, or the teacher is trained
            too.

    Returns:
        The mean over images: a scalar, or one for each student, [N].

    Source: in-place distillation, Universally Slimmable Networks (Yu & Huang 2019), section 3.3.
    """
    return -(target * logits.log_softmax(-1)).sum(-1).mean(-1)


def hard_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy against labels: a scalar from [B, K] and int64 [B], or [N] from [N, B, K].

    Labels of mixed images are probabilities, [B, K].
    """
    if logits.dim() == 2:
        return F.cross_entropy(logits, labels)
    of_all = torch.cat([labels] * len(logits))
    losses = F.cross_entropy(logits.flatten(0, 1), of_all, reduction="none")
    return losses.view(len(logits), -1).mean(-1)


def pairwise_rank_loss(losses: Tensor, macs: Sequence[int], earlier: Tensor, earlier_macs: Sequence[int]) -> Tensor:
    """Return how far archs are from the order that their MACs suggest: more arithmetic, less loss.

    For every pair of an arch j and an earlier one i that differ in MACs, max(0, s · (l_j − l_i)), with s = 1 if j has
    more MACs than i, else −1. The loss l_i of the earlier arch is a constant: the gradient flows into the later one.

    Args:
        losses: Those of some archs of a step, [n].
        macs: Their MACs.
        earlier: The losses of archs that ran before them in this step, [m].
        earlier_macs: Their MACs.

    Returns:
        The sum over all pairs, also of those among the n: a scalar.

    Source: the rank loss guided by FLOPs of Prior-Guided One-shot NAS (PGONAS 2022, arXiv:2206.13329), third place of
    CVPR 2022 track 1, for two archs a step; in its code with a weight of min(2, epoch / 10).
    """
    before, macs_before = earlier.detach(), list(earlier_macs)
    total = losses.new_zeros(())
    for loss, cost in zip(losses, macs, strict=True):
        signs = torch.tensor([(cost > other) - (cost < other) for other in macs_before]).to(losses)
        total = total + (signs * (loss - before)).relu().sum()
        before, macs_before = torch.cat([before, loss.detach()[None]]), [*macs_before, cost]
    return total
