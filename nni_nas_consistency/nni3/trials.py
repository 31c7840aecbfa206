"""What the trials of an experiment said of themselves: which arch has which score, and which failed and run once more.

A trial names the arch that it has scored, so that a score belongs to that arch, whoever asks for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import requests
from nni.nas.execution import ExecutionEngine, SequentialExecutionEngine, TrainingServiceExecutionEngine
from nni.nas.execution.event import FinalMetricEvent, ModelEventType, TrainingEndEvent
from nni.nas.space import ExecutableModelSpace, ModelStatus

logger = logging.getLogger(__name__)

MOST_NAMES = 10
"""How many archs a summary names."""

ENDED = ("DONE", "STOPPED", "ERROR")
"""What NNI's manager says of an experiment that takes no more trials."""

GRACE = 2.0
"""Seconds between the end that the manager tells and the last results of trials."""


class TrialRecord:
    """Scores and failures by the code of the arch.

    A trial that ends without a result, because it raised, was over `max_trial_duration` or had no device, is run once
    more, if the experiment may have one more trial. So is one that was cancelled on NNI's page, which NNI calls failed.

    Args:
        code_of: Returns the code of an arch from its sample, or None for spaces whose archs have no code.
    """

    def __init__(self, code_of: Callable[[Mapping[str, Any]], str | None]) -> None:
        self.scores: dict[str, float] = {}
        self.failures: dict[str, int] = {}
        self._code_of = code_of
        self._running: dict[int, ExecutableModelSpace] = {}
        self._submitting = threading.RLock()

    def __deepcopy__(self, memo: dict[int, Any]) -> TrialRecord:
        """Return the record itself: averages of weights copy a module, with the strategy and the engine behind it."""
        return self

    def watch(self, engine: ExecutionEngine, ended: Callable[[], None]) -> None:
        """Listen to the trials of an engine.

        NNI tells nothing of models that the strategy does not keep, as Random does not: so they are kept here until
        they end.

        Args:
            engine: The engine.
            ended: Called when a trial has ended, whatever its result, and is not run once more.
        """
        submit = engine.submit_models

        def submit_models(*models: ExecutableModelSpace) -> None:
            with self._submitting:  # NNI counts its parameters without a lock, and trials are submitted by two threads
                self._running |= {id(model): model for model in models}
                submit(*models)

        def note_end(event: TrainingEndEvent) -> None:
            if self._note_end(event) and _may_run_again(engine):
                event.stop_propagation()
                self._run_again(engine, event.model)
                return
            self._running.pop(id(event.model), None)
            ended()

        engine.submit_models = submit_models
        engine.register_model_event_callback(ModelEventType.FinalMetric, self._note_score)
        engine.register_model_event_callback(ModelEventType.TrainingEnd, note_end)
        if isinstance(engine, TrainingServiceExecutionEngine):
            engine.wait_models = _bounded_wait(engine)

    def remember(self, reported: Iterable[object]) -> None:
        """Take the final results that NNI kept of earlier trials."""
        for metric in reported:
            self._take(metric)

    def summary(self) -> str:
        """Return one line on the trials that failed; empty if none did."""
        if not self.failures:
            return ""
        named = [f"{code} ({times}×)" if times > 1 else code for code, times in self.failures.items()]
        more = f" and {len(named) - MOST_NAMES} more" if len(named) > MOST_NAMES else ""
        return f"{sum(self.failures.values())} trial(s) failed: {', '.join(named[:MOST_NAMES])}{more}"

    def _note_score(self, event: FinalMetricEvent) -> None:
        named, own = self._take(event.metric), self._code(event.model)
        if named is not None and own not in (named, None):
            event.prevent_default()
            logger.error("NNI hands the score of %s to the trial of %s: it counts for %s alone", named, own, named)

    def _take(self, metric: object) -> str | None:
        """Note the score of the arch that a final result names, and return its code; None if it names none."""
        if not isinstance(metric, Mapping) or not isinstance(metric.get("arch"), str):
            return None
        self.scores[metric["arch"]] = float(metric["default"])
        return str(metric["arch"])

    def _note_end(self, event: TrainingEndEvent) -> bool:
        """Note a failure, and return whether it is the first one of its arch."""
        if event.model.metrics.final is not None or event.status is ModelStatus.Interrupted:
            return False
        code = self._name(event.model)
        self.failures[code] = self.failures.get(code, 0) + 1
        return self.failures[code] == 1

    def _run_again(self, engine: ExecutionEngine, model: ExecutableModelSpace) -> None:
        logger.warning("the trial of %s failed, and is run once more", self._name(model))
        model.metrics.clear()  # of the first time
        if isinstance(engine, SequentialExecutionEngine):
            engine._history.remove(model)  # which would list it twice
        if isinstance(engine, TrainingServiceExecutionEngine):  # which would list it as its first trial too
            engine._models = {number: known for number, known in engine._models.items() if known() is not model}
        engine.submit_models(model)

    def _name(self, model: ExecutableModelSpace) -> str:
        """Return the code of a model, or else its sample."""
        return self._code(model) or str(model.sample)

    def _code(self, model: ExecutableModelSpace) -> str | None:
        return None if model.sample is None else self._code_of(model.sample)


def _may_run_again(engine: ExecutionEngine) -> bool:
    if isinstance(engine, SequentialExecutionEngine) and not engine.continue_on_failure:
        return False  # the exception ends the experiment
    try:
        return bool(engine.budget_available())
    except (RuntimeError, requests.exceptions.RequestException):  # the engine is stopped, or the manager is
        return False


def _has_ended(engine: TrainingServiceExecutionEngine) -> bool:
    try:
        return engine.nodejs_binding.get_status() in ENDED
    except requests.exceptions.RequestException:  # a busy manager; one that died is noticed elsewhere
        return False


def _bounded_wait(engine: TrainingServiceExecutionEngine) -> Callable[..., None]:
    """Return what waits for models, but not for those that NNI's manager takes no more.

    NNI waits for ever for a model that was submitted as the last trial was given to one that is run once more.
    """
    wait = engine.wait_models

    def wait_models(*models: ExecutableModelSpace) -> None:
        if not models:
            wait()
        while any(model.status is ModelStatus.Training for model in models):
            if _has_ended(engine):
                time.sleep(GRACE)  # what the last trials said may be on its way
                return
            time.sleep(0.5)

    return wait_models
