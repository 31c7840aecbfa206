"""ReleasedArchs: a multi-trial strategy that submits the archs of a list, to this process or a training service."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from nni.nas.space import ExecutableModelSpace, ModelStatus
from nni.nas.strategy.base import Strategy

from nni_nas_consistency.archs.arch import Arch

logger = logging.getLogger(__name__)


class ReleasedArchs(Strategy):  # type: ignore[misc]
    """Submit a trial for every arch of a list, once, in the order of the list.

    `RetiariiExperiment` runs a trial that fails once more, if `max_trial_number` leaves room for it.

    Args:
        archs: Name → arch, such as `{name: entry.arch for name, entry in read_released(file, codec).items()}`.
    """

    def __init__(self, archs: Mapping[str, Arch]) -> None:
        super().__init__()
        self.archs = dict(archs)
        self._submitted: dict[str, ExecutableModelSpace] = {}
        self._former: dict[str, float] = {}

    def extra_repr(self) -> str:
        """Return what `repr` shows between its parentheses."""
        return f"archs={len(self.archs)}"

    def scores(self) -> dict[str, float]:
        """Return the final result of every arch whose trial reported one, in the order of the list."""
        metrics = {name: model.metric for name, model in dict(self._submitted).items()}
        reported = self._former | {name: float(metric) for name, metric in metrics.items() if metric is not None}
        return {name: reported[name] for name in self.archs if name in reported}

    def failed(self) -> list[str]:
        """Return the archs whose last trial ended without a result, in the order of the list."""
        ended = {name for name, model in self._submitted.items() if _is_without_result(model)}
        return [name for name in self.archs if name in ended]

    def state_dict(self) -> dict[str, Any]:
        """Return the results so far, for `load_state_dict`."""
        return {"scores": self.scores()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the results of an interrupted run; only archs without a result are submitted."""
        self._former = dict(state["scores"])

    def _run(self) -> None:
        read_by_network = set(self.model_space.simplify())
        for name in (name for name in self.archs if name not in self._former):
            if not self.wait_for_resource():
                break
            sample = {label: choice for label, choice in self.archs[name].sample.items() if label in read_by_network}
            model = self.model_space.freeze(sample)
            model.arch_name = name  # a parameter of the trial, where NNI's web page shows it
            self._submitted[name] = model
            self.engine.submit_models(model)
        if self._submitted:
            self.engine.wait_models(*self._submitted.values())
        for name in self.failed():
            logger.warning("%s has no score: its trials failed", name)


def _is_without_result(model: ExecutableModelSpace) -> bool:
    return bool(model.status.completed()) and model.status is not ModelStatus.Interrupted and model.metric is None
