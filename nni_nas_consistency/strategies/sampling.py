"""Which archs a training step uses: uniform, fair, strict fair, by parameters, from a pool.

All samplers share one signature: `draw(n)` gives the next n archs, and `state_dict` holds all that decides the ones
after. Fairness as in FairNAS (Chu et al. 2021, section 3), for variables with different numbers of choices. A variable
that an arch does not have, such as the ratio of an absent block, is not drawn for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import torch

from nni_nas_consistency.archs.arch import Arch, Choice
from nni_nas_consistency.archs.domains import Domain, Variable
from nni_nas_consistency.errors import InputError

TRIES = 1000
"""Draws for one arch before a constraint is taken to allow next to nothing."""

Deal: TypeAlias = "Callable[[Variable, list[int]], list[Choice]]"
"""Gives a variable's choice for each of the archs that have it, whose indices it gets."""


class Sampler(Protocol):
    """An endless row of archs whose state can be saved."""

    def draw(self, n: int) -> list[Arch]:
        """Return the next n archs."""

    def state_dict(self) -> dict[str, Any]:
        """Return what decides all later draws."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""


class UniformSampler:
    """Every choice of every variable with the same probability, independently.

    Where the space has constraints, archs that break one are drawn again: uniform over the archs that are allowed.

    Args:
        domain: What is drawn from.
        generator: Where the randomness comes from.
    """

    def __init__(self, domain: Domain, generator: torch.Generator) -> None:
        self.domain = domain
        self.generator = generator

    def draw(self, n: int) -> list[Arch]:
        """Return n archs.

        Raises:
            InputError: The constraints of the space allow next to no arch.
        """
        if not self.domain.constraints:
            return [self.domain.arch(picks) for picks in _draw(self.domain, n, self._deal)]
        return [self._allowed() for _ in range(n)]

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.generator.set_state(state["generator"])

    def _deal(self, variable: Variable, archs: list[int]) -> list[Choice]:
        picks = torch.randint(len(variable.choices), (len(archs),), generator=self.generator).tolist()
        return [variable.choices[pick] for pick in picks]

    def _allowed(self) -> Arch:
        for _ in range(TRIES):
            (picks,) = _draw(self.domain, 1, self._deal)
            reason = self.domain.refusal(self.domain.choices(picks))
            if reason is None:
                return self.domain.arch(picks)
        raise InputError(f"{TRIES} draws broke a constraint of {self.domain.codec.space} ({reason}); loosen it")


class ParamsSampler:
    """Archs with probability proportional to their parameters.

    Uniform archs are accepted with probability params / params of the largest, which draws from the whole space what
    the published recipe drew from a pool of 1,000,000 uniform archs (nazarick, study of samplings).

    Args:
        domain: What is drawn from.
        generator: Where the randomness comes from.
        params: The parameters of an arch, by the rule of networks that are trained alone.

    Raises:
        InputError: The space has no largest arch, which bounds the parameters.
    """

    def __init__(self, domain: Domain, generator: torch.Generator, *, params: Callable[[Arch], int]) -> None:
        if domain.largest is None:
            raise InputError(
                f"{domain.codec.space} has no largest arch, which sampling by parameters needs; use uniform"
            )
        self.uniform = UniformSampler(domain, generator)
        self.params = params
        self.most = params(domain.largest)

    def draw(self, n: int) -> list[Arch]:
        """Return n archs."""
        archs: list[Arch] = []
        while len(archs) < n:
            (arch,) = self.uniform.draw(1)
            if torch.rand((), generator=self.uniform.generator).item() * self.most < self.params(arch):
                archs.append(arch)
        return archs

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state."""
        return self.uniform.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.uniform.load_state_dict(state)


