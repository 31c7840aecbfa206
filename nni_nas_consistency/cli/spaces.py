"""`nni-consistency spaces`: the search spaces."""

from __future__ import annotations

from math import prod

import typer

from nni_nas_consistency.systems import SYSTEMS, System

spaces_app = typer.Typer(invoke_without_command=True, help="Search spaces.")


@spaces_app.callback()
def spaces() -> None:
    """List the search spaces."""
    for system in SYSTEMS:
        print(f"{system.space}: {system.about}")
        print(f"  {size_of(system):.3g} codes are drawn from, largest {_code(system)}")


def size_of(system: System) -> int:
    """Return how many codes are drawn from, where every variable exists."""
    return prod(len(variable.choices) for variable in system.domain.variables)


def _code(system: System) -> str:
    return "none" if system.domain.largest is None else system.domain.largest.code
