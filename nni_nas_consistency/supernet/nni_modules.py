"""NNI's own supernet modules, driven exactly: they serve every space that is no chain space.

`mutate` makes a supernet in place, `set_sample` sets the active subnet, `frozen_subnet` takes one out with its weights.
What NNI 3.0 does wrong on the way is put right here or refused by module path: it re-initialises all weights, resets
batch norm's eps and momentum, draws a missing choice at random, and freezes to float32 in training mode with shared
children.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias, cast
from weakref import WeakKeyDictionary

import nni.nas.strategy  # noqa: F401 - before nni.nas.oneshot, or NNI puts stubs in place of its one-shot strategies
import torch
from nni.mutable import Categorical, CategoricalMultiple, LabeledMutable, Mutable, Numerical, Sample
from nni.mutable.annotation import Constraint
from nni.mutable.symbol import Symbol, SymbolicExpression
from nni.nas.nn.pytorch import (
    Cell,
    InputChoice,
    LayerChoice,
    ModelSpace,
    MutableBatchNorm2d,
    MutableConv2d,
    MutableModule,
    ParametrizedModule,
    Repeat,
)
from nni.nas.nn.pytorch import base as nni_base
from nni.nas.nn.pytorch import choice as nni_choices
from nni.nas.nn.pytorch import repeat as nni_repeat
from nni.nas.nn.pytorch.choice import ChosenInputs
from nni.nas.oneshot.pytorch.strategy import MutationHook
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.oneshot.pytorch.supermodule.operation import NATIVE_MIXED_OPERATIONS, MixedOperation
from nni.nas.oneshot.pytorch.supermodule.sampling import MixedOpPathSamplingPolicy, PathSamplingRepeat
from nni.nas.strategy import RandomOneShot
from torch import nn

from nni_nas_consistency.archs.arch import Choice
from nni_nas_consistency.errors import ArchError, InputError

Hooked: TypeAlias = "nn.Module | bool | tuple[nn.Module | None, bool] | None"
"""What a mutation hook returns: a replacement, whether later hooks are left out, both, or neither."""

SERVED = (LayerChoice, InputChoice, Repeat, *(operation.bound_type for operation in NATIVE_MIXED_OPERATIONS))
"""The types with choices that NNI's supernet modules take the place of; none of their subclasses."""

WAY_OUT = (
    "write it with LayerChoice, InputChoice, Repeat or a mutable layer, give mutate a hook, "
    "or search with a multi-trial strategy"
)


def mutate(space: ModelSpace, hooks: Sequence[MutationHook] = ()) -> None:
    """Turn a space, in place, into a supernet of NNI's modules with path sampling.

    Hooks are asked in this order: `hooks`, those of the space (`extra_oneshot_hooks`), NNI's. Weights that the space
    has are kept where the supernet's have the same size; a module whose weights grow with its choices starts from
    NNI's initialisation. Modules that are supernet modules already are left alone.

    Args:
        space: The model space.
        hooks: NNI mutation hooks. What they put in place of a module is not touched.

    Raises:
        InputError: A module has choices that neither a hook nor NNI's modules serve exactly. The space is as it was.
    """
    _refuse_choices_of_the_space(space)
    _refuse_shared(space)
    children = [(module, dict(module._modules)) for module in space.modules()]
    try:
        with _no_word_of_nested_choices():
            _PathSampling(hooks).mutate_model(space)
    except BaseException:
        for module, before in children:
            module._modules.update(before)
        raise
    for module in space.modules():
        _become_plain(module)
    _plans.pop(space, None)


def choices_of(space: ModelSpace) -> dict[str, tuple[Choice, ...]]:
    """Return what each label of a space can be, tuples where NNI chooses several at once.

    Raises:
        InputError: A choice is continuous, or its values cannot be written as text.
    """
    mutables = space.simplify().items()
    return {label: _values(label, mutable) for label, mutable in mutables if not isinstance(mutable, Constraint)}


def nni_choice(mutable: LabeledMutable, choice: Any) -> Any:
    """Return a choice with the sequence that NNI has: a list where it chooses several, a tuple where one is a tuple."""
    if isinstance(mutable, CategoricalMultiple) and isinstance(choice, tuple):
        return list(choice)
    if isinstance(mutable, Categorical) and isinstance(choice, list):
        return tuple(choice)
    return choice


