"""`nni-consistency evaluate`: top-1 and top-5 accuracy of one network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nni_nas_consistency import jobs
from nni_nas_consistency.cli import parse
from nni_nas_consistency.cli.console import progress, saying_what_is_kept
from nni_nas_consistency.cli.options import (
    ArchOption,
    BatchSizeOption,
    CacheOption,
    DataOption,
    DeviceOption,
    DownloadOption,
    RootOption,
    SpaceOption,
    TestImagesOption,
    ValFilesOption,
    ValFractionOption,
    WorkersOption,
)

if TYPE_CHECKING:
    from nni_nas_consistency.training.network import Accuracy


def evaluate(
    weights: Annotated[
        Path, typer.Option(help="A network that `fit` or `convert` wrote; or a supernet, out of which --arch is cut.")
    ],
    arch: ArchOption = None,
    space: SpaceOption = None,
    data: DataOption = None,
    data_root: RootOption = None,
    val_fraction: ValFractionOption = None,
    val_files: ValFilesOption = None,
    cache: CacheOption = None,
    workers: WorkersOption = None,
    images: TestImagesOption = None,
    batch_size: BatchSizeOption = 256,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: DeviceOption = "auto",
    download: DownloadOption = False,
) -> None:
    """Print top-1 and top-5 accuracy of one network on the test images."""
    folder = parse.FolderWords(data_root, val_fraction=val_fraction, val_files=val_files, cache=cache, workers=workers)
    system, data_set = parse.system_and_data_of_network(space, data, weights, folder)
    data_set.check_count("--images", images, train=False)
    job = jobs.EvaluateJob(
        system,
        data_set,
        weights,
        parse.arch_of(system, arch),
        data_root=data_root,
        download=download,
        images=images,
        batch_size=batch_size,
        device=device,
    )
    with saying_what_is_kept(lambda: "nothing is kept: the same command begins anew"):
        accuracy = jobs.evaluate(job, progress=progress)
    if as_json:
        print(json.dumps({"top1": accuracy.top1, "top5": accuracy.top5, "images": accuracy.images}))
    else:
        print(accuracy_line(accuracy))


def accuracy_line(accuracy: Accuracy) -> str:
    """Return the line that tells an accuracy."""
    return f"top-1 {accuracy.top1:.2%}, top-5 {accuracy.top5:.2%} of {accuracy.images:,} test images"
