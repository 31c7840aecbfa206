"""What NNI 3.0's strategies cannot do with a space, told before an experiment starts (docs/strategies.md)."""

from __future__ import annotations

from typing import cast

from nni.mutable import Categorical, CategoricalMultiple, MutableAnnotation
from nni.nas.experiment import NasExperimentConfig
from nni.nas.nn.pytorch import ModelSpace, ParametrizedModule
from nni.nas.strategy import ENAS, TPE, PolicyBasedRL, Proxyless, RandomOneShot, Strategy
from torch import nn

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.spaces.chain import ChainSpace, Link


def check_strategy(space: ModelSpace, strategy: Strategy) -> None:
    """See that a strategy of NNI can explore a space.

    Raises:
        InputError: It cannot; with what can instead.
    """
    name, kind = type(space).__name__, type(strategy)
    if kind is ENAS:
        raise InputError(
            "ENAS of NNI 3.0 cannot load batches under Lightning 2.6: train with SandwichStrategy or RandomOneShot, "
            "and search the supernet with PolicyBasedRL or RegularizedEvolution"
        )
    if kind is Proxyless:
        _check_choices_of_layers(space, name)
    if kind is RandomOneShot and _has_absent_links(space):
        raise InputError(
            f"RandomOneShot of NNI 3.0 cannot run {name}, in which whole blocks may be absent: use "
            "SandwichStrategy(n=1, rule='multi-path'), which draws one arch a step as well"
        )
    if kind in (TPE, PolicyBasedRL):
        _check_choices_of_one(space, name, kind)


def check_gpus(config: NasExperimentConfig) -> None:
    """See that there is a GPU where trials on this machine ask for one; NNI would let them wait for ever.

    Raises:
        InputError: There is none.
    """
    asked = config.trial_gpu_number
    if not asked or getattr(config.training_service, "platform", None) != "local":
        return
    import torch

    if not torch.cuda.is_available():
        raise InputError(
            f"trial_gpu_number is {asked}, and this machine has no GPU: trials would wait for ever; set it to 0"
        )


def _check_choices_of_layers(space: ModelSpace, name: str) -> None:
    for path, module in cast("nn.Module", space).named_modules():
        if isinstance(module, ParametrizedModule) and module.mutables:
            raise InputError(
                f"Proxyless chooses between layers, and {path} of {name} has choices of values: use DARTS, GumbelDARTS "
                "or SandwichStrategy"
            )


def _check_choices_of_one(space: ModelSpace, name: str, strategy: type[Strategy]) -> None:
    for label, mutable in space.simplify().items():
        if isinstance(mutable, Categorical) or (strategy is PolicyBasedRL and _is_drawn_by_learning(mutable)):
            continue
        raise InputError(
            f"{strategy.__name__} draws one of several values, and {label} of {name} is a {type(mutable).__name__}: "
            "use Random, GridSearch or RegularizedEvolution"
        )


def _is_drawn_by_learning(mutable: object) -> bool:
    """Return whether NNI's reinforcement learning can do with a mutable: one of a set, any of it, or a constraint."""
    if isinstance(mutable, CategoricalMultiple):
        return mutable.n_chosen in (None, 1)
    return isinstance(mutable, MutableAnnotation)


def _has_absent_links(space: ModelSpace) -> bool:
    """Return whether some arch of a space lacks a link that its largest one has."""
    if not isinstance(space, ChainSpace) or space.domain.largest is None or space.domain.smallest is None:
        return False
    smallest = space.domain.smallest
    return any(cast("Link", link).key(smallest) is None for link in space.links)
