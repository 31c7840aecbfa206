"""RetiariiExperiment and RetiariiExeConfig: NNI 3.0's experiments under the names and calls of Retiarii.

They work around what is broken in NNI 3.0; the workarounds themselves are in `nni3.workarounds` and `nni3.manager`.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import nni
from nni.experiment import RunMode
from nni.nas.evaluator import Evaluator
from nni.nas.execution import ExecutionEngine, TrainingServiceExecutionEngine
from nni.nas.experiment import NasExperiment, NasExperimentConfig
from nni.nas.experiment.config import ExecutionEngineConfig, ModelFormatConfig, SimplifiedModelFormatConfig
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy, is_supernet
from nni.nas.space import ExecutableModelSpace
from nni.nas.strategy import Strategy
from nni.nas.utils.serializer import get_default_serializer

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.nni3 import retiarii
from nni_nas_consistency.nni3.manager import bound_address_only, localhost_only, own_parameters, patient_start
from nni_nas_consistency.nni3.readable import ReadableModelSpace, code_in
from nni_nas_consistency.nni3.refusals import check_gpus, check_strategy
from nni_nas_consistency.nni3.trials import TrialRecord
from nni_nas_consistency.nni3.workarounds import (
    ManagerError,
    checkpoint_types_allowed,
    config_object,
    copied_samples,
    lightning_interrupts,
    manager_told_of,
    nni_config,
    no_word_of_a_full_log,
    quiet_interruptions,
    repaired_freeze,
    stopped_afterwards,
    trial_restored,
    unknown_commands_passed_over,
    warnings_only,
    without_training_service_warning,
)

logger = logging.getLogger(__name__)

IN_PROCESS = "experiment"
"""NNI's identifier of an experiment of `run_in_process`, and the name of its folder."""


class RetiariiExeConfig(NasExperimentConfig):  # type: ignore[misc]
    """Settings of an experiment, with Retiarii's signature.

    The execution engine and the model format can be set by name at any time.

    Args:
        training_service_platform: Where trials run, such as `local`.
        execution_engine: `ts` for trials on a training service, `sequential` for trials in this process; or Retiarii's
            `py` and `oneshot`, which set the model format too.
        model_format: `simplified`, or `raw` to keep a supernet's weights.
        **settings: Any other field of NNI's `NasExperimentConfig`.

    Raises:
        InputError: There is no such setting, or it has no meaning any more.
    """

    def __init__(
        self,
        training_service_platform: str = "local",
        *,
        execution_engine: str = "ts",
        model_format: str = "simplified",
        **settings: Any,
    ) -> None:
        settings.setdefault("trial_concurrency", 1)
        for name in settings:
            retiarii.check_setting("config", NasExperimentConfig, name)
        execution_engine, model_format = retiarii.engine_and_format(execution_engine, model_format)
        super().__init__(execution_engine, model_format, training_service_platform, **settings)

    def __setattr__(self, name: str, value: Any) -> None:
        retiarii.check_setting("config", NasExperimentConfig, name)
        if name == "execution_engine" and isinstance(value, str):
            value, model_format = retiarii.engine_and_format(value, None)
            if model_format is not None:
                self.model_format = model_format
        super().__setattr__(name, config_object(name, value))

    def canonical_copy(self) -> NasExperimentConfig:
        """Return a validated copy with all defaults filled in, of NNI's own class."""
        with without_training_service_warning():
            return nni_config(self).canonical_copy()


