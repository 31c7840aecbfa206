"""Regularized evolution (Real et al., 2019, Algorithm 1) of the archs of a trained supernet, by NNI's strategy."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path

import nni
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.strategy import RegularizedEvolution

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
    overwrite: bool = False,
    progress: Callable[[float], None] = lambda archs: None,
) -> Arch:
    """Search a trained supernet by regularized evolution in this process, and return the arch with the best score.

    The first `population` archs are random. Each further one is a mutation of the best of a quarter of the population
    drawn at random (at least two), with every choice redrawn with probability 0.05, and replaces the oldest. No arch is
    scored twice: NNI takes samples that differ in blocks which an arch lacks for several trials, and gets its score.

    Args:
        supernet: The trained supernet.
        scoring: How to score an arch.
        out: Score file to write, with all scored archs, named `arch1`, `arch2`, … in the order of scoring.
        trials: Number of samples to try, at least 1.
        population: Size of the population, at least 2.
        seed: Seed of the evolution.
        provenance: Where the scores come from, for the score file; all of it but `made_by` decides them.
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
        "population": population,
    }
    journal_path = journal_beside(out)
    if overwrite:
        out.unlink(missing_ok=True)
        delete_journal(journal_path)
    identity = json.loads(json.dumps(identity | {"trials": trials}))  # as it will be read back
    if out.exists():
        best = _best(_finished(out, identity, supernet.codec))
        remove_journal(journal_path, identity)
        return best
    with Journal(journal_path, identity) as journal:
        check_segments(journal_path, journal.segments, dict.fromkeys(range(trials), 1), scoring.metric)
        scores = _search(supernet, scoring, journal, trials=trials, population=population, seed=seed, progress=progress)
    write_scores(out, ScoreFile(scores, {**identity, **provenance}))
    delete_journal(journal_path)
    return _best(scores)


def _finished(out: Path, identity: Mapping[str, Json], codec: Codec) -> dict[str, tuple[Arch, float]]:
    """Return the scores of this search, which is done already."""
    written = read_scores(out, codec)
    if {**written.provenance, "made_by": None} != {**identity, "made_by": None}:
        raise FileError(f"{out}: holds something else than this search; choose another --out, or --overwrite it")
    return written.scores


def _best(scores: Mapping[str, tuple[Arch, float]]) -> Arch:
    return max(scores.values(), key=lambda scored: scored[1])[0]


def _search(
    supernet: ChainSpace,
    scoring: Scoring,
    journal: Journal,
    *,
    trials: int,
    population: int,
    seed: int,
    progress: Callable[[float], None],
) -> dict[str, tuple[Arch, float]]:
    """Run the evolution; an arch that the journal has a score of, by its number, is not scored again.

    The archs depend on the seed and the scores alone, so that a search that is begun again meets the same ones.
    """
    evaluated = count()
    first_trial: dict[Arch, int] = {}

    def evaluate(subnet: ChainSpace) -> None:
        assert subnet.frozen_arch is not None
        index = next(evaluated)
        first = first_trial.setdefault(subnet.frozen_arch, index)
        if index not in journal.segments and first != index:
            journal.add(index, journal.segments[first])
        elif index not in journal.segments:
            score = score_network(subnet, scoring)
            check_finite([f"arch{index + 1}"], [score])
            journal.add(index, {metric: [score.of(metric)] for metric in METRICS})
        nni.report_final_result(journal.segments[index][scoring.metric][0])
        progress(1)

    strategy = RegularizedEvolution(population_size=population, sample_size=max(2, population // 4), seed=seed)
    folder = journal.path.with_name(f"{journal.path.stem}.nni")
    if not run_in_process(supernet, FunctionalEvaluator(evaluate), strategy, folder=folder, max_trial_number=trials):
        raise KeyboardInterrupt
    score_of: dict[Arch, float] = {}
    for model in strategy.list_models(sort=False):
        score_of.setdefault(supernet.arch(model.sample), float(model.metric))
    return {f"arch{index}": scored for index, scored in enumerate(score_of.items(), 1)}
