"""`nni-consistency ensemble`: one score file of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nni_nas_consistency import jobs
from nni_nas_consistency.cli import parse
from nni_nas_consistency.cli.options import OutFile, OverwriteOption
from nni_nas_consistency.cli.parse import SpaceWord


def ensemble(
    scores: Annotated[list[Path], typer.Argument(help="Score files of one list, of one supernet each.")],
    space: Annotated[
        SpaceWord | None,
        typer.Option("--space", help="Search space; by default that of the first score file, else resnet20."),
    ] = None,
    capacity_prior: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=10.0,
            help="Add so much of the standardised mean log width, which favours wide archs; for spaces of widths.",
        ),
    ] = 0.0,
    out: OutFile = Path("ensemble.json"),
    overwrite: OverwriteOption = False,
) -> None:
    """Average the standardised scores of several supernets; write the mean scores and a submission.

    Report scores with a capacity prior beside those without: they come from no supernet alone.
    """
    system = parse.system_of_scores(space, scores[0])
    parse.check_ensemble(scores, capacity_prior)
    job = jobs.EnsembleJob(system, tuple(scores), out, capacity_prior=capacity_prior, overwrite=overwrite)
    for path in jobs.ensemble(job):
        print(path)