class RetiariiExperiment(NasExperiment):  # type: ignore[misc]
    """Explore a model space with a strategy; NNI 3.0's `NasExperiment` under Retiarii's name.

    A one-shot strategy, or a space that is a supernet, runs in this process. Other strategies go through NNI's manager,
    whose web page only this machine can reach. What is broken in NNI is worked around while the experiment runs; see
    `nni3.workarounds`.

    Args:
        space: The model space.
        evaluator: Trains or scores a model.
        *positional: The strategy and the config, as if by their names; before them there may be Retiarii's list of
            mutators, which must be empty.
        strategy: Explores the space.
        config: Settings; by default `sequential` and `raw` in this process, and otherwise NNI's local training service.
        id: Identifier of a stopped experiment, to `resume` it; a new one by default.
        listed: Whether NNI's list of experiments, in the home folder, has one that runs in this process, and its folder
            a checkpoint; only those can be resumed by their identifier.
        base_model: Retiarii's name of the space.
        applied_mutators: Retiarii's list of mutators, which must be empty.
        trainer: Retiarii's one-shot trainer, which is refused.

    Raises:
        InputError: An argument is missing, or has no meaning any more.
    """

    def __init__(
        self,
        space: ModelSpace | None = None,
        evaluator: Evaluator | None = None,
        *positional: Any,
        strategy: Strategy | None = None,
        config: NasExperimentConfig | None = None,
        id: str | None = None,
        listed: bool = True,
        base_model: ModelSpace | None = None,
        applied_mutators: list[Any] | None = None,
        trainer: Any = None,
    ) -> None:
        space = retiarii.space_of(space, base_model, trainer)
        retiarii.check_mutators(applied_mutators)
        strategy, config = retiarii.strategy_and_config(positional, strategy, config)
        if not isinstance(evaluator, Evaluator):
            raise InputError(f"RetiariiExperiment: the evaluator is {evaluator!r}; give one of nni.nas.evaluator")
        self._listed = listed
        self._saving = threading.Lock()
        self._record = TrialRecord(partial(code_in, space))
        super().__init__(space, evaluator, strategy, config or _default_config(space, strategy), id=id)
        self._checkpoint_is_loaded = True  # of a new experiment, there is none to load

    def run(self, config: NasExperimentConfig | None = None, port: int = 8080, debug: bool = False) -> bool:
        """Run the experiment and return whether it completed; False if it was interrupted by Ctrl-C.

        With NNI's manager, the web page stays up until `stop` is called or this process ends.

        Args:
            config: Settings that replace those of the constructor.
            port: Port of the web page, where NNI's manager is needed.
            debug: Whether to log at level DEBUG.
        """
        if config is not None:
            self.config = config
        return bool(super().run(port, debug=debug))

    def scores(self) -> dict[str, float]:
        """Return the score of every arch whose trial reported one, by its code, as the trial itself said."""
        return dict(self._record.scores)

    def failures(self) -> dict[str, int]:
        """Return how often trials of an arch failed, by its code: raised, were over their limit, or had no device."""
        return dict(self._record.failures)

    def execution_engine_factory(self, config: ExecutionEngineConfig) -> ExecutionEngine:
        """Return the engine, whose trials are recorded; with NNI's manager, each that ends is on disk at once."""
        engine = super().execution_engine_factory(config)
        through_manager = isinstance(engine, TrainingServiceExecutionEngine)
        self._record.watch(engine, self.save_checkpoint if through_manager else lambda: None)
        if through_manager and self._action == "resume":
            trials = self.list_trial_jobs()
            self._record.remember(each.data for trial in trials for each in trial.finalMetricData or [])
        return engine

    def run_or_resume(self, port: int = 8080, debug: bool = False) -> bool:
        """Resume the stopped experiment of this id, or run a new one if there is none; see `run`."""
        if self.has_checkpoint():
            return bool(self.resume(port, debug=debug))
        return self.run(None, port, debug)

    def resume(self, port: int = 8080, wait_completion: bool = True, debug: bool = False) -> bool | None:
        """Resume the stopped experiment of this id, and return what `run` returns.

        Raises:
            RuntimeError: There is no experiment of this id.
        """
        retiarii.by_id("resume", self)
        return cast("bool | None", super().resume(port, wait_completion, debug))

    def view(self, port: int = 8080, non_blocking: bool = False) -> RetiariiExperiment:
        """Show the web page of the stopped experiment of this id, until Ctrl-C or, if `non_blocking`, until `stop`.

        Raises:
            InputError: It ran in this process, and has no page.
            RuntimeError: There is no experiment of this id.
        """
        retiarii.by_id("view", self)
        if not self._nni_manager_required():
            raise InputError(f"{self.id}: ran in this process, and has no page; list its models by export_top_models")
        return cast("RetiariiExperiment", super().view(port, non_blocking))

    def export_top_models(
        self, top_k: int = 1, optimize_mode: str = "maximize", formatter: str | None = "dict"
    ) -> list[Any]:
        """Return the models with the best results, the best first.

        Args:
            top_k: How many.
            optimize_mode: `maximize`.
            formatter: `dict`: NNI's samples; `instance`: frozen networks; `code`: Python source of plain torch, for
                chain spaces; None: NNI's models with their results.

        Raises:
            InputError: `optimize_mode` or `formatter` is none of these.
        """
        retiarii.check_export(optimize_mode, formatter)
        if formatter == "code":
            return [retiarii.code_of(network) for network in super().export_top_models(top_k, formatter="instance")]
        return list(super().export_top_models(top_k, formatter=formatter))

    def start(self, port: int = 8080, debug: bool = False, run_mode: RunMode = RunMode.Background) -> None:
        """Start the experiment, and return when the strategy has finished; see `run` for the arguments.

        Raises:
            InputError: The strategy cannot explore the space, or trials ask for a GPU that is not there.
        """
        check_strategy(self.model_space, self.strategy)
        if self._nni_manager_required():
            check_gpus(self.config)
        with (
            localhost_only(_reports_to(self.config)),
            own_parameters(),
            patient_start(),
            bound_address_only(),
            unknown_commands_passed_over(),
            copied_samples(),
            repaired_freeze(),
            lightning_interrupts(),
        ):
            super().start(port, debug, run_mode)

    def executable_model_factory(self, config: ModelFormatConfig) -> ExecutableModelSpace:
        """Return the space in the format of the experiment; NNI's simplified one is made readable for its web page."""
        if isinstance(config, SimplifiedModelFormatConfig):
            folder = Path(self.config.canonical_copy().experiment_working_directory) / self.id / "models"
            here = folder if _runs_here(self.config) else None
            return ReadableModelSpace.from_model(self.model_space, self.evaluator, folder=here)
        return super().executable_model_factory(config)

    def load_checkpoint(self) -> None:
        """Load the state of strategy and engine from the folder of this experiment; called by `resume`."""
        self._checkpoint_is_loaded = False
        with without_training_service_warning(), checkpoint_types_allowed():
            super().load_checkpoint()
        self._checkpoint_is_loaded = True

    def save_checkpoint(self) -> None:
        """Save the state of strategy and engine, but not over a checkpoint that could not be loaded, as NNI would."""
        if not self._checkpoint_is_loaded or not self._listed:
            return
        with self._saving:
            try:
                self._write_checkpoint()
            except Exception:  # a run goes on without; a full disk, or a state that changes meanwhile
                logger.warning("the checkpoint of the experiment could not be written", exc_info=True)

    def _write_checkpoint(self) -> None:
        """Write what NNI writes, each file whole or not at all."""
        folder = self._checkpoint_directory
        partial_folder = folder.with_name("checkpoint.partial")
        for each in (folder, partial_folder):
            each.mkdir(parents=True, exist_ok=True)
        with (partial_folder / "config.json").open("w", encoding="utf-8") as file:
            nni.dump(self.config.json(), fp=file, indent=2)
        if self._engine is not None:
            get_default_serializer().save(self.state_dict(), partial_folder / "state.ckpt")
        for path in sorted(partial_folder.iterdir()):
            os.replace(path, folder / path.name)
        partial_folder.rmdir()

    def _start_without_nni_manager(self) -> None:
        if self._listed:
            super()._start_without_nni_manager()

    def _stop_without_nni_manager(self) -> None:
        if self._listed:
            super()._stop_without_nni_manager()

    def _run_impl(self, port: int, wait_completion: bool, debug: bool) -> bool | None:
        with without_training_service_warning():
            if self._nni_manager_required():
                with manager_told_of(self.id, Path(self.config.canonical_copy().experiment_working_directory)):
                    finished = cast("bool | None", super()._run_impl(port, wait_completion, debug))
                    if self.get_status() == "ERROR":
                        raise ManagerError
                    self._tell_failures()
                    return finished
            shown = nullcontext() if debug else warnings_only()
            with shown, quiet_interruptions(), stopped_afterwards(self), trial_restored():
                return cast("bool | None", super()._run_impl(port, wait_completion, debug))

    def _tell_failures(self) -> None:
        summary = self._record.summary()
        if summary:
            logger.warning(summary)


