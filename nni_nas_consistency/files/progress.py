"""Progress of long work: what does the work calls a progress callback; how it is shown is up to whoever starts it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

Progress: TypeAlias = "Callable[[float], None]"
"""Progress callback: called with the number of items done since the last call, which may be fractional."""

ShowProgress: TypeAlias = "Callable[[int, str], AbstractContextManager[Progress]]"
"""Given a total and the name of what is counted, returns a progress callback; its calls add up to the total."""


def silent(total: int, what: str) -> AbstractContextManager[Progress]:
    """Return a progress callback that shows nothing."""
    return nullcontext(lambda done: None)
