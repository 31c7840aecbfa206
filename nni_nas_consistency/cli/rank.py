"""`nni-consistency rank`: how well scores rank archs by reference accuracy."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from nni_nas_consistency import jobs
from nni_nas_consistency.cli import parse
from nni_nas_consistency.cli.console import command_line
from nni_nas_consistency.cli.options import SeedOption
from nni_nas_consistency.cli.parse import SpaceWord
from nni_nas_consistency.files.provenance import provenance


def rank(
    context: typer.Context,
    scores: Annotated[Path, typer.Argument(help="Score file or submission.")],
    reference: Annotated[Path, typer.Argument(help="Reference accuracies, in the released format.")],
    space: Annotated[
        SpaceWord | None,
        typer.Option("--space", help="Search space; by default that of the score file, else resnet20."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    common: Annotated[bool, typer.Option("--common", help="Rank only the archs that both files have.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report with plots into this folder.")] = None,
    seed: SeedOption = 0,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap resamples for the confidence intervals.")] = 1000,
) -> None:
    """Measure rank consistency: Kendall, Pearson and Spearman, with confidence intervals and baselines."""
    job = jobs.RankJob(
        parse.system_of_scores(space, scores),
        scores,
        reference,
        common=common,
        seed=seed,
        resamples=resamples,
        provenance=provenance(command_line(context)),
    )
    result = jobs.rank(job)
    from nni_nas_consistency.ranking.report import lines, write_report

    if as_json:
        print(json.dumps({"scores": asdict(result.consistency), **{k: asdict(v) for k, v in result.baselines.items()}}))
    else:
        print("\n".join(lines(result)))
    if report is not None:
        print(write_report(result, report), file=sys.stderr if as_json else sys.stdout)
