"""Retiarii's terms: what a script of NNI 2.10 says about its experiment, in those of NNI 3.0.

What has no meaning any more is refused in one line that names the present form; nothing is ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from nni.experiment.config.base import ConfigBase
from nni.nas.experiment import NasExperimentConfig
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.strategy import Strategy
from torch import nn

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.supernet.plain_source import forward_and_layers

ENGINES = {"py": ("ts", "simplified"), "oneshot": ("sequential", "raw")}
"""Retiarii's engines: those of NNI 3.0 and the model formats that do the same."""

FORMER_ENGINES = {
    "base": "it ran graphs of models, which the spaces of NNI 3.0 are not",
    "benchmark": "a benchmark is an evaluator now",
    "cgo": "it merged graphs of models, which the spaces of NNI 3.0 are not",
}
FORMER_SETTINGS = {
    "devices": "it belonged to engine 'cgo'; leave it out",
    "max_concurrency_cgo": "it belonged to engine 'cgo'; leave it out",
    "batch_waiting_time": "it belonged to engine 'cgo'; leave it out",
    "dummy_input": "it belonged to graphs of models; leave it out",
    "max_exec_duration": "give max_experiment_duration",
}
FORMATTERS = ("dict", "instance", "code")


def engine_and_format(engine: Any, model_format: Any) -> tuple[Any, Any]:
    """Return the engine and the model format of NNI 3.0; those of an engine of Retiarii are given together.

    Raises:
        InputError: The engine has no meaning any more.
    """
    if isinstance(engine, str) and engine in FORMER_ENGINES:
        reason = FORMER_ENGINES[engine]
        raise InputError(f"execution_engine {engine!r}: {reason}; give 'py' (or leave it out), or 'oneshot'")
    return ENGINES.get(engine, (engine, model_format)) if isinstance(engine, str) else (engine, model_format)


def check_setting(owner: str, kind: type[ConfigBase], name: str) -> None:
    """See that a config has a setting.

    Args:
        owner: The config, as a script names it.
        kind: Its class.
        name: The setting.

    Raises:
        InputError: It has none of this name.
    """
    known = [field.name for field in fields(kind)]
    if name in known or name.startswith("_"):
        return
    if name in FORMER_SETTINGS:
        raise InputError(f"{owner}.{name}: {FORMER_SETTINGS[name]}")
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    advice = f"did you mean {close[0]}?" if close else f"settings are {', '.join(known)}"
    raise InputError(f"{owner}.{name}: there is no such setting; {advice}")


def strategy_and_config(
    given: Sequence[Any], strategy: Strategy | None, config: NasExperimentConfig | None
) -> tuple[Strategy, NasExperimentConfig | None]:
    """Return the strategy and the config of an experiment's arguments.

    Args:
        given: The positional arguments after the evaluator: strategy and config; or, as in Retiarii, mutators and
            strategy.
        strategy: The strategy by its name.
        config: The config by its name.

    Raises:
        InputError: There are mutators, no strategy, or an argument that is neither.
    """
    left = list(given)
    if left and (left[0] is None or isinstance(left[0], (list, tuple))):
        check_mutators(left.pop(0))
    if left and strategy is None:
        strategy = left.pop(0)
    if left and config is None:
        config = left.pop(0)
    if left:
        raise InputError(f"RetiariiExperiment: {left[0]!r} is one argument too many; give space, evaluator, strategy")
    if not isinstance(strategy, Strategy):
        raise InputError(
            f"RetiariiExperiment: the strategy is {strategy!r}; give one, such as RegularizedEvolution() of "
            "nni.nas.strategy"
        )
    return strategy, config


def check_mutators(mutators: Sequence[Any] | None) -> None:
    """See that there are no mutators.

    Raises:
        InputError: There are.
    """
    if mutators:
        raise InputError(
            f"mutators {mutators!r}: NNI 3.0 has none; write the choices into the space, with nni.choice, LayerChoice, "
            "InputChoice or Repeat"
        )


def space_of(space: ModelSpace | None, base_model: ModelSpace | None, trainer: Any) -> ModelSpace:
    """Return the space of an experiment, by its present or its former name.

    Raises:
        InputError: There is none, there are two, it is no model space, or there is a one-shot trainer.
    """
    if trainer is not None:
        raise InputError(
            f"trainer {type(trainer).__name__}: one-shot trainers are strategies now; give an evaluator and "
            "strategy=SandwichStrategy(), or one of nni.nas.strategy"
        )
    if space is not None and base_model is not None:
        raise InputError("RetiariiExperiment: base_model is the first argument; give one of them")
    chosen = base_model if space is None else space
    if not isinstance(chosen, ModelSpace):
        raise InputError(
            f"RetiariiExperiment: the space is a {type(chosen).__name__}; derive it from ModelSpace of "
            "nni.nas.nn.pytorch, which takes the place of @model_wrapper"
        )
    return chosen


def check_export(optimize_mode: str, formatter: str | None) -> None:
    """See that models can be exported in such a way.

    Raises:
        InputError: They cannot.
    """
    if optimize_mode != "maximize":
        raise InputError(
            f"optimize_mode {optimize_mode!r}: a higher result is always better; report the negative of a loss, and "
            "leave it out"
        )
    if formatter not in (None, *FORMATTERS):
        raise InputError(f"formatter {formatter!r}: allowed are {', '.join(FORMATTERS)}")


def code_of(network: nn.Module) -> str:
    """Return the Python source of a frozen network of a chain space, of plain torch layers.

    Raises:
        InputError: It is of another space, whose images are not known.
    """
    if not isinstance(network, ChainSpace):
        raise InputError(
            f"formatter 'code' is for chain spaces, and {type(network).__name__} is none; give 'dict', the sample, or "
            "'instance', the network"
        )
    convolution = next(_convolutions(network))
    forward, layers = forward_and_layers(network.eval(), (0, convolution.in_channels, network.image_size))
    head = "import torch\nfrom torch import nn\n\n\nclass Model(nn.Module):\n    def __init__(self):\n"
    return f"{head}        super().__init__()\n{layers}\n\n{forward}\n"


def _convolutions(network: nn.Module) -> Iterator[nn.Conv2d]:
    yield from (module for module in network.modules() if isinstance(module, nn.Conv2d))


def by_id(what: str, identifier: object) -> None:
    """Refuse Retiarii's `RetiariiExperiment.resume(id)` and `.view(id)`, whose first argument is the identifier.

    Raises:
        InputError: It is.
    """
    if isinstance(identifier, str):
        raise InputError(
            f"RetiariiExperiment.{what}({identifier!r}): an identifier does not tell the space; give "
            f"RetiariiExperiment(space, evaluator, strategy, id={identifier!r}).{what}(port=…)"
        )
