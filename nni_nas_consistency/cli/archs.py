"""`nni-consistency archs`: check and sample arch lists. Checking one loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from nni_nas_consistency.archs.codecs import Codec
from nni_nas_consistency.cli import parse
from nni_nas_consistency.cli.console import progress, saying_what_is_kept
from nni_nas_consistency.cli.options import SeedOption, count_option
from nni_nas_consistency.cli.parse import SpaceWord
from nni_nas_consistency.errors import FileError
from nni_nas_consistency.files.arch_lists import Entry, read_released, write_released
from nni_nas_consistency.files.doors import check_output

archs_app = typer.Typer(help="Check and sample arch lists.")

SpaceOption = Annotated[SpaceWord | None, typer.Option("--space", help="Search space; by default resnet20.")]


@archs_app.command("check")
def archs_check(
    file: Annotated[Path, typer.Argument(help="Arch list: JSON in the released format.")], space: SpaceOption = None
) -> None:
    """Check every arch of a list, and count valid and distinct ones."""
    codec = parse.system_and_data(space, None)[0].codec
    with saying_what_is_kept(lambda: "the list was not checked to its end"):
        entries = read_released(file, codec, progress=progress)
        distinct = {codec.canonical(entry.arch.code) for entry in entries.values()}
    print(f"{len(entries)} archs, {len(entries)} valid, {len(distinct)} distinct")


@archs_app.command("sample")
def archs_sample(
    out: Annotated[Path, typer.Option("--out", help="Output file.")],
    space: SpaceOption = None,
    count: Annotated[
        int, count_option("--count", "Number of archs.", most=100_000, why="the released lists have 50,000")
    ] = 64,
    seed: SeedOption = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what --out holds.")] = False,
) -> None:
    """Sample archs that spread evenly over capacity, and write them in the released format."""
    system, _ = parse.system_and_data(space, None)
    check_output(out)
    with saying_what_is_kept(lambda: "nothing was written: give the same command again"):
        import torch

        from nni_nas_consistency.strategies.sampling import spread_archs

        with progress(count, "archs") as advance:
            generator = torch.Generator().manual_seed(seed)
            archs = spread_archs(system.domain, count, generator, progress=advance)
        entries = {f"arch{index}": Entry(arch, 0) for index, arch in enumerate(archs, 1)}
        if out.exists() and not overwrite and not _holds(out, entries, system.codec):
            raise FileError(f"{out}: holds something else than this list; choose another --out, or --overwrite it")
        write_released(out, entries)
    print(f"{out}: {len(archs)} archs of space {system.space}, drawn with seed {seed}")


def _holds(path: Path, entries: Mapping[str, Entry], codec: Codec) -> bool:
    try:
        return read_released(path, codec) == entries
    except FileError:
        return False
