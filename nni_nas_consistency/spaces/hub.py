"""NNI's hub and any other NNI model space: its domain, and which of its archs are the largest and the smallest.

A largest arch is one whose weights contain those of every other arch; the weights of a smallest one are in every other.
Spaces of widths, depths and kernel sizes have both. Where operators have weights of their own (ShuffleNetSpace,
ProxylessNAS, NasBench201), no arch contains all others. That is declared here for each class, or by the space itself,
and never derived from the order of a list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast, runtime_checkable

import nni.nas.strategy  # noqa: F401 - before nni.nas.oneshot, or NNI puts stubs in place of its one-shot strategies
from nni.mutable import Mutable
from nni.mutable.annotation import Constraint
from nni.nas.hub.pytorch import AutoFormer, MobileNetV3Space
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, MutableModule, Repeat

from nni_nas_consistency.archs.arch import Arch, Choice
from nni_nas_consistency.archs.codecs import Codec
from nni_nas_consistency.archs.domains import Domain, Variable
from nni_nas_consistency.spaces.chain import ChainSpace, constraint_of
from nni_nas_consistency.supernet.make import codec_of
from nni_nas_consistency.supernet.nni_modules import choices_of

NESTED_OPERATORS: Mapping[type[ModelSpace], tuple[str, ...]] = {AutoFormer: (), MobileNetV3Space: ("identity", "se")}
"""The hub spaces with a largest arch, and their operators, each of which contains the weights of those before it."""

WALKS = (MutableModule.check_contains, LayerChoice.check_contains, Repeat.check_contains)
"""NNI's checks that only ask the choices below a module; any other may forbid choices together."""


@runtime_checkable
class DeclaresExtremes(Protocol):
    """A space that says which of its archs contains all others, and which is contained in all."""

    def largest_sample(self) -> Mapping[str, Choice]:
        """Return the sample of the largest arch."""

    def smallest_sample(self) -> Mapping[str, Choice]:
        """Return the sample of the smallest arch."""


def largest_sample(space: ModelSpace) -> dict[str, Choice] | None:
    """Return the sample whose weights contain those of every other, or None if the space has none."""
    if isinstance(space, DeclaresExtremes):
        return dict(space.largest_sample())
    return _extreme(space, -1)


def smallest_sample(space: ModelSpace) -> dict[str, Choice] | None:
    """Return the sample whose weights every other contains, or None if the space has none."""
    if isinstance(space, DeclaresExtremes):
        return dict(space.smallest_sample())
    return _extreme(space, 0)


def domain_of(space: ModelSpace) -> Domain:
    """Return the domain of any NNI space: every label is a variable, and NNI's constraints hold.

    A chain space has one of its own.

    Args:
        space: The model space, or a supernet made of it.

    Raises:
        InputError: A choice is continuous, or its values cannot be written as text.
    """
    if isinstance(space, ChainSpace):
        return space.domain
    codec = codec_of(space)
    return Domain(
        codec,
        tuple(Variable(label, choices, (label,)) for label, choices in choices_of(space).items()),
        largest=_arch(codec, largest_sample(space)),
        smallest=_arch(codec, smallest_sample(space)),
        constraints=tuple(constraint_of(mutable) for mutable in _constraining(space)),
    )


def _extreme(space: ModelSpace, position: int) -> dict[str, Choice] | None:
    """Return the sample of the smallest (0) or the largest (-1) choices of a hub space that has them."""
    operators = next((names for kind, names in NESTED_OPERATORS.items() if isinstance(space, kind)), None)
    if operators is None:
        return None
    sample: dict[str, Choice] = {}
    for label, choices in choices_of(space).items():
        if set(choices) == set(operators):
            sample[label] = operators[position]
        elif all(type(choice) in (int, float) for choice in choices):
            sample[label] = sorted(cast("tuple[float, ...]", choices))[position]
        else:
            return None  # a subclass with operators of its own
    return sample


def _arch(codec: Codec, sample: Mapping[str, Choice] | None) -> Arch | None:
    return None if sample is None else codec.arch(sample)


def _constraining(space: ModelSpace) -> list[Mutable]:
    """Return what may forbid choices together: NNI's constraints, or the space where a module has its own check."""
    modules = (module for module in space.modules() if isinstance(module, MutableModule))
    if any(type(module).check_contains not in WALKS for module in modules):
        return [space]
    return [mutable for mutable in space.simplify().values() if isinstance(mutable, Constraint)]
