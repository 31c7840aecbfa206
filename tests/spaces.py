"""Every kind of space at toy size: the equality tests run over `EVERY_SPACE`, which a new space joins by one line."""

from collections.abc import Callable
from dataclasses import dataclass

import nni
import torch
from chains import (
    AbsentLinksChain,
    DepthChain,
    DescendingChain,
    ExpressionChain,
    InputChain,
    MixedChain,
    NormChain,
    OperatorChain,
    TokenChain,
    UnnormalisedChain,
)
from nni.mutable import ExpressionConstraint
from nni.nas.hub.pytorch import AutoFormer, MobileNetV3Space, NasBench201, ProxylessNAS, ShuffleNetSpace
from nni.nas.nn.pytorch import (
    Cell,
    InputChoice,
    LayerChoice,
    ModelSpace,
    MutableBatchNorm2d,
    MutableConv2d,
    MutableLayerNorm,
    MutableLinear,
    MutableMultiheadAttention,
    Repeat,
)
from torch import nn

from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.spaces.resnet48 import ResNet48Space
from nni_nas_consistency.spaces.spos_cifar import SposCifarSpace


@dataclass(frozen=True)
class SpaceCase:
    """A space to test with: what makes it, and images [B, 3, H, W] in float64 for it."""

    name: str
    make: Callable[[], ModelSpace]
    images: Callable[[], torch.Tensor]
    num_classes: int = 10
    is_chain: bool = False
    has_largest: bool = False

    def __str__(self):
        return self.name


def images(size, count=4):
    return lambda: torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def chain(name, make, *, has_largest=False):
    return SpaceCase(name, make, images(8, 5), is_chain=True, has_largest=has_largest)


def small_mobilenet():
    return MobileNetV3Space(
        num_labels=10,
        base_widths=(16, 16, 16, 16, 32, 32),
        width_multipliers=(0.5, 1.0),
        expand_ratios=(1.0, 2.0),
        squeeze_excite=("none", "optional", "force"),
        depth_range=(1, 2),
        stride=(2, 1, 2, 2, 1, 1),
        activation=("hswish", "relu", "relu", "hswish", "hswish", "hswish"),
    )


def small_autoformer():
    return AutoFormer((16, 24), (1.0, 2.0), (1, 2), (1, 2, 3), img_size=32, patch_size=8, num_labels=10)


def small_resnet48():
    return ResNet48Space(10, 3, 32, width_divisor=8)


class Operators(ModelSpace):
    """Operator and input choices, alone and summed or concatenated; layers that cannot vary beside them."""

    def __init__(self):
        super().__init__()
        self.stem = MutableConv2d(3, 6, 3, stride=2, bias=False)
        self.norm = MutableBatchNorm2d(6, affine=False, eps=nni.choice("eps", [1e-1, 1e-5]))
        self.operator = LayerChoice(
            {"conv": nn.Conv2d(6, 6, 3, padding=1), "pool": nn.MaxPool2d(3, 1, 1), "skip": nn.Identity()}, label="op"
        )
        self.listed = LayerChoice([nn.ReLU(), nn.Sequential(nn.Conv2d(6, 6, 1), nn.GELU())], label="listed")
        self.summed = InputChoice(3, n_chosen=2, reduction="sum", label="summed")
        self.joined = InputChoice(3, n_chosen=2, reduction="concat", label="joined")
        self.head = nn.Linear(18, 10)

    def forward(self, x):
        x = self.norm(self.stem(x))
        y = self.operator(x)
        z = self.listed(y)
        features = torch.cat([self.summed([x, y, z]), self.joined([x, y, z])], 1)
        return self.head(features.mean((2, 3)))


class Kernels(ModelSpace):
    """Kernel sizes, widths, expressions of both, depthwise and grouped convs, a width given as a choice of a tuple."""

    def __init__(self):
        super().__init__()
        width, ratio = nni.choice("width", [4, 8]), nni.choice("ratio", [1, 2])
        kernel, size = nni.choice("kernel", [3, 5, 7]), nni.choice("size", [(1, 1), (3, 3)])
        hidden = width * ratio
        self.stem = MutableConv2d(3, width, kernel, stride=2, padding=kernel // 2)
        self.expand = MutableConv2d(width, hidden, size, bias=False)
        self.norm = MutableBatchNorm2d(hidden, eps=1e-2, momentum=0.3)
        self.depthwise = MutableConv2d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden, bias=False)
        self.grouped = MutableConv2d(hidden, width + 4, 1, groups=2)
        self.last_norm = MutableBatchNorm2d(width + 4, track_running_stats=False)
        self.head = MutableLinear(width + 4, 10, bias=False)

    def largest_sample(self):
        return {"width": 8, "ratio": 2, "kernel": 7, "size": (3, 3)}

    def smallest_sample(self):
        return {"width": 4, "ratio": 1, "kernel": 3, "size": (1, 1)}

    def forward(self, x):
        x = self.norm(self.expand(self.stem(x)))
        x = self.last_norm(self.grouped(torch.relu(self.depthwise(x))))
        return self.head(x.mean((2, 3)))


