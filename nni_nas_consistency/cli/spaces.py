"""`nni-consistency spaces`: list the search spaces, and write them for NNI's tuners."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Annotated

import typer

from nni_nas_consistency.archs.nni_space import nni_search_space
from nni_nas_consistency.cli import parse
from nni_nas_consistency.cli.console import say
from nni_nas_consistency.cli.options import OverwriteOption, SpaceOption
from nni_nas_consistency.errors import FileError
from nni_nas_consistency.files.atomic import write_text_atomically
from nni_nas_consistency.files.doors import check_output
from nni_nas_consistency.systems import SYSTEMS, System

spaces_app = typer.Typer(invoke_without_command=True, help="List the search spaces, and write them for NNI's tuners.")


@spaces_app.callback()
def spaces(context: typer.Context) -> None:
    """List the search spaces."""
    if context.invoked_subcommand is not None:
        return
    for system in SYSTEMS:
        print(f"{system.space}: {system.about}")
        print(f"  at most {most_archs(system):.3g} archs; largest: {_largest(system)}")


@spaces_app.command("export")
def export(
    space: SpaceOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Output file; by default the JSON is printed.")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write the search-space JSON of NNI's tuners: one choice for each variable of an arch.

    A trial reads its sample as an arch: examples/supernet.
    """
    system = parse.system_and_data(space, None)[0]
    lines = [f"{json.dumps(label)}: {json.dumps(each)}" for label, each in nni_search_space(system.domain).items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    if out is not None:
        check_output(out)
        if out.exists() and not overwrite and out.read_bytes() != text.encode():
            raise FileError(f"{out}: holds something else; choose another --out, or --overwrite it")
        write_text_atomically(out, text)
    if system.domain.constraints:
        say("the constraints of the space are not part of it: trials of archs that they forbid will fail")
    print(text if out is None else out, end="" if out is None else "\n")


def most_archs(system: System) -> int:
    """Return how many archs a space has at most: exactly as many where every arch has all variables."""
    return prod(len(variable.choices) for variable in system.domain.variables)


def _largest(system: System) -> str:
    return "none declared" if system.domain.largest is None else system.domain.largest.code
