"""The losses of a training step: on labels, and on what a teacher says."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy against soft labels, at temperature 1.

    Args:
        logits: The student's, [B, K] or [N, B, K].
        target: Probabilities of the teacher, [B, K], rows summing to 1; detached, so that nothing flows back.

    Returns:
        The mean over images: a scalar, or [N].

    Source: in-place distillation, Universally Slimmable Networks (Yu & Huang 2019), section 3.3.
    """
    return -(target * logits.log_softmax(-1)).sum(-1).mean(-1)


def hard_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy against labels: a scalar from [B, K] and int64 [B], or [N] from [N, B, K]."""
    if logits.dim() == 2:
        return F.cross_entropy(logits, labels)
    losses = F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)), reduction="none")
    return losses.view(len(logits), -1).mean(-1)
