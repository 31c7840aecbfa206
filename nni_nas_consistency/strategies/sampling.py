"""Which archs a training step uses: uniform, fair, strict fair, by parameters or MACs, from a pool.

All samplers share one protocol: `draw(n)` returns the next n archs, and `state_dict` holds all that later draws depend
on. Fairness as in FairNAS (Chu et al. 2021, section 3), for variables with different numbers of choices. A variable
that an arch does not have, such as the ratio of an absent block, is not drawn for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import torch

from nni_nas_consistency.archs.arch import Arch, Choice, Choices
from nni_nas_consistency.archs.domains import Domain, Variable
from nni_nas_consistency.archs.pool import Pool
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.progress import Progress

TRIES = 1000
"""Draws in a row that break a constraint before the sampler gives up."""

TRIES_OF_A_BIN = 500
"""Draws in a row outside a bin before any arch is taken."""

Deal: TypeAlias = "Callable[[Variable, list[int]], list[Choice]]"
"""Returns a variable's choice for each of the archs that have it, given their indices."""


class Sampler(Protocol):
    """An endless stream of archs whose state can be saved and restored."""

    def draw(self, n: int) -> list[Arch]:
        """Return the next n archs."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that later draws depend on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""


class UniformSampler:
    """Every choice of every variable with the same probability, independently.

    Archs that break a constraint of the space are rejected and drawn again, which is uniform over those allowed.

    Args:
        domain: What is drawn from.
        generator: Source of randomness.
    """

    def __init__(self, domain: Domain, generator: torch.Generator) -> None:
        self.domain = domain
        self.generator = generator

    def draw(self, n: int) -> list[Arch]:
        """Return n archs.

        Raises:
            InputError: 1000 draws in a row broke a constraint of the space.
        """
        if not self.domain.constraints:
            return [self.domain.arch(picks) for picks in _draw(self.domain, n, self._deal)]
        return [self._allowed() for _ in range(n)]

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
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
        raise InputError(
            f"{TRIES} draws in a row broke a constraint of {self.domain.codec.space} ({reason}); "
            "loosen the constraint, or draw from a list of archs with PoolSampler"
        )


class ParamsSampler:
    """Archs with probability proportional to their number of parameters.

    Rejection sampling: a uniform arch is accepted with probability params / params of the largest. The published recipe
    drew in this proportion from a pool of 1,000,000 uniform archs (nazarick, study of samplings).

    Args:
        domain: What is drawn from.
        generator: Source of randomness.
        params: Returns the number of parameters of an arch when it is trained alone.

    Raises:
        InputError: The space has no largest arch, which bounds the parameters.
    """

    def __init__(self, domain: Domain, generator: torch.Generator, *, params: Callable[[Arch], int]) -> None:
        if domain.largest is None:
            raise InputError(
                f"{domain.codec.space} has no largest arch, which sampling by parameters needs; use UniformSampler"
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
        """Continue from a saved state."""
        self.uniform.load_state_dict(state)


class MacsBinsSampler:
    """Archs whose MACs are spread evenly over a range: a bin is drawn, then a uniform arch in it (SPOS).

    Where no arch of the bin comes up in `TRIES_OF_A_BIN` draws, any uniform arch is taken, as published.

    Args:
        domain: What is drawn from.
        generator: Source of randomness.
        macs: Returns the MACs of an arch.
        low: Lower end of the first bin, in MACs.
        high: Upper end of the last bin.
        bins: How many bins there are.

    Raises:
        InputError: None of 1000 uniform archs lies in the range.
    """

    def __init__(
        self,
        domain: Domain,
        generator: torch.Generator,
        *,
        macs: Callable[[Arch], int],
        low: float,
        high: float,
        bins: int,
    ) -> None:
        self.uniform = UniformSampler(domain, generator)
        self.macs, self.low, self.high, self.bins = macs, low, high, bins
        found = [macs(arch) for arch in UniformSampler(domain, torch.Generator().manual_seed(0)).draw(TRIES)]
        if not any(low <= count <= high for count in found):
            raise InputError(
                f"macs_bins from {low:g} to {high:g}: none of {TRIES} archs of {domain.codec.space} lies there; on "
                f"these images they have {min(found):g} to {max(found):g} MACs: give bins among those"
            )

    def draw(self, n: int) -> list[Arch]:
        """Return n archs."""
        return [self._of_some_bin() for _ in range(n)]

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state."""
        return self.uniform.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.uniform.load_state_dict(state)

    def _of_some_bin(self) -> Arch:
        width = (self.high - self.low) / self.bins
        low = self.low + width * int(torch.randint(self.bins, (), generator=self.uniform.generator))
        for _ in range(TRIES_OF_A_BIN):
            (arch,) = self.uniform.draw(1)
            if low <= self.macs(arch) <= low + width:
                return arch
        return self.uniform.draw(1)[0]


