"""`nni-consistency study`: settings × seeds, each row a training, a scoring and a ranking."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nni_nas_consistency import jobs
from nni_nas_consistency.cli.console import command_line, progress_bar, say, saying_what_is_kept
from nni_nas_consistency.cli.options import (
    DataOption,
    DeviceOption,
    DownloadOption,
    LimitOption,
    RootOption,
    TestImagesOption,
    TrainImagesOption,
    count_option,
)
from nni_nas_consistency.cli.parse import SpaceWord
from nni_nas_consistency.cli.parse_study import study_job
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.doors import check_output_folder
from nni_nas_consistency.files.provenance import provenance
from nni_nas_consistency.studies.settings_file import published_studies

REPORT_FILES = ("table.json", "study.png", "study.html")


def study(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help=f"{', '.join(published_studies())}; or a file of settings of your own, NAME.yml.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Output folder; by default runs/studies/NAME. Created if missing.")
    ] = None,
    seeds: Annotated[
        int,
        count_option("--seeds", "Run every setting with seeds 0 … N−1.", most=1000, why="each runs all settings again"),
    ] = 5,
    space: Annotated[
        SpaceWord | None,
        typer.Option("--space", help="Search space; by default the first that the study has settings for, digits."),
    ] = None,
    data: DataOption = None,
    data_root: RootOption = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference", help="Reference accuracies, in the released format; by default the embedded benchmark's."
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        count_option(
            "--epochs",
            "Epochs of all settings, instead of the study's; what settings give in percent changes in proportion.",
            most=10_000,
            why="published recipes have 300",
        ),
    ] = None,
    limit: LimitOption = None,
    images: TestImagesOption = None,
    train_images: TrainImagesOption = None,
    show: Annotated[
        bool, typer.Option("--show", help="Do no run; show the table of those that are finished, by trials of NNI too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the study that --out holds, and begin anew.")
    ] = False,
    device: DeviceOption = "auto",
    download: DownloadOption = False,
) -> None:
    """Compare settings: train, score and rank each with several seeds; write table.json, study.png and study.html.

    Finished runs are kept, and never repeated; the cost is printed before the first begins.
    """
    job = study_job(
        name,
        out,
        space=space,
        data=data,
        reference=reference,
        seeds=seeds,
        epochs=epochs,
        limit=limit,
        images=images,
        train_images=train_images,
        data_root=data_root,
        download=download,
        overwrite=overwrite and not show,
        device=device,
        provenance=provenance(command_line(context)),
    )
    if show and not (job.out / "study.json").is_file():
        raise InputError(f"{job.out}: holds no study; leave --show out, or name another --out")
    check_output_folder(job.out, REPORT_FILES)
    with saying_what_is_kept(lambda: _kept(job.out)):
        table = jobs.study_table(job) if show else jobs.study(job, progress=progress_bar, write=say)

        from nni_nas_consistency.studies.report import as_json as json_of
        from nni_nas_consistency.studies.report import lines, write_report

    page = write_report(table, job.out)
    print(json_of(table).rstrip() if as_json else "\n".join([*lines(table), f"report: {page}"]))


def _kept(out: Path) -> str:
    finished = len(list(out.glob("results/*/seed*.json")))
    return f"{finished} finished run(s) are kept in {out}: give the same command again to go on"
