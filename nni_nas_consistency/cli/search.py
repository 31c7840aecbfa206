"""`nni-consistency search`: regularized evolution on a trained supernet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nni_nas_consistency import jobs
from nni_nas_consistency.cli import parse
from nni_nas_consistency.cli.console import command_line, progress
from nni_nas_consistency.cli.options import (
    Checkpoint,
    DataOption,
    DeviceOption,
    DownloadOption,
    OutFile,
    RootOption,
    SeedOption,
    SpaceOption,
)
from nni_nas_consistency.files.provenance import provenance


def search(
    context: typer.Context,
    checkpoint: Checkpoint,
    space: SpaceOption = None,
    data: DataOption = None,
    data_root: RootOption = None,
    out: OutFile = Path("searched.json"),
    trials: Annotated[int, typer.Option(min=1, help="Number of archs to score.")] = 200,
    population: Annotated[int, typer.Option(min=2, help="Population size.")] = 50,
    images: Annotated[int | None, typer.Option(min=1, help="Score on the first N test images only.")] = None,
    seed: SeedOption = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete what --out holds of other settings first.")
    ] = False,
    device: DeviceOption = "auto",
    download: DownloadOption = False,
) -> None:
    """Search a trained supernet by NNI's regularized evolution; write all scored archs and print the best."""
    system, data_set = parse.system_and_data(space, data, checkpoint=checkpoint)
    job = jobs.SearchJob(
        system,
        data_set,
        checkpoint,
        out,
        trials=trials,
        population=population,
        overwrite=overwrite,
        images=images,
        data_root=data_root,
        download=download,
        seed=seed,
        device=device,
        provenance=provenance(command_line(context)),
    )
    best = jobs.search(job, progress=progress)
    print(out)
    print(f"best: {best.code}")