def run_in_process(
    space: ModelSpace, evaluator: Evaluator, strategy: Strategy, *, folder: Path, max_trial_number: int | None = None
) -> bool:
    """Run an experiment in this process that leaves nothing behind; return whether it completed, False after Ctrl-C.

    Args:
        space: The model space.
        evaluator: Trains or scores a model.
        strategy: Explores the space.
        folder: Where NNI's log is, instead of the home folder; removed at the end, but kept if the experiment fails.
            What a killed one left there is replaced.
        max_trial_number: How many models the strategy may submit; None: as many as it likes.
    """
    settings: dict[str, Any] = {} if max_trial_number is None else {"max_trial_number": max_trial_number}
    config = RetiariiExeConfig(
        execution_engine="sequential", model_format="raw", experiment_working_directory=folder, **settings
    )
    own = folder / IN_PROCESS
    try:
        shutil.rmtree(own, ignore_errors=True)
        with no_word_of_a_full_log():
            finished = RetiariiExperiment(space, evaluator, strategy, config, id=IN_PROCESS, listed=False).run()
    except InputError:
        _remove(own)
        raise
    except Exception:
        logger.warning("NNI's log of the run that failed: %s", own / "log" / "experiment.log")
        raise
    except BaseException:
        _remove(own)
        raise
    _remove(own)
    return finished


def _remove(folder: Path) -> None:
    """Remove a folder, and the one that it is in, unless that holds something else."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()


def _reports_to(config: NasExperimentConfig) -> str | None:
    """Return the address of this machine to which trials of other machines report, if there are such trials."""
    return None if _runs_here(config) else cast("str | None", config.nni_manager_ip)


def _runs_here(config: NasExperimentConfig) -> bool:
    """Return whether all trials run on this machine."""
    services = config.training_service if isinstance(config.training_service, list) else [config.training_service]
    return all(getattr(service, "platform", "local") == "local" for service in services)


def _default_config(space: ModelSpace, strategy: Strategy) -> RetiariiExeConfig:
    if isinstance(strategy, OneShotStrategy) or is_supernet(space):
        return RetiariiExeConfig(execution_engine="sequential", model_format="raw")
    return RetiariiExeConfig()
