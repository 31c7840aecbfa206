"""Options that several verbs share: one name, one default and one help text each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from nni_nas_consistency.cli.parse import DataWord, SpaceWord

SpaceOption = Annotated[
    SpaceWord | None,
    typer.Option("--space", help="Search space; by default that of the checkpoint, recipe or data set, else resnet20."),
]
DataOption = Annotated[
    DataWord | None, typer.Option("--data", help="Data set; by default that of the checkpoint, else of the space.")
]
RootOption = Annotated[Path | None, typer.Option("--data-root", help="Folder that holds the data set.")]
DownloadOption = Annotated[bool, typer.Option("--download", help="Download the data set into --data-root if missing.")]
OutFile = Annotated[Path, typer.Option("--out", help="Output file.")]
OutFolder = Annotated[Path, typer.Option("--out", help="Output folder; created if missing.")]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Device; auto: cuda if there is one, else cpu.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Random seed.")]
Archs = Annotated[Path, typer.Option("--archs", help="Arch list: JSON in the released format.")]
Checkpoint = Annotated[
    Path,
    typer.Option(
        "--checkpoint", help="supernet.safetensors of a training run; or resnet20-cifar100, which is shipped."
    ),
]
