"""`nni-consistency search`: regularized evolution on a trained supernet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nni_nas_consistency import jobs
from nni_nas_consistency.cli import parse
from nni_nas_consistency.cli.console import command_line, kept_in_journal, progress, saying_what_is_kept
from nni_nas_consistency.cli.options import (
    CacheOption,
    Checkpoint,
    DataOption,
    DeviceOption,
    DownloadOption,
    OutFile,
    RootOption,
    SeedOption,
    SpaceOption,
    TestImagesOption,
    ValFilesOption,
    ValFractionOption,
    WorkersOption,
    count_option,
)
from nni_nas_consistency.files.provenance import provenance
from nni_nas_consistency.files.score_files import journal_beside


def search(
    context: typer.Context,
    checkpoint: Checkpoint,
    space: SpaceOption = None,
    data: DataOption = None,
    data_root: RootOption = None,
    val_fraction: ValFractionOption = None,
    val_files: ValFilesOption = None,
    cache: CacheOption = None,
    workers: WorkersOption = None,
    out: OutFile = Path("searched.json"),
    trials: Annotated[
        int,
        count_option(
            "--trials", "Number of archs to score.", most=100_000, why="NNI keeps all of them in memory, as networks"
        ),
    ] = 200,
    population: Annotated[
        int,
        count_option(
            "--population", "Population size.", least=2, most=10_000, why="the first population is drawn at random"
        ),
    ] = 50,
    images: TestImagesOption = None,
    seed: SeedOption = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete what --out holds of other settings first.")
    ] = False,
    device: DeviceOption = "auto",
    download: DownloadOption = False,
) -> None:
    """Search a trained supernet by NNI's regularized evolution; write all scored archs and print the best."""
    folder = parse.FolderWords(
        data_root,
        val_fraction=val_fraction,
        val_files=val_files,
        cache=cache,
        workers=workers,
    )
    system, data_set = parse.system_and_data(space, data, checkpoint=checkpoint, folder=folder)
    data_set.check_count("--images", images, train=False)
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
    with saying_what_is_kept(lambda: kept_in_journal(journal_beside(out))):
        best = jobs.search(job, progress=progress)
    print(out)
    print(f"best: {best.code}")
