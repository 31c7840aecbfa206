"""ReleasedArchs: a multi-trial strategy that submits the archs of a list, to this process or a training service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nni.nas.space import ExecutableModelSpace
from nni.nas.strategy.base import Strategy

from nni_nas_consistency.archs.arch import Arch


class ReleasedArchs(Strategy):  # type: ignore[misc]
    """Submit a trial for every arch of a list, once, in the order of the list.

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
        metrics = {name: model.metric for name, model in self._submitted.items()}
        reported = self._former | {name: float(metric) for name, metric in metrics.items() if metric is not None}
        return {name: reported[name] for name in self.archs if name in reported}

    def state_dict(self) -> dict[str, Any]:
        """Return the results so far, for `load_state_dict`."""
        return {"scores": self.scores()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the results of an interrupted run; only archs without a result are submitted."""
        self._former = dict(state["scores"])

    def _run(self) -> None:
        read_by_network = set(self.model_space.simplify())
        for name, arch in self.archs.items():
            if name in self._former:
                continue
            if not self.wait_for_resource():
                return
            sample = {label: choice for label, choice in arch.sample.items() if label in read_by_network}
            model = self.model_space.freeze(sample)
            model.arch_name = name  # a parameter of the trial, where NNI's web page shows it
            self._submitted[name] = model
            self.engine.submit_models(model)
