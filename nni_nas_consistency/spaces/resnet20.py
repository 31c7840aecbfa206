"""ResNet-20 with searchable widths: the space of CVPR 2021 NAS track 1.

Stem, nine residual blocks of two 3×3 convs in three stages, classifier. A block goes w(2j−1) → w(2j) → w(2j+1) and is
two stages of the chain, whose state between them is (features, input of the block). The last width of a code is never
read: the classifier takes the one before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import nni
from nni.mutable import ensure_frozen
from nni.nas.nn.pytorch import MutableBatchNorm2d, MutableConv2d, MutableLinear
from nni.nas.space import current_model
from torch import Tensor, nn

from nni_nas_consistency.archs.arch import DIGITS, RESNET20, WidthForm, width_form
from nni_nas_consistency.archs.cost import Cost, conv_cost, linear_cost
from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.supernet.extract import OptionalModule
from nni_nas_consistency.supernet.modules import Width, relu_of_sum, width_at

ShortcutRule = Literal["projection", "standalone"]


class ResNet20Space(ChainSpace):
    """The ResNet20 space.

    Args:
        num_classes: Classes K.
        in_channels: Channels of the images.
        image_size: Side of the images, in pixels.
        shortcut: `projection`: a 1×1 conv with batch norm in every block, which ranks better in supernets (third
            place of 2021, and the winners); `standalone`: only in the first block of a stage and where the widths
            differ, identity elsewhere, as the reference accuracies were trained.
        width_unit: Channels between neighbouring widths; 4 is the released space.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        num_classes: int = 100,
        in_channels: int = 3,
        image_size: int = 32,
        shortcut: ShortcutRule = "projection",
        width_unit: int = 4,
    ) -> None:
        if shortcut not in ("projection", "standalone"):
            raise ValueError(f"shortcut is {shortcut!r}; ResNet20Space allows 'projection', 'standalone'")
        if min(num_classes, in_channels, image_size, width_unit) < 1:
            raise ValueError("num_classes, in_channels, image_size and width_unit must be at least 1")
        super().__init__(_form(width_unit), image_size)
        widths = [nni.choice(label, list(self.form.layers[index])) for label, index in self.labels.items()]
        stages: list[nn.Module] = [Stem(in_channels, widths[0])]
        for block in range(9):
            width_in, width_mid, width_out = widths[2 * block : 2 * block + 3]
            stride = 2 if block in (3, 6) else 1
            always = shortcut == "projection" or block in (0, 3, 6)
            stages.append(ResidualEntry(width_in, width_mid, stride))
            stages.append(ResidualExit(width_in, width_mid, width_out, stride=stride, always_project=always))
        self.stages = nn.ModuleList([*stages, Head(widths[-1], num_classes)])
        self.stackable = shortcut == "projection"


def _form(width_unit: int) -> WidthForm:
    known = {4: RESNET20, 1: DIGITS}
    return known.get(width_unit) or width_form(f"resnet20 of unit {width_unit}", width_unit)


