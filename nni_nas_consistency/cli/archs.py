"""`nni-consistency archs`: check and sample arch lists, take pools from them. Only sampling loads torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from nni_nas_consistency.archs.codecs import Codec
from nni_nas_consistency.archs.pool import every, some
from nni_nas_consistency.cli import parse
from nni_nas_consistency.cli.console import progress, saying_what_is_kept
from nni_nas_consistency.cli.options import OverwriteOption, SeedOption, count_option
from nni_nas_consistency.cli.parse import SpaceWord
from nni_nas_consistency.errors import FileError, InputError
from nni_nas_consistency.files.arch_lists import Entry, read_released, write_released
from nni_nas_consistency.files.doors import check_output
from nni_nas_consistency.files.strict_json import file_errors

archs_app = typer.Typer(help="Check and sample arch lists; take pools from them.")

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
    overwrite: OverwriteOption = False,
) -> None:
    """Sample archs, and write a released list: spread evenly over capacity; uniform where choices are operators."""
    system, _ = parse.system_and_data(space, None)
    check_output(out)
    with saying_what_is_kept(lambda: "nothing was written: give the same command again"):
        import torch

        from nni_nas_consistency.strategies.sampling import can_spread, spread_archs, uniform_pool

        generator = torch.Generator().manual_seed(seed)
        if can_spread(system.domain):
            with progress(count, "archs") as advance:
                archs = spread_archs(system.domain, count, generator, progress=advance)
        else:
            archs = uniform_pool(system.domain, count, generator)
        _write(out, {f"arch{index}": Entry(arch, 0) for index, arch in enumerate(archs, 1)}, system.codec, overwrite)
    print(f"{out}: {len(archs)} archs of space {system.space}, drawn with seed {seed}")


@archs_app.command("pool")
def archs_pool(
    file: Annotated[Path, typer.Argument(help="Arch list: JSON in the released format.")],
    out: Annotated[Path, typer.Option("--out", help="Output file.")],
    every_: Annotated[
        int | None,
        count_option(
            "--every", "Take the first arch, and every N-th after it.", most=1_000_000, why="no longer list is read"
        ),
    ] = None,
    random: Annotated[
        int | None,
        count_option("--random", "Draw N archs at random instead.", most=1_000_000, why="no longer list is read"),
    ] = None,
    seed: Annotated[
        int | None,
        count_option(
            "--seed", "Seed of --random; by default 0.", least=0, most=2**32 - 1, why="as for every other verb"
        ),
    ] = None,
    space: SpaceOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Take a pool from a list, for `train --pool`: archs at even distances, or random ones."""
    codec = parse.system_and_data(space, None)[0].codec
    if (every_ is None) == (random is None):
        raise InputError("give either --every N, for archs at even distances, or --random N")
    if random is None and seed is not None:
        raise InputError(f"--seed {seed} belongs to --random; --every takes the same archs always")
    check_output(out, [file])
    with saying_what_is_kept(lambda: "nothing was written: give the same command again"):
        entries = read_released(file, codec, progress=progress)
        with file_errors(file):
            taken = _taken(entries, every_, random, seed or 0)
        pool = {name: Entry(entry.arch, 0) for name, entry in taken.items()}
        _write(out, pool, codec, overwrite)
    print(f"{out}: {len(pool)} of the {len(entries)} archs of {file}")


def _taken(entries: Mapping[str, Entry], step: int | None, count: int | None, seed: int) -> dict[str, Entry]:
    if count is not None:
        return some(entries, count, seed)
    assert step is not None
    return every(entries, step)


def _write(out: Path, entries: Mapping[str, Entry], codec: Codec, overwrite: bool) -> None:
    """Write a list, but not over another one unless that is asked for."""
    if out.exists() and not overwrite and not _holds(out, entries, codec):
        raise FileError(f"{out}: holds something else than this list; choose another --out, or --overwrite it")
    write_released(out, entries)


def _holds(path: Path, entries: Mapping[str, Entry], codec: Codec) -> bool:
    try:
        return read_released(path, codec) == entries
    except FileError:
        return False