class FairSampler:
    """Every variable deals its choices from a shuffled deck of its own.

    After any number of draws the uses of two choices of a variable differ by at most `copies`.

    Args:
        domain: What is drawn from.
        generator: Where the randomness comes from.
        copies: For each variable, how often its deck holds every choice; once by default.

    Raises:
        InputError: The space has constraints, under which choices cannot be dealt independently.
    """

    def __init__(self, domain: Domain, generator: torch.Generator, copies: Sequence[int] | None = None) -> None:
        if domain.constraints:
            raise InputError(f"{domain.codec.space} has constraints, which fair sampling cannot keep; use uniform")
        self.domain = domain
        self.generator = generator
        copies = copies or [1] * len(domain.variables)
        self.decks = {
            variable.name: Deck(len(variable.choices), often)
            for variable, often in zip(domain.variables, copies, strict=True)
        }

    def draw(self, n: int) -> list[Arch]:
        """Return n archs."""
        return [self.domain.arch(picks) for picks in _draw(self.domain, n, self._deal)]

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state and what is left in every deck."""
        return {
            "generator": self.generator.get_state(),
            "decks": [list(deck.left) for deck in self.decks.values()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.generator.set_state(state["generator"])
        for deck, left in zip(self.decks.values(), state["decks"], strict=True):
            deck.left = list(left)

    def _deal(self, variable: Variable, archs: list[int]) -> list[Choice]:
        return [variable.choices[card] for card in self.decks[variable.name].deal(len(archs), self.generator)]


def strict_fair_sampler(domain: Domain, generator: torch.Generator) -> FairSampler:
    """Return the sampler of recipe nazarick: a round of archs uses each of the k choices of a variable m times.

    A round is the least common multiple of all k: 16 archs for layers of 4, 8 and 16 widths. All decks of variables
    that every arch has run out together, so a training step that draws a round trains their choices equally often.
    """
    counts = [len(variable.choices) for variable in domain.variables]
    round_of_archs = math.lcm(*counts)
    return FairSampler(domain, generator, [round_of_archs // count for count in counts])


class PoolSampler:
    """Archs of a given pool, each once in random order before any comes again.

    Args:
        pool: The archs, at least one.
        generator: Where the randomness comes from.

    Raises:
        InputError: The pool is empty.
    """

    def __init__(self, pool: Sequence[Arch], generator: torch.Generator) -> None:
        if not pool:
            raise InputError("the pool is empty; give at least one arch")
        self.pool = list(pool)
        self.generator = generator
        self.deck = Deck(len(pool), 1)

    def draw(self, n: int) -> list[Arch]:
        """Return n archs."""
        return [self.pool[index] for index in self.deck.deal(n, self.generator)]

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state and which archs are left."""
        return {"generator": self.generator.get_state(), "left": list(self.deck.left)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.generator.set_state(state["generator"])
        self.deck.left = list(state["left"])


def spread_archs(domain: Domain, n: int, generator: torch.Generator) -> list[Arch]:
    """Return archs that spread over capacity, for a benchmark; uniform ones crowd around the mean.

    Variables with the same choices, such as the widths of one stage, share n levels, evenly spaced in (0, 1) and dealt
    to the archs at random (a Latin hypercube); a variable with k choices has its j-th smallest with j − 1 from
    Binomial(k − 1, level).

    Args:
        domain: What is drawn from.
        n: How many.
        generator: Where the randomness comes from.

    Raises:
        InputError: The space has choices that are no numbers, or constraints.
    """
    numbers = all(isinstance(choice, (int, float)) for variable in domain.variables for choice in variable.choices)
    if not numbers or domain.constraints:
        raise InputError(
            f"{domain.codec.space} has operators or constraints, over which nothing is spread; use uniform"
        )
    levels = {}
    for variable in domain.variables:
        if variable.choices not in levels:
            levels[variable.choices] = (torch.randperm(n, generator=generator) + 0.5) / n

    def deal(variable: Variable, archs: list[int]) -> list[Choice]:
        level = levels[variable.choices][archs]
        steps = torch.rand(len(archs), len(variable.choices) - 1, generator=generator) < level[:, None]
        ascending = sorted(variable.choices, key=float)  # type: ignore[arg-type]
        return [ascending[index] for index in steps.sum(1).tolist()]

    return [domain.arch(picks) for picks in _draw(domain, n, deal)]


class Deck:
    """Cards 0 … count−1, each `copies` times, dealt in random order and shuffled anew when none is left."""

    def __init__(self, count: int, copies: int) -> None:
        self.cards = list(range(count)) * copies
        self.left: list[int] = []

    def deal(self, n: int, generator: torch.Generator) -> list[int]:
        """Return the next n cards."""
        while len(self.left) < n:
            order = torch.randperm(len(self.cards), generator=generator).tolist()
            self.left += [self.cards[index] for index in order]
        hand, self.left = self.left[:n], self.left[n:]
        return hand


def _draw(domain: Domain, n: int, deal: Deal) -> list[dict[str, Choice]]:
    """Return what n archs chose, variable by variable, each dealt to the archs that have it."""
    drawn: list[dict[str, Choice]] = [{} for _ in range(n)]
    for variable in domain.variables:
        having = [index for index, picks in enumerate(drawn) if variable.exists(picks)]
        for index, choice in zip(having, deal(variable, having), strict=True):
            drawn[index][variable.name] = choice
    return drawn
