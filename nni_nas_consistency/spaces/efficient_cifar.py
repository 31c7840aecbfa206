"""The network that is tuned on CIFAR before the search, with widths that are choices: prep, layer1, layer2, layer3.

Prep and three 3×3 convolutions, each with batch norm, ReLU and, after prep, a max-pool; in layer1 and layer3 a residual
of two more follows. Global max-pool, classifier without bias. Its logits are scaled where it is trained
(`training.recipes.Loss`). No network here has choices of operators: those are in `spos_cifar.py`.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.archs.cost import Cost, conv_cost
from nni_nas_consistency.archs.spos_cifar import ANY_WIDTHS, TUNED
from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.spaces.resnet20 import Stem
from nni_nas_consistency.spaces.spos_cifar import PooledConv, PooledHead, check_size
from nni_nas_consistency.supernet.active import Resolved
from nni_nas_consistency.supernet.modules import ConvBN

DomainName = Literal["tuned", "any"]


class EfficientCifarSpace(ChainSpace):
    """The tuned network, at all widths that its hyper-parameter search chooses from.

    Args:
        num_classes: Classes K.
        in_channels: Channels of the images.
        image_size: Side of the images, in pixels, a multiple of 8.
        domain: `tuned`: the widths of the search, the largest being 64-128-256-512; `any`: every multiple of 4 up to
            these, for a network that is trained alone.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self, num_classes: int = 100, in_channels: int = 3, image_size: int = 32, domain: DomainName = "tuned"
    ) -> None:
        if domain not in get_args(DomainName):
            raise ValueError(f"domain is {domain!r}; EfficientCifarSpace allows 'tuned', 'any'")
        if min(num_classes, in_channels) < 1:
            raise ValueError("num_classes and in_channels must be at least 1")
        check_size(image_size, "EfficientCifarSpace")
        super().__init__(TUNED if domain == "tuned" else ANY_WIDTHS, image_size)
        prep, layer1, layer2, layer3 = (self.choice(variable.name) for variable in self.domain.variables)
        self.links = nn.ModuleList(
            [
                Stem(in_channels, prep),
                PooledConv(prep, layer1),
                Residual(layer1),
                PooledConv(layer1, layer2),
                PooledConv(layer2, layer3),
                Residual(layer3),
                PooledHead(layer3, num_classes),
            ]
        )


class Residual(nn.Module):
    """Two 3×3 convolutions with batch norm and ReLU, whose output is added to the input: features → features.

    Args:
        width: Channels, of input and output: an integer or a choice of NNI.
    """

    nested = False

    def __init__(self, width: Any) -> None:
        super().__init__()
        self.width = Resolved(width)
        self.conv1, self.conv2 = ConvBN(width, width, 3), ConvBN(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same size."""
        added = F.relu(self.conv2(F.relu(self.conv1(x))))
        return x[:, : added.shape[1]] + added  # beside a wider arch, the input has channels that are zero

    def key(self, arch: Arch) -> int:
        """Return the width."""
        return int(self.width.at(arch))

    def cost(self, arch: Arch, side: int) -> tuple[Cost, int]:
        """Return the cost, and the side of the output."""
        conv = conv_cost(self.width.at(arch), self.width.at(arch), 3, side)
        return conv + conv, side