class FairSampler:
    """Every variable deals its choices from a shuffled deck of its own.

    After any number of draws, the counts of two choices of a variable differ by at most `copies`.

    Args:
        domain: What is drawn from.
        generator: Source of randomness.
        copies: Per variable, how often its deck holds each choice; once by default.

    Raises:
        InputError: The space has constraints, under which choices cannot be dealt independently.
    """

    def __init__(self, domain: Domain, generator: torch.Generator, copies: Sequence[int] | None = None) -> None:
        if domain.constraints:
            raise InputError(
                f"{domain.codec.space} has constraints, which fair sampling cannot honour; use UniformSampler"
            )
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
        """Continue from a saved state."""
        self.generator.set_state(state["generator"])
        for deck, left in zip(self.decks.values(), state["decks"], strict=True):
            deck.left = list(left)

    def _deal(self, variable: Variable, archs: list[int]) -> list[Choice]:
        return [variable.choices[card] for card in self.decks[variable.name].deal(len(archs), self.generator)]


def strict_fair_sampler(domain: Domain, generator: torch.Generator) -> FairSampler:
    """Return the sampler of recipe nazarick: a round of archs uses each of the k choices of a variable m times.

    A round has as many archs as the least common multiple of all k: 16 for layers of 4, 8 and 16 widths. The decks of
    all variables that every arch has run out together, so that a training step that draws a round trains their choices
    equally often. A variable that some archs lack is fair among the archs that have it.
    """
    counts = [len(variable.choices) for variable in domain.variables]
    round_of_archs = math.lcm(*counts)
    return FairSampler(domain, generator, [round_of_archs // count for count in counts])


class PoolSampler:
    """Archs of a given pool: in its order first, then in passes of random order; or by weights, independently.

    A pass gives each arch once before any is repeated.

    Args:
        pool: The archs, at least one.
        generator: Source of randomness.
        weights: Of each arch, at least 0: every draw is independent, with probabilities in proportion. None: passes.

    Raises:
        InputError: The pool is empty, or the weights are not one for each arch, negative, or sum to 0.
    """

    def __init__(
        self, pool: Sequence[Arch], generator: torch.Generator, *, weights: Sequence[float] | None = None
    ) -> None:
        self.pool = Pool(tuple(pool), None if weights is None else tuple(weights))
        self.generator = generator
        self.deck = Deck(len(pool), 1)
        self.deck.left = list(self.deck.cards)

    def draw(self, n: int) -> list[Arch]:
        """Return n archs."""
        return [self.pool.archs[index] for index in self._indices(n)]

    def _indices(self, n: int) -> list[int]:
        if self.pool.weights is None:
            return self.deck.deal(n, self.generator)
        if n == 0:
            return []
        weights = torch.tensor(self.pool.weights, dtype=torch.float64)
        drawn: list[int] = weights.multinomial(n, replacement=True, generator=self.generator).tolist()
        return drawn

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state and the indices of the archs that are left of the pass."""
        return {"generator": self.generator.get_state(), "left": list(self.deck.left)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.generator.set_state(state["generator"])
        self.deck.left = list(state["left"])


def uniform_pool(domain: Domain, n: int, generator: torch.Generator) -> list[Arch]:
    """Return n distinct archs, uniform over a domain: what every so many archs of a uniform list are.

    Raises:
        InputError: The domain has hardly as many archs.
    """
    sampler = UniformSampler(domain, generator)
    archs: dict[Choices, Arch] = {}
    drawn = 0
    while len(archs) < n:
        if drawn > TRIES + 20 * n:
            raise InputError(f"{domain.codec.space}: {drawn} draws gave {len(archs)} different archs; ask for fewer")
        missing = n - len(archs)
        for arch in sampler.draw(missing):
            archs.setdefault(arch.choices, arch)
        drawn += missing
    return list(archs.values())


def can_spread(domain: Domain) -> bool:
    """Return whether `spread_archs` can draw from a domain: all choices are numbers, and nothing is constrained."""
    choices = [choice for variable in domain.variables for choice in variable.choices]
    return all(isinstance(choice, (int, float)) for choice in choices) and not domain.constraints


def spread_archs(
    domain: Domain, n: int, generator: torch.Generator, *, progress: Progress = lambda archs: None
) -> list[Arch]:
    """Return distinct archs that cover small to large capacity evenly, for a benchmark; uniform ones crowd together.

    Each group of variables with the same choices, such as the widths of one stage, has one level per arch: the levels
    are evenly spaced in (0, 1), in random order (a Latin hypercube). A variable with k choices takes its j-th smallest,
    with j − 1 from Binomial(k − 1, level). An arch that was drawn already is drawn again.

    Args:
        domain: What is drawn from.
        n: Number of archs.
        generator: Source of randomness.
        progress: Progress callback; the calls add up to n, and a little more where archs are drawn again.

    Raises:
        InputError: The space has choices that are not numbers, or constraints, or hardly as many archs.
    """
    if not can_spread(domain):
        raise InputError(
            f"{domain.codec.space} has operators or constraints, but only numbers can be spread; use UniformSampler"
        )
    archs: dict[Choices, Arch] = {}
    drawn = 0
    while len(archs) < n:
        if drawn > TRIES + 20 * n:
            raise InputError(f"{domain.codec.space}: {drawn} draws gave {len(archs)} different archs; ask for fewer")
        missing = n - len(archs)
        for arch in _spread(domain, missing, generator, progress):
            archs.setdefault(arch.choices, arch)
        drawn += missing
    return list(archs.values())


def _spread(domain: Domain, n: int, generator: torch.Generator, progress: Progress) -> Iterator[Arch]:
    """Yield a Latin hypercube of archs; choices and archs each take half of the time."""
    levels = {}
    for variable in domain.variables:
        if variable.choices not in levels:
            levels[variable.choices] = (torch.randperm(n, generator=generator) + 0.5) / n

    def deal(variable: Variable, archs: list[int]) -> list[Choice]:
        progress(0.5 * n / len(domain.variables))
        level = levels[variable.choices][archs]
        steps = torch.rand(len(archs), len(variable.choices) - 1, generator=generator) < level[:, None]
        ascending = sorted(variable.choices, key=float)  # type: ignore[arg-type]
        return [ascending[index] for index in steps.sum(1).tolist()]

    for picks in _draw(domain, n, deal):
        yield domain.arch(picks)
        progress(0.5)


class Deck:
    """Cards 0 … count−1, each `copies` times, dealt in random order; reshuffled when it runs out."""

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
    """Return n draws; each variable in turn is dealt to the archs that have it."""
    drawn: list[dict[str, Choice]] = [{} for _ in range(n)]
    for variable in domain.variables:
        having = [index for index, picks in enumerate(drawn) if variable.exists(picks)]
        for index, choice in zip(having, deal(variable, having), strict=True):
            drawn[index][variable.name] = choice
    return drawn
