"""Workarounds for NNI 3.0: each is one function, applied by the experiment classes while they need it.

NNI is archived: 3.0 is its last release, and nothing will be fixed upstream. Each docstring says what NNI does wrong
and which test in tests/test_nni3.py fails once the workaround can go.
"""

from __future__ import annotations

import copy
import functools
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import requests
import torch
from nni import trial as nni_trial
from nni.mutable.utils import label
from nni.nas.experiment import NasExperiment, NasExperimentConfig
from nni.nas.experiment.config import ExecutionEngineConfig, ModelFormatConfig
from nni.nas.oneshot.pytorch.supermodule.operation import MixedConv2d, MixedLinear
from nni.nas.space import RawFormatModelSpace
from nni.nas.strategy.evolution import Individual
from nni.runtime.tuner_command_channel import TunerCommandChannel
from pytorch_lightning.utilities.exceptions import SIGTERMException

from nni_nas_consistency.errors import Diverged, InputError, Terminated

CHECKPOINT_TYPES: tuple[Any, ...] = (
    label,
    Individual,
    frozenset,
    np.ndarray,
    np.dtype,
    type(np.dtype(np.uint32)),
    np.ndarray(0).__reduce__()[0],  # the function by which NumPy unpickles an array
)
"""What NNI's `Random`, `GridSearch` and `RegularizedEvolution` pickle besides the types that torch always loads."""


def config_object(field: str, value: object) -> object:
    """Return the value of a config field, with the name of an execution engine or model format resolved.

    NNI resolves such names in the constructor only: `config.execution_engine = "sequential"` is accepted, and then
    rejected by `validate`. Can go with `test_engine_and_format_can_be_set_by_name_after_the_config_is_made`.
    """
    if field == "execution_engine" and isinstance(value, str):
        return ExecutionEngineConfig(name=value)
    if field == "model_format" and isinstance(value, str):
        return ModelFormatConfig(name=value)
    return value


def nni_config(config: NasExperimentConfig) -> NasExperimentConfig:
    """Return a shallow copy of a config whose class is `NasExperimentConfig` itself.

    NNI compares the name of the class, and demands a tuner of a subclass with another name. Can go with
    `test_a_subclass_of_nnis_config_needs_no_tuner`.
    """
    plain = copy.copy(config)
    plain.__class__ = NasExperimentConfig
    return plain


@contextmanager
def without_training_service_warning() -> Iterator[None]:
    """Drop NNI's warning that the training service is ignored by trials in this process.

    NNI warns whenever it copies the config, some 15 times a run, and a config needs a training service as soon as its
    engine may still be changed. Can go with `test_nni_warns_that_it_ignores_the_training_service_and_we_do_not`.
    """
    logger = logging.getLogger(NasExperimentConfig.__module__)

    def is_news(record: logging.LogRecord) -> bool:
        return record.msg != "`training_service` will be ignored for sequential execution engine."

    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)


@contextmanager
def warnings_only() -> Iterator[None]:
    """Keep messages below a warning off the console; the experiment's log file still has them.

    NNI writes two lines per trial to standard output, among what a program prints there. Can go with
    `test_an_experiment_in_this_process_prints_nothing_but_warnings`.
    """
    consoles = [handler for handler in logging.getLogger("nni").handlers if type(handler) is logging.StreamHandler]
    before = [handler.level for handler in consoles]
    try:
        for handler in consoles:
            handler.setLevel(logging.WARNING)
        yield
    finally:
        for handler, level in zip(consoles, before, strict=True):
            handler.setLevel(level)


@contextmanager
def no_word_of_a_full_log() -> Iterator[None]:
    """Keep quiet where NNI's log file cannot be written.

    On a full disk Python prints a traceback for every line that NNI logs. Can go with
    `test_a_log_that_cannot_be_written_costs_no_traceback`.
    """
    before = logging.raiseExceptions
    logging.raiseExceptions = False
    try:
        yield
    finally:
        logging.raiseExceptions = before


@contextmanager
def quiet_interruptions() -> Iterator[None]:
    """Keep off the console what NNI logs while an experiment is interrupted, refused or diverges; the log file has it.

    NNI writes in red to standard output that a model and a strategy failed, since Lightning ends a training by
    SystemExit on Ctrl-C and SIGTERM. What it logs about any other exception is shown. Can go with
    `test_ctrl_c_in_an_experiment_of_this_process_is_no_failed_model`.
    """
    consoles = [handler for handler in logging.getLogger("nni").handlers if type(handler) is logging.StreamHandler]

    def is_news(record: logging.LogRecord) -> bool:
        return not _is_told_in_one_line(sys.exc_info()[1])

    for handler in consoles:
        handler.addFilter(is_news)
    try:
        yield
    finally:
        for handler in consoles:
            handler.removeFilter(is_news)


def _is_told_in_one_line(error: BaseException | None) -> bool:
    if isinstance(error, SystemExit):  # by Lightning, on Ctrl-C, or on SIGTERM where nobody else handles it
        return isinstance(error, SIGTERMException) or isinstance(error.__context__, KeyboardInterrupt)
    return isinstance(error, (KeyboardInterrupt, Terminated, InputError, Diverged))


