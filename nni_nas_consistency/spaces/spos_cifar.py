"""SPOS-CIFAR: the space of single path one-shot search on CIFAR, whose choices are operators.

Prep, then stages of 3, 1 and 3 `LayerChoice`s, the first of each at stride 2, global max-pool, classifier. Where the
stride is 1 there is no pool: candidates with and without it have the same structure there, and weights of their own.
In the variant `blocks`, each stage is a convolution with pool, three kernel choices, and an `InputChoice` whose input
is added to the output; the label `skip` is one choice for all blocks. Source: Guo et al. 2020 (SPOS), section 3.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import get_args

import torch
import torch.nn.functional as F
from nni.nas.nn.pytorch import InputChoice, LayerChoice, MutableLinear
from torch import Tensor, nn

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.archs.cost import Cost
from nni_nas_consistency.archs.spos_cifar import (
    DEPTHS,
    DOMAINS,
    KERNELS,
    OPERATORS,
    SKIPS,
    Variant,
    head_cost,
    operator_cost,
    prep_cost,
)
from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.supernet.active import Resolved
from nni_nas_consistency.supernet.modules import ConvBN


class SposCifarSpace(ChainSpace):
    """The SPOS-CIFAR space.

    Args:
        num_classes: Classes K.
        in_channels: Channels of the images.
        image_size: Side of the images, in pixels, a multiple of 8.
        prep: Channels of the first convolution.
        layer1: Channels of the first stage.
        layer2: Channels of the second stage.
        layer3: Channels of the third stage.
        variant: `layers`: four operators at seven places; `blocks`: two kernels at nine places, and `skip`.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        num_classes: int = 100,
        in_channels: int = 3,
        image_size: int = 32,
        prep: int = 64,
        layer1: int = 128,
        layer2: int = 256,
        layer3: int = 512,
        variant: Variant = "layers",
    ) -> None:
        if variant not in get_args(Variant):
            raise ValueError(f"variant is {variant!r}; SposCifarSpace allows 'layers', 'blocks'")
        if min(num_classes, in_channels, prep, layer1, layer2, layer3) < 1:
            raise ValueError("num_classes, in_channels and all widths must be at least 1")
        check_size(image_size, "SposCifarSpace")
        super().__init__(DOMAINS[variant], image_size)
        links: list[nn.Module] = [Prep(in_channels, prep)]
        width_in = prep
        for stage, width in zip(DEPTHS, (layer1, layer2, layer3), strict=True):
            links += _block(stage, width_in, width) if variant == "blocks" else _layers(stage, width_in, width)
            width_in = width
        self.links = nn.ModuleList([*links, PooledHead(width_in, num_classes)])


def check_size(image_size: int, space: str) -> None:
    """See that images can be halved three times.

    Raises:
        ValueError: They cannot.
    """
    if image_size < 8 or image_size % 8:
        raise ValueError(f"image_size is {image_size}; {space} halves it three times: give a multiple of 8")


def _layers(stage: str, width_in: int, width: int) -> list[nn.Module]:
    first = OperatorLink(f"{stage}_1", tuple(OPERATORS), width_in, width, stride=2)
    others = [OperatorLink(f"{stage}_{layer}", tuple(OPERATORS), width, width) for layer in range(2, DEPTHS[stage] + 1)]
    return [first, *others]


def _block(stage: str, width_in: int, width: int) -> list[nn.Module]:
    second, third, fourth = (OperatorLink(f"{stage}_conv{layer}", KERNELS, width, width) for layer in (2, 3, 4))
    return [PooledConv(width_in, width), second, KeepingInput(third), Skip(fourth)]


class Prep(nn.Module):
    """3×3 convolution, batch norm without scale and shift, ReLU: images → features.

    Args:
        channels: Channels of the images.
        width: Channels of the features.
    """

    nested = False

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.channels, self.width = channels, width
        self.conv = ConvBN(channels, width, 3, affine=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, prep, H, W]."""
        return F.relu(self.conv(images))

    def key(self, arch: Arch) -> Hashable:
        """Return the same key for all archs."""
        return ()

    def cost(self, arch: Arch, side: int) -> tuple[Cost, int]:
        """Return the cost, and the side of the output."""
        return prep_cost(self.channels, self.width, side), side


class Operator(nn.Module):
    """Convolution, batch norm, ReLU, and a max-pool where that halves the size.

    Args:
        name: One of `OPERATORS`.
        width_in: Channels of the input.
        width_out: Channels of the output.
        stride: By how much the size is divided: by the pool if there is one, else by the convolution.
    """

    def __init__(self, name: str, width_in: int, width_out: int, stride: int = 1) -> None:
        super().__init__()
        kernel, pools = OPERATORS[name]
        self.pool = stride if pools else 1
        self.conv = ConvBN(width_in, width_out, kernel, stride=1 if pools else stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return features [B, channels out, H / stride, W / stride]."""
        x = F.relu(self.conv(x))
        return F.max_pool2d(x, self.pool) if self.pool > 1 else x


