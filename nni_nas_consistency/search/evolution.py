"""Search of a trained supernet by NNI's strategies: regularized evolution (Real et al., 2019, Algorithm 1), random."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

import nni
from nni.mutable import SampleValidationError
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.space import ExecutableModelSpace
from nni.nas.strategy import Random, RegularizedEvolution
from nni.nas.strategy.base import Strategy
from nni.nas.strategy.utils import DeduplicationHelper
from torch import nn

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.archs.codecs import Codec
from nni_nas_consistency.errors import FileError
from nni_nas_consistency.files.score_files import ScoreFile, journal_beside, read_scores, write_scores
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.nni3.experiment import run_in_process
from nni_nas_consistency.scoring.arch_list import check_finite, fingerprints
from nni_nas_consistency.scoring.journal import Journal, check_segments, delete_journal, remove_journal
from nni_nas_consistency.scoring.plain import score_network
from nni_nas_consistency.scoring.scoring import METRICS, Scoring
from nni_nas_consistency.search.constraints import Bounds
from nni_nas_consistency.search.costs import nni_sample
from nni_nas_consistency.supernet.make import codec_of

Scores: TypeAlias = "dict[str, tuple[Arch, float]]"


@dataclass(frozen=True)
class Evolution:
    """Regularized evolution.

    The first `population` archs are random. Each further one is a mutation of the best of a quarter of the population
    drawn at random (at least two), with every choice redrawn with probability 0.05, and replaces the oldest.

    Args:
        population: Size of the population, at least 2.
    """

    population: int = 50

    def settings(self) -> dict[str, Json]:
        """Return what decides which archs are drawn, besides the seed."""
        return {"population": self.population}

    def strategy(self, seed: int, bounds: Bounds | None) -> Strategy:
        """Return NNI's strategy."""
        sample_size = max(2, self.population // 4)
        if bounds is None:
            return RegularizedEvolution(population_size=self.population, sample_size=sample_size, seed=seed)
        return EvolutionWithin(bounds, population=self.population, sample_size=sample_size, seed=seed)


@dataclass(frozen=True)
class RandomSearch:
    """Random search: every arch is drawn anew."""

    def settings(self) -> dict[str, Json]:
        """Return what decides which archs are drawn, besides the seed."""
        return {"strategy": "random"}

    def strategy(self, seed: int, bounds: Bounds | None) -> Strategy:
        """Return NNI's strategy."""
        return Random(seed=seed) if bounds is None else RandomWithin(bounds, seed=seed)


class EvolutionWithin(RegularizedEvolution):  # type: ignore[misc]
    """NNI's regularized evolution among the archs that are within bounds: others are never submitted.

    Args:
        bounds: The bounds.
        population: Size of the population.
        sample_size: Archs that are drawn from it, of which the best is mutated.
        seed: Seed.
    """

    def __init__(self, bounds: Bounds, *, population: int, sample_size: int, seed: int) -> None:
        super().__init__(population_size=population, sample_size=sample_size, seed=seed)
        self.bounds = bounds

    def random(self) -> ExecutableModelSpace:
        """Return a random model within the bounds, as a member of the first population."""
        return _drawn(self.model_space, self.bounds, self._random_state, self._dedup_helper)

    def new_individual(self) -> ExecutableModelSpace:
        """Return a mutated model within the bounds.

        Raises:
            SampleValidationError: The mutation is beyond them; NNI tries again.
        """
        model = super().new_individual()
        if not self.bounds.allow(self.bounds.domain.codec.arch(model.sample)):
            raise SampleValidationError("beyond the bounds of the search")
        return model


class RandomWithin(Random):  # type: ignore[misc]
    """NNI's random search among the archs that are within bounds.

    Args:
        bounds: The bounds.
        seed: Seed.
    """

    def __init__(self, bounds: Bounds, *, seed: int) -> None:
        super().__init__(seed=seed)
        self.bounds = bounds

    def random(self, model_space: ExecutableModelSpace) -> ExecutableModelSpace:
        """Return a random model within the bounds."""
        return _drawn(model_space, self.bounds, self._random_state, self._dedup_helper)


def _drawn(space: ExecutableModelSpace, bounds: Bounds, dice: Any, seen: DeduplicationHelper) -> ExecutableModelSpace:
    """Return a random model within bounds.

    Raises:
        SampleValidationError: It was drawn before; NNI tries again.
    """
    sample = nni_sample(space, bounds.draw(dice))
    seen.dedup(sample)
    return space.freeze(sample)


def search(
    supernet: ModelSpace,
    scoring: Scoring,
    how: Evolution | RandomSearch,
    *,
    out: Path,
    trials: int,
    seed: int,
    provenance: Mapping[str, Json],
    bounds: Bounds | None = None,
    overwrite: bool = False,
    progress: Callable[[float], None] = lambda archs: None,
) -> Scores:
    """Search a trained supernet in this process, and return the scored archs by name.

    No arch is scored twice: NNI takes samples that differ in blocks which an arch lacks for several trials, and gets
    its score.

    Args:
        supernet: The trained supernet, of any space.
        scoring: How to score an arch.
        how: How archs are drawn.
        out: Score file to write, with all scored archs, named `arch1`, `arch2`, … in the order of scoring.
        trials: Number of samples to try, at least 1; there are fewer where NNI finds no new one in 500 draws.
        seed: Seed of the draws.
        provenance: Where the scores come from, for the score file; all of it but `made_by` decides them, and which
            archs are within `bounds`.
        bounds: What archs may cost.
        overwrite: Whether what `out` and its journal hold is deleted first.
        progress: Progress callback; called with 1 after every scored arch.

    Raises:
        KeyboardInterrupt: The search was interrupted by Ctrl-C; the scored archs are kept in the journal.
        FileError: `out` or its journal holds something else, or cannot be written.
    """
    identity: dict[str, Json] = {
        **{key: value for key, value in provenance.items() if key != "made_by"},
        **fingerprints(supernet, scoring),
        "seed": seed,
        **how.settings(),
    }
    journal_path = journal_beside(out)
    if overwrite:
        out.unlink(missing_ok=True)
        delete_journal(journal_path)
    identity = json.loads(json.dumps(identity | {"trials": trials}))  # as it will be read back
    if out.exists():
        scores = _finished(out, identity, codec_of(supernet))
        remove_journal(journal_path, identity)
        return scores
    with Journal(journal_path, identity) as journal:
        check_segments(journal_path, journal.segments, dict.fromkeys(range(trials), 1), scoring.metric)
        strategy = how.strategy(seed, bounds)
        scores = _search(supernet, scoring, journal, strategy, trials=trials, progress=progress)
    write_scores(out, ScoreFile(scores, {**identity, **provenance}))
    delete_journal(journal_path)
    return scores


def _finished(out: Path, identity: Mapping[str, Json], codec: Codec) -> Scores:
    """Return the scores of this search, which is done already."""
    written = read_scores(out, codec)
    if {**written.provenance, "made_by": None} != {**identity, "made_by": None}:
        raise FileError(f"{out}: holds something else than this search; choose another --out, or --overwrite it")
    return written.scores


def best_of(scores: Mapping[str, tuple[Arch, float]]) -> Arch:
    """Return the arch with the best score."""
    return max(scores.values(), key=lambda scored: scored[1])[0]


def _search(
    supernet: ModelSpace,
    scoring: Scoring,
    journal: Journal,
    strategy: Strategy,
    *,
    trials: int,
    progress: Callable[[float], None],
) -> Scores:
    """Run the strategy; an arch that the journal has a score of, by its number, is not scored again.

    The archs depend on the seed and the scores alone, so that a search that is begun again meets the same ones.
    """
    evaluated = count()
    first_trial: dict[Arch, int] = {}
    codec = codec_of(supernet)

    def evaluate(subnet: nn.Module) -> None:
        index = next(evaluated)
        first = first_trial.setdefault(codec.arch(nni.get_current_parameter().sample), index)
        if index not in journal.segments and first != index:
            journal.add(index, journal.segments[first])
        elif index not in journal.segments:
            score = score_network(subnet, scoring)
            check_finite([f"arch{index + 1}"], [score])
            journal.add(index, {metric: [score.of(metric)] for metric in METRICS})
        nni.report_final_result(journal.segments[index][scoring.metric][0])
        progress(1)

    folder = journal.path.with_name(f"{journal.path.stem}.nni")
    if not run_in_process(supernet, FunctionalEvaluator(evaluate), strategy, folder=folder, max_trial_number=trials):
        raise KeyboardInterrupt
    score_of: dict[Arch, float] = {}
    for model in strategy.list_models(sort=False):
        score_of.setdefault(codec.arch(model.sample), float(model.metric))
    return {f"arch{index}": scored for index, scored in enumerate(score_of.items(), 1)}