def set_sample(supernet: ModelSpace, sample: Mapping[str, Any]) -> None:
    """Make the subnet of a sample the active one, in all of NNI's supernet modules.

    Takes 3 ms where NNI's `resample` takes 38 ms (a small MobileNetV3): each expression of choices is evaluated once.

    Args:
        supernet: A space after `mutate`.
        sample: A choice for every label; labels that the space does not have are ignored.

    Raises:
        ArchError: A label is missing, a choice is not allowed, or the choices violate a constraint of the space.
    """
    plan = _plan(supernet)
    checked = _checked(supernet, plan, sample)
    values: dict[int, Any] = {}
    for module in plan.modules:
        if isinstance(module, MixedOperation) and type(module.sampling_policy) is MixedOpPathSamplingPolicy:
            module.sampling_policy._sampled = {
                name: _value(argument, checked, values) for name, argument in module.mutable_arguments.items()
            }
        elif isinstance(module, PathSamplingRepeat):
            module._sampled = _value(module.depth_choice, checked, values)
        else:
            module.resample(memo=dict(checked))


def frozen_subnet(supernet: MutableModule, sample: Mapping[str, Any]) -> nn.Module:
    """Return the subnet of a sample with the weights it has in the supernet, as copies.

    Type and device of the weights, training mode, eps and momentum are those of the supernet.

    Args:
        supernet: A space after `mutate`, or one of its modules.
        sample: A choice for every label; labels that the space does not have are ignored.

    Raises:
        ArchError: As `set_sample`.
    """
    checked = _checked(supernet, _plan(supernet), sample)
    with exact_freeze():
        if isinstance(supernet, ModelSpace):  # its own `freeze` fails where constraints were added to it
            frozen = nni_base.recursive_freeze(supernet, checked, include_root=False)[0]
        else:
            frozen = supernet.freeze(checked)
    if isinstance(supernet, ModelSpace) and frozen is not supernet:  # a subnet is no supernet
        frozen.__dict__.pop("freeze", None)
        frozen.__dict__.pop("active", None)
    subnet: nn.Module = copy.deepcopy(frozen)
    for module in subnet.modules():
        if type(module) in (nn.Sequential, ChosenInputs):  # made anew by NNI, in training mode
            module.training = supernet.training
    return subnet


@contextmanager
def exact_freeze() -> Iterator[None]:
    """Let NNI's `freeze` hand on weights as they are: without a bias, in float64, with all settings of the layer.

    Children that are not sliced are still those of the supernet, not copies. Torch's generator does not move.
    """
    repaired: list[tuple[Any, str, Any]] = [
        (nni_base, "recursive_freeze", _recursive_freeze),
        (nni_choices, "recursive_freeze", _recursive_freeze),
        (nni_repeat, "recursive_freeze", _recursive_freeze),
        (MixedOperation, "freeze", _freeze_operation),
        (ParametrizedModule, "freeze", _freeze_without_choices),
    ]
    before = [getattr(owner, name) for owner, name, _ in repaired]
    try:
        for owner, name, repair in repaired:
            setattr(owner, name, repair)
        with torch.random.fork_rng(devices=[]):  # layers are made with first values, which are replaced at once
            yield
    finally:
        for (owner, name, _), original in zip(repaired, before, strict=True):
            setattr(owner, name, original)


@contextmanager
def _no_word_of_nested_choices() -> Iterator[None]:
    """Keep back the warnings with which NNI makes supernet modules of its own AutoFormer; they are without cause."""

    def is_news(record: logging.LogRecord) -> bool:
        return "Found a nested mutable" not in record.getMessage()

    logger = logging.getLogger(nni_base.__name__)
    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)


class _PathSampling(RandomOneShot):  # type: ignore[misc]
    """NNI's mutation with path sampling, between our checks."""

    def __init__(self, hooks: Sequence[MutationHook]) -> None:
        super().__init__(mutation_hooks=[_leave_supernet_module, *hooks])
        self.given = list(hooks)

    def default_mutation_hooks(self) -> list[MutationHook]:
        return [_leave_without_choices, _refuse_unserved, *super().default_mutation_hooks()]

    def run_hook(self, hook: MutationHook, name: str, module: nn.Module, memo: dict[str, Any]) -> Hooked:
        if hook in self.given:
            return cast("Hooked", super().run_hook(hook, name, module, memo))
        try:
            made = super().run_hook(hook, name, module, memo)
        except (TypeError, ValueError, NotImplementedError) as error:
            if isinstance(error, InputError):
                raise
            reason = " ".join(str(error).split())
            raise InputError(f"{name} ({type(module).__name__}): NNI says {reason!r}; {WAY_OUT}") from error
        if isinstance(made, MixedOperation):
            _carry_over(module, made)
        return cast("Hooked", made)


def _leave_supernet_module(module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]) -> bool:
    return isinstance(module, BaseSuperNetModule)


def _leave_without_choices(module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]) -> bool:
    """Leave mutable layers that have no choice: they need no slicing, and `_become_plain` is exact."""
    return isinstance(module, ParametrizedModule) and not module.mutables