class OperatorLink(nn.Module):
    """A choice between operators: features → features.

    Args:
        label: Label of the choice.
        names: The candidates, some of `OPERATORS`.
        width_in: Channels of the input.
        width_out: Channels of the output.
        stride: 2 to halve the size.
    """

    nested = False

    def __init__(self, label: str, names: tuple[str, ...], width_in: int, width_out: int, stride: int = 1) -> None:
        super().__init__()
        self.label, self.width_in, self.width_out, self.stride = label, width_in, width_out, stride
        self.choice = LayerChoice({name: Operator(name, width_in, width_out, stride) for name in names}, label=label)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the operator."""
        chosen: Tensor = self.choice(x)
        return chosen

    def key(self, arch: Arch) -> Hashable:
        """Return the name of the operator."""
        return arch.choices[self.label]

    def cost(self, arch: Arch, side: int) -> tuple[Cost, int]:
        """Return the cost, and the side of the output."""
        return operator_cost(arch.choices[self.label], self.width_in, self.width_out, self.stride, side)


class PooledConv(nn.Module):
    """3×3 convolution, batch norm, ReLU, max-pool: features → features of half the size.

    Args:
        width_in: Channels of the input: an integer or a choice of NNI.
        width_out: Channels of the output, likewise.
    """

    nested = True

    def __init__(self, width_in: object, width_out: object) -> None:
        super().__init__()
        self.width_in, self.width_out = Resolved(width_in), Resolved(width_out)
        self.conv = ConvBN(width_in, width_out, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return features [B, channels out, H / 2, W / 2]."""
        return F.max_pool2d(F.relu(self.conv(x)), 2)

    def key(self, arch: Arch) -> int:
        """Return the width."""
        return int(self.width_out.at(arch))

    def cost(self, arch: Arch, side: int) -> tuple[Cost, int]:
        """Return the cost, and the side of the output."""
        return operator_cost("conv3_pool", self.width_in.at(arch), self.key(arch), 2, side)


class KeepingInput(nn.Module):
    """The third layer of a block: features → (features, input), which `Skip` may add.

    Args:
        layer: The layer.
    """

    nested = False

    def __init__(self, layer: OperatorLink) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output of the layer, and its input."""
        return self.layer(x), x

    def key(self, arch: Arch) -> Hashable:
        """Return the name of the operator."""
        return self.layer.key(arch)

    def cost(self, arch: Arch, side: int) -> tuple[Cost, int]:
        """Return the cost, and the side of the output."""
        return self.layer.cost(arch, side)


class Skip(nn.Module):
    """The fourth layer of a block, and what is added to its output: (features, input of the third) → features.

    Args:
        layer: The layer.
    """

    nested = False

    def __init__(self, layer: OperatorLink) -> None:
        super().__init__()
        self.layer = layer
        self.skip = InputChoice(n_candidates=len(SKIPS), n_chosen=1, label="skip")

    def forward(self, state: tuple[Tensor, Tensor]) -> Tensor:
        """Return the output of the block."""
        input_of_4, input_of_3 = state
        output: Tensor = self.layer(input_of_4)
        added: Tensor = self.skip([torch.zeros_like(output), input_of_3, input_of_4, output])
        return output + added

    def key(self, arch: Arch) -> Hashable:
        """Return the name of the operator, and what is added."""
        return self.layer.key(arch), arch.choices["skip"]

    def cost(self, arch: Arch, side: int) -> tuple[Cost, int]:
        """Return the cost, and the side of the output."""
        return self.layer.cost(arch, side)


class PooledHead(nn.Module):
    """Global max-pool and a classifier without bias: features → logits.

    Args:
        width: Channels of the input: an integer or a choice of NNI.
        num_classes: Classes K.
    """

    nested = False

    def __init__(self, width: object, num_classes: int) -> None:
        super().__init__()
        self.width_in, self.num_classes = Resolved(width), num_classes
        self.linear = MutableLinear(width, num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, K]."""
        logits: Tensor = self.linear(F.adaptive_max_pool2d(x, 1).flatten(1))
        return logits

    def key(self, arch: Arch) -> Hashable:
        """Return the same key for all archs: the output depends on the input alone."""
        return ()

    def cost(self, arch: Arch, side: int) -> tuple[Cost, int]:
        """Return the cost, and 1, the side of the pooled features."""
        return head_cost(self.width_in.at(arch), self.num_classes), 1
