"""The options that several verbs share, so that each has one name, one default and one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nni_nas_consistency.cli.parse import DataWord, SpaceWord

SpaceOption = Annotated[
    SpaceWord | None, typer.Option("--space", help="Search space; by default the checkpoint's, else resnet20.")
]
DataOption = Annotated[
    DataWord | None, typer.Option("--data", help="Data set; by default the checkpoint's, else that of the space.")
]
RootOption = Annotated[Path | None, typer.Option("--data-root", help="Folder that holds the data set.")]
DownloadOption = Annotated[bool, typer.Option("--download", help="Fetch the data set into --data-root if missing.")]
OutFile = Annotated[Path, typer.Option("--out", help="File to write.")]
OutFolder = Annotated[Path, typer.Option("--out", help="Folder to write into; made if missing.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, or auto.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]
Archs = Annotated[Path, typer.Option("--archs", help="Released list of archs.")]
Checkpoint = Annotated[
    Path, typer.Option("--checkpoint", help="supernet.safetensors of a training run, or resnet20-cifar100, shipped.")
]
