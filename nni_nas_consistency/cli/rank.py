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
from nni_nas_consistency.cli.console import command_line, progress, saying_what_is_kept
from nni_nas_consistency.cli.options import SeedOption, count_option
from nni_nas_consistency.cli.parse import SpaceWord
from nni_nas_consistency.files.doors import check_output_folder
from nni_nas_consistency.files.provenance import provenance

REPORT_FILES = ("report.html", "report.json", "scatter.png", "ranks.png")


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
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Score file of another supernet: by how much SCORES rank better; may be given again."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report with plots into this folder.")] = None,
    seed: SeedOption = 0,
    resamples: Annotated[
        int,
        count_option(
            "--resamples",
            "Bootstrap resamples for the confidence intervals.",
            most=100_000,
            why="intervals hardly change beyond 10,000",
        ),
    ] = 1000,
) -> None:
    """Measure rank consistency: Kendall, Pearson and Spearman, with confidence intervals and baselines."""
    job = jobs.RankJob(
        parse.system_of_scores(space, scores),
        scores,
        reference,
        common=common,
        against=tuple(against or ()),
        seed=seed,
        resamples=resamples,
        provenance=provenance(command_line(context)),
    )
    if report is not None:
        check_output_folder(report, REPORT_FILES)
    with saying_what_is_kept(lambda: "nothing was written: give the same command again"):
        result = jobs.rank(job, progress=progress)

        from nni_nas_consistency.ranking.report import lines, write_report

    if as_json:
        columns = {"scores": asdict(result.consistency), **{k: asdict(v) for k, v in result.baselines.items()}}
        differences = {name: None if found is None else asdict(found) for name, found in result.against.items()}
        print(json.dumps({**columns, **({"against": differences} if against else {})}))
    else:
        print("\n".join(lines(result)))
    if report is not None:
        print(write_report(result, report), file=sys.stderr if as_json else sys.stdout)