class Stem(nn.Module):
    """3×3 conv, batch norm, ReLU: images → features."""

    def __init__(self, channels: int, width: Width) -> None:
        super().__init__()
        self.widths = channels, width
        self.out: Width = width
        self.conv = MutableConv2d(channels, width, 3, padding=1, bias=False)
        self.bn = MutableBatchNorm2d(width)

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, w1, H, W]."""
        return relu_of_sum((self.bn, self.conv(images)))

    def cost(self, widths: Mapping[str, int], side: int) -> tuple[Cost, int]:
        """Return the cost, and the side that comes out."""
        channels, width = self.widths
        return conv_cost(channels, width_at(width, widths), 3, side), side


class ResidualEntry(nn.Module):
    """First half of a block: features → (features after conv, batch norm and ReLU; the block's input)."""

    def __init__(self, width_in: Width, width_mid: Width, stride: int) -> None:
        super().__init__()
        self.widths = width_in, width_mid
        self.out: Width = width_mid
        self.stride = stride
        self.conv = MutableConv2d(width_in, width_mid, 3, stride=stride, padding=1, bias=False)
        self.bn = MutableBatchNorm2d(width_mid)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features in the block and the block's input."""
        return relu_of_sum((self.bn, self.conv(x))), x

    def cost(self, widths: Mapping[str, int], side: int) -> tuple[Cost, int]:
        """Return the cost, and the side that comes out."""
        side = -(-side // self.stride)
        width_in, width_mid = (width_at(width, widths) for width in self.widths)
        return conv_cost(width_in, width_mid, 3, side), side


class ResidualExit(nn.Module):
    """Second half of a block: conv and batch norm, the shortcut added, ReLU: state → features."""

    def __init__(
        self, width_in: Width, width_mid: Width, width_out: Width, *, stride: int, always_project: bool
    ) -> None:
        super().__init__()
        self.widths = width_mid, width_out
        self.out: Width = width_out
        self.conv = MutableConv2d(width_mid, width_out, 3, padding=1, bias=False)
        self.bn = MutableBatchNorm2d(width_out)
        self.shortcut = Projection(width_in, width_out, stride, always=always_project)

    def forward(self, state: tuple[Tensor, Tensor]) -> Tensor:
        """Return the block's features."""
        x, shortcut = state
        x = self.conv(x)
        return relu_of_sum((self.bn, x), self.shortcut(shortcut, x.shape[1]))

    def cost(self, widths: Mapping[str, int], side: int) -> tuple[Cost, int]:
        """Return the cost, and the side that comes out."""
        width_mid, width_out = (width_at(width, widths) for width in self.widths)
        return conv_cost(width_mid, width_out, 3, side) + self.shortcut.cost(widths, side), side


class Projection(OptionalModule):
    """Shortcut: 1×1 conv and batch norm; identity instead where it is not always there and the widths are equal.

    The stride is taken before the conv, which comes to the same: oneDNN's strided 1×1 convs of fewer than 16 channels
    write past their memory in backward (its issue 6035), which killed training on 3, 5, 6, 7 or 12 threads.
    """

    def __init__(self, width_in: Width, width_out: Width, stride: int, *, always: bool) -> None:
        super().__init__()
        self.widths = width_in, width_out
        self.stride = stride
        self.always = always
        frozen = current_model()
        if frozen is None or always or ensure_frozen(width_in) != ensure_frozen(width_out):
            self.conv = MutableConv2d(width_in, width_out, 1, bias=False)
            self.bn = MutableBatchNorm2d(width_out)

    def forward(self, x: Tensor, channels: int) -> tuple[nn.Module | None, Tensor]:
        """Return what the block adds to its output of so many channels: a batch norm and its input, or x alone."""
        if self.always or x.shape[1] != channels:
            return self.bn, self.conv(x[:, :, :: self.stride, :: self.stride])
        return None, x

    def is_absent(self, widths: Mapping[str, int]) -> bool:
        """Return whether the subnet with these widths has an identity here."""
        width_in, width_out = (width_at(width, widths) for width in self.widths)
        return not self.always and width_in == width_out

    def cost(self, widths: Mapping[str, int], side: int) -> Cost:
        """Return the cost at an output of `side` × `side`."""
        width_in, width_out = (width_at(width, widths) for width in self.widths)
        return Cost(0, 0) if self.is_absent(widths) else conv_cost(width_in, width_out, 1, side)


class Head(nn.Module):
    """Global average pool and classifier: features → logits."""

    def __init__(self, width: Width, num_classes: int) -> None:
        super().__init__()
        self.width = width
        self.out: Width = num_classes
        self.linear = MutableLinear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, K]."""
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits

    def cost(self, widths: Mapping[str, int], side: int) -> tuple[Cost, int]:
        """Return the cost, and 1: nothing is left of the image."""
        return linear_cost(width_at(self.width, widths), width_at(self.out, widths)), 1
