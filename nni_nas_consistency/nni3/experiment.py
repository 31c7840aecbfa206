"""RetiariiExperiment and RetiariiExeConfig: NNI 3.0's experiments under the names and calls of Retiarii.

They work around what is broken in NNI 3.0; the workarounds themselves are in `nni3.workarounds`.
"""

from __future__ import annotations

import logging
import shutil
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, cast

from nni.experiment import RunMode
from nni.nas.evaluator import Evaluator
from nni.nas.experiment import NasExperiment, NasExperimentConfig
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy, is_supernet
from nni.nas.strategy import Strategy

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.nni3.workarounds import (
    bound_address_only,
    checkpoint_types_allowed,
    config_object,
    lightning_interrupts,
    localhost_only,
    nni_config,
    no_word_of_a_full_log,
    quiet_interruptions,
    repaired_freeze,
    stopped_afterwards,
    trial_restored,
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
        execution_engine: `ts` for trials on a training service, `sequential` for trials in this process.
        model_format: `simplified`, or `raw` to keep a supernet's weights.
        **settings: Any other field of NNI's `NasExperimentConfig`.
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
        super().__init__(execution_engine, model_format, training_service_platform, **settings)

    def __setattr__(self, name: str, value: Any) -> None:
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
        strategy: Explores the space.
        config: Settings; by default `sequential` and `raw` in this process, and otherwise NNI's local training service.
        id: Identifier of a stopped experiment, to `resume` it; a new one by default.
        listed: Whether NNI's list of experiments, in the home folder, has one that runs in this process, and its folder
            a checkpoint; only those can be resumed by their identifier.
    """

    def __init__(
        self,
        space: ModelSpace,
        evaluator: Evaluator,
        strategy: Strategy,
        config: NasExperimentConfig | None = None,
        *,
        id: str | None = None,
        listed: bool = True,
    ) -> None:
        self._listed = listed
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

    def run_or_resume(self, port: int = 8080, debug: bool = False) -> bool:
        """Resume the stopped experiment of this id, or run a new one if there is none; see `run`."""
        if self.has_checkpoint():
            return bool(self.resume(port, debug=debug))
        return self.run(None, port, debug)

    def start(self, port: int = 8080, debug: bool = False, run_mode: RunMode = RunMode.Background) -> None:
        """Start the experiment, and return when the strategy has finished; see `run` for the arguments."""
        with localhost_only(_reports_to(self.config)), bound_address_only(), repaired_freeze(), lightning_interrupts():
            super().start(port, debug, run_mode)

    def load_checkpoint(self) -> None:
        """Load the state of strategy and engine from the folder of this experiment; called by `resume`."""
        self._checkpoint_is_loaded = False
        with without_training_service_warning(), checkpoint_types_allowed():
            super().load_checkpoint()
        self._checkpoint_is_loaded = True

    def save_checkpoint(self) -> None:
        """Save the state of strategy and engine, but not over a checkpoint that could not be loaded, as NNI would."""
        if self._checkpoint_is_loaded and self._listed:
            super().save_checkpoint()

    def _start_without_nni_manager(self) -> None:
        if self._listed:
            super()._start_without_nni_manager()

    def _stop_without_nni_manager(self) -> None:
        if self._listed:
            super()._stop_without_nni_manager()

    def _run_impl(self, port: int, wait_completion: bool, debug: bool) -> bool | None:
        with without_training_service_warning():
            if self._nni_manager_required():
                return cast("bool | None", super()._run_impl(port, wait_completion, debug))
            shown = nullcontext() if debug else warnings_only()
            with shown, quiet_interruptions(), stopped_afterwards(self), trial_restored():
                return cast("bool | None", super()._run_impl(port, wait_completion, debug))


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
    services = config.training_service if isinstance(config.training_service, list) else [config.training_service]
    if all(getattr(service, "platform", "local") == "local" for service in services):
        return None
    return cast("str | None", config.nni_manager_ip)


def _default_config(space: ModelSpace, strategy: Strategy) -> RetiariiExeConfig:
    if isinstance(strategy, OneShotStrategy) or is_supernet(space):
        return RetiariiExeConfig(execution_engine="sequential", model_format="raw")
    return RetiariiExeConfig()
