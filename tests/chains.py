"""Chain spaces at toy size, for 3×8×8 images and 10 classes: one for each thing that elastic modules can do."""

import random

import torch.nn.functional as F
from nni.mutable import MutableExpression
from nni.nas.nn.pytorch import (
    InputChoice,
    LayerChoice,
    MutableBatchNorm2d,
    MutableConv2d,
    MutableLayerNorm,
    MutableLinear,
    Repeat,
)
from torch import nn

from nni_nas_consistency.archs.codecs import SampleCodec, WidthCodec
from nni_nas_consistency.archs.domains import Domain, Variable, widths_domain
from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.spaces.resnet20 import Head, Stem
from nni_nas_consistency.supernet.active import Resolved
from nni_nas_consistency.supernet.modules import ConvBN


def domain(space, choices, largest=None, smallest=None):
    """Return a domain of independent labels; codes are the JSON of samples."""
    codec = SampleCodec(space, choices)
    variables = tuple(Variable(label, values, (label,)) for label, values in choices.items())
    return Domain(codec, variables, largest and codec.arch(largest), smallest and codec.arch(smallest))


def covering_archs(domain, seed=0):
    """Return archs in which every choice of every variable occurs."""
    dice = random.Random(seed)
    columns = {variable.name: dice.sample(variable.choices, len(variable.choices)) for variable in domain.variables}
    count = max(map(len, columns.values()))
    return [domain.arch({name: column[i % len(column)] for name, column in columns.items()}) for i in range(count)]


def stackable_archs(space, base, seed=0):
    """Return archs that share all modules with one of them and differ from it in as many widths as can be."""
    widths = []
    for variable in space.domain.variables:
        others = [space.domain.arch({**base.choices, variable.name: choice}) for choice in variable.choices]
        if space.can_stack([base, *others]):
            widths.append(variable.name)
    archs = covering_archs(space.domain, seed)
    mixed = [space.domain.arch({**base.choices, **{name: arch.choices[name] for name in widths}}) for arch in archs]
    return [arch for arch in mixed if space.can_stack([base, arch])]


class Part(nn.Module):
    """A link that is a module; its output depends on the choices of some labels and on its input."""

    nested = False

    def __init__(self, module, *labels):
        super().__init__()
        self.module, self.labels = module, labels

    def forward(self, x):
        return self.module(x)

    def key(self, arch):
        return tuple(arch.choices[label] for label in self.labels)


class Widening(Part):
    """A link that is a module whose leading channels do not depend on how many there are."""

    nested = True

    def __init__(self, module, width):
        super().__init__(module)
        self.width = Resolved(width)

    def key(self, arch):
        return self.width.at(arch)


def conv_relu(channels_in, channels_out, size=3):
    return nn.Sequential(ConvBN(channels_in, channels_out, size), nn.ReLU(inplace=True))


class OperatorChain(ChainSpace):
    """Operators: convs of two kernels, pooling, identity; candidates by name and in a list."""

    def __init__(self):
        super().__init__(domain("operators", {"op": ("conv3", "conv5", "pool", "skip"), "last": (0, 1)}), 8)
        operators = {
            "conv3": conv_relu(6, 6),
            "conv5": ConvBN(6, 6, 5),
            "pool": nn.MaxPool2d(3, stride=1, padding=1),
            "skip": nn.Identity(),
        }
        last = [nn.Sequential(nn.ReLU(), nn.Conv2d(6, 6, 1), nn.Tanh()), nn.Sequential(nn.ReLU(), ConvBN(6, 6, 1))]
        self.links = nn.ModuleList(
            [
                Stem(3, 6),
                Part(LayerChoice(operators, label="op"), "op"),
                Part(LayerChoice(last, label="last"), "last"),
                Head(6, 10),
            ]
        )


class Sources(nn.Module):
    """Three features of a width that is a choice."""

    nested = False

    def __init__(self, width):
        super().__init__()
        self.width = Resolved(width)
        self.first, self.second = ConvBN(3, width, 3), ConvBN(3, width, 1)

    def forward(self, images):
        first, second = F.relu(self.first(images)), F.relu(self.second(images))
        return first, second, first * second

    def key(self, arch):
        return self.width.at(arch)


class Chosen(nn.Module):
    """Some of the features that come in, reduced to one."""

    nested = False

    def __init__(self, n_chosen, reduction, label):
        super().__init__()
        self.choice, self.label = InputChoice(3, n_chosen, reduction, label=label), label

    def forward(self, state):
        return (*state, self.choice(list(state)))

    def key(self, arch):
        return arch.choices[self.label]


