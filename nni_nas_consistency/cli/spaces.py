"""`nni-consistency spaces`: the search spaces."""

from __future__ import annotations

from math import prod

import typer

from nni_nas_consistency.systems import SYSTEMS, System

spaces_app = typer.Typer(invoke_without_command=True, help="List the search spaces.")


@spaces_app.callback()
def spaces() -> None:
    """List the search spaces."""
    for system in SYSTEMS:
        print(f"{system.space}: {system.about}")
        print(f"  at most {most_archs(system):.3g} archs; largest: {_largest(system)}")


def most_archs(system: System) -> int:
    """Return how many archs a space has at most: exactly as many where every arch has all variables."""
    return prod(len(variable.choices) for variable in system.domain.variables)


def _largest(system: System) -> str:
    return "none declared" if system.domain.largest is None else system.domain.largest.code
