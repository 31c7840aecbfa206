"""The base of all chain spaces: a model space that is nothing but links in a row.

Forward, scoring by prefixes, complexity and extraction all walk `links`. The choices are NNI's, so that any NNI
strategy can run the space; `make_supernet` turns it into a weight-sharing network.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import nni
import nni.nas.strategy  # noqa: F401 - before nni.nas.oneshot, or NNI puts stubs in place of its one-shot strategies
import torch
from nni.mutable import Mutable, Sample, SampleValidationError
from nni.mutable.annotation import Constraint
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.strategy import is_supernet
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.space import current_model, model_context
from torch import Tensor, nn

from nni_nas_consistency.archs.arch import Arch, Choice
from nni_nas_consistency.archs.cost import Cost, CostedLink, chain_cost
from nni_nas_consistency.archs.domains import Constraint as DomainConstraint
from nni_nas_consistency.archs.domains import Domain
from nni_nas_consistency.supernet.active import Active
from nni_nas_consistency.supernet.extract import copy_into, sub_state_dict
from nni_nas_consistency.supernet.modules import Branching, Elastic, ElasticLayerNorm
from nni_nas_consistency.supernet.nni_modules import nni_choice

State: TypeAlias = "Tensor | tuple[Tensor, ...]"
"""What goes from link to link: features [B, C, H, W], and behind them what is carried along."""


@runtime_checkable
class Link(Protocol):
    """A part of a chain that the prefix scorer can run; what else a chain is made of gets the plain scorer."""

    nested: bool
    """Whether the key is the width of the output, and a narrower output the leading channels of a wider one."""

    def __call__(self, state: State) -> State:
        """Return the next state."""

    def key(self, arch: Arch) -> Hashable:
        """Return all that the output depends on besides the input; None where the arch has no such link."""


class ChainSpace(ModelSpace):  # type: ignore[misc]
    """A search space over a chain of links.

    A concrete space calls `super().__init__` first, makes its choices with `choice(label)`, and sets `links`, each of
    which maps a state to the next.

    Args:
        domain: What the archs are, how they are written, and which is the largest and the smallest.
        image_size: Side of the images, in pixels.
    """

    active: Active | None
    """What a supernet runs; None while the space is no supernet."""

    def __init__(self, domain: Domain, image_size: int) -> None:
        super().__init__()
        self.domain = domain
        self.codec = domain.codec
        self.image_size = image_size
        self.links = nn.ModuleList()
        self.active = None
        self.allowed: dict[str, tuple[Choice, ...]] = {}
        """What each label that the network reads can be."""
        context = current_model()
        self.frozen_arch = None if context is None else self.codec.arch(context)
        """In a frozen space, the arch that it is."""

    def choice(self, label: str) -> Any:
        """Return NNI's choice for a label of the domain; labels without one are written but never read."""
        (variable,) = [variable for variable in self.domain.variables if label in variable.sets]
        self.allowed[label] = variable.choices
        return nni.choice(label, list(variable.choices))

    def add_mutable(self, mutable: Any) -> Any:
        """Register a mutable, as NNI does; a constraint becomes one of the domain too, so that samplers honour it."""
        if isinstance(mutable, Constraint):
            constraints = (*self.domain.constraints, constraint_of(mutable))
            self.domain = replace(self.domain, constraints=constraints)
        return super().add_mutable(mutable)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, K] from images [B, C, H, W]."""
        state = images
        for link in self.links:
            state = link(state)
        return state

    def sample(self, arch: Arch) -> dict[str, Any]:
        """Return NNI's sample of an arch: label → choice, of those that the network reads."""
        choices = arch.sample
        return {label: choices[label] for label in self.allowed}

    def arch(self, sample: Sample) -> Arch:
        """Return the arch of a sample; what the code writes but the network never reads is filled in.

        Raises:
            ArchError: A label is missing, or a choice is not allowed.
        """
        return self.codec.arch(sample)

    @property
    def largest(self) -> Arch:
        """The arch that holds all others.

        Raises:
            ValueError: The space declares none.
        """
        return _declared(self.domain.largest, "largest")

    @property
    def smallest(self) -> Arch:
        """The arch that all others hold.

        Raises:
            ValueError: The space declares none.
        """
        return _declared(self.domain.smallest, "smallest")

    def complexity(self, arch: Arch) -> Cost:
        """Return the parameters and the MACs for one image."""
        return chain_cost(cast("list[CostedLink]", self.links), arch, self.image_size)

    def can_stack(self, archs: Sequence[Arch]) -> bool:
        """Return whether archs use the same modules, in which they differ by width alone."""
        modules = list(cast("nn.Module", self).modules())
        if any(isinstance(module, BaseSuperNetModule) and not isinstance(module, Elastic) for module in modules):
            return False
        if any(isinstance(module, ElasticLayerNorm) and module.width.varies for module in modules):
            return False
        branching = [module for module in modules if isinstance(module, Branching)]
        first = [[name for name, _ in module.subnet_children(archs[0])] for module in branching]
        for arch in archs[1:]:
            if [[name for name, _ in module.subnet_children(arch)] for module in branching] != first:
                return False
        return True

    def freeze(self, sample: Sample) -> ChainSpace:
        """Return the subnet of a sample, built of plain torch layers.

        A supernet hands its weights on as copies; without one the weights are fresh.

        Raises:
            SampleValidationError: The sample lacks a label, has a choice that is not allowed, or breaks a constraint.
        """
        self.validate(sample)
        if self.active is None and is_supernet(self):  # NNI's own supernet modules know how to freeze themselves
            return cast("ChainSpace", super().freeze(sample))
        if self.active is None:
            return self._rebuild(sample)
        with torch.random.fork_rng(devices=[]):  # first values, replaced at once, shall not move torch's generator
            frozen = self._rebuild(sample)
        copy_into(frozen, sub_state_dict(self, self.arch(sample)))
        frozen.train(self.training)
        return frozen

    def check_contains(self, sample: Sample) -> SampleValidationError | None:
        """Return what is wrong with a sample, or None; NNI's own walk over all modules takes milliseconds."""
        for label, allowed in self.allowed.items():
            if label not in sample or sample[label] not in allowed:
                return SampleValidationError(
                    f"{label} is {sample.get(label)}; {self.codec.space} allows {', '.join(map(str, allowed))}"
                )
        for constraint in self.mutables:
            error = constraint.check_contains(sample)
            if error is not None:
                return cast("SampleValidationError", error)
        return None

    def _rebuild(self, sample: Sample) -> ChainSpace:
        arguments: dict[str, Any] = self.trace_kwargs
        with model_context(sample):
            frozen: ChainSpace = type(self)(*self.trace_args, **arguments)
        return frozen


def constraint_of(mutable: Mutable) -> DomainConstraint:
    """Return the constraint that a mutable of NNI puts on the choices below it."""
    choices_by_label = mutable.simplify()

    def refusal(choices: Mapping[str, Choice]) -> str | None:
        sample = {
            label: nni_choice(choices_by_label[label], choice)
            for label, choice in choices.items()
            if label in choices_by_label
        }
        error = mutable.check_contains(sample)
        return None if error is None else " ".join(str(error).split())

    return refusal


def _declared(arch: Arch | None, which: str) -> Arch:
    if arch is None:
        raise ValueError(f"the space has no {which} arch; name the archs that always run yourself")
    return arch