class Last(Head):
    """A classifier of the last of several features."""

    def forward(self, state):
        return super().forward(state[-1])


class InputChain(ChainSpace):
    """Choices of one input and of two, which are summed, averaged or concatenated."""

    def __init__(self, reduction):
        one, two = ((0,), (1,), (2,)), ((0, 1), (0, 2), (1, 2))
        super().__init__(domain(f"inputs-{reduction}", {"width": (2, 3, 5), "one": one, "two": two}), 8)
        width = self.choice("width")
        links = [Sources(width), Chosen(1, "sum", "one"), Chosen(2, reduction, "two")]
        self.links = nn.ModuleList([*links, Last(2 * width if reduction == "concat" else width, 10)])


class DepthChain(ChainSpace):
    """Depths: a choice, an expression, none at all, a constant; with operators and widths inside."""

    def __init__(self):
        choices = {
            "depth": (1, 2, 3),
            "tail": (0, 1, 2),
            "half": (1, 2),
            "hidden": (2, 4),
            "op0": (0, 1),
            "op1": (0, 1),
        }
        super().__init__(domain("depths", choices | {"op2": (0, 1)}), 8)
        hidden = self.choice("hidden")
        tail = Repeat(nn.Sequential(ConvBN(4, hidden, 1), ConvBN(hidden, 4, 1)), (0, 2), label="tail")
        self.links = nn.ModuleList(
            [
                Stem(3, 4),
                Part(Repeat(self._block, self.choice("depth")), "depth", "op0", "op1", "op2"),
                Part(tail, "tail", "hidden"),
                Part(Repeat(ConvBN(4, 4, 1), self.choice("half") * 2), "half"),
                Part(Repeat(conv_relu(4, 4), 2)),
                Head(4, 10),
            ]
        )

    def _block(self, index):
        return nn.Sequential(LayerChoice([conv_relu(4, 4), nn.Conv2d(4, 4, 1)], label=f"op{index}"), nn.ReLU())


class OptionalPart(Part):
    """A link that archs of less depth do not have."""

    def __init__(self, module, index, depth):
        super().__init__(Repeat(module, MutableExpression.condition(depth >= index, 1, 0)))
        self.index, self.depth = index, Resolved(depth)

    def key(self, arch):
        return () if self.depth.at(arch) >= self.index else None


class AbsentLinksChain(ChainSpace):
    """A depth that is the number of links; the width is one for all of them."""

    def __init__(self):
        extremes = {"largest": {"depth": 3, "width": 4}, "smallest": {"depth": 1, "width": 2}}
        super().__init__(domain("absent-links", {"depth": (1, 2, 3), "width": (2, 3, 4)}, **extremes), 8)
        depth, width = self.choice("depth"), self.choice("width")
        links = [OptionalPart(conv_relu(width, width), index, depth) for index in (2, 3)]
        self.links = nn.ModuleList([Stem(3, width), *links, Head(width, 10)])


class ExpressionChain(ChainSpace):
    """Inverted residuals: widths times ratios, depthwise convs, and outputs of a batch norm that nothing follows."""

    def __init__(self):
        choices = {"width": (2, 4), "ratio": (0.5, 1.5, 2.0), "out": (3, 5)}
        extremes = {"largest": {"width": 4, "ratio": 2.0, "out": 5}, "smallest": {"width": 2, "ratio": 0.5, "out": 3}}
        super().__init__(domain("expressions", choices, **extremes), 8)
        width, out = self.choice("width"), self.choice("out")
        hidden = MutableExpression.to_int(width * self.choice("ratio"))
        depthwise = ConvBN(hidden, hidden, 3, stride=2, groups=hidden)
        self.links = nn.ModuleList(
            [
                Stem(3, width),
                Widening(conv_relu(width, hidden, 1), hidden),
                Part(nn.Sequential(depthwise, nn.Hardswish(), ConvBN(hidden, out, 1)), "out"),
                Widening(ConvBN(out, width, 1), width),
                Part(nn.Sequential(MutableConv2d(width, width, 3, padding=1, groups=width), nn.MaxPool2d(2))),
                Head(width, 10),
            ]
        )


