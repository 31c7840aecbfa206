"""How the archs of a supernet share weights: by one kernel for all pairs of widths, or by several.

A layer from `width_in` to `width_out` channels uses the leading rows and columns of a kernel. A rule says which pairs
of widths have a kernel in common; `full` is the sharing of Slimmable Neural Networks (Yu et al. 2019). The rules are
those of the ablation of third place, CVPR 2021 NAS track 1. This file knows neither torch nor NNI.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeAlias, cast, get_args

from nni_nas_consistency.errors import CheckpointError, InputError
from nni_nas_consistency.files.checkpoint_header import read_checkpoint_header

Word = Literal["full", "front", "end", "independent"]
WORDS: tuple[Word, ...] = get_args(Word)
LINEAR_WORDS: tuple[Word, ...] = ("full", "independent")

Pair: TypeAlias = "tuple[int, int]"
"""Input and output channels."""

FORM = "conv=RULE,bn=RULE,fc=RULE, such as conv=end,bn=end, or conv=end:4 for groups of 4 neighbouring widths"


@dataclass(frozen=True)
class Rule:
    """Which pairs of widths have a kernel in common.

    Args:
        word: `full`: all. `front`: those of one input width. `end`: those of one output width. `independent`: none.
        group: How many neighbouring widths count as one, from the smallest width on.
    """

    word: Word
    group: int = 1

    @staticmethod
    @lru_cache
    def of(text: str) -> Rule:
        """Return the rule of a text like `end` or `end:4`.

        Raises:
            ValueError: The text is no rule.
        """
        match = re.fullmatch(r"(front|end|independent)(?::([1-9]\d{0,4}))?|full", text, re.ASCII)
        if match is None or match[2] == "1":
            raise ValueError(text)
        return Rule(cast("Word", match[1] or "full"), int(match[2] or 1))

    @property
    def by_input(self) -> bool:
        """Whether input widths have kernels of their own."""
        return self.word in ("front", "independent")

    @property
    def by_output(self) -> bool:
        """Whether output widths have kernels of their own."""
        return self.word in ("end", "independent")

    def refines(self, other: Rule) -> bool:
        """Return whether pairs that have a kernel in common have one in common by the other rule too."""
        if other.word == "full":
            return True
        return self.word in (other.word, "independent") and other.group % self.group == 0


@dataclass(frozen=True)
class Sharing:
    """How archs share the weights of convolutions, batch norms and linear layers.

    `full`: one kernel, of which every arch has the leading rows and columns. `front`: one kernel for each input width,
    with as many rows as any arch needs. `end`: one kernel for each output width, with as many columns as any arch
    needs. `independent`: one kernel for each pair of input and output width. `end:4`: one kernel for 4 neighbouring
    widths, of the size that the largest of them needs; likewise `front:4` and `independent:4`.

    Args:
        conv: Rule of convolutions.
        bn: Rule of batch norms; the input width is that of the convolution before.
        fc: Rule of linear layers, `full` or `independent`.

    Raises:
        InputError: A rule does not exist.
    """

    conv: str = "full"
    bn: str = "full"
    fc: str = "full"

    def __post_init__(self) -> None:
        for name, text in asdict(self).items():
            words = LINEAR_WORDS if name == "fc" else WORDS
            try:
                allowed = Rule.of(text).word in words
            except ValueError:
                allowed = False
            if not allowed:
                groups = ", ".join(f"{word}:N" for word in words if word != "full")
                raise InputError(
                    f"sharing {name}={text}: there is no such rule; allowed are {', '.join(words)}, and {groups} for "
                    "groups of N neighbouring widths, N at least 2"
                )

    def __str__(self) -> str:
        return ",".join(f"{name}={rule}" for name, rule in asdict(self).items())

    @classmethod
    def parse(cls, text: str) -> Sharing:
        """Return the sharing of a text like `conv=end,bn=end:4`; what is not named is `full`.

        Raises:
            InputError: The text is not of that form, or a rule does not exist.
        """
        rules: dict[str, str] = {}
        for part in text.split(","):
            name, _, rule = part.strip().partition("=")
            if name not in ("conv", "bn", "fc") or name in rules or not rule:
                raise InputError(f"sharing {text!r} cannot be read; give {FORM}")
            rules[name] = rule
        return cls(**rules)

    def refines(self, other: Sharing) -> bool:
        """Return whether weights shared by the other can be split into these without changing any arch."""
        pairs = ((self.conv, other.conv), (self.bn, other.bn), (self.fc, other.fc))
        return all(Rule.of(own).refines(Rule.of(others)) for own, others in pairs)


FULL = Sharing()


def sharing_of_checkpoint(path: Path) -> Sharing:
    """Return how the archs of a checkpoint's supernet share weights, by its header alone.

    Args:
        path: The file; or the name of a supernet that comes with the package, such as `resnet20-cifar100`.

    Raises:
        CheckpointError: There is no such file, it is not a supernet checkpoint, or its sharing is not known here.
    """
    text = read_checkpoint_header(path).sharing
    try:
        return FULL if text is None else Sharing.parse(text)
    except InputError as error:
        raise CheckpointError(f"{path}: {error}; use the version that it was trained with") from error


def coarser(what: str, sharing: Sharing) -> str:
    """Return why weights cannot be shared more coarsely than they are."""
    return (
        f"{what} cannot start one of {sharing}: kernels that differ would have to become one, and archs would change; "
        "give a sharing that only splits kernels (full → end:8 → end:4 → end → independent), or leave it out"
    )


@dataclass(frozen=True)
class Bank:
    """Which of the kernels of a layer serves which pair of widths.

    Args:
        keys: The name of the kernel of each pair, such as `in8_out16`: the largest widths that it is for.
        nested: Whether narrower outputs are leading channels of wider ones, computed from the same input.
    """

    keys: Mapping[Pair, str]
    nested: bool

    @classmethod
    def of(cls, rule: Rule, pairs: Iterable[Pair], *, tied: bool = False) -> Bank:
        """Return the bank of a layer.

        Args:
            rule: Which pairs have a kernel in common.
            pairs: The pairs of input and output width that some arch has.
            tied: Whether one choice decides both widths, as in a depthwise convolution: then no output is a part of a
                wider one that the same input gives, unless all have one kernel.
        """
        pairs = sorted(pairs)
        group_in, group_out = (_groups(widths, rule.group) for widths in zip(*pairs, strict=True))
        keys = {}
        for pair in pairs:
            by_input = [f"in{group_in[pair[0]]}"] if rule.by_input else []
            by_output = [f"out{group_out[pair[1]]}"] if rule.by_output else []
            keys[pair] = "_".join(by_input + by_output)
        one_kernel = len(set(keys.values())) == 1
        return cls(keys, one_kernel or not (rule.by_output or tied))

    @property
    def sizes(self) -> dict[str, Pair]:
        """The input and output channels of each kernel: the largest of those pairs that it serves."""
        sizes: dict[str, Pair] = {}
        for (width_in, width_out), key in self.keys.items():
            size_in, size_out = sizes.get(key, (0, 0))
            sizes[key] = max(size_in, width_in), max(size_out, width_out)
        return sizes


def _groups(widths: Iterable[int], size: int) -> dict[int, int]:
    """Return the group of each width, named by its largest; neighbours share one, from the smallest width on."""
    ordered = sorted(set(widths))
    groups: dict[int, int] = {}
    for first in range(0, len(ordered), size):
        group = ordered[first : first + size]
        groups |= dict.fromkeys(group, group[-1])
    return groups
