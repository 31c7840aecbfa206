"""Supernets of chain spaces to score with; one more toy chain, of what makes sharing prefixes hard."""

import random
from dataclasses import dataclass

import torch
from helpers import randomize
from nni.nas.nn.pytorch import LayerChoice, MutableLinear
from torch import nn

from nni_nas_consistency.archs.codecs import SampleCodec
from nni_nas_consistency.archs.domains import Domain, Variable
from nni_nas_consistency.scoring.prefix import shares_prefixes
from nni_nas_consistency.scoring.scoring import Scoring
from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.supernet.active import logits_of
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.supernet.modules import ConvBN
from spaces import EVERY_SPACE, SpaceCase, images

BN = ("supernet", "train", "test", "batch")
WIDTHS = (2, 4, 6)
ALLOWED = {
    "width": WIDTHS,
    "operator": ("conv3", "conv1", "pool"),
    "there1": ("no", "yes"),
    "hidden1": WIDTHS,
    "there2": ("no", "yes"),
    "hidden2": WIDTHS,
    "tail": (0, 1, 2),
}


class MixedLinksChain(ChainSpace):
    """An operator, two residual blocks that may be absent, and outputs whose narrower ones are trailing channels."""

    def __init__(self):
        variables = tuple(Variable(label, choices, (label,)) for label, choices in ALLOWED.items())
        super().__init__(Domain(SampleCodec("mixed-links", ALLOWED), variables), 8)
        width = self.choice("width")
        links = [Widening(3, width), Operator(width)]
        for index in (1, 2):
            hidden = self.choice(f"hidden{index}")
            links.append(Optional(index, Entry(width, hidden), nested=True))
            links.append(Optional(index, Exit(hidden, width), nested=False))
        self.links = nn.ModuleList([*links, Trailing(width), Classifier(self.choice("tail") * 2 + 2)])


class Widening(nn.Module):
    """A nested link: convolution, batch norm, ReLU."""

    nested = True

    def __init__(self, channels, width):
        super().__init__()
        self.conv = ConvBN(channels, width, 3)

    def forward(self, x):
        return torch.relu(self.conv(x))

    def key(self, arch):
        return arch.choices["width"]


class Operator(nn.Module):
    """A link whose keys are texts and tuples, which cannot be compared with each other."""

    nested = False

    def __init__(self, width):
        super().__init__()
        operators = {
            "conv3": nn.Sequential(ConvBN(width, width, 3), nn.ReLU()),
            "conv1": nn.Sequential(ConvBN(width, width, 1), nn.ReLU()),
            "pool": nn.MaxPool2d(3, 1, 1),
        }
        self.operator = LayerChoice(operators, label="operator")

    def forward(self, x):
        return self.operator(x)

    def key(self, arch):
        name = arch.choices["operator"]
        return name if name == "pool" else ("conv", int(name[-1]))


class Entry(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.conv1 = ConvBN(width, hidden, 3)

    def forward(self, x):
        return torch.relu(self.conv1(x)), x


class Exit(nn.Module):
    def __init__(self, hidden, width):
        super().__init__()
        self.conv2 = ConvBN(hidden, width, 3)

    def forward(self, state):
        x, block_input = state
        return torch.relu(self.conv2(x) + block_input)


class Optional(nn.Module):
    """A link that some archs lack; the key of a nested one is the width inside the block."""

    def __init__(self, index, half_block, *, nested):
        super().__init__()
        self.there, self.hidden, self.nested = f"there{index}", f"hidden{index}", nested
        self.choice = LayerChoice({"no": nn.Identity(), "yes": half_block}, label=self.there)

    def forward(self, state):
        return self.choice(state)

    def key(self, arch):
        if arch.choices[self.there] == "no":
            return None
        return arch.choices[self.hidden] if self.nested else "exit"


class Last(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, x):
        return x[:, -self.channels :]


class Trailing(nn.Module):
    """A link whose narrower outputs are the trailing channels of wider ones, so that it is not nested."""

    nested = False

    def __init__(self, width):
        super().__init__()
        self.conv = ConvBN(width, 6, 3)
        self.last = LayerChoice([Last(2), Last(4), Last(6)], label="tail")

    def forward(self, x):
        return self.last(torch.relu(self.conv(x)))

    def key(self, arch):
        return 2 * arch.choices["tail"] + 2


class Classifier(nn.Module):
    nested = False

    def __init__(self, width):
        super().__init__()
        self.linear = MutableLinear(width, 10)

    def forward(self, x):
        return self.linear(x.mean((2, 3)))

    def key(self, arch):
        return ()


MIXED_LINKS = SpaceCase("chain-mixed-links", MixedLinksChain, images(8), is_chain=True)
SHARED = [case for case in EVERY_SPACE if case.is_chain and shares_prefixes(make_supernet(case.make()))]
CHAINS = [*SHARED, MIXED_LINKS]
"""Every chain space that the prefix scorer can score."""
OTHERS = [case for case in EVERY_SPACE if case not in SHARED]
"""Every space that gets the plain scorer."""


def case_of(name):
    return next(case for case in [*EVERY_SPACE, MIXED_LINKS] if case.name == name)


@dataclass(frozen=True)
class Setting:
    """A supernet to score with, and batches of images."""

    supernet: ChainSpace
    test: list
    train: list

    def scoring(self, metric="loss", bn="batch"):
        return Scoring(metric, bn, lambda: iter(self.test), lambda: iter(self.train))


def setting(case, dtype=torch.float64, sizes=(8, 8, 5), seed=0):
    """Return a random supernet of a chain space, whose archs predict different classes, and random images."""
    supernet = make_supernet(case.make()).double()
    randomize(supernet, seed)
    shape = case.images().shape[1:]
    test, train = random_batches(shape, sizes, seed=1), random_batches(shape, (6, 6, 3), seed=2)
    classifier = list(supernet.modules())[-1]
    if classifier.bias is not None:
        with torch.no_grad():
            logits = [logits_of(supernet, test[0][0], arch) for arch in archs_of(supernet.domain, 5)]
            classifier.bias -= torch.cat(logits).mean(0)
    return Setting(supernet.to(dtype), in_type(test, dtype), in_type(train, dtype))


def random_batches(shape, sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, *shape, generator=generator, dtype=torch.float64),
            torch.randint(10, (size,), generator=generator),
        )
        for size in sizes
    ]


def in_type(batches, dtype):
    return [(images.to(dtype), labels) for images, labels in batches]


def archs_of(domain, n=20, seed=3):
    """Return archs that share prefixes of many lengths with one of them, and a few that do not."""
    dice = random.Random(seed)
    base = draw(domain, dice)
    related = [draw(domain, dice, base, kept=i % len(domain.variables)) for i in range(n - 4)]
    strangers = [draw(domain, dice) for _ in range(3)]
    return [domain.arch(picks) for picks in (*related, base, *strangers)]


def draw(domain, dice, base=None, kept=0):
    """Return random picks, of which the first few are those of other picks."""
    picks = {}
    for position, variable in enumerate(domain.variables):
        if variable.exists(picks):
            alike = base is not None and position < kept and variable.name in base
            picks[variable.name] = base[variable.name] if alike else dice.choice(variable.choices)
    return picks