class UnnormalisedChain(ChainSpace):
    """Convs and linear layers with bias and without batch norm, inputs and outputs of choice."""

    def __init__(self):
        choices = {"width": (1, 3), "features": (2, 5), "hidden": (4, 7)}
        extremes = {
            "largest": {"width": 3, "features": 5, "hidden": 7},
            "smallest": {"width": 1, "features": 2, "hidden": 4},
        }
        super().__init__(domain("unnormalised", choices, **extremes), 8)
        width, features, hidden = (self.choice(label) for label in choices)
        self.links = nn.ModuleList(
            [
                Widening(MutableConv2d(3, width, 3, stride=2, padding=1), width),
                Part(nn.Sequential(nn.Tanh(), MutableConv2d(width, features, 2, stride=2), nn.ReLU()), "features"),
                Part(nn.Sequential(nn.Flatten(), MutableLinear(4 * features, hidden), nn.GELU()), "hidden"),
                Part(MutableLinear(hidden, 10, bias=False)),
            ]
        )


class Patches(nn.Module):
    """Images → tokens [B, T, dimension]."""

    nested = False

    def __init__(self, dimension):
        super().__init__()
        self.dimension = Resolved(dimension)
        self.conv = MutableConv2d(3, dimension, 4, stride=4)

    def forward(self, images):
        return self.conv(images).flatten(2).transpose(1, 2)

    def key(self, arch):
        return self.dimension.at(arch)


class Feedforward(Part):
    """Layer norm, two linear layers, and the input added."""

    def __init__(self, dimension, hidden, *labels):
        layers = (MutableLayerNorm(dimension, eps=1e-2), MutableLinear(dimension, hidden), nn.GELU())
        super().__init__(nn.Sequential(*layers, MutableLinear(hidden, dimension)), *labels)

    def forward(self, x):
        return x + self.module(x)


class OfTokens(Part):
    """The mean of all tokens, and a classifier."""

    def forward(self, x):
        return self.module(x.mean(1))


class TokenChain(ChainSpace):
    """Layer norms and linear layers of tokens."""

    def __init__(self):
        choices = {"dimension": (4, 6), "ratio": (1, 2), "last": (3, 5)}
        super().__init__(domain("tokens", choices), 8)
        dimension, ratio, last = (self.choice(label) for label in choices)
        norm = MutableLayerNorm(dimension, elementwise_affine=False)
        self.links = nn.ModuleList(
            [
                Patches(dimension),
                Feedforward(dimension, dimension * ratio, "ratio"),
                Feedforward(dimension, last, "last"),
                OfTokens(nn.Sequential(norm, MutableLinear(dimension, 10))),
            ]
        )


class NormChain(ChainSpace):
    """Batch norms of fixed width, without scale and shift, with settings of their own, apart from their conv."""

    def __init__(self):
        extremes = {"largest": {"width": 5}, "smallest": {"width": 2}}
        super().__init__(domain("norms", {"width": (2, 3, 5)}, **extremes), 8)
        width = self.choice("width")
        first = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, eps=1e-2, momentum=0.3), nn.ReLU())
        middle = (MutableConv2d(4, width, 3, bias=False), MutableBatchNorm2d(width, affine=False), nn.ReLU())
        last = (MutableConv2d(width, 4, 1), nn.BatchNorm2d(4, affine=False), nn.ReLU(), MutableBatchNorm2d(4))
        self.links = nn.ModuleList(
            [Part(first), Widening(nn.Sequential(*middle), width), Part(nn.Sequential(*last)), Head(4, 10)]
        )


class DescendingChain(ChainSpace):
    """Widths from the largest to the smallest: the first that NNI sees is the largest."""

    def __init__(self):
        super().__init__(widths_domain(WidthCodec("descending", ((6, 4, 2), (5, 3, 1)))), 8)
        first, second = self.choice("w1"), self.choice("w2")
        self.links = nn.ModuleList([Stem(3, first), Widening(conv_relu(first, second), second), Head(second, 10)])


class MixedChain(ChainSpace):
    """Kernel sizes and groups, which NNI's supernet modules serve, beside elastic layers."""

    def __init__(self):
        choices = {"width": (4, 6), "kernel": (1, 3), "size": ((1, 3), (3, 3))}
        super().__init__(domain("mixed", choices), 8)
        width, kernel = self.choice("width"), self.choice("kernel")
        self.links = nn.ModuleList(
            [
                Stem(3, width),
                Part(ConvBN(width, width, kernel), "kernel"),
                Part(nn.Sequential(MutableConv2d(width, 4, self.choice("size"), bias=False), nn.ReLU()), "size"),
                Part(MutableConv2d(4, 2 * width, 1, groups=2), "width"),
                Head(2 * width, 10),
            ]
        )
