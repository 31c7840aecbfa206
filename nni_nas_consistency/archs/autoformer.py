"""AutoFormer (Chen et al., 2021): vision transformers with searchable embedding, depth, heads and MLP ratios.

The choices of its search spaces, the subnets that were published, and what an arch costs, as values without torch;
`spaces/autoformer.py` makes NNI's hub space of them. A block that an arch lacks has the first choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from nni_nas_consistency.archs.arch import Arch, Choice
from nni_nas_consistency.archs.codecs import SampleCodec
from nni_nas_consistency.archs.cost import Cost, linear_cost
from nni_nas_consistency.archs.domains import Domain, Variable

HEAD_DIM = 64
"""Width of a head: queries, keys and values are so many times the number of heads wide, whatever the embedding."""


@dataclass(frozen=True)
class AutoFormerChoices:
    """The choices of one AutoFormer search space; heads and MLP ratio are chosen per block.

    Args:
        space: Its name.
        embed_dim: Embedding widths, smallest first.
        depth: Numbers of blocks, smallest first.
        num_heads: Numbers of heads, smallest first.
        mlp_ratio: Hidden width of a block's MLP over the embedding, smallest first.
    """

    space: str
    embed_dim: tuple[int, ...]
    depth: tuple[int, ...]
    num_heads: tuple[int, ...]
    mlp_ratio: tuple[float, ...] = (3.0, 3.5, 4.0)

    @cached_property
    def codec(self) -> SampleCodec:
        """How its archs are written: the JSON of NNI's sample."""
        blocks = range(max(self.depth))
        allowed: dict[str, tuple[Choice, ...]] = {"embed_dim": self.embed_dim, "depth": self.depth}
        allowed |= {f"num_head_{block}": self.num_heads for block in blocks}
        allowed |= {f"mlp_ratio_{block}": self.mlp_ratio for block in blocks}
        deeper: dict[int, tuple[Choice, ...]] = {
            block: tuple(depth for depth in self.depth if depth > block) for block in blocks
        }
        needs: dict[str, tuple[str, tuple[Choice, ...]]] = {
            f"{choice}_{block}": ("depth", deeper[block])
            for block in blocks
            for choice in ("num_head", "mlp_ratio")
            if deeper[block] != self.depth
        }
        return SampleCodec(self.space, allowed, needs)

    @cached_property
    def domain(self) -> Domain:
        """What is drawn: every choice by itself."""
        allowed = self.codec.allowed
        variables = tuple(Variable(label, choices, (label,)) for label, choices in allowed.items())
        largest = self.codec.arch({label: choices[-1] for label, choices in allowed.items()})
        smallest = self.codec.arch({label: choices[0] for label, choices in allowed.items()})
        return Domain(self.codec, variables, largest, smallest)

    def arch(self, embed_dim: int, num_heads: Sequence[int], mlp_ratio: Sequence[float]) -> Arch:
        """Return an arch from its embedding width, and the heads and the MLP ratio of each of its blocks.

        Raises:
            ArchError: A choice is not allowed.
        """
        blocks = {f"num_head_{block}": heads for block, heads in enumerate(num_heads)}
        ratios = {f"mlp_ratio_{block}": float(ratio) for block, ratio in enumerate(mlp_ratio)}
        return self.codec.arch({"embed_dim": embed_dim, "depth": len(num_heads), **blocks, **ratios})


TINY = AutoFormerChoices("autoformer-tiny", (192, 216, 240), (12, 13, 14), (3, 4))
SMALL = AutoFormerChoices("autoformer-small", (320, 384, 448), (12, 13, 14), (5, 6, 7))
BASE = AutoFormerChoices("autoformer-base", (528, 576, 624), (14, 15, 16), (8, 9, 10))
TOY = AutoFormerChoices("autoformer-digits", (16, 24, 32), (2, 3, 4), (1, 2), (1.0, 2.0, 4.0))
"""Ours, for small images."""

TINY_SUBNET = TINY.arch(
    192,
    (3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 3, 3),
    (3.5, 3.5, 3, 3.5, 3, 3, 4, 4, 3.5, 4, 3.5, 4, 3.5),
)
SMALL_SUBNET = SMALL.arch(
    384,
    (6, 6, 5, 7, 5, 5, 5, 6, 6, 7, 7, 6, 7),
    (3, 3.5, 3, 3.5, 4, 4, 4, 4, 4, 4, 4, 3.5, 4),
)
BASE_SUBNET = BASE.arch(
    576,
    (9, 9, 9, 9, 9, 10, 9, 9, 10, 9, 10, 9, 9, 10),
    (3.5, 3.5, 4, 3.5, 4, 3.5, 3.5, 3, 4, 4, 3, 4, 3, 3.5),
)
"""The subnets that were found by the paper's evolution; published top-1 75.31, 81.67 and 82.39 % on ImageNet."""


def patch_size_of(side: int) -> int:
    """Return the side of a patch for images of this side, in pixels: 16 as published, less for small images."""
    if side >= 64:
        return 16
    return 4 if side >= 32 else 2


def autoformer_cost(arch: Arch, shape: tuple[int, int, int]) -> Cost:
    """Return the parameters of an arch, and its MACs for one image: those of all matrix products.

    Attention has four products of patches times patches besides the linear layers: queries by keys, attention by
    values, and both with the relative positions.

    Args:
        arch: The arch.
        shape: Classes, channels and side of the images.
    """
    classes, channels, side = shape
    width, depth = _number(arch, "embed_dim"), int(_number(arch, "depth"))
    patch = patch_size_of(side)
    grid = side // patch
    tokens = grid * grid + 1
    embedding = Cost(
        (channels * patch * patch + 1) * int(width) + (1 + tokens) * int(width),
        grid * grid * channels * patch * patch * int(width),
    )
    total = embedding + Cost(2 * int(width), 0) + linear_cost(int(width), classes)
    for block in range(depth):
        heads, ratio = int(_number(arch, f"num_head_{block}")), _number(arch, f"mlp_ratio_{block}")
        total += _block_cost(int(width), heads, int(width * ratio), tokens, grid)
    return total


def _block_cost(width: int, heads: int, hidden: int, tokens: int, grid: int) -> Cost:
    inner = HEAD_DIM * heads
    weights = 4 * width * inner + 2 * width * hidden
    biases = 3 * inner + width + hidden + width
    norms = 2 * 2 * width
    positions = 4 * (2 * grid + 2) * HEAD_DIM
    return Cost(weights + biases + norms + positions, tokens * weights + 4 * tokens * tokens * inner)


def _number(arch: Arch, label: str) -> float:
    choice = arch.choices[label]
    assert isinstance(choice, (int, float))
    return choice
