"""ResNet-20 with searchable widths: the space of CVPR 2021 NAS track 1.

Stem, nine residual blocks of two 3×3 convolutions in three stages, classifier. Block j, from 1, has the widths
w(2j−1) → w(2j) → w(2j+1). It is two links of the chain, with the state (features, input of the block) between them. No
network reads the last width of a code, w20: the classifier follows w19.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, Literal

import torch.nn.functional as F
from nni.mutable import ensure_frozen
from nni.nas.nn.pytorch import MutableLinear
from nni.nas.space import current_model
from torch import Tensor, nn

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.archs.codecs import resnet20_codec
from nni_nas_consistency.archs.cost import Cost, conv_cost, linear_cost
from nni_nas_consistency.archs.domains import DIGITS, RESNET20, Domain, widths_domain
from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.supernet.active import ReadsActive, Resolved
from nni_nas_consistency.supernet.modules import ConvBN

ShortcutRule = Literal["projection", "standalone"]


class ResNet20Space(ChainSpace):
    """The ResNet20 space.

    Args:
        num_classes: Classes K.
        in_channels: Channels of the images.
        image_size: Side of the images, in pixels.
        shortcut: `projection`: a 1×1 convolution with batch norm in every block, which ranks better in supernets (the
            winners of 2021, and third place); `standalone`: only in the first block of a stage and where the widths
            differ, else an identity, as in the networks of the reference accuracies.
        width_unit: Step between neighbouring widths, in channels; 4 in the released space.

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
        super().__init__(_domain(width_unit), image_size)
        widths = [self.choice(f"w{layer}") for layer in range(1, 20)]
        links: list[nn.Module] = [Stem(in_channels, widths[0])]
        for block in range(9):
            width_in, width_mid, width_out = widths[2 * block : 2 * block + 3]
            stride = 2 if block in (3, 6) else 1
            always = shortcut == "projection" or block in (0, 3, 6)
            links.append(ResidualEntry(width_in, width_mid, stride))
            links.append(ResidualExit(width_mid, width_out, Shortcut(width_in, width_out, stride, always=always)))
        self.links = nn.ModuleList([*links, Head(widths[-1], num_classes)])


def _domain(width_unit: int) -> Domain:
    known = {4: RESNET20, 1: DIGITS}
    return known.get(width_unit) or widths_domain(resnet20_codec(f"resnet20 of unit {width_unit}", width_unit))


