"""Domains: the independent variables of a search space, which samplers, fairness and evolution draw from.

A code may say more than is drawn. In CVPR 2022 track 1 a code has two ratio digits for every block, but the released
list ties the second ones of a stage and the stem to one digit, and an absent block has none: what is drawn is a depth
and an outer digit a stage, and an inner digit for each block that is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from nni_nas_consistency.archs.arch import Arch, Choice
from nni_nas_consistency.archs.codecs import DIGITS_CODEC, RESNET20_CODEC, RESNET48_CODEC, Codec, DigitCodec, WidthCodec
from nni_nas_consistency.errors import ArchError

Picks: TypeAlias = "Mapping[str, Choice]"
"""What was drawn: the name of each variable that is there → its choice."""

Constraint: TypeAlias = "Callable[[Mapping[str, Choice]], str | None]"
"""Says why choices are not allowed together, or None."""


@dataclass(frozen=True)
class Variable:
    """One independent variable.

    Args:
        name: Its name.
        choices: What it can be. Their order means nothing.
        sets: The labels that take its choice.
        needs: Earlier variables, and the choices they must have for this one to exist; empty: it always exists.
    """

    name: str
    choices: tuple[Choice, ...]
    sets: tuple[str, ...]
    needs: Mapping[str, frozenset[Choice]] = field(default_factory=dict)

    def exists(self, picks: Picks) -> bool:
        """Return whether the variable exists where earlier ones have these choices."""
        return all(name in picks and picks[name] in choices for name, choices in self.needs.items())


@dataclass(frozen=True)
class Domain:
    """The archs that may be drawn from a space.

    Args:
        codec: How the space writes its archs.
        variables: The independent variables; one that needs others stands after them.
        largest: The arch that holds all others, or None where "largest" has no meaning (operators).
        smallest: The arch that all others hold, or None.
        constraints: What must hold between choices besides.
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
                raise ArchError(f"{self.codec.space}: nothing is chosen for {variable.name}")
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
    """Return the domain of a space of widths: every layer is a variable; the largest arch has the largest widths."""
    variables = tuple(Variable(label, widths, (label,)) for label, widths in codec.allowed.items())
    largest = codec.arch({label: max(widths) for label, widths in codec.allowed.items()})
    smallest = codec.arch({label: min(widths) for label, widths in codec.allowed.items()})
    return Domain(codec, variables, largest, smallest)


def digits_domain(codec: DigitCodec, ratios: tuple[tuple[int, ...], ...]) -> Domain:
    """Return a domain of CVPR 2022 track 1: depths uniform, one outer digit a stage, an inner digit a block.

    The stem's digit is that of the outer convs of stage 1, so that identity shortcuts fit. Digit 1 is the widest.

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
"""What the 45,000 released archs of CVPR 2022 track 1 are drawn from (counted over the list)."""
NOMINAL = digits_domain(RESNET48_CODEC, ((1, 2, 3, 4, 5, 6, 7),) * 4)
"""All ratio digits in every stage, as the organisers' demo of CVPR 2022 track 1 draws."""
