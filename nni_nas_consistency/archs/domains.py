"""Domains: the independent variables of a search space, from which samplers draw.

More codes may be valid than are drawn. In CVPR 2022 track 1 a code has two ratio digits for every block, but in the
released list the second ones of a stage are equal, the stem's equals those of stage 1, and absent blocks have none.
Drawn are a depth and an outer digit per stage, and an inner digit per block that is present. What is drawn is what NNI
sees: a variable is one choice of NNI's, under the name of the variable, which is one of the labels that it sets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
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
        name: Its name, one of the labels that take its choice.
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

    @cached_property
    def tied(self) -> tuple[Variable, ...]:
        """The variables that set several labels."""
        return tuple(variable for variable in self.variables if len(variable.sets) > 1)

    def check_ties(self, arch: Arch, name: str = "arch") -> None:
        """Refuse an arch whose code is valid, but has different choices where one variable sets all.

        Raises:
            ArchError: Two labels of one variable differ; a network of the space would silently have the wrong one.
        """
        for variable in self.tied:
            for label in variable.sets:
                if arch.choices[label] != arch.choices[variable.name]:
                    raise ArchError(
                        f"{label} of {name} {arch.code!r} is {arch.choices[label]!r}, {variable.name} is "
                        f"{arch.choices[variable.name]!r}; the networks of {self.codec.space} have one choice for both"
                    )

    def check(self, arch: Arch, name: str = "arch") -> None:
        """Refuse an arch that cannot be drawn, though its code may be valid.

        Raises:
            ArchError: A choice is none of the variable's, or `check_ties` refuses the arch.
        """
        for variable in self.variables:
            if arch.choices[variable.name] not in variable.choices:
                raise ArchError(
                    f"{variable.name} of {name} {arch.code!r} is {arch.choices[variable.name]!r}; archs of "
                    f"{self.codec.space} are drawn with {', '.join(map(str, variable.choices))} there"
                )
        self.check_ties(arch, name)

    def without(self, label: str, choice: Choice) -> Domain:
        """Return the domain of the archs that do not have a choice.

        The codec stays: a code with the choice is still valid, and is not drawn. Where the largest or the smallest arch
        has the choice, none is declared.

        Args:
            label: A label that a variable sets; all labels of that variable lose the choice.
            choice: What is taken away.

        Raises:
            ArchError: No variable sets the label, it does not have the choice, or has no other one.
        """
        changed = next((variable for variable in self.variables if label in variable.sets), None)
        if changed is None:
            known = ", ".join(name for variable in self.variables for name in variable.sets)
            raise ArchError(f"{self.codec.space} has no label {label!r}; its labels are {known}")
        left = tuple(other for other in changed.choices if other != choice)
        if len(left) == len(changed.choices):
            raise ArchError(f"{label} has no choice {choice!r}; it has {', '.join(map(repr, left))}")
        if not left:
            raise ArchError(f"{choice!r} is the last choice of {label}; a domain needs one")
        shrunk = replace(changed, choices=left)
        return replace(
            self,
            variables=tuple(shrunk if variable is changed else variable for variable in self.variables),
            largest=_unless_chosen(self.largest, label, choice),
            smallest=_unless_chosen(self.smallest, label, choice),
        )

    def refusal(self, choices: Mapping[str, Choice]) -> str | None:
        """Return why the constraints forbid choices, or None if they allow them."""
        for constraint in self.constraints:
            reason = constraint(choices)
            if reason is not None:
                return reason
        return None


def _unless_chosen(arch: Arch | None, label: str, choice: Choice) -> Arch | None:
    """Return an arch, or None if it has a choice."""
    return None if arch is None or arch.choices[label] == choice else arch


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
    outer, inner = [], []
    for stage, (allowed, digits) in enumerate(zip(codec.depths, ratios, strict=True), 1):
        tied = tuple(f"s{stage}b{block}c2" for block in range(1, max(allowed) + 1))
        tied = ("stem", *tied) if stage == 1 else tied
        outer.append(Variable(tied[0], digits, tied))
        inner += [_of_block(codec, stage, block, 1, digits) for block in range(1, max(allowed) + 1)]
    return _digits_domain(codec, [*outer, *inner])


def untied_digits_domain(codec: DigitCodec) -> Domain:
    """Return the domain of CVPR 2022 track 1 in which every digit of a code is drawn by itself.

    Args:
        codec: The codec of the space.
    """
    variables = [Variable("stem", codec.digits, ("stem",))]
    for stage, allowed in enumerate(codec.depths, 1):
        for block in range(1, max(allowed) + 1):
            variables += [_of_block(codec, stage, block, conv, codec.digits) for conv in (1, 2)]
    return _digits_domain(codec, variables)


def _of_block(codec: DigitCodec, stage: int, block: int, conv: int, digits: tuple[int, ...]) -> Variable:
    """Return the variable of one digit, which archs have that are deep enough."""
    label = f"s{stage}b{block}c{conv}"
    deep_enough = frozenset(depth for depth in codec.depths[stage - 1] if depth >= block)
    return Variable(label, digits, (label,), {f"depth{stage}": deep_enough})


def _digits_domain(codec: DigitCodec, digits: Sequence[Variable]) -> Domain:
    """Return the domain of the depths of all stages and these digits; digit 1 is the widest."""
    depths = [Variable(f"depth{stage}", allowed, (f"depth{stage}",)) for stage, allowed in enumerate(codec.depths, 1)]
    variables = (*depths, *digits)
    drawn = Domain(codec, variables)
    largest = {variable.name: max(variable.choices) for variable in depths}
    smallest = {variable.name: min(variable.choices) for variable in depths}
    largest |= {variable.name: min(variable.choices) for variable in digits}
    smallest |= {variable.name: max(variable.choices) for variable in digits}
    return Domain(codec, variables, drawn.arch(largest), drawn.arch(smallest))


RESNET20 = widths_domain(RESNET20_CODEC)
DIGITS = widths_domain(DIGITS_CODEC)
RELEASED = digits_domain(RESNET48_CODEC, ((1, 2, 3), (1, 2, 3), (1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6, 7)))
"""The domain that the 45,000 released archs of CVPR 2022 track 1 were drawn from, as counted in the list."""
DEMO = digits_domain(RESNET48_CODEC, ((1, 2, 3, 4, 5, 6, 7),) * 4)
"""All ratio digits in every stage, as the organisers' demo of CVPR 2022 track 1 draws."""
NOMINAL = untied_digits_domain(RESNET48_CODEC)
"""All that a code of CVPR 2022 track 1 may say: every digit by itself, which needs projections in any block."""
