"""`nni-consistency convert`: weights of AutoFormer that others trained become checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nni_nas_consistency import jobs
from nni_nas_consistency.cli import parse
from nni_nas_consistency.cli.console import command_line, say, saying_what_is_kept
from nni_nas_consistency.cli.options import ArchOption, OutFile, OverwriteOption
from nni_nas_consistency.cli.parse import SpaceWord
from nni_nas_consistency.files.provenance import provenance


def convert(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="Weights of the official code or of NNI: .pth or .safetensors.")],
    space: Annotated[SpaceWord, typer.Option("--space", help="Which AutoFormer, such as autoformer-tiny.")],
    out: OutFile,
    arch: ArchOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Convert official weights of AutoFormer, or NNI's, to a checkpoint that `evaluate`, `fit` and `score` read.

    A network is exact, and so is one that --arch cuts out of a supernet. An official supernet as a whole is exact only
    for subnets with all heads: with fewer, the official code slides the biases of keys and values.
    """
    system, _ = parse.system_and_data(space, None)
    job = jobs.ConvertJob(
        system,
        source,
        out,
        parse.arch_of(system, arch),
        overwrite=overwrite,
        provenance=provenance(command_line(context)),
    )
    with saying_what_is_kept(lambda: "nothing was written: give the same command again"):
        converted = jobs.convert(job)
    print(out)
    if converted is None:
        say("a supernet; if it is an official one, subnets with fewer heads are exact only when cut out with --arch")
    else:
        print(f"the network of {converted.code}")
