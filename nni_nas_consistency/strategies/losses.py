"""The losses of a training step: cross-entropy against labels, and against a teacher's softmax."""

from __future__ import annotations

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
    """Return the mean cross-entropy against labels: a scalar from [B, K] and int64 [B], or [N] from [N, B, K]."""
    if logits.dim() == 2:
        return F.cross_entropy(logits, labels)
    losses = F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)), reduction="none")
    return losses.view(len(logits), -1).mean(-1)
