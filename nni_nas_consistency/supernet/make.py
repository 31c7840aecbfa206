"""make_supernet: turn a model space, in place, into a weight-sharing network, by NNI's mutation hooks.

In a chain space our elastic modules take the places of NNI's mutable ones; NNI's own supernet modules serve what is
left, and all of any other space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from nni.mutable.annotation import Constraint
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from numpy.random import RandomState
from torch import nn

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.archs.codecs import Codec, SampleCodec
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.supernet.active import Active, ReadsActive, Run, set_run
from nni_nas_consistency.supernet.modules import Elastic, elastic
from nni_nas_consistency.supernet.nni_modules import choices_of, mutate, nni_choice

AnySpace = TypeVar("AnySpace", bound=ModelSpace)

TRIES = 1000
"""Random samples before a constraint is taken to allow next to nothing."""


@runtime_checkable
class Chain(Protocol):
    """A model space that is a row of links; `spaces.chain.ChainSpace` is one."""

    links: nn.ModuleList
    codec: Codec

    def can_stack(self, archs: Sequence[Arch]) -> bool:
        """Return whether these archs use the same modules."""


def make_supernet(space: AnySpace) -> AnySpace:
    """Turn a model space, in place, into a supernet; return the same object.

    Until an arch is set, it runs as the largest of a chain space, and as some arch of any other.

    Args:
        space: A `ModelSpace` of NNI: a chain space, a hub space, or your own.

    Raises:
        ValueError: The space is a supernet already.
        InputError: The space has a module that neither an elastic module nor NNI can share weights in; the message
            names it.
    """
    if getattr(space, "active", None) is not None:
        raise ValueError("the space is a supernet already")
    codec = codec_of(space)
    first = space.domain.largest if isinstance(space, Chain) else None
    if first is None:
        first = codec.arch(_some_sample(space))
    active = Active(Run((first,)), codec, nni_modules=False)
    mutate(space, [_elastic_hook(active)] if isinstance(space, Chain) else [])
    network = cast("nn.Module", space)
    ours = (Elastic,)
    active.nni_modules = any(isinstance(m, BaseSuperNetModule) and not isinstance(m, ours) for m in network.modules())
    for module in network.modules():
        if isinstance(module, ReadsActive):
            module.active = active
    space.active = active
    set_run(space, active.run)
    return space


def _some_sample(space: ModelSpace) -> dict[str, Any]:
    """Return a sample that is allowed: the first choices, or where these break a constraint, random ones.

    Raises:
        InputError: The constraints allow next to no sample.
    """
    mutables = {label: mutable for label, mutable in space.simplify().items() if not isinstance(mutable, Constraint)}
    sample = {label: nni_choice(mutables[label], choices[0]) for label, choices in choices_of(space).items()}
    dice = RandomState(0)
    for _ in range(TRIES):
        error = space.check_contains(sample)
        if error is None:
            return sample
        sample = {label: mutable.random(random_state=dice) for label, mutable in mutables.items()}
    raise InputError(f"{type(space).__name__}: {TRIES} draws broke a constraint ({error}); loosen it")


def codec_of(space: ModelSpace) -> Codec:
    """Return how the archs of a space are written: its own codec, or the canonical JSON of NNI's samples.

    Raises:
        InputError: The space has a choice of real numbers, which has no end of values.
    """
    own = getattr(space, "codec", None)
    if own is not None:
        return cast("Codec", own)
    return SampleCodec(type(space).__name__, choices_of(space))


def _elastic_hook(active: Active) -> Any:
    def hook(module: nn.Module, name: str, memo: dict[str, Any], arguments: dict[str, Any]) -> Any:
        if isinstance(module, Elastic):
            return None, True
        try:
            new = elastic(module, active)
        except TypeError as error:
            raise InputError(f"{name} ({type(module).__name__}): {error}") from error
        return None if new is None else (new, True)

    return hook
