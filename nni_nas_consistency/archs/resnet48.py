"""ResNet-48 of CVPR 2022 track 1 as values: what its digits say, its smaller members, and what an arch costs."""

from __future__ import annotations

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.archs.cost import Cost, conv_cost, linear_cost

BASE_WIDTHS = (64, 128, 256, 512)
"""Channels of the four stages at ratio 1; the stem has those of the first."""

RATIOS = {1: 1.0, 2: 0.95, 3: 0.9, 4: 0.85, 5: 0.8, 6: 0.75, 7: 0.7}
"""The share of the base width that each ratio digit stands for."""

POOLED_FROM = 128
"""Side of the smallest images that are pooled after the stem, in pixels."""


def channels(base: int, digit: int) -> int:
    """Return the channels of a ratio digit: base · ratio to the nearest multiple of 8, halves up, at least 8.

    One more 8 if that is below 0.9 · base · ratio.
    """
    wanted = base * RATIOS[digit]
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def width_divisor_of(side: int) -> int:
    """Return what all widths are divided by in the member of the family for images of this side, in pixels."""
    if side >= POOLED_FROM:
        return 1
    return 4 if side >= 64 else 8


def resnet48_cost(arch: Arch, shape: tuple[int, int, int]) -> Cost:
    """Return the cost of a ResNet-48 that is trained alone; `spaces.resnet48` counts the same, link by link.

    Args:
        arch: The arch.
        shape: Classes, channels and side of the images.
    """
    classes, width, side = shape
    divisor = width_divisor_of(side)
    choices = {label: int(str(choice)) for label, choice in arch.choices.items()}
    side = -(-side // 2)
    outer = channels(BASE_WIDTHS[0], choices["stem"]) // divisor
    total = conv_cost(width, outer, 7, side)
    side = -(-side // 2) if shape[2] >= POOLED_FROM else side
    for stage, base in enumerate(BASE_WIDTHS, 1):
        for block in range(1, choices[f"depth{stage}"] + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            side, width = -(-side // stride), outer
            inner, outer = (channels(base, choices[f"s{stage}b{block}c{conv}"]) // divisor for conv in (1, 2))
            total += conv_cost(width, inner, 3, side) + conv_cost(inner, outer, 3, side)
            if stride == 2 or width != outer:
                total += conv_cost(width, outer, 1, side)
    return total + linear_cost(outer, classes)
