"""An architecture is a value: parse, format and validate released codes.

An `Arch` holds the released text and the choices it stands for, one a layer. A form knows how one
search space writes its archs down. Nothing here knows torch, NNI or a file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Protocol

from nni_nas_consistency.errors import ArchError


@dataclass(frozen=True)
class Arch:
    """One architecture.

    Args:
        code: The released text, kept as it was read so that it can be written back.
        choices: What the code stands for, one integer a layer (widths, or depths and digits).
    """

    code: str
    choices: tuple[int, ...]


class ArchForm(Protocol):
    """How one search space writes its archs down."""

    @property
    def space(self) -> str:
        """The name of the search space, as messages and files give it."""

    @property
    def layers(self) -> tuple[tuple[int, ...], ...]:
        """The allowed choices of each layer, ascending."""

    def parse(self, code: str, name: str = "arch") -> Arch:
        """Return the arch that `code` stands for; raise `ArchError`, quoting `name`, if none."""

    def arch(self, choices: Sequence[int], name: str = "arch") -> Arch:
        """Return the arch with these choices; raise `ArchError`, quoting `name`, if not allowed."""


@dataclass(frozen=True)
class WidthForm:
    """Widths joined by `-`, one a layer: `16-4-12-…`.

    Args:
        space: Name of the search space.
        layers: Allowed widths of each layer, ascending, in channels.
        unused: Indices of layers that are written but that the network never reads.
    """

    space: str
    layers: tuple[tuple[int, ...], ...]
    unused: frozenset[int] = frozenset()

    def parse(self, code: str, name: str = "arch") -> Arch:
        """Return the arch of `code`.

        Raises:
            ArchError: `code` is no text, has another number of layers, or a width that is not allowed.
        """
        if not isinstance(code, str):
            raise ArchError(f"{name}: the code is {code!r}; {self.space} writes a text like {self.example()!r}")
        words = code.split("-")
        for position, word in enumerate(words, 1):
            if not re.fullmatch(r"0|[1-9]\d{0,8}", word, re.ASCII):
                raise ArchError(f"layer {position} of {name} {code!r} reads {word!r}; a width is a plain whole number")
        return Arch(code, self._checked([int(word) for word in words], code, name))

    def arch(self, choices: Sequence[int], name: str = "arch") -> Arch:
        """Return the arch with these widths; raises `ArchError` like `parse`, and if one is no `int`."""
        _check_integers(choices, name)
        code = "-".join(str(width) for width in choices)
        return Arch(code, self._checked(choices, code, name))

    def size(self, *, effective: bool = True) -> int:
        """Return the number of archs: those with different networks, or (nominal) with different codes."""
        skipped = self.unused if effective else frozenset[int]()
        return prod(len(layer) for index, layer in enumerate(self.layers) if index not in skipped)

    def example(self) -> str:
        """Return the code of the largest arch."""
        return "-".join(str(layer[-1]) for layer in self.layers)

    def _checked(self, widths: Sequence[int], code: str, name: str) -> tuple[int, ...]:
        if len(widths) != len(self.layers):
            raise ArchError(f"{name} {code!r} has {len(widths)} layers; {self.space} has {len(self.layers)}")
        for position, (width, allowed) in enumerate(zip(widths, self.layers, strict=True), 1):
            if width not in allowed:
                raise ArchError(
                    f"layer {position} of {name} {code!r} asks for width {width}; "
                    f"{self.space} allows {', '.join(map(str, allowed))}"
                )
        return tuple(widths)


@dataclass(frozen=True)
class DigitForm:
    """Depths, a stem digit, then two ratio digits a block, zeros for absent blocks (CVPR 2022 track 1).

    A leading `1` (input size 224), as the released file has it, is accepted and kept.

    Args:
        space: Name of the search space.
        depths: Allowed depths of each stage, ascending, in blocks.
        digits: Allowed ratio digits, ascending.
    """

    space: str
    depths: tuple[tuple[int, ...], ...]
    digits: tuple[int, ...]

    @property
    def layers(self) -> tuple[tuple[int, ...], ...]:
        """Depths, the stem, two layers a block; a block's layers also allow 0 where it may be absent."""
        layers = [*self.depths, self.digits]
        for allowed in self.depths:
            for block in range(allowed[-1]):
                layers += [self.digits if block < allowed[0] else (0, *self.digits)] * 2
        return tuple(layers)

    def parse(self, code: str, name: str = "arch") -> Arch:
        """Return the arch of `code`.

        Raises:
            ArchError: `code` is no text of digits of the right length, or a depth or digit is not allowed.
        """
        length = len(self.layers)
        if not isinstance(code, str) or not (code.isascii() and code.isdigit()):
            raise ArchError(f"{name}: the code is {code!r}; {self.space} writes {length} or {length + 1} digits")
        if len(code) not in (length, length + 1):
            raise ArchError(f"{name} {code!r} has {len(code)} digits; {self.space} has {length} or {length + 1}")
        if len(code) == length + 1 and code[0] != "1":
            raise ArchError(f"{name} {code!r} starts with {code[0]}; of {length + 1} digits the first is 1 (size 224)")
        return Arch(code, self._checked([int(digit) for digit in code[-length:]], code, name))

    def arch(self, choices: Sequence[int], name: str = "arch") -> Arch:
        """Return the arch with these depths and digits; raises `ArchError` like `parse`, and if one is no `int`."""
        _check_integers(choices, name)
        code = "".join(str(choice) for choice in choices)
        if len(choices) != len(self.layers):
            raise ArchError(f"{name} {code!r} has {len(choices)} digits; {self.space} has {len(self.layers)}")
        return Arch(code, self._checked(choices, code, name))

    def _checked(self, choices: Sequence[int], code: str, name: str) -> tuple[int, ...]:
        stages = len(self.depths)
        most = [allowed[-1] for allowed in self.depths]
        first = [stages + 1 + 2 * blocks for blocks in accumulate(most, initial=0)]
        absent = {
            position
            for stage, depth in enumerate(choices[:stages])
            if depth in self.depths[stage]
            for position in range(first[stage] + 2 * depth, first[stage + 1])
        }
        for position, choice in enumerate(choices):
            allowed = self.depths[position] if position < stages else self.digits
            if position in absent:
                allowed = (0,)
            if choice not in allowed:
                what = "depth" if position < stages else "ratio digit"
                raise ArchError(
                    f"digit {position + 1} of {name} {code!r} asks for {what} {choice}; "
                    f"{self.space} allows {', '.join(map(str, allowed))} there"
                )
        return tuple(choices)


def _check_integers(choices: Sequence[int], name: str) -> None:
    for position, choice in enumerate(choices, 1):
        if type(choice) is not int:
            raise ArchError(f"layer {position} of {name} is {choice!r}, a {type(choice).__name__}; give whole numbers")


def width_form(space: str, width_unit: int = 4) -> WidthForm:
    """Return the form of the ResNet20 spaces: 7 layers of 4 widths, 6 of 8, 7 of 16; the last is never read.

    Args:
        space: Name of the search space.
        width_unit: Channels between neighbouring widths; the CVPR 2021 space has 4.
    """
    counts = (4,) * 7 + (8,) * 6 + (16,) * 7
    layers = tuple(tuple(width_unit * step for step in range(1, count + 1)) for count in counts)
    return WidthForm(space, layers, frozenset({len(counts) - 1}))


RESNET20 = width_form("resnet20")
DIGITS = width_form("digits", width_unit=1)
RESNET48 = DigitForm(
    "resnet48", ((2, 3, 4, 5), (2, 3, 4, 5), (2, 3, 4, 5, 6, 7, 8), (2, 3, 4, 5)), (1, 2, 3, 4, 5, 6, 7)
)
