"""ChainSpace: the base of model spaces that are a sequence of links, each of which maps a state to the next.

The forward pass, the prefix scorer, the complexity and extraction walk `links`. The choices are NNI's, so that NNI's
strategies can run the space, and `make_supernet` turns it into a weight-sharing network.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import nni
import nni.nas.strategy  # noqa: F401 - before nni.nas.oneshot, or NNI puts stubs in place of its one-shot strategies
import torch
from nni.mutable import CategoricalMultiple, LabeledMutable, Mutable, Sample, SampleValidationError
from nni.mutable.annotation import Constraint
from nni.nas.nn.pytorch import InputChoice, ModelSpace, MutableModule
from nni.nas.oneshot.pytorch.strategy import is_supernet
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.space import current_model, model_context
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nni_nas_consistency.archs.arch import Arch, Choice
from nni_nas_consistency.archs.cost import Cost, CostedLink, chain_cost
from nni_nas_consistency.archs.domains import Constraint as DomainConstraint
from nni_nas_consistency.archs.domains import Domain
from nni_nas_consistency.supernet.active import Active, Resolved
from nni_nas_consistency.supernet.extract import copy_into, sub_state_dict
from nni_nas_consistency.supernet.modules import (
    Branching,
    Elastic,
    ElasticBank,
    ElasticInputChoice,
    differ_by_width_alone,
)
from nni_nas_consistency.supernet.nni_modules import choices_of, exact_freeze, nni_choice

State: TypeAlias = "Tensor | tuple[Tensor, ...]"
"""What a link passes on: features [B, C, H, W]; in a tuple, tensors that later links need follow them."""


@runtime_checkable
class Link(Protocol):
    """A link that the prefix scorer can run. A chain with other modules among its links gets the plain scorer."""

    nested: bool
    """Whether the key is the output width, and a narrower output equals the leading channels of a wider one, as long as
    every layer has one kernel."""

    def __call__(self, state: State) -> State:
        """Return the next state; the link must not write into its input, which other archs share."""

    def key(self, arch: Arch) -> Hashable:
        """Return everything in the arch, besides the input, that the output depends on; None if the link is absent."""


def runs_at_widest(link: Link) -> bool:
    """Return whether a link of a supernet may run once at its widest output, of which other archs take channels."""
    banks = [module for module in cast("nn.Module", link).modules() if isinstance(module, ElasticBank)]
    return link.nested and all(module.bank.nested for module in banks)


class ChainSpace(ModelSpace):  # type: ignore[misc]
    """A model space that is a chain of links.

    A concrete space calls `super().__init__` first, takes its choices from `choice(label)` or from NNI's LayerChoice,
    InputChoice and Repeat with a label of the domain, and sets `links`.

    Args:
        domain: The archs of the space, their codec, and the largest and the smallest of them.
        image_size: Side of the images, in pixels.
    """

    active: Active | None
    """Holds the current run of a supernet; None while the space is not a supernet of this package."""

    def __init__(self, domain: Domain, image_size: int) -> None:
        super().__init__()
        self.domain = domain
        self.codec = domain.codec
        self.image_size = image_size
        self.links = nn.ModuleList()
        self.active = None
        context = current_model()
        self.frozen_arch = None if context is None else self.codec.arch(context)
        """The arch of a frozen space; None in others."""

    def choice(self, label: str) -> Any:
        """Return NNI's choice for a label of the domain: for a number of channels or a depth, say.

        Labels that the domain ties are one choice, under the name of their variable.

        Raises:
            ValueError: The domain has no such label.
        """
        for variable in self.domain.variables:
            if label in variable.sets:
                return nni.choice(variable.name, list(variable.choices))
        raise ValueError(f"{self.codec.space} has no variable that sets {label!r}; add it to the domain")

    def restrict(self, domain: Domain) -> None:
        """Leave only the archs of a smaller domain, for samplers and for NNI's strategies; before any other use.

        Modules keep all their candidates, so that weights can be loaded; those of dropped ones are not used.

        Args:
            domain: The domain of the space without some choices (`Domain.without`).

        Raises:
            ValueError: It is another space's, or drops inputs of an input choice that takes several.
        """
        if domain.codec != self.codec:
            raise ValueError(f"the domain is that of {domain.codec.space}, not of {self.codec.space}")
        left = {variable.name: variable.choices for variable in domain.variables}
        for module in cast("nn.Module", self).modules():
            for mutable in module.mutables if isinstance(module, MutableModule) else []:
                for label, leaf in mutable.simplify().items():
                    _restrict_leaf(leaf, left.get(label))
        self.domain = domain

    def add_mutable(self, mutable: Any) -> Any:
        """Register a mutable, as in NNI. A constraint becomes one of the domain too, so that samplers honour it."""
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

    @cached_property
    def allowed(self) -> dict[str, tuple[Choice, ...]]:
        """The allowed choices of each label that the network reads."""
        return choices_of(self)

    @cached_property
    def _choices(self) -> dict[str, LabeledMutable]:
        return {label: choice for label, choice in self.simplify().items() if not isinstance(choice, Constraint)}

    def sample(self, arch: Arch) -> dict[str, Any]:
        """Return NNI's sample of an arch: label → choice, for the labels that the network reads.

        Raises:
            ArchError: The arch is none of the space: labels that the domain ties differ.
        """
        self.domain.check_ties(arch)
        return {label: nni_choice(choice, arch.choices[label]) for label, choice in self._choices.items()}

    def arch(self, sample: Sample) -> Arch:
        """Return the arch of NNI's sample; labels of the code that no network reads may be missing.

        Raises:
            ArchError: A label is missing, or a choice is not allowed.
        """
        return self.codec.arch(sample)

    @property
    def largest(self) -> Arch:
        """The arch whose weights contain those of all others.

        Raises:
            ValueError: The space declares none.
        """
        return _declared(self.domain.largest, "largest")

    @property
    def smallest(self) -> Arch:
        """The arch whose weights all others contain.

        Raises:
            ValueError: The space declares none.
        """
        return _declared(self.domain.smallest, "smallest")

    def complexity(self, arch: Arch) -> Cost:
        """Return the parameters of an arch, and its MACs for one image; every link must be a `CostedLink`.

        Raises:
            ArchError: The arch is none of the space: labels that the domain ties differ.
        """
        self.domain.check_ties(arch)
        return chain_cost(cast("list[CostedLink]", self.links), arch, self.image_size)

    def can_stack(self, archs: Sequence[Arch]) -> bool:
        """Return whether archs can run as one stacked batch: they use the same modules, and differ in widths only.

        Where a layer has several kernels, they must use the same one.

        In a stacked batch, the channels that an arch lacks are zero and come last. A space must override this, to
        return False, if code of its own between elastic layers changes that: a sigmoid, or a concatenation of features
        whose widths vary.

        Raises:
            ArchError: An arch is none of the space: labels that the domain ties differ.
        """
        for arch in archs:
            self.domain.check_ties(arch)
        stacking = self._stacking if self.active is not None else _Stacking.of(self)
        if not stacking.possible:
            return False
        decided = [stacking.decided(arch) for arch in archs]
        return all(other == decided[0] for other in decided)

    @cached_property
    def _stacking(self) -> _Stacking:
        """Cached, as the modules of a supernet stay the same."""
        return _Stacking.of(self)

    def freeze(self, sample: Sample) -> ChainSpace:
        """Return the subnet of a sample, made of plain torch layers.

        Its weights are copies of the supernet's slices, or newly initialised if the space is not a supernet.

        Raises:
            SampleValidationError: A label is missing, a choice is not allowed, or a constraint is violated.
        """
        sample = {
            label: nni_choice(self._choices[label], sample[label]) if label in self._choices else choice
            for label, choice in sample.items()
        }
        self.validate(sample)
        if self.active is None and is_supernet(self):  # of one of NNI's strategies
            with exact_freeze():
                return copy.deepcopy(cast("ChainSpace", super().freeze(sample)))
        if self.active is None:
            return self._rebuild(sample)
        with torch.random.fork_rng(devices=[]):  # initial weights are replaced at once: leave torch's generator alone
            frozen = self._rebuild(sample)
        copy_into(frozen, sub_state_dict(self, self.arch(sample)))
        frozen.train(self.training)
        return frozen

    def check_contains(self, sample: Sample) -> SampleValidationError | None:
        """Return what is wrong with a sample, or None; faster than NNI's own walk over all modules."""
        for label, allowed in self.allowed.items():
            choice = sample.get(label)
            if (tuple(choice) if isinstance(choice, list) else choice) not in allowed:
                return SampleValidationError(
                    f"{label} is {choice}; {self.codec.space} allows {', '.join(map(str, allowed))}"
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


@dataclass(frozen=True)
class _Stacking:
    """What decides whether archs can run as one stacked batch.

    Args:
        possible: Whether any archs can.
        choices: The choices that stacked archs must share, since they are not widths.
        branching: The modules in which stacked archs must have the same children.
    """

    possible: bool
    choices: Sequence[Resolved]
    branching: Sequence[Branching]

    @classmethod
    def of(cls, space: ChainSpace) -> _Stacking:
        """Return that of a space or supernet."""
        modules = list(cast("nn.Module", space).modules())[1:]
        choices = [
            Resolved(mutable)
            for module in modules
            if isinstance(module, MutableModule) and not differ_by_width_alone(module)
            for mutable in module.mutables
        ]
        possible = not any(_runs_one_arch(module, supernet=space.active is not None) for module in modules)
        return cls(possible, choices, [module for module in modules if isinstance(module, Branching)])

    def decided(self, arch: Arch) -> tuple[list[Any], list[list[nn.Module]]]:
        """Return what must be the same for all archs of a stacked batch."""
        children = [[child for _, child in module.subnet_children(arch)] for module in self.branching]
        return [choice.at(arch) for choice in self.choices], children


def _runs_one_arch(module: nn.Module, *, supernet: bool) -> bool:
    """Return whether a module would give wrong results on a stacked batch."""
    if isinstance(module, (InputChoice, ElasticInputChoice)):
        # absent channels of the first input would not come last
        return bool(module.reduction == "concat")
    if isinstance(module, BaseSuperNetModule):
        return not isinstance(module, Elastic)
    return supernet and isinstance(module, _BatchNorm)


def _restrict_leaf(leaf: Any, choices: tuple[Choice, ...] | None) -> None:
    """Leave only some choices to a choice of NNI's; None leaves it as it is."""
    if choices is None or isinstance(leaf, Constraint):
        return
    if isinstance(leaf, CategoricalMultiple) and leaf.n_chosen != 1:
        raise ValueError(f"{leaf.label} takes several inputs, of which none can be dropped")
    several = isinstance(leaf, CategoricalMultiple)
    left = [index for index, value in enumerate(leaf.values) if ((value,) if several else value) in choices]
    total = sum(leaf.weights[index] for index in left)  # strategies of NNI draw by the weights
    leaf.values, leaf.weights = [leaf.values[index] for index in left], [leaf.weights[index] / total for index in left]


def constraint_of(mutable: Mutable) -> DomainConstraint:
    """Return a constraint of NNI as one of a domain."""
    choices_by_label = mutable.simplify()

    def refusal(choices: Mapping[str, Choice]) -> str | None:
        sample = {
            label: nni_choice(choices_by_label[label], choice)
            for label, choice in choices.items()
            if label in choices_by_label
        }
        error = mutable.check_contains(sample)
        return None if error is None else " ".join(str(error).split()).rstrip(".")

    return refusal


def _declared(arch: Arch | None, which: str) -> Arch:
    if arch is None:
        raise ValueError(f"the space declares no {which} arch; pass one with its domain, or name an arch yourself")
    return arch
