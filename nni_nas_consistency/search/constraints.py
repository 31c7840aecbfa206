"""Upper bounds on what the archs of a search may cost, and archs drawn within them. Knows neither torch nor NNI.

NNI's strategies draw every choice uniformly, so that hardly an arch is left under a tight bound. Draws here move
towards the smallest arch until one is within all bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

from nni_nas_consistency.archs.arch import Arch, Choice
from nni_nas_consistency.archs.domains import Domain
from nni_nas_consistency.errors import ArchError, InputError

CostName = Literal["macs", "params", "latency"]

UNIFORM_DRAWS = 20
"""Draws that are uniform, before they move towards the smallest arch."""
DRAWS = 100
"""Draws until they are the smallest arch."""


class Dice(Protocol):
    """NumPy's `RandomState`, which NNI's strategies draw with."""

    def randint(self, low: int) -> int:
        """Return a whole number from 0 to `low` - 1."""

    def uniform(self) -> float:
        """Return a number in [0, 1)."""


@dataclass(frozen=True)
class Constraint:
    """An upper bound on one cost.

    Args:
        cost: Multiply-accumulates for one image, parameters, or the latency of a batch in milliseconds.
        most: The bound, which an arch may just reach.
        of: Returns that cost of an arch.
        smallest: The arch that costs least, as far as is known.
    """

    cost: CostName
    most: float
    of: Callable[[Arch], float]
    smallest: Arch

    def allows(self, arch: Arch) -> bool:
        """Return whether an arch is within the bound."""
        return self.of(arch) <= self.most

    def check(self) -> None:
        """See that there is an arch within the bound.

        Raises:
            InputError: The smallest arch is not.
        """
        if not self.allows(self.smallest):
            option, least = option_of(self.cost), cost_text(self.cost, self.of(self.smallest))
            raise InputError(
                f"{option} {_plain(self.most)}: no arch costs as little; the smallest, {_cut(self.smallest.code)}, has "
                f"{least}; give a larger bound"
            )


@dataclass(frozen=True)
class Bounds:
    """All bounds of a search.

    Args:
        domain: The archs of the space.
        constraints: The bounds, those that are quick to look at first.
    """

    domain: Domain
    constraints: tuple[Constraint, ...]

    def check(self) -> None:
        """See that there is an arch within all bounds.

        Raises:
            InputError: None is known.
        """
        for constraint in self.constraints:
            constraint.check()
        if not self.allow(self.smallest):
            options = " and ".join(f"{option_of(each.cost)} {_plain(each.most)}" for each in self.constraints)
            raise InputError(f"{options}: no arch is known that is within all of them; give a larger bound")

    def allow(self, arch: Arch) -> bool:
        """Return whether an arch is within all bounds."""
        return all(constraint.allows(arch) for constraint in self.constraints)

    @cached_property
    def smallest(self) -> Arch:
        """An arch that costs least in one respect, within all bounds if there is one."""
        smallest = [constraint.smallest for constraint in self.constraints]
        return next(filter(self.allow, smallest), smallest[0])

    def draw(self, dice: Dice) -> Arch:
        """Return a random arch within all bounds.

        The first draws are uniform. Then a growing share of the choices are those of the smallest arch, so that a tight
        bound has an arch too; under one, draws are not uniform among the archs that it allows.
        """
        for attempt in range(DRAWS - 1):
            share = max(0, attempt - UNIFORM_DRAWS) / (DRAWS - UNIFORM_DRAWS)
            arch = self._near_smallest(share, dice)
            if arch is not None and self.allow(arch):
                return arch
        return self.smallest

    def _near_smallest(self, share: float, dice: Dice) -> Arch | None:
        """Return an arch with a share of the choices of the smallest; None if a constraint of the space forbids it."""
        picks: dict[str, Choice] = {}
        for variable in self.domain.variables:
            if not variable.exists(picks):
                continue
            drawn = variable.choices[dice.randint(len(variable.choices))]
            smallest = self.smallest.choices[variable.name] if dice.uniform() < share else drawn
            picks[variable.name] = smallest if smallest in variable.choices else drawn
        try:
            return self.domain.arch(picks)
        except ArchError:
            return None


def smallest_arch(domain: Domain, of: Callable[[Arch], float]) -> Arch:
    """Return the arch that costs least: the one that the space declares or, where it declares none, the best found.

    Choices are changed one at a time as long as that makes the arch cost less. Where every choice adds a cost of its
    own, as operators in a chain do, and no constraint is in the way, no arch costs less.

    Args:
        domain: The archs of the space.
        of: Returns the cost of an arch.

    Raises:
        InputError: A constraint of the space forbids the archs that are tried.
    """
    if domain.smallest is not None:
        return domain.smallest
    picks = {variable.name: variable.choices[0] for variable in domain.variables}
    best, least = None, float("inf")
    improved = True
    while improved:
        improved = False
        for variable in domain.variables:
            for choice in variable.choices:
                changed = picks | {variable.name: choice}
                arch = _arch_or_none(domain, changed)
                cost = least if arch is None else of(arch)
                if cost < least:
                    picks, best, least, improved = changed, arch, cost, True
    if best is None:
        raise InputError(
            f"{domain.codec.space}: its constraints forbid the archs of its first choices; declare a smallest"
        )
    return best


def _arch_or_none(domain: Domain, picks: dict[str, Choice]) -> Arch | None:
    try:
        return domain.arch(picks)
    except ArchError:
        return None


def option_of(cost: CostName) -> str:
    """Return the option that sets a bound on a cost."""
    return "--max-latency-ms" if cost == "latency" else f"--max-{cost}"


def cost_text(cost: CostName, value: float) -> str:
    """Return a cost with its unit."""
    if cost == "latency":
        return f"{value:.3g} ms"
    return f"{value:,.0f} {'MACs' if cost == 'macs' else 'parameters'}"


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def _cut(code: str) -> str:
    return code if len(code) <= 60 else f"{code[:60]}…"
