"""ResNet-48 with searchable depths and widths: the space of CVPR 2022 NAS track 1.

Stem, at most 5, 5, 8 and 5 residual blocks in four stages, classifier. An arch has the first blocks of each stage, as
many as it is deep; ratio digits say how much of its base width each convolution has. A block is two links of the
chain, which are absent where the arch lacks it. Several digits round to one width: keys are channels, so that such
archs share their features.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, Literal, get_args

import torch.nn.functional as F
from nni.mutable import MutableExpression
from nni.nas.nn.pytorch import Repeat
from torch import Tensor, nn

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.archs.codecs import RESNET48_CODEC
from nni_nas_consistency.archs.cost import Cost, conv_cost
from nni_nas_consistency.archs.domains import DEMO, NOMINAL, RELEASED
from nni_nas_consistency.archs.resnet48 import BASE_WIDTHS, POOLED_FROM, channels
from nni_nas_consistency.spaces.chain import ChainSpace, State
from nni_nas_consistency.spaces.resnet20 import Head, ResidualEntry, ResidualExit, Shortcut
from nni_nas_consistency.supernet.active import Resolved
from nni_nas_consistency.supernet.modules import ConvBN

ShortcutRule = Literal["supernet", "standalone"]
DomainName = Literal["released", "demo", "nominal"]
Activation = Literal["relu", "prelu", "mish"]

DOMAINS = {"released": RELEASED, "demo": DEMO, "nominal": NOMINAL}


class ResNet48Space(ChainSpace):
    """The ResNet48 space, and smaller members of its family for smaller images.

    Args:
        num_classes: Classes K.
        in_channels: Channels of the images.
        image_size: Side of the images, in pixels; from 128 on they are pooled after the stem.
        shortcut: `supernet`: a 1×1 convolution with batch norm in the first block of stages 2 to 4, and identities
            elsewhere, which fit as the widths around them are tied; `standalone`: a convolution wherever the stride is
            not 1 or the widths differ, as the reference accuracies were trained. Where widths are tied, both give the
            same networks.
        domain: What is drawn: `released`, as the 45,000 archs were; `demo`, all digits in every stage, as the
            organisers' demo does; `nominal`, every digit of a code by itself, which needs `standalone`.
        activation: What follows the addition of a block: ReLU, or one of the smooth ones that entrants found to rank
            better (recipe cvpr2022 in `training/recipes.py`); inside the block it is ReLU. PReLU has one slope a block.
        width_divisor: All widths are divided by it: 1, 2, 4 or 8.

    Raises:
        ValueError: An argument is out of range, or identities would not fit.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        image_size: int = 224,
        shortcut: ShortcutRule = "supernet",
        domain: DomainName = "released",
        activation: Activation = "relu",
        width_divisor: int = 1,
    ) -> None:
        _check_words(shortcut, domain, activation)
        if min(num_classes, in_channels, image_size) < 1:
            raise ValueError("num_classes, in_channels and image_size must be at least 1")
        if width_divisor not in (1, 2, 4, 8):
            raise ValueError(f"width_divisor is {width_divisor}; ResNet48Space allows 1, 2, 4, 8")
        super().__init__(DOMAINS[domain], image_size)
        self.width_divisor = width_divisor
        width = self._width("stem", 1)
        links: list[nn.Module] = [Stem(in_channels, width, pool=image_size >= POOLED_FROM)]
        for stage in range(1, len(BASE_WIDTHS) + 1):
            links += self._stage(stage, width, shortcut, activation)
            width = self._width_after(stage)
        self.links = nn.ModuleList([*links, Head(width, num_classes)])

    def _width(self, label: str, stage: int) -> Any:
        """Return the channels that the ratio digit of a label gives in a stage, an expression of NNI's choice."""
        digit = self.choice(label)
        widths = {ratio: channels(BASE_WIDTHS[stage - 1], ratio) // self.width_divisor for ratio in digit.values}
        return MutableExpression.switch_case(digit, widths)

    def _width_after(self, stage: int) -> Any:
        """Return the channels after the last block that a stage has."""
        if self.domain.tied:
            return self._width(f"s{stage}b1c2", stage)
        blocks = range(1, max(RESNET48_CODEC.depths[stage - 1]) + 1)
        outer = [self._width(f"s{stage}b{block}c2", stage) for block in blocks]
        depth = self.choice(f"depth{stage}")
        return OfLastBlock(lambda depth, *widths: widths[depth - 1], "width after {} blocks", [depth, *outer])

    def _stage(self, stage: int, width: Any, shortcut: ShortcutRule, activation: Activation) -> list[nn.Module]:
        """Return the links of a stage that comes after features of some width."""
        links: list[nn.Module] = []
        depth, depths = self.choice(f"depth{stage}"), RESNET48_CODEC.depths[stage - 1]
        for block in range(1, max(depths) + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            inner, outer = (self._width(f"s{stage}b{block}c{conv}", stage) for conv in (1, 2))
            added = None
            if stride == 2 or shortcut == "standalone":
                added = Shortcut(width, outer, stride, always=stride == 2)
            entry = ResidualEntry(width, inner, stride)
            leave = ResidualExit(inner, outer, added, _after_addition(activation))
            optional = block > min(depths)
            links += [OptionalLink(half, block, depth) if optional else half for half in (entry, leave)]
            width = outer
        return links


class OfLastBlock(MutableExpression[int]):  # type: ignore[misc]
    """The width of the last block that a stage has, of its depth and the widths of all blocks."""

    def grid(self, memo: Any = None, granularity: int | None = None) -> Iterable[int]:
        """Yield the widths that there are; NNI would freeze every arch of the stage, 40 million of the third."""
        _, *widths = self.arguments
        yield from sorted({width for each in widths for width in each.grid()})


class Stem(nn.Module):
    """7×7 convolution of stride 2, batch norm, ReLU, and a max-pool of stride 2 unless the images are small.

    Args:
        in_channels: Channels of the images.
        width: Channels of the features.
        pool: Whether there is a max-pool.
    """

    nested = True

    def __init__(self, in_channels: int, width: Any, *, pool: bool) -> None:
        super().__init__()
        self.in_channels, self.width_out, self.pool = in_channels, Resolved(width), pool
        self.conv = ConvBN(in_channels, width, 7, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, width, H / 4, W / 4], or half the size of small images."""
        x = F.relu(self.conv(images), inplace=True)
        return F.max_pool2d(x, 3, 2, 1) if self.pool else x

    def key(self, arch: Arch) -> int:
        """Return the width."""
        return int(self.width_out.at(arch))

    def cost(self, arch: Arch, side: int) -> tuple[Cost, int]:
        """Return the cost, and the side of the output."""
        side = -(-side // 2)
        return conv_cost(self.in_channels, self.key(arch), 7, side), -(-side // 2) if self.pool else side


class OptionalLink(nn.Module):
    """Half of a block that archs of less depth do not have; NNI sees a `Repeat` of no or one module.

    Args:
        link: The link.
        block: Its block, from 1.
        depth: NNI's choice of the blocks of its stage.
    """

    def __init__(self, link: ResidualEntry | ResidualExit, block: int, depth: Any) -> None:
        super().__init__()
        self.nested = link.nested
        self.block, self.depth = block, Resolved(depth)
        self.repeat = Repeat(link, MutableExpression.condition(depth >= block, 1, 0))
        self.of_arch = (link,)  # a tuple, so that torch finds the link in `repeat` alone

    def forward(self, state: State) -> State:
        """Return the next state: the same where the link is absent."""
        after: State = self.repeat(state)
        return after

    def is_absent(self, arch: Arch) -> bool:
        """Return whether an arch lacks the link."""
        return bool(self.depth.at(arch) < self.block)

    def key(self, arch: Arch) -> Hashable:
        """Return the width after the link, or None if it is absent."""
        return None if self.is_absent(arch) else self.of_arch[0].key(arch)

    def cost(self, arch: Arch, side: int) -> tuple[Cost, int]:
        """Return the cost, and the side of the output."""
        return (Cost(0, 0), side) if self.is_absent(arch) else self.of_arch[0].cost(arch, side)


def _after_addition(activation: Activation) -> nn.Module | None:
    """Return what follows the addition of a block; None is ReLU."""
    if activation == "relu":
        return None
    return nn.PReLU() if activation == "prelu" else nn.Mish()


def _check_words(shortcut: str, domain: str, activation: str) -> None:
    for name, word, allowed in (
        ("shortcut", shortcut, get_args(ShortcutRule)),
        ("domain", domain, get_args(DomainName)),
        ("activation", activation, get_args(Activation)),
    ):
        if word not in allowed:
            raise ValueError(f"{name} is {word!r}; ResNet48Space allows {', '.join(map(repr, allowed))}")
    if domain == "nominal" and shortcut != "standalone":
        raise ValueError(
            "domain 'nominal' has widths that differ within a stage, where identities do not fit; use "
            "shortcut='standalone', or domain 'released' or 'demo'"
        )