def _refuse_unserved(module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]) -> None:
    """Refuse, as a mutation hook before NNI's, what NNI's supernet modules would serve wrongly or not at all."""
    if isinstance(module, MutableModule) and module.mutables and type(module) not in SERVED:
        _refuse(name, module, f"NNI has no supernet module for its choices {module.mutables}; {WAY_OUT}")
    _refuse(name, module, _served_wrongly(module))


def _refuse_choices_of_the_space(space: ModelSpace) -> None:
    for mutable in space.mutables:
        if not isinstance(mutable, Constraint):
            _refuse("the space itself", space, f"no supernet module reads its choice {mutable!r}; {WAY_OUT}")


def _refuse_shared(space: ModelSpace) -> None:
    """Refuse a module with choices that is registered in two places: NNI would replace it in one, or by two others."""
    places: dict[nn.Module, str] = {}
    for path, parent in space.named_modules():
        for name, module in parent._modules.items():
            if not isinstance(module, MutableModule) or not module.mutables or isinstance(module, BaseSuperNetModule):
                continue
            place = f"{path}.{name}" if path else name
            if module in places:
                _refuse(
                    place, module, f"is also {places[module]}, and NNI would not share its weights; make two of them"
                )
            places[module] = place


def _refuse(name: str, module: nn.Module, reason: str | None) -> None:
    if reason is not None:
        raise InputError(f"{name} ({type(module).__name__}): {reason}")


def _served_wrongly(module: nn.Module) -> str | None:
    """Return why NNI's supernet modules cannot take the place of a module, and the way out, or None if they can."""
    if isinstance(module, Cell):
        return _unsupported_cell(module)
    if not isinstance(module, SERVED) or not module.mutables:
        return None
    for label, choice in module.simplify().items():
        if isinstance(choice, Numerical):
            return f"{label} is continuous, which has no largest weight; list its values with nni.choice"
    if isinstance(module, Repeat) and module.min_depth == 0:
        return (
            "depth 0 fails in NNI's supernet; start from depth 1, with a LayerChoice of nn.Identity as the first block"
        )
    if isinstance(module, InputChoice) and module.n_chosen is None:
        return "n_chosen=None is not served by NNI's supernet modules; give a number"
    if isinstance(module, InputChoice) and module.reduction == "none":
        return "reduction='none' is not served by NNI's supernet modules; give 'sum', 'mean' or 'concat'"
    if isinstance(module, MutableBatchNorm2d):
        return _unsupported_norm(module)
    if isinstance(module, MutableConv2d):
        return _unsupported_conv(module)
    return None


def _unsupported_cell(cell: Cell) -> str | None:
    if cell.op_candidates_factory is not None:
        return (
            "a cell with a factory of operators is made anew when it is frozen, so that its weights are lost; "
            "give op_candidates as modules, or search the space with a multi-trial strategy"
        )
    if cell.merge_op != "all":
        return "NNI's supernet cannot freeze merge_op='loose_end'; give 'all', or search with a multi-trial strategy"
    return None


def _unsupported_norm(norm: MutableBatchNorm2d) -> str | None:
    if not norm.affine and isinstance(norm.args["num_features"], Mutable):
        return "affine=False fails in NNI's supernet where num_features is a choice; give affine=True"
    if norm.momentum is None:
        return "momentum=None fails in NNI's supernet; give a number"
    return None


def _unsupported_conv(conv: MutableConv2d) -> str | None:
    padding, kernel = conv.args["padding"], conv.args["kernel_size"]
    if conv.padding_mode != "zeros" and isinstance(padding, (Mutable, str)):
        return f"padding_mode={conv.padding_mode!r} is padded for the largest kernel; give padding_mode='zeros'"
    if isinstance(kernel, Mutable):
        sizes = [size if isinstance(size, tuple) else (size, size) for size in kernel.grid()]
        if tuple(map(max, zip(*sizes, strict=True))) not in sizes:
            return f"none of the kernel sizes {sizes} contains all others; add one that does"
    return None


def _become_plain(module: nn.Module) -> None:
    """Make a mutable layer without choices the torch layer that it is, weights and settings untouched.

    NNI's `freeze` would make such a layer anew, with fresh weights.
    """
    plain = vars(type(module)).get("_bound_type")
    if plain is None or not isinstance(module, ParametrizedModule) or module.mutables:
        return
    module.__class__ = plain
    for attribute in ("trace_args", "trace_kwargs", "_mutables"):
        vars(module).pop(attribute, None)


def _carry_over(before: nn.Module, after: MixedOperation) -> None:
    """Give a supernet module what the module in its place had: weights of the same size, type, device, settings."""
    like = next(chain(before.parameters(), before.buffers()), None)
    if like is not None:
        after.to(device=like.device, dtype=like.dtype)
    after.train(before.training)
    for setting in ("eps", "momentum"):
        if hasattr(before, setting) and setting not in after.mutable_arguments:
            setattr(after, setting, getattr(before, setting))
            after.init_arguments[setting] = getattr(before, setting)  # what NNI's forward and freeze read
    weights = before.state_dict()
    if _sizes(weights) == _sizes(after.state_dict()):
        after.load_state_dict(weights)


