"""An architecture is a value: its released code and its labelled choices.

Independent of torch, NNI and files. How codes are written is in `codecs.py`, what may be drawn in `domains.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

Choice: TypeAlias = "int | float | str | tuple[int | float | str, ...]"
"""A width, a depth, a ratio, the name of an operator; or several of them, where NNI chooses more than one."""


class Choices(Mapping[str, Choice]):
    """An immutable, hashable mapping from label to choice, in the order of the code.

    Args:
        choices: Label → choice. Lists, as NNI writes a choice of several, become tuples.
    """

    __slots__ = ("_choices", "_hash")

    def __init__(self, choices: Mapping[str, Choice]) -> None:
        self._choices = {
            label: tuple(choice) if isinstance(choice, list) else choice for label, choice in choices.items()
        }
        self._hash: int | None = None

    def __getitem__(self, label: str) -> Choice:
        return self._choices[label]

    def __iter__(self) -> Iterator[str]:
        return iter(self._choices)

    def __len__(self) -> int:
        return len(self._choices)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Choices):
            return self._choices == other._choices
        return NotImplemented

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(frozenset(self._choices.items()))
        return self._hash

    def __repr__(self) -> str:
        return f"Choices({self._choices})"


@dataclass(frozen=True)
class Arch:
    """One architecture.

    Args:
        code: The released text, kept as it was read so that it is written back byte for byte.
        choices: Label → choice, which is NNI's sample. It includes choices that the code has but no network reads, such
            as the last width of a ResNet20 code.
    """

    code: str
    choices: Choices

    @property
    def sample(self) -> dict[str, Choice | list[int | float | str]]:
        """NNI's sample: label → choice, with lists where NNI has lists."""
        return {label: list(choice) if isinstance(choice, tuple) else choice for label, choice in self.choices.items()}
