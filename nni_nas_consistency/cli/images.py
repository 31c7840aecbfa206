"""`nni-consistency images`: choose the test images that archs are scored on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nni_nas_consistency import jobs
from nni_nas_consistency.cli import parse
from nni_nas_consistency.cli.console import command_line, progress, saying_what_is_kept
from nni_nas_consistency.cli.options import (
    Archs,
    BatchSizeOption,
    CacheOption,
    Checkpoint,
    DataOption,
    DeviceOption,
    DownloadOption,
    OutFile,
    OverwriteOption,
    RootOption,
    SeedOption,
    SpaceOption,
    ValFilesOption,
    ValFractionOption,
    WorkersOption,
    count_option,
)
from nni_nas_consistency.files.provenance import provenance

images_app = typer.Typer(help="Choose the images that archs are scored on.")


@images_app.callback()
def images() -> None:
    """Choose the images that archs are scored on."""


@images_app.command("choose")
def images_choose(
    context: typer.Context,
    checkpoint: Checkpoint,
    archs: Archs,
    space: SpaceOption = None,
    data: DataOption = None,
    data_root: RootOption = None,
    val_fraction: ValFractionOption = None,
    val_files: ValFilesOption = None,
    cache: CacheOption = None,
    workers: WorkersOption = None,
    out: OutFile = Path("images.json"),
    count: Annotated[
        int, count_option("--count", "Images to choose.", most=50_000, why="no data set has more images")
    ] = 1024,
    archs_scored: Annotated[
        int,
        count_option(
            "--archs-scored",
            "Archs of the list, drawn at random, that are scored on all images: half to choose by, half to check.",
            least=4,
            most=2000,
            why="the losses of all images are kept in memory",
        ),
    ] = 200,
    batch_size: BatchSizeOption = 512,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    device: DeviceOption = "auto",
    download: DownloadOption = False,
) -> None:
    """Choose few test images on which archs rank as on all of them; for `score --images-file`.

    Archs are scored on all images first. Reference accuracies take no part.
    """
    folder = parse.FolderWords(
        data_root,
        val_fraction=val_fraction,
        val_files=val_files,
        cache=cache,
        workers=workers,
    )
    system, data_set = parse.system_and_data(space, data, checkpoint=checkpoint, folder=folder)
    data_set.check_count("--count", count, train=False)
    job = jobs.ChooseImagesJob(
        system,
        data_set,
        checkpoint,
        archs,
        out,
        data_root=data_root,
        download=download,
        count=count,
        archs_scored=archs_scored,
        batch_size=batch_size,
        seed=seed,
        overwrite=overwrite,
        device=device,
        provenance=provenance(command_line(context)),
    )
    with saying_what_is_kept(lambda: "nothing was written: give the same command again"):
        agreement = jobs.choose_images(job, progress=progress)
    print(f"{out}: {count} images")
    print(f"Kendall with the ranking by all images, on archs that took no part in the choice: {agreement.chosen:.4f}")
    print(f"with as many images at random: {', '.join(f'{tau:.4f}' for tau in agreement.random)}")
