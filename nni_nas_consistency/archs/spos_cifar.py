"""SPOS-CIFAR as values: operators, domains and costs of the supernet's space, and of the network that is tuned.

The space is that of single path one-shot search (Guo et al. 2020) on CIFAR; the tuned network, with widths that are
choices, is the one whose hyper-parameters are searched first.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from nni_nas_consistency.archs.arch import Arch, Choice
from nni_nas_consistency.archs.codecs import SampleCodec, WidthCodec
from nni_nas_consistency.archs.cost import Cost, conv_cost
from nni_nas_consistency.archs.domains import Domain, Variable

Variant: TypeAlias = Literal["layers", "blocks"]

OPERATORS = {"conv3_pool": (3, True), "conv5_pool": (5, True), "conv3": (3, False), "conv5": (5, False)}
"""Name → side of the kernel in pixels, and whether a max-pool halves the size where the stride is 2."""

KERNELS = ("conv3", "conv5")
"""The operators of a block."""

DEPTHS = {"layer1": 3, "layer2": 1, "layer3": 3}
"""Choices of each stage."""

ZERO, INPUT_OF_3, INPUT_OF_4, OUTPUT_OF_4 = (0,), (1,), (2,), (3,)
SKIPS = (ZERO, INPUT_OF_3, INPUT_OF_4, OUTPUT_OF_4)
"""What `skip` adds to the output of a block: nothing, the input of its third or fourth layer, or its output again."""


def _domain(space: str, choices: dict[str, tuple[Choice, ...]]) -> Domain:
    variables = tuple(Variable(label, values, (label,)) for label, values in choices.items())
    return Domain(SampleCodec(space, choices), variables)


LAYERS = _domain(
    "spos-cifar",
    {f"{stage}_{layer}": tuple(OPERATORS) for stage, depth in DEPTHS.items() for layer in range(1, depth + 1)},
)
"""4 operators at 7 places: 16,384 archs. None contains the weights of all others."""

BLOCKS = _domain(
    "spos-cifar-blocks",
    {f"{stage}_conv{layer}": KERNELS for stage in DEPTHS for layer in (2, 3, 4)} | {"skip": SKIPS},
)
"""2 kernels at 9 places, and one `skip` for all blocks: 2,048 archs."""

DOMAINS = {"layers": LAYERS, "blocks": BLOCKS}

TUNED_WIDTHS = (
    (16, 32, 48, 64),
    (64, 80, 96, 112, 128),
    (128, 160, 192, 224, 256),
    (256, 320, 384, 448, 512),
)
"""The widths that the hyper-parameter search chooses from: prep, layer1, layer2, layer3."""

TUNED_CODEC = WidthCodec("efficient-cifar", tuple(tuple(range(4, max(widths) + 1, 4)) for widths in TUNED_WIDTHS))
"""Codes such as `64-128-256-512`: prep, layer1, layer2, layer3, any multiples of 4 up to the tuned ones."""


def _tuned(widths: tuple[tuple[int, ...], ...]) -> Domain:
    labelled = dict(zip(TUNED_CODEC.allowed, widths, strict=True))
    return Domain(
        TUNED_CODEC,
        tuple(Variable(label, allowed, (label,)) for label, allowed in labelled.items()),
        largest=TUNED_CODEC.arch({label: max(allowed) for label, allowed in labelled.items()}),
        smallest=TUNED_CODEC.arch({label: min(allowed) for label, allowed in labelled.items()}),
    )


TUNED = _tuned(TUNED_WIDTHS)
"""What is drawn: the 500 combinations that the hyper-parameter search chooses from."""
ANY_WIDTHS = _tuned(TUNED_CODEC.widths)
"""All that a code may say, for a network that is trained alone."""


def prep_cost(channels: int, width: int, side: int) -> Cost:
    """Return the cost of a 3×3 convolution whose batch norm has no scale and no shift."""
    cost = conv_cost(channels, width, 3, side)
    return Cost(cost.params - 2 * width, cost.macs)


def head_cost(features: int, classes: int) -> Cost:
    """Return the cost of a linear layer without bias."""
    return Cost(features * classes, features * classes)


def operator_cost(name: Choice, width_in: int, width_out: int, stride: int, side: int) -> tuple[Cost, int]:
    """Return the cost of an operator at an input of `side` × `side`, and the side of its output.

    Before a pool, the convolution runs at the full size.
    """
    kernel, pools = OPERATORS[str(name)]
    after = side // stride
    return conv_cost(width_in, width_out, kernel, side if pools else after), after


def spos_cifar_cost(
    arch: Arch, shape: tuple[int, int, int], widths: tuple[int, int, int, int], variant: Variant
) -> Cost:
    """Return the cost of an arch of the supernet's space; `spaces.spos_cifar` counts the same, link by link.

    Args:
        arch: The arch.
        shape: Classes, channels and side of the images.
        widths: Channels of prep, layer1, layer2 and layer3.
        variant: `layers` or `blocks`.
    """
    classes, channels, side = shape
    total = prep_cost(channels, widths[0], side)
    width_in = widths[0]
    for stage, width in zip(DEPTHS, widths[1:], strict=True):
        for position, name in enumerate(_operators(arch, stage, variant)):
            stride = 2 if position == 0 else 1
            cost, side = operator_cost(name, width_in, width, stride, side)
            total, width_in = total + cost, width
    return total + head_cost(width_in, classes)


def _operators(arch: Arch, stage: str, variant: Variant) -> list[Choice]:
    """Return the operators of a stage, first to last."""
    if variant == "blocks":
        return ["conv3_pool", *(arch.choices[f"{stage}_conv{layer}"] for layer in (2, 3, 4))]
    return [arch.choices[f"{stage}_{layer}"] for layer in range(1, DEPTHS[stage] + 1)]


def tuned_cost(arch: Arch, shape: tuple[int, int, int]) -> Cost:
    """Return the cost of the tuned network; `spaces.efficient_cifar` counts the same, link by link."""
    classes, channels, side = shape
    prep, layer1, layer2, layer3 = (int(str(width)) for width in arch.choices.values())
    total = conv_cost(channels, prep, 3, side)
    for width_in, width, residual in ((prep, layer1, True), (layer1, layer2, False), (layer2, layer3, True)):
        total += conv_cost(width_in, width, 3, side)
        side //= 2
        if residual:
            total = total + conv_cost(width, width, 3, side) + conv_cost(width, width, 3, side)
    return total + head_cost(layer3, classes)