def _sizes(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


@dataclass(frozen=True)
class _Plan:
    """What `set_sample` looks up once for a supernet: its choices and constraints by label, and the modules to set."""

    mutables: dict[str, LabeledMutable]
    modules: list[BaseSuperNetModule]


_plans: WeakKeyDictionary[MutableModule, _Plan] = WeakKeyDictionary()  # by identity: a deep copy gets a plan of its own


def _plan(supernet: MutableModule) -> _Plan:
    if supernet not in _plans:
        modules = [module for module in supernet.modules() if isinstance(module, BaseSuperNetModule)]
        if modules and modules[0] is supernet:
            del modules[0]  # a plan that holds its own key would never be freed
        _plans[supernet] = _Plan(supernet.simplify(), modules)
    return _plans[supernet]


def _checked(supernet: MutableModule, plan: _Plan, sample: Mapping[str, Any]) -> Sample:
    """Return NNI's sample with all labels, lists and tuples as NNI has them, or raise."""
    checked: Sample = {}
    for label, mutable in plan.mutables.items():
        if isinstance(mutable, Constraint):
            continue
        if label not in sample:
            raise ArchError(f"the sample has no choice for {label!r}; {type(supernet).__name__} needs {mutable!r}")
        checked[label] = nni_choice(mutable, sample[label])
        error = mutable.check_contains(checked)
        if error is not None:
            raise ArchError(f"{label} is {sample[label]!r}; {type(supernet).__name__} allows {mutable!r}")
    error = supernet.check_contains(checked)
    if error is not None:
        raise ArchError(f"{type(supernet).__name__}: {' '.join(str(error).split())}")
    return checked


def _values(label: str, mutable: LabeledMutable) -> tuple[Choice, ...]:
    if isinstance(mutable, CategoricalMultiple):
        values = [tuple(chosen) for chosen in mutable.grid()]
    elif isinstance(mutable, Categorical):
        values = mutable.values
    else:
        raise InputError(f"{label} is a continuous choice, {mutable!r}; list its values with nni.choice")
    for value in values:
        parts = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(part, (int, float, str)) for part in parts):
            raise InputError(f"{label} can be {value!r}; give nni.choice numbers, texts, or tuples of them")
    return tuple(values)


def _value(expression: Any, sample: Sample, values: dict[int, Any]) -> Any:
    """Return what an expression of choices comes to; `values` has those evaluated already, by identity."""
    if not isinstance(expression, SymbolicExpression):
        return expression
    if isinstance(expression, Symbol):
        return sample[expression.label]
    if id(expression) not in values:
        arguments = [_value(argument, sample, values) for argument in expression.arguments]
        values[id(expression)] = expression.function(*arguments)
    return values[id(expression)]


def _recursive_freeze(module: nn.Module, sample: Sample, include_root: bool = True) -> tuple[nn.Module, bool]:
    """Return the frozen module, and whether it is another one, as NNI's function of this name.

    NNI copies all candidates of all levels deeply on the way, and drops most: 400 ms for ShuffleNetSpace.
    """
    if include_root and isinstance(module, Mutable):
        return module.freeze(sample), True
    frozen = {name: _recursive_freeze(child, sample) for name, child in module.named_children()}
    replaced = {name: child for name, (child, is_new) in frozen.items() if is_new}
    if not replaced:
        return module, False
    new = copy.copy(module)
    new._modules = {**module._modules, **replaced}
    return new, True


def _freeze_operation(operation: MixedOperation, sample: Sample) -> nn.Module:
    """Return the plain layer of a sample, with copies of the weights, in the operation's type, device and mode."""
    arguments = dict(operation.init_arguments)
    for name, argument in operation.mutable_arguments.items():
        arguments[name] = argument.freeze(sample)
    mutable_type = operation.bound_type
    layer = (getattr(mutable_type, "_bound_type", None) or mutable_type)(**arguments)
    tensors = dict(operation.named_buffers())
    tensors |= operation.freeze_weight(**arguments)
    copies = {name: tensor.detach().clone() for name, tensor in tensors.items() if tensor is not None}
    layer.load_state_dict(copies, assign=True)
    layer.train(operation.training)
    return cast("nn.Module", layer)


def _freeze_without_choices(module: ParametrizedModule, sample: Sample) -> nn.Module:
    """Return the module with its children frozen; NNI would make it anew, with fresh weights."""
    return cast("nn.Module", MutableModule.freeze(module, sample))