class Stem(nn.Module):
    """3×3 convolution, batch norm, ReLU: images → features."""

    nested = True

    def __init__(self, channels: int, width: Any) -> None:
        super().__init__()
        self.channels, self.width_out = channels, Resolved(width)
        self.conv = ConvBN(channels, width, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, w1, H, W]."""
        return F.relu(self.conv(images), inplace=True)

    def key(self, arch: Arch) -> int:
        """Return w1."""
        return int(self.width_out.at(arch))

    def cost(self, arch: Arch, side: int) -> tuple[Cost, int]:
        """Return the cost, and the side of the output."""
        return conv_cost(self.channels, self.key(arch), 3, side), side


class ResidualEntry(nn.Module):
    """First half of a block, 3×3 convolution, batch norm, ReLU: features → (features, input of the block)."""

    nested = True

    def __init__(self, width_in: Any, width_mid: Any, stride: int) -> None:
        super().__init__()
        self.width_in, self.width_out = Resolved(width_in), Resolved(width_mid)
        self.stride = stride
        self.conv1 = ConvBN(width_in, width_mid, 3, stride=stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features inside the block, and the block's input."""
        return F.relu(self.conv1(x), inplace=True), x

    def key(self, arch: Arch) -> int:
        """Return the width inside the block."""
        return int(self.width_out.at(arch))

    def cost(self, arch: Arch, side: int) -> tuple[Cost, int]:
        """Return the cost, and the side of the output."""
        side = -(-side // self.stride)
        return conv_cost(self.width_in.at(arch), self.key(arch), 3, side), side


class ResidualExit(nn.Module):
    """Second half of a block, 3×3 convolution, batch norm, shortcut added, activation: state → features.

    Args:
        width_mid: Channels inside the block.
        width_out: Channels after the block.
        shortcut: What is added; None: the input of the block, which has as many channels in every arch.
        activation: What follows the addition, and keeps zeros zero; None: ReLU.
    """

    def __init__(
        self, width_mid: Any, width_out: Any, shortcut: Shortcut | None, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.width_mid, self.width_out = Resolved(width_mid), Resolved(width_out)
        self.conv2 = ConvBN(width_mid, width_out, 3)
        self.shortcut = shortcut
        self.activation = activation
        # elsewhere the output width decides between projection and identity, or is the same for all archs
        self.nested = shortcut is not None and shortcut.always

    def forward(self, state: tuple[Tensor, Tensor]) -> Tensor:
        """Return the output of the block."""
        x, block_input = state
        x = self.conv2(x)
        x = x + (block_input if self.shortcut is None else self.shortcut(block_input, x.shape[1]))
        if self.activation is None:
            return F.relu(x, inplace=True)
        activated: Tensor = self.activation(x)
        return activated

    def key(self, arch: Arch) -> int:
        """Return the width after the block."""
        return int(self.width_out.at(arch))

    def cost(self, arch: Arch, side: int) -> tuple[Cost, int]:
        """Return the cost, and the side of the output."""
        conv = conv_cost(self.width_mid.at(arch), self.key(arch), 3, side)
        return conv if self.shortcut is None else conv + self.shortcut.cost(arch, side), side


class Shortcut(ReadsActive, nn.Module):
    """1×1 convolution and batch norm; or an identity, where the projection is optional and the widths are equal.

    The stride is taken before the convolution, which gives the same result: in backward, oneDNN's strided 1×1
    convolutions of fewer than 16 channels write past their memory (its issue 6035), which killed training on 3, 5, 6, 7
    or 12 threads.
    """

    def __init__(self, width_in: Any, width_out: Any, stride: int, *, always: bool) -> None:
        super().__init__()
        self.width_in, self.width_out = Resolved(width_in), Resolved(width_out)
        self.stride = stride
        self.always = always
        frozen = current_model()
        self.project: nn.Module | None = None
        if frozen is None or always or ensure_frozen(width_in) != ensure_frozen(width_out):
            self.project = ConvBN(width_in, width_out, 1)

    def forward(self, x: Tensor, channels: int) -> Tensor:
        """Return what the block adds to its features: [B, channels, H / stride, W / stride]."""
        if self.project is None or self._runs_as_identity(x, channels):
            return x
        projected: Tensor = self.project(x[:, :, :: self.stride, :: self.stride])
        return projected

    def subnet_children(self, arch: Arch) -> Iterable[tuple[str, nn.Module]]:
        """Return the projection, or nothing for an identity."""
        return [] if self.is_identity(arch) else list(self.named_children())

    def is_identity(self, arch: Arch) -> bool:
        """Return whether the shortcut of an arch is an identity."""
        return not self.always and bool(self.width_in.at(arch) == self.width_out.at(arch))

    def _runs_as_identity(self, x: Tensor, channels: int) -> bool:
        if self.active is None:  # in supernets of NNI's strategies, the widths tell the arch
            return not self.always and x.shape[1] == channels
        return self.is_identity(self.active.run.archs[0])  # a stacked batch is as wide as its widest archs

    def cost(self, arch: Arch, side: int) -> Cost:
        """Return the cost at an output of `side` × `side`."""
        if self.is_identity(arch):
            return Cost(0, 0)
        return conv_cost(self.width_in.at(arch), self.width_out.at(arch), 1, side)


class Head(nn.Module):
    """Global average pool and classifier: features → logits."""

    nested = False

    def __init__(self, width: Any, num_classes: int) -> None:
        super().__init__()
        self.width_in, self.num_classes = Resolved(width), num_classes
        self.linear = MutableLinear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, K]."""
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits

    def key(self, arch: Arch) -> Hashable:
        """Return the same key for all archs: the output depends on the input alone."""
        return ()

    def cost(self, arch: Arch, side: int) -> tuple[Cost, int]:
        """Return the cost, and 1, the side of the pooled features."""
        return linear_cost(self.width_in.at(arch), self.num_classes), 1
