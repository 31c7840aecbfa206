"""RetiariiExperiment and RetiariiExeConfig on top of NNI 3.0, and every workaround for what is broken in it.

NNI is archived upstream, so nothing will be mended there. Each workaround has a test in tests/test_experiment.py that
fails once NNI no longer needs it.
"""

from __future__ import annotations

import copy
import functools
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, cast

import torch
from nni.experiment import RunMode
from nni.nas.evaluator import Evaluator, FunctionalEvaluator
from nni.nas.experiment import NasExperiment, NasExperimentConfig
from nni.nas.experiment.config import ExecutionEngineConfig, ModelFormatConfig
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy, is_supernet
from nni.nas.oneshot.pytorch.supermodule.operation import MixedConv2d, MixedLinear
from nni.nas.strategy import RegularizedEvolution, Strategy

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.files.lists import Json, ScoreFile, write_scores
from nni_nas_consistency.images.datasets import Images
from nni_nas_consistency.scoring.plain import Scoring
from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.strategies.oneshot import SandwichStrategy, Step
from nni_nas_consistency.training.lightning import TrainingRun, score_subnet, training_evaluator
from nni_nas_consistency.training.recipes import Recipe


class RetiariiExeConfig(NasExperimentConfig):  # type: ignore[misc]
    """Settings of an experiment, with Retiarii's signature.

    Engine and format can be set by name at any time, which NNI 3.0 rejects (workaround).

    Args:
        training_service_platform: Where trials run, such as `local`.
        execution_engine: `ts` for a training service, or `sequential` for trials in this process.
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
        if name == "execution_engine" and isinstance(value, str):
            value = ExecutionEngineConfig(name=value)
        if name == "model_format" and isinstance(value, str):
            value = ModelFormatConfig(name=value)
        super().__setattr__(name, value)

    def canonical_copy(self) -> NasExperimentConfig:
        """Return what NNI runs: it asks classes of another name for a tuner (workaround)."""
        plain = copy.copy(self)
        plain.__class__ = NasExperimentConfig
        return plain.canonical_copy()


class RetiariiExperiment(NasExperiment):  # type: ignore[misc]
    """Explore a space with a strategy, under Retiarii's name and call.

    A one-shot strategy, or a space that is a supernet, runs in this process; other strategies go through NNI's
    manager, whose web page is bound to this machine only (workaround: NNI binds it to all interfaces, without a
    password).

    Args:
        space: The model space.
        evaluator: What trains or scores a model.
        strategy: What explores.
        config: Settings; by default, this process or the local training service, as above.
        id: Name of a stopped experiment to `resume`; by default, a new one.
    """

    def __init__(
        self,
        space: ModelSpace,
        evaluator: Evaluator,
        strategy: Strategy,
        config: NasExperimentConfig | None = None,
        *,
        id: str | None = None,
    ) -> None:
        super().__init__(space, evaluator, strategy, config or _default_config(space, strategy), id=id)

    def run(self, config: NasExperimentConfig | None = None, port: int = 8080, debug: bool = False) -> bool:
        """Run, and return whether that went on to the end: False after Ctrl-C, which NNI catches.

        Args:
            config: Settings that replace those given before.
            port: Of the web page, where NNI's manager is needed.
            debug: Whether to log in detail.
        """
        if config is not None:
            self.config = config
        return bool(super().run(port, debug=debug))

    def run_or_resume(self, port: int = 8080, debug: bool = False) -> bool:
        """Resume the experiment if there is a stopped one of this id, or else run it; see `run`."""
        return bool(self.resume(port, debug=debug)) if self.has_checkpoint() else self.run(None, port, debug)

    def start(self, port: int = 8080, debug: bool = False, run_mode: RunMode = RunMode.Background) -> None:
        """Start, and return when the strategy is done."""
        with localhost_only():
            super().start(port, debug, run_mode)

    def _run_impl(self, port: int, wait_completion: bool, debug: bool) -> bool | None:
        try:
            return cast("bool | None", super()._run_impl(port, wait_completion, debug))
        finally:
            if not self._nni_manager_required():  # with a manager, its web page stays up until `stop`
                self.stop()


def _default_config(space: ModelSpace, strategy: Strategy) -> RetiariiExeConfig:
    if isinstance(strategy, OneShotStrategy) or is_supernet(space):
        return RetiariiExeConfig(execution_engine="sequential", model_format="raw")
    return RetiariiExeConfig()


def train_supernet(
    space: ChainSpace, recipe: Recipe, train: Images, val: Images, *, seed: int, run: TrainingRun, step: Step = "auto"
) -> ChainSpace:
    """Train a space as a supernet by a recipe, through a `RetiariiExperiment`, and return the supernet.

    Args:
        space: The search space; it becomes the supernet, in place. Its first weights are torch's, so seed torch before
            it is made. A supernet is trained on, from the weights it has.
        recipe: How to train.
        train: Training images, on the device that trains.
        val: Images that validation follows the largest, the smallest and a few other archs on.
        seed: Of the sampler, the order of the images and the augmentation.
        run: Where checkpoints go, and how.
        step: Whether the archs of a batch run stacked or one by one.

    Raises:
        NonFiniteLoss: The training diverged.
        InputError: `run.resume` without a checkpoint.
    """
    evaluator = training_evaluator(recipe.optimization, train, recipe.augmentation, val, seed=seed, run=run)
    strategy = SandwichStrategy(
        recipe.n,
        sampler=recipe.sampler(space, torch.Generator().manual_seed(seed)),
        sandwich=recipe.sandwich,
        distill=recipe.distill,
        distill_from=recipe.distill_from,
        grad_clip=recipe.grad_clip,
        step=step,
        seed=seed,
    )
    with warnings_only():
        finished = RetiariiExperiment(space, evaluator, strategy).run()
    if not finished:
        raise KeyboardInterrupt
    return cast("ChainSpace", strategy.supernet)


def evolve(
    supernet: ChainSpace,
    scoring: Scoring,
    *,
    out: Path,
    trials: int,
    population: int,
    seed: int,
    provenance: Mapping[str, Json],
    advance: Callable[[float], None] = lambda done: None,
) -> Arch:
    """Search a trained supernet with NNI's regularized evolution, in this process, and return the best arch.

    Args:
        supernet: The trained supernet.
        scoring: How archs are scored.
        out: Score file for all archs that were scored, named by their order.
        trials: How many archs to score.
        population: Archs that live at a time, of which a quarter compete to be a parent.
        seed: Of the evolution.
        provenance: For the score file.
        advance: Is told 1 for every arch scored.
    """

    def score(model: ChainSpace) -> None:
        score_subnet(model, scoring=lambda: scoring)
        advance(1)

    strategy = RegularizedEvolution(population_size=population, sample_size=max(2, population // 4), seed=seed)
    config = RetiariiExeConfig(execution_engine="sequential", model_format="raw", max_trial_number=trials)
    with warnings_only():
        finished = RetiariiExperiment(supernet, FunctionalEvaluator(score), strategy, config).run()
    if not finished:
        raise KeyboardInterrupt
    models = enumerate(strategy.list_models(sort=False), 1)
    scores = {f"arch{index}": (supernet.arch(model.sample), float(model.metric)) for index, model in models}
    write_scores(out, ScoreFile(scores, provenance))
    return max(scores.values(), key=lambda scored: scored[1])[0]


@contextmanager
def localhost_only() -> Iterator[None]:
    """Bind an NNI manager that is started inside to 127.0.0.1; `nnictl` too, which inherits the environment."""
    before = os.environ.get("NODE_OPTIONS")
    with as_file(files("nni_nas_consistency") / "assets" / "localhost.js") as script:
        os.environ["NODE_OPTIONS"] = f'{before or ""} --require "{script}"'.strip()
        try:
            yield
        finally:
            if before is None:
                del os.environ["NODE_OPTIONS"]
            else:
                os.environ["NODE_OPTIONS"] = before


@contextmanager
def warnings_only() -> Iterator[None]:
    """Keep what is no warning off the console: NNI writes two lines a trial. The experiment's log file has them all."""
    consoles = [handler for handler in logging.getLogger("nni").handlers if type(handler) is logging.StreamHandler]
    before = [handler.level for handler in consoles]
    try:
        for handler in consoles:
            handler.setLevel(logging.WARNING)
        yield
    finally:
        for handler, level in zip(consoles, before, strict=True):
            handler.setLevel(level)


def repair_freeze() -> None:
    """Let NNI's own supernets freeze layers without bias: their `freeze_weight` hands on `bias: None` (workaround)."""
    for operation in (MixedConv2d, MixedLinear):
        operation.freeze_weight = _leaving_out_missing(operation.freeze_weight)


def _leaving_out_missing(freeze_weight: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    @functools.wraps(freeze_weight)
    def repaired(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        weights = freeze_weight(self, *args, **kwargs)
        return {name: value for name, value in weights.items() if value is not None}

    return repaired


def drop_noise() -> None:
    """Drop a warning, some 15 a run, that trials in this process need none of the training service that NNI demands."""
    logging.getLogger(NasExperimentConfig.__module__).addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return record.msg != "`training_service` will be ignored for sequential execution engine."


repair_freeze()
drop_noise()