class Depths(ModelSpace):
    """Depths, also as an expression, of blocks whose choices are their own."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2)
        self.blocks = Repeat(self._block, depth=(1, 3), label="depth")
        self.doubled = Repeat(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), depth=nni.choice("half", [1, 2]) * 2)
        self.head = nn.Linear(4, 10)

    def _block(self, index):
        hidden = nni.choice(f"hidden{index}", [2, 4, 6])
        layers = (MutableConv2d(4, hidden, 3, padding=1), MutableBatchNorm2d(hidden), nn.ReLU())
        return nn.Sequential(*layers, MutableConv2d(hidden, 4, 1))

    def largest_sample(self):
        return {"depth": 3, "half": 2} | {f"hidden{index}": 6 for index in range(3)}

    def smallest_sample(self):
        return {"depth": 1, "half": 1} | {f"hidden{index}": 2 for index in range(3)}

    def forward(self, x):
        return self.head(self.doubled(self.blocks(self.stem(x))).mean((2, 3)))


class Nested(ModelSpace):
    """An operator choice with depths, operators and widths inside, one label in several places."""

    def __init__(self):
        super().__init__()
        width = nni.choice("width", [2, 6])
        self.stem = nn.Conv2d(3, 6, 3, stride=2)
        inner = LayerChoice({"conv": nn.Conv2d(6, 6, 3, padding=1), "skip": nn.Identity()}, label="inner")
        narrow = nn.Sequential(MutableConv2d(6, width, 1), MutableBatchNorm2d(width), MutableConv2d(width, 6, 1))
        self.outer = LayerChoice({"deep": Repeat(inner, (1, 2), label="depth"), "narrow": narrow}, label="outer")
        self.again = LayerChoice({"deep": nn.Conv2d(6, 6, 1), "narrow": nn.ReLU()}, label="outer")
        self.head = nn.Linear(6, 10)

    def forward(self, x):
        return self.head(self.again(self.outer(self.stem(x))).mean((2, 3)))


class Tokens(ModelSpace):
    """Attention with choices of dimension and heads, layer norm, linear layers with an expression of choices."""

    def __init__(self):
        super().__init__()
        dimension, heads = nni.choice("dimension", [8, 16]), nni.choice("heads", [2, 4])
        ratio = nni.choice("ratio", [0.5, 2.0])
        hidden = nni.mutable.MutableExpression.to_int(dimension * ratio)
        self.patches = MutableConv2d(3, dimension, 4, stride=4)
        self.attention = MutableMultiheadAttention(dimension, heads, batch_first=True)
        self.norm = MutableLayerNorm(dimension, eps=1e-2)
        self.expand = MutableLinear(dimension, hidden)
        self.scaled = MutableLayerNorm(hidden, elementwise_affine=False)
        self.reduce = MutableLinear(hidden, dimension, bias=False)
        self.head = MutableLinear(dimension, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.attention(x, x, x)[0]
        x = x + self.reduce(torch.relu(self.scaled(self.expand(self.norm(x)))))
        return self.head(x.mean(1))


class Cells(ModelSpace):
    """A cell whose nodes are all put out."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2)
        operators = {"conv": nn.Conv2d(4, 4, 3, padding=1), "pool": nn.AvgPool2d(3, 1, 1), "skip": nn.Identity()}
        self.cell = Cell(operators, num_nodes=2, num_ops_per_node=2, num_predecessors=1, label="cell")
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.cell(self.stem(x)).mean((2, 3)))


class Constrained(ModelSpace):
    """Two widths that may not both be large."""

    def __init__(self):
        super().__init__()
        first, second = nni.choice("first", [2, 4, 8]), nni.choice("second", [2, 4, 8])
        self.add_mutable(ExpressionConstraint(first + second <= 10, label="budget"))
        self.conv = MutableConv2d(3, first, 3)
        self.last = MutableConv2d(first, second, 3)
        self.head = MutableLinear(second, 10)

    def forward(self, x):
        return self.head(self.last(torch.relu(self.conv(x))).mean((2, 3)))


EVERY_SPACE = [
    SpaceCase("mobilenetv3", small_mobilenet, images(32), has_largest=True),
    SpaceCase("proxylessnas", lambda: ProxylessNAS(num_labels=10, base_widths=(8,) * 9), images(32)),
    SpaceCase("shufflenet", lambda: ShuffleNetSpace(num_labels=10), images(48, 1)),
    SpaceCase("shufflenet-channels", lambda: ShuffleNetSpace(num_labels=10, channel_search=True), images(48, 1)),
    SpaceCase("autoformer", small_autoformer, images(32), has_largest=True),
    SpaceCase("nasbench201", lambda: NasBench201(4, 1, 10), images(16)),
    SpaceCase("operators", Operators, images(16)),
    SpaceCase("kernels", Kernels, images(16), has_largest=True),
    SpaceCase("depths", Depths, images(16), has_largest=True),
    SpaceCase("nested", Nested, images(16)),
    SpaceCase("tokens", Tokens, images(16)),
    SpaceCase("cells", Cells, images(16)),
    SpaceCase("constrained", Constrained, images(16)),
    chain("chain-resnet20", lambda: ResNet20Space(10, 3, 8, "projection", 1), has_largest=True),
    chain("chain-resnet20-standalone", lambda: ResNet20Space(10, 3, 8, "standalone", 1), has_largest=True),
    chain("chain-spos-cifar", lambda: SposCifarSpace(10, 3, 8, 3, 4, 5, 6)),
    chain("chain-spos-cifar-blocks", lambda: SposCifarSpace(10, 3, 8, 3, 4, 5, 6, "blocks")),
    SpaceCase("chain-resnet48", small_resnet48, images(32, 5), is_chain=True, has_largest=True),
    chain("chain-operators", OperatorChain),
    chain("chain-inputs", lambda: InputChain("mean")),
    chain("chain-inputs-joined", lambda: InputChain("concat")),
    chain("chain-depths", DepthChain),
    chain("chain-absent-links", AbsentLinksChain, has_largest=True),
    chain("chain-expressions", ExpressionChain, has_largest=True),
    chain("chain-unnormalised", UnnormalisedChain, has_largest=True),
    chain("chain-tokens", TokenChain),
    chain("chain-norms", NormChain, has_largest=True),
    chain("chain-descending", DescendingChain, has_largest=True),
    chain("chain-mixed", MixedChain),
]
"""All spaces; a test that serves some of them filters by a field."""
