"""`nni-consistency extract`: take a subnet out of a supernet, for programs that have torch alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from nni_nas_consistency import jobs
from nni_nas_consistency.cli import parse
from nni_nas_consistency.cli.console import command_line, progress, saying_what_is_kept
from nni_nas_consistency.cli.options import (
    BatchSizeOption,
    CacheOption,
    Checkpoint,
    DataOption,
    DownloadOption,
    OutFile,
    RootOption,
    SpaceOption,
    ValFilesOption,
    ValFractionOption,
    WorkersOption,
)
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.provenance import provenance


def extract(
    context: typer.Context,
    checkpoint: Checkpoint,
    arch: Annotated[str, typer.Option("--arch", help="Code of the subnet.")],
    space: SpaceOption = None,
    data: DataOption = None,
    data_root: RootOption = None,
    val_fraction: ValFractionOption = None,
    val_files: ValFilesOption = None,
    cache: CacheOption = None,
    workers: WorkersOption = None,
    out: OutFile = Path("subnet.safetensors"),
    bn: Annotated[
        Literal["train", "test", "supernet"] | None,
        typer.Option(
            help="Batch-norm statistics: re-estimated on train (the default) or test images, or running ones."
        ),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option("--images", min=1, help="Re-estimate on the first N images only; at most as many as there are."),
    ] = None,
    batch_size: BatchSizeOption = 512,
    onnx: Annotated[
        Path | None, typer.Option(help="Write the subnet as ONNX too, checked by onnxruntime to 1e-4.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    download: DownloadOption = False,
) -> None:
    """Take a subnet out of a trained supernet: its weights, and a Python file beside them that needs torch alone."""
    folder = parse.FolderWords(data_root, val_fraction=val_fraction, val_files=val_files, cache=cache, workers=workers)
    system, data_set = parse.system_and_data(space, data, checkpoint=checkpoint, folder=folder)
    statistics = parse.statistics_of(system, bn, "train")
    if images is not None and statistics == "supernet":
        raise InputError(f"--images {images} belongs to --bn train and test; the supernet's statistics take no images")
    data_set.check_count("--images", images, train=statistics == "train")
    job = jobs.ExtractJob(
        system,
        data_set,
        checkpoint,
        system.arch(arch, "--arch"),
        out,
        bn=statistics,
        images=images,
        batch_size=batch_size,
        onnx=onnx,
        overwrite=overwrite,
        data_root=data_root,
        download=download,
        provenance=provenance(command_line(context)),
    )
    with saying_what_is_kept(lambda: "nothing was written: give the same command again"):
        extracted = jobs.extract(job, progress=progress)
    for path in extracted.files:
        print(path)
    print(f"batch-norm statistics: {extracted.card['batch_norm_statistics']}")
    if "accuracy" in extracted.card:
        print(f"accuracy: {extracted.card['accuracy']}")
    if extracted.onnx_difference is not None:
        print(f"onnxruntime differs from torch by at most {extracted.onnx_difference:.1e}")
