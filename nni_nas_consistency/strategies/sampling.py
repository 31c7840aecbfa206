"""Which archs a training step uses: uniform, fair, strict fair, by parameters, from a pool.

All samplers share one signature: `draw(n)` gives the next n archs, and `state_dict` holds all that decides the ones
after. Fairness as in FairNAS (Chu et al. 2021, section 3), for layers with different numbers of choices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from nni_nas_consistency.archs.arch import Arch, ArchForm


class Sampler(Protocol):
    """An endless row of archs whose state can be saved."""

    def draw(self, n: int) -> list[Arch]:
        """Return the next n archs."""

    def state_dict(self) -> dict[str, Any]:
        """Return what decides the archs to come, generator included."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""


class UniformSampler:
    """Every choice of every layer with the same probability, independently.

    Args:
        form: The archs' form.
        generator: Where the randomness comes from.
    """

    def __init__(self, form: ArchForm, generator: torch.Generator) -> None:
        self.form = form
        self.generator = generator

    def draw(self, n: int) -> list[Arch]:
        """Return n archs."""
        columns = [torch.randint(len(layer), (n,), generator=self.generator).tolist() for layer in self.form.layers]
        picks = zip(*columns, strict=True)
        return [self.form.arch([layer[i] for layer, i in zip(self.form.layers, pick, strict=True)]) for pick in picks]

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.generator.set_state(state["generator"])


class ParamsSampler:
    """Archs with probability proportional to their parameters.

    Uniform archs are accepted with probability params / params of the largest, which draws from the whole space what
    the published recipe drew from a pool of 1,000,000 uniform archs.

    Args:
        form: The archs' form.
        generator: Where the randomness comes from.
        params: The parameters of an arch, such as `lambda arch: space.complexity(arch).params`.
    """

    def __init__(self, form: ArchForm, generator: torch.Generator, *, params: Callable[[Arch], int]) -> None:
        self.uniform = UniformSampler(form, generator)
        self.params = params
        self.most = params(form.arch([layer[-1] for layer in form.layers]))

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
    """Every layer deals its choices from a shuffled deck of its own.

    After any number of draws the uses of two choices of a layer differ by at most `copies`.

    Args:
        form: The archs' form.
        generator: Where the randomness comes from.
        copies: For each layer, how often its deck holds every choice; once by default.
    """

    def __init__(self, form: ArchForm, generator: torch.Generator, copies: Sequence[int] | None = None) -> None:
        self.form = form
        self.generator = generator
        copies = copies or [1] * len(form.layers)
        self.decks = [Deck(len(layer), often) for layer, often in zip(form.layers, copies, strict=True)]

    def draw(self, n: int) -> list[Arch]:
        """Return n archs."""
        hands = zip(*(deck.deal(n, self.generator) for deck in self.decks), strict=True)
        return [self.form.arch([layer[i] for layer, i in zip(self.form.layers, hand, strict=True)]) for hand in hands]

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state and what is left in every deck."""
        return {"generator": self.generator.get_state(), "decks": [list(deck.left) for deck in self.decks]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.generator.set_state(state["generator"])
        for deck, left in zip(self.decks, state["decks"], strict=True):
            deck.left = list(left)


def strict_fair_sampler(form: ArchForm, generator: torch.Generator) -> FairSampler:
    """Return the sampler of recipe nazarick: in every block of archs each layer uses each of its k choices m times.

    A block is the least common multiple of all k: 16 archs for layers of 4, 8 and 16 choices. All decks run out
    together, so a training step that draws a block trains every choice of a layer equally often.
    """
    counts = [len(layer) for layer in form.layers]
    block = math.lcm(*counts)
    return FairSampler(form, generator, [block // count for count in counts])


class PoolSampler:
    """Archs of a given pool, each once in random order before any comes again.

    Args:
        pool: The archs, at least one.
        generator: Where the randomness comes from.

    Raises:
        ValueError: The pool is empty.
    """

    def __init__(self, pool: Sequence[Arch], generator: torch.Generator) -> None:
        if not pool:
            raise ValueError("the pool is empty; give at least one arch")
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


def spread_archs(form: ArchForm, n: int, generator: torch.Generator) -> list[Arch]:
    """Return archs that spread over the capacity of every stage, for a benchmark; uniform ones crowd around the mean.

    A stage is the layers with the same choices. Its n levels, evenly spaced in (0, 1), are dealt to the archs at random
    (a Latin hypercube); a layer with k choices has its j-th with j − 1 from Binomial(k − 1, level).

    Args:
        form: The archs' form.
        n: How many.
        generator: Where the randomness comes from.
    """
    stages = list(dict.fromkeys(form.layers))
    levels = {stage: ((torch.randperm(n, generator=generator) + 0.5) / n).tolist() for stage in stages}
    columns = []
    for layer in form.layers:
        steps = torch.rand(n, len(layer) - 1, generator=generator) < torch.tensor(levels[layer])[:, None]
        columns.append([layer[index] for index in steps.sum(1).tolist()])
    return [form.arch(choices) for choices in zip(*columns, strict=True)]


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
