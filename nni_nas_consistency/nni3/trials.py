"""What the trials of an experiment said of themselves: which arch has which score, and which failed.

NNI 3.0 may store two trials that begin together with each other's parameters. So a trial names the arch that it has
scored, and a score belongs to that arch, whatever NNI's database says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from nni.nas.execution import ExecutionEngine
from nni.nas.execution.event import FinalMetricEvent, ModelEventType, TrainingEndEvent
from nni.nas.space import ExecutableModelSpace, ModelStatus

logger = logging.getLogger(__name__)

MOST_NAMES = 10
"""How many archs a summary names."""


class TrialRecord:
    """Scores and failures by the code of the arch.

    Args:
        code_of: Returns the code of an arch from its sample, or None for spaces whose archs have no code.
    """

    def __init__(self, code_of: Callable[[Mapping[str, Any]], str | None]) -> None:
        self.scores: dict[str, float] = {}
        self.failures: dict[str, int] = {}
        self._code_of = code_of

    def watch(self, engine: ExecutionEngine, ended: Callable[[], None]) -> None:
        """Listen to the trials of an engine, and let it list models with the scores that their trials reported.

        Args:
            engine: The engine.
            ended: Called when a trial has ended, whatever its result.
        """
        engine.register_model_event_callback(ModelEventType.FinalMetric, self._note_score)

        def note_end(event: TrainingEndEvent) -> None:
            self._note_end(event)
            ended()

        engine.register_model_event_callback(ModelEventType.TrainingEnd, note_end)
        listed = engine.list_models

        def list_models(status: ModelStatus | None = None) -> Iterator[ExecutableModelSpace]:
            for model in listed(status):
                code = self._code(model)
                if code in self.scores and model.metrics.final is not None:
                    model.metrics.final = self.scores[code]
                yield model

        engine.list_models = list_models

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
        code, own = self._take(event.metric), self._code(event.model)
        if code is None or own in (code, None):
            return
        event.prevent_default()  # the score of another arch
        logger.error("NNI hands the score of %s to the trial of %s: it counts for %s alone", code, own, code)

    def _take(self, metric: object) -> str | None:
        """Note the score of the arch that a final result names, and return its code; None if it names none."""
        if not isinstance(metric, Mapping) or not isinstance(metric.get("arch"), str):
            return None
        self.scores[metric["arch"]] = float(metric["default"])
        return str(metric["arch"])

    def _note_end(self, event: TrainingEndEvent) -> None:
        if event.status is ModelStatus.Failed or event.model.metrics.final is None:
            code = self._code(event.model) or str(event.model.sample)
            if event.status is not ModelStatus.Interrupted and code not in self.scores:
                self.failures[code] = self.failures.get(code, 0) + 1

    def _code(self, model: ExecutableModelSpace) -> str | None:
        return None if model.sample is None else self._code_of(model.sample)
