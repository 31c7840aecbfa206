"""make_supernet: turn a model space, in place, into a weight-sharing network, by NNI's mutation hooks.

In a chain space, elastic modules replace NNI's mutable modules where they can (`modules.py`). NNI's own supernet
modules (`nni_modules.py`) serve the rest, and every module of any other space.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
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
from nni_nas_consistency.supernet.modules import ConvBN, Elastic, elastic
from nni_nas_consistency.supernet.nni_modules import choices_of, frozen_subnet, mutate, nni_choice
from nni_nas_consistency.supernet.sharing import FULL, Sharing

AnySpace = TypeVar("AnySpace", bound=ModelSpace)

TRIES = 1000
"""Random samples to draw before giving up on a constraint."""


@runtime_checkable
class Chain(Protocol):
    """A model space that is a chain of links; `spaces.chain.ChainSpace` is one."""

    links: nn.ModuleList
    codec: Codec

    def can_stack(self, archs: Sequence[Arch]) -> bool:
        """Return whether archs can run as one stacked batch."""


def make_supernet(space: AnySpace, *, sharing: Sharing = FULL) -> AnySpace:
    """Turn a model space, in place, into a supernet; return the same object.

    Until `active_subnet` sets an arch, it runs as the largest arch that a chain space declares, else as some arch.

    Args:
        space: A `ModelSpace` of NNI: a chain space, a hub space, or your own.
        sharing: How archs share weights; by default the leading channels of one kernel per layer.

    Raises:
        ValueError: The space is a supernet already.
        InputError: Neither we nor NNI can share the weights of some module, or not by this sharing; the message names
            it and the way out.
    """
    if getattr(space, "active", None) is not None:
        raise ValueError("the space is a supernet already")
    if sharing != FULL and not isinstance(space, Chain):
        raise InputError(
            f"{type(space).__name__} is no chain space, and NNI's supernet modules share by {FULL} only, not {sharing}"
        )
    codec = codec_of(space)
    first = space.domain.largest if isinstance(space, Chain) else None
    if first is None:
        first = codec.arch(_some_sample(space))
    active = Active(Run((first,)), codec, nni_modules=False, sharing=sharing)
    network = cast("nn.Module", space)
    mutate(space, [_elastic_hook(active, network)] if isinstance(space, Chain) else [])
    ours = (Elastic,)
    active.nni_modules = any(isinstance(m, BaseSuperNetModule) and not isinstance(m, ours) for m in network.modules())
    for module in network.modules():
        if isinstance(module, ReadsActive):
            module.active = active
    space.active = active
    if not isinstance(space, Chain):
        space.freeze = partial(frozen_subnet, space)  # NNI's own fails on some, and shares or loses weights of others
    set_run(space, active.run)
    return space


def _some_sample(space: ModelSpace) -> dict[str, Any]:
    """Return a valid sample: the first choices or, where these violate a constraint, random ones.

    Raises:
        InputError: No valid sample was drawn.
    """
    mutables = {label: mutable for label, mutable in space.simplify().items() if not isinstance(mutable, Constraint)}
    sample = {label: nni_choice(mutables[label], choices[0]) for label, choices in choices_of(space).items()}
    dice = RandomState(0)
    for _ in range(TRIES):
        error = space.check_contains(sample)
        if error is None:
            return sample
        sample = {label: mutable.random(random_state=dice) for label, mutable in mutables.items()}
    reason = " ".join(str(error).split())
    raise InputError(f"{type(space).__name__}: {TRIES} draws in a row violated a constraint ({reason}); loosen it")


def codec_of(space: ModelSpace) -> Codec:
    """Return the codec of a space: its own, or the canonical JSON of NNI's samples.

    Raises:
        InputError: A choice is continuous, or its values cannot be written as text.
    """
    own = getattr(space, "codec", None)
    if own is not None:
        return cast("Codec", own)
    return SampleCodec(type(space).__name__, choices_of(space))


def _elastic_hook(active: Active, network: nn.Module) -> Any:
    conv_before = {module.bn: module.conv for module in network.modules() if isinstance(module, ConvBN)}

    def hook(module: nn.Module, name: str, memo: dict[str, Any], arguments: dict[str, Any]) -> Any:
        if isinstance(module, Elastic):
            return None, True
        try:
            new = elastic(module, active, active.sharing, conv_before.get(cast("Any", module)))
        except (TypeError, ValueError) as error:
            raise InputError(f"{name} ({type(module).__name__}): {error}") from error
        return None if new is None else (new, True)

    return hook
