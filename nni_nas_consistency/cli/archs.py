"""`nni-consistency archs`: check and sample arch lists. Checking one loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nni_nas_consistency.cli import parse
from nni_nas_consistency.cli.options import SeedOption
from nni_nas_consistency.cli.parse import SpaceWord
from nni_nas_consistency.files.arch_lists import Entry, read_released, write_released

archs_app = typer.Typer(help="Check and sample arch lists.")

SpaceOption = Annotated[SpaceWord | None, typer.Option("--space", help="Search space; by default resnet20.")]


@archs_app.command("check")
def archs_check(
    file: Annotated[Path, typer.Argument(help="Arch list: JSON in the released format.")], space: SpaceOption = None
) -> None:
    """Check every arch of a list, and count valid and distinct ones."""
    codec = parse.system_and_data(space, None)[0].codec
    entries = read_released(file, codec)
    distinct = {codec.canonical(entry.arch.code) for entry in entries.values()}
    print(f"{len(entries)} archs, {len(entries)} valid, {len(distinct)} distinct")


@archs_app.command("sample")
def archs_sample(
    out: Annotated[Path, typer.Option("--out", help="Output file.")],
    space: SpaceOption = None,
    count: Annotated[int, typer.Option(min=1, help="Number of archs.")] = 64,
    seed: SeedOption = 0,
) -> None:
    """Sample archs that spread evenly over capacity, and write them in the released format."""
    system, _ = parse.system_and_data(space, None)
    import torch

    from nni_nas_consistency.strategies.sampling import spread_archs

    archs = spread_archs(system.domain, count, torch.Generator().manual_seed(seed))
    write_released(out, {f"arch{index}": Entry(arch, 0) for index, arch in enumerate(archs, 1)})
    print(f"{out}: {len(archs)} archs")