@contextmanager
def stopped_afterwards(experiment: NasExperiment) -> Iterator[None]:
    """Stop an experiment when the block ends, by an error too.

    NNI leaves an experiment that ran in this process as RUNNING in its list, with its log file open. Can go with
    `test_an_experiment_in_this_process_is_stopped_after_its_run`.
    """
    try:
        yield
    finally:
        experiment.stop()


@contextmanager
def trial_restored() -> Iterator[None]:
    """Give an NNI trial its parameters back after an experiment that ran inside it.

    NNI's sequential engine overwrites them and the count of intermediate results: what the trial reports afterwards
    would be that of another trial, or of none. Can go with
    `test_a_trial_reports_under_its_own_parameters_after_a_training_inside_it` (tests/test_examples_2021.py).
    """
    before = nni_trial._params, nni_trial._intermediate_seq
    try:
        yield
    finally:
        nni_trial._params, nni_trial._intermediate_seq = before


@contextmanager
def unknown_commands_passed_over() -> Iterator[None]:
    """Let an experiment that is resumed with NNI's manager go on listening to it.

    The manager begins with the results of earlier trials, a command that NNI's own listener does not know: its thread
    ends by a ValueError, and the experiment waits for ever. Can go with
    `test_nnis_listener_ends_at_the_first_command_of_a_resumed_manager` (tests/test_survive.py).
    """
    before = TunerCommandChannel.receive

    @functools.wraps(before)
    def receive(self: TunerCommandChannel) -> Any:
        while True:
            try:
                return before(self)
            except ValueError as error:
                if not str(error).startswith("Unknown command type"):
                    raise

    TunerCommandChannel.receive = receive
    try:
        yield
    finally:
        TunerCommandChannel.receive = before


@contextmanager
def copied_samples() -> Iterator[None]:
    """Let every model of an experiment in this process have a sample of its own.

    NNI's models of format `raw` keep the dict that they are frozen with, which `GridSearch` goes on to change: all its
    trials ran one arch, or none. Can go with `test_nnis_grid_search_submits_one_sample_again_and_again`
    (tests/test_every_strategy.py).
    """
    before = RawFormatModelSpace.freeze

    @functools.wraps(before)
    def freeze(self: RawFormatModelSpace, sample: Mapping[str, Any]) -> RawFormatModelSpace:
        return before(self, dict(sample))

    RawFormatModelSpace.freeze = freeze
    try:
        yield
    finally:
        RawFormatModelSpace.freeze = before


@contextmanager
def repaired_freeze() -> Iterator[None]:
    """Let NNI's own supernets freeze convolutions and linear layers without bias.

    NNI's `freeze_weight` returns `bias: None` for them, which `load_state_dict` rejects as an unexpected key. Can go
    with `test_nnis_supernets_freeze_layers_without_bias_in_an_experiment`.
    """
    before = [(operation, operation.freeze_weight) for operation in (MixedConv2d, MixedLinear)]
    try:
        for operation, freeze_weight in before:
            operation.freeze_weight = _without_missing(freeze_weight)
        yield
    finally:
        for operation, freeze_weight in before:
            operation.freeze_weight = freeze_weight


def _without_missing(freeze_weight: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    @functools.wraps(freeze_weight)
    def repaired(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        weights = freeze_weight(self, *args, **kwargs)
        return {name: value for name, value in weights.items() if value is not None}

    return repaired


@contextmanager
def lightning_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C during a Lightning training, as NNI expects.

    Lightning's trainer ends the process with exit code 1 instead. Can go with
    `test_ctrl_c_ends_a_training_with_exit_130_and_says_how_to_continue` (tests/test_cli.py).
    """
    try:
        yield
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            raise end.__context__ from None
        raise


@contextmanager
def checkpoint_types_allowed() -> Iterator[None]:
    """Let `torch.load` read the checkpoint of an experiment with NNI's search strategies, and no other pickles.

    NNI calls `torch.load` without `weights_only`; since torch 2.6 that refuses the random state and the population in
    such a checkpoint, so that no search can be resumed. Can go with
    `test_an_interrupted_search_resumes_with_its_generator_and_its_history`.
    """
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([*CHECKPOINT_TYPES])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


class ManagerError(Exception):
    """NNI's manager has ended by an error of its own."""


@contextmanager
def manager_told_of(experiment: str, folder: Path) -> Iterator[None]:
    """Raise `RuntimeError`, which says how to go on, where NNI's manager dies or ends by an error.

    NNI takes an experiment whose manager has ended by an error for completed. Can go with
    `test_a_manager_that_dies_ends_the_run_with_a_line_on_how_to_go_on` (tests/test_survive.py).

    Args:
        experiment: Its identifier.
        folder: The folder of experiments.
    """
    try:
        yield
    except (ManagerError, requests.exceptions.RequestException) as error:
        raise RuntimeError(
            f"NNI's manager of experiment {experiment} has ended, see {folder / experiment / 'log'}; what its trials "
            f"have reported is kept: go on with RetiariiExperiment(…, id={experiment!r}).run_or_resume()"
        ) from error
