"""`nni-consistency standalone`: train archs alone, which gives their reference accuracies."""

from __future__ import annotations

from typing import Annotated

import typer

from nni_nas_consistency import jobs
from nni_nas_consistency.cli import parse
from nni_nas_consistency.cli.console import command_line, progress
from nni_nas_consistency.cli.options import (
    Archs,
    DataOption,
    DeviceOption,
    DownloadOption,
    OutFolder,
    RootOption,
    SpaceOption,
)
from nni_nas_consistency.files.provenance import provenance


def standalone(
    context: typer.Context,
    archs: Archs,
    out: OutFolder,
    space: SpaceOption = None,
    data: DataOption = None,
    data_root: RootOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="Train every arch with seeds 0 … N−1.")] = 1,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs; by default the recipe's. Its warm-up changes in proportion.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Train the first N archs of the list.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the accuracies that --out holds, and train anew.")
    ] = False,
    device: DeviceOption = "auto",
    download: DownloadOption = False,
) -> None:
    """Train each arch of a list from scratch: reference accuracies. Finished seeds are kept; run again to continue."""
    system, data_set = parse.system_and_data(space, data)
    optimization = system.standalone
    job = jobs.StandaloneJob(
        system,
        data_set,
        archs,
        out,
        optimization if epochs is None else optimization.for_epochs(epochs),
        seeds=seeds,
        limit=limit,
        overwrite=overwrite,
        data_root=data_root,
        download=download,
        device=device,
        provenance=provenance(command_line(context)),
    )
    print(jobs.train_standalone(job, progress=progress))
