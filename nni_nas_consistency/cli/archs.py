"""`nni-consistency archs`: check and make released lists. Loads no torch to check one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from nni_nas_consistency.archs.arch import RESNET48, ArchForm
from nni_nas_consistency.cli import parse as words
from nni_nas_consistency.cli.parse import SpaceWord
from nni_nas_consistency.files.arch_lists import Entry, read_released, write_released

archs_app = typer.Typer(no_args_is_help=True, help="Released lists of archs.")


@archs_app.command("check")
def archs_check(
    file: Annotated[Path, typer.Argument(help="Released list.")],
    space: Annotated[Literal["resnet20", "resnet48", "digits"], typer.Option(help="Search space.")] = "resnet20",
) -> None:
    """Check every arch of a released list."""
    form: ArchForm = RESNET48 if space == "resnet48" else words.form_of(space)
    entries = read_released(file, form)
    print(
        f"{len(entries)} archs, {len(entries)} valid, {len({entry.arch.code for entry in entries.values()})} distinct"
    )


@archs_app.command("sample")
def archs_sample(
    out: Annotated[Path, typer.Option("--out", help="File to write.")],
    space: Annotated[SpaceWord, typer.Option("--space", help="Search space.")] = "resnet20",
    count: Annotated[int, typer.Option(min=1, help="How many archs.")] = 64,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the draw.")] = 0,
) -> None:
    """Write a list of archs that spread over capacity, in released form."""
    import torch

    from nni_nas_consistency.strategies.sampling import spread_archs

    archs = spread_archs(words.form_of(space), count, torch.Generator().manual_seed(seed))
    write_released(out, {f"arch{index}": Entry(arch, 0) for index, arch in enumerate(archs, 1)})
