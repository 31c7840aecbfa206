"""Mixup, cutmix and smoothed labels of a batch, by torchvision's transforms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from nni_nas_consistency.images.augmentation import Mixing


def mixed(
    images: Tensor, labels: Tensor, num_classes: int, mixing: Mixing, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the images of a batch mixed with each other, and their labels: as they were where nothing softens them.

    Args:
        images: [B, C, H, W].
        labels: int64 [B].
        num_classes: Number of classes K.
        mixing: What to do.
        generator: Where the randomness comes from.

    Returns:
        Images [B, C, H, W], and probabilities [B, K] unless nothing is done.
    """
    if not mixing.softens:
        return images, labels
    ways = [
        transform(alpha=alpha, num_classes=num_classes)
        for transform, alpha in ((v2.MixUp, mixing.mixup), (v2.CutMix, mixing.cutmix))
        if alpha
    ]
    if ways:
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's own generator
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            images, target = v2.RandomChoice(ways)(images, labels)
    else:
        target = F.one_hot(labels, num_classes).to(images.dtype)
    return images, target * (1 - mixing.label_smoothing) + mixing.label_smoothing / num_classes
