"""Regularized evolution (Real et al., 2019, Algorithm 1) of the archs of a trained supernet, by NNI's strategy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import nni
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.strategy import RegularizedEvolution

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.files.score_files import ScoreFile, write_scores
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.nni3.experiment import RetiariiExeConfig, RetiariiExperiment
from nni_nas_consistency.scoring.plain import score_network
from nni_nas_consistency.scoring.scoring import Scoring
from nni_nas_consistency.spaces.chain import ChainSpace


def evolve(
    supernet: ChainSpace,
    scoring: Scoring,
    *,
    out: Path,
    trials: int,
    population: int,
    seed: int,
    provenance: Mapping[str, Json],
    progress: Callable[[float], None] = lambda archs: None,
) -> Arch:
    """Search a trained supernet by regularized evolution in this process, and return the arch with the best score.

    The first `population` archs are random. Each further one is a mutation of the best of a quarter of the population
    drawn at random (at least two), with every choice redrawn with probability 0.05, and replaces the oldest. No arch is
    scored twice.

    Args:
        supernet: The trained supernet.
        scoring: How to score an arch.
        out: Score file to write, with all scored archs, named `arch1`, `arch2`, … in the order of scoring.
        trials: Number of archs to score, at least 1.
        population: Size of the population, at least 2.
        seed: Seed of the evolution.
        provenance: Provenance for the score file.
        progress: Progress callback; called with 1 after every scored arch.

    Raises:
        KeyboardInterrupt: The search was interrupted by Ctrl-C; no score file is written.
    """

    def evaluate(subnet: ChainSpace) -> None:
        nni.report_final_result(score_network(subnet, scoring).of(scoring.metric))
        progress(1)

    strategy = RegularizedEvolution(population_size=population, sample_size=max(2, population // 4), seed=seed)
    config = RetiariiExeConfig(execution_engine="sequential", model_format="raw", max_trial_number=trials)
    if not RetiariiExperiment(supernet, FunctionalEvaluator(evaluate), strategy, config).run():
        raise KeyboardInterrupt
    models = enumerate(strategy.list_models(sort=False), 1)
    scores = {f"arch{index}": (supernet.arch(model.sample), float(model.metric)) for index, model in models}
    write_scores(out, ScoreFile(scores, provenance))
    return max(scores.values(), key=lambda scored: scored[1])[0]
