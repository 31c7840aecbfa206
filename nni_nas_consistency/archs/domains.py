"""Domains: the independent variables of a search space, from which samplers draw.

More codes may be valid than are drawn. In CVPR 2022 track 1 a code has two ratio digits for every block, but in the
released list the second ones of a stage are equal, the stem's equals those of stage 1, and absent blocks have none.
Drawn are a depth and an outer digit per stage, and an inner digit per block that is present.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from nni_nas_consistency.archs.arch import Arch, Choice
from nni_nas_consistency.archs.codecs import DIGITS_CODEC, RESNET20_CODEC, RESNET48_CODEC, Codec, DigitCodec, WidthCodec
from nni_nas_consistency.errors import ArchError

Picks: TypeAlias = "Mapping[str, Choice]"
"""A draw: the name of each variable that exists → its choice."""

Constraint: TypeAlias = "Callable[[Mapping[str, Choice]], str | None]"
"""Returns why choices (label → choice) are not allowed together, or None if they are."""


@dataclass(frozen=True)
class Variable:
    """One independent variable.

    Args:
        name: Its name.
        choices: Its allowed values, in any order.
        sets: The labels that take its choice.
        needs: Earlier variables, and the choices that they must have for this one to exist. Empty: it always exists.
    """

    name: str
    choices: tuple[Choice, ...]
    sets: tuple[str, ...]
    needs: Mapping[str, frozenset[Choice]] = field(default_factory=dict)

    def exists(self, picks: Picks) -> bool:
        """Return whether the variable exists, given the choices of the earlier ones."""
        return all(name in picks and picks[name] in choices for name, choices in self.needs.items())


@dataclass(frozen=True)
class Domain:
    """The archs that may be drawn from a space.

    Args:
        codec: How the space writes its archs.
        variables: The independent variables; one that needs others comes after them.
        largest: The arch whose weights contain those of every other, or None if the space has none (operators).
        smallest: The arch whose weights every other contains, or None.
        constraints: Further conditions, on choices of several variables.
    """

    codec: Codec
    variables: tuple[Variable, ...]
    largest: Arch | None = None
    smallest: Arch | None = None
    constraints: tuple[Constraint, ...] = ()

    def arch(self, picks: Picks) -> Arch:
        """Return the arch of a draw: tied labels filled in, variables that do not exist left out.

        Raises:
            ArchError: A variable that exists has no choice, or a constraint forbids the choices.
        """
        choices = self.choices(picks)
        reason = self.refusal(choices)
        if reason is not None:
            raise ArchError(f"{self.codec.space}: {reason}")
        return self.codec.arch(choices)

    def choices(self, picks: Picks) -> dict[str, Choice]:
        """Return label → choice of a draw.

        Raises:
            ArchError: A variable that exists has no choice.
        """
        choices: dict[str, Choice] = {}
        for variable in self.variables:
            if not variable.exists(picks):
                continue
            if variable.name not in picks:
                raise ArchError(f"the draw has no choice for {variable.name}, a variable of {self.codec.space}")
            choices |= dict.fromkeys(variable.sets, picks[variable.name])
        return choices

    def refusal(self, choices: Mapping[str, Choice]) -> str | None:
        """Return why the constraints forbid choices, or None if they allow them."""
        for constraint in self.constraints:
            reason = constraint(choices)
            if reason is not None:
                return reason
        return None


def widths_domain(codec: WidthCodec) -> Domain:
    """Return the domain of a space of widths: each layer is a variable, and the largest arch has the largest widths."""
    variables = tuple(Variable(label, widths, (label,)) for label, widths in codec.allowed.items())
    largest = codec.arch({label: max(widths) for label, widths in codec.allowed.items()})
    smallest = codec.arch({label: min(widths) for label, widths in codec.allowed.items()})
    return Domain(codec, variables, largest, smallest)


def digits_domain(codec: DigitCodec, ratios: tuple[tuple[int, ...], ...]) -> Domain:
    """Return a domain of CVPR 2022 track 1: a depth and an outer digit per stage, an inner digit per present block.

    The stem has the outer digit of stage 1, so that identity shortcuts fit. Digit 1 is the widest.

    Args:
        codec: The codec of the space.
        ratios: The digits that are drawn in each stage.
    """
    depths = tuple(
        Variable(f"depth{stage}", allowed, (f"depth{stage}",)) for stage, allowed in enumerate(codec.depths, 1)
    )
    outer = []
    for stage, digits in enumerate(ratios, 1):
        tied = [label for label in codec.labels if label.startswith(f"s{stage}b") and label.endswith("c2")]
        outer.append(Variable(f"outer{stage}", digits, (*(["stem"] if stage == 1 else []), *tied)))
    inner = []
    for stage, (allowed, digits) in enumerate(zip(codec.depths, ratios, strict=True), 1):
        for block in range(1, max(allowed) + 1):
            deep_enough = frozenset(depth for depth in allowed if depth >= block)
            label = f"s{stage}b{block}c1"
            inner.append(Variable(label, digits, (label,), {f"depth{stage}": deep_enough}))
    variables = (*depths, *outer, *inner)
    largest = _extreme(codec, variables, depth=max, digit=min)
    smallest = _extreme(codec, variables, depth=min, digit=max)
    return Domain(codec, variables, largest, smallest)


def _extreme(
    codec: DigitCodec, variables: tuple[Variable, ...], *, depth: Callable[..., int], digit: Callable[..., int]
) -> Arch:
    picks = {
        variable.name: (depth if variable.name.startswith("depth") else digit)(variable.choices)
        for variable in variables
    }
    return Domain(codec, variables).arch(picks)


RESNET20 = widths_domain(RESNET20_CODEC)
DIGITS = widths_domain(DIGITS_CODEC)
RELEASED = digits_domain(RESNET48_CODEC, ((1, 2, 3), (1, 2, 3), (1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6, 7)))
"""The domain that the 45,000 released archs of CVPR 2022 track 1 were drawn from, as counted in the list."""
NOMINAL = digits_domain(RESNET48_CODEC, ((1, 2, 3, 4, 5, 6, 7),) * 4)
"""All ratio digits in every stage, as the organisers' demo of CVPR 2022 track 1 draws."""
