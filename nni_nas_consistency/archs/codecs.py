"""Codecs: how a search space writes its architectures as text.

`WidthCodec` is the form of CVPR 2021 track 1, `DigitCodec` that of CVPR 2022 track 1, and `SampleCodec` the canonical
JSON of an NNI sample, which serves every other space. A codec defines which codes are valid; a `Domain`, which archs
are drawn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from nni_nas_consistency.archs.arch import Arch, Choice, Choices
from nni_nas_consistency.errors import ArchError

WIDTH = re.compile(r"0|[1-9]\d{0,8}", re.ASCII)


class Codec(Protocol):
    """How one search space writes its archs."""

    @property
    def space(self) -> str:
        """The name of the search space, as messages and files give it."""

    def parse(self, code: str, name: str = "arch") -> Arch:
        """Return the arch of `code`, which keeps the text as it was read.

        Args:
            code: The text.
            name: What error messages call the arch.

        Raises:
            ArchError: `code` is not the code of an arch of this space.
        """

    def arch(self, choices: Mapping[str, Choice], name: str = "arch") -> Arch:
        """Return the arch with these choices and its canonical code.

        Args:
            choices: Label → choice. Choices that no network reads may be left out; they are filled in.
            name: What error messages call the arch.

        Raises:
            ArchError: A label is missing or unknown, or a choice is not allowed.
        """

    def canonical(self, code: str) -> str:
        """Return the canonical text of a valid code: that of all spellings of one arch."""


@dataclass(frozen=True)
class WidthCodec:
    """Widths joined by `-`, one per layer: `16-4-12-…`. Layer i, from 1, has the label `w<i>`.

    Args:
        space: Name of the search space.
        widths: The allowed widths of each layer, in channels.
        unused: Labels that the code has but no network reads; where a sample lacks one, the smallest width is
            written.
    """

    space: str
    widths: tuple[tuple[int, ...], ...]
    unused: frozenset[str] = frozenset()

    @cached_property
    def allowed(self) -> dict[str, tuple[int, ...]]:
        """The allowed widths by label."""
        return {f"w{layer}": widths for layer, widths in enumerate(self.widths, 1)}

    @cached_property
    def _width_of(self) -> dict[str, dict[str, int]]:
        return {label: {str(width): width for width in widths} for label, widths in self.allowed.items()}

    def parse(self, code: str, name: str = "arch") -> Arch:
        """Return the arch of `code`.

        Raises:
            ArchError: `code` is not a string, has the wrong number of layers, or a width that is not allowed.
        """
        if not isinstance(code, str):
            raise ArchError(f"{name}: the code is {code!r}; {self.space} expects a string like {self._example()!r}")
        words = code.split("-")
        try:  # one lookup per layer: a list of 50,000 archs has a million; what is wrong is found out below
            widths = {label: self._width_of[label][word] for label, word in zip(self.allowed, words, strict=True)}
        except (KeyError, ValueError):
            if code.isdecimal() and code.isascii() and len(code) > 9:  # such as the digits of 2022
                raise ArchError(f"{name} {code!r} has 1 layers; {self.space} has {len(self.widths)}") from None
            for position, word in enumerate(words, 1):
                if not WIDTH.fullmatch(word):
                    message = f"layer {position} of {name} {code!r} is {word!r}; write a width as a plain integer"
                    raise ArchError(message) from None
            return self._checked([int(word) for word in words], code, name)
        return Arch(code, Choices(widths))

    def arch(self, choices: Mapping[str, Choice], name: str = "arch") -> Arch:
        """Return the arch with these widths by label.

        Raises:
            ArchError: A label is missing or unknown, or a width is not an `int` or not allowed.
        """
        filled = {label: min(self.allowed[label]) for label in self.unused} | dict(choices)
        _check_labels(filled, self.allowed, self.space, name)
        widths = [_integer(filled[label], label, name) for label in self.allowed]
        return self._checked(widths, "-".join(map(str, widths)), name)

    def canonical(self, code: str) -> str:
        """Return the code: widths have one spelling."""
        return code

    def _example(self) -> str:
        return "-".join(str(max(widths)) for widths in self.widths)

    def _checked(self, widths: Sequence[int], code: str, name: str) -> Arch:
        if len(widths) != len(self.widths):
            raise ArchError(f"{name} {code!r} has {len(widths)} layers; {self.space} has {len(self.widths)}")
        for position, (width, allowed) in enumerate(zip(widths, self.widths, strict=True), 1):
            if width not in allowed:
                raise ArchError(
                    f"layer {position} of {name} {code!r} asks for width {width}; "
                    f"{self.space} allows {', '.join(map(str, allowed))}"
                )
        return Arch(code, Choices(dict(zip(self.allowed, widths, strict=True))))


@dataclass(frozen=True)
class DigitCodec:
    """Depths, a stem digit, then two ratio digits per block, zeros for absent blocks (CVPR 2022 track 1).

    Labels: `depth<stage>`, `stem`, `s<stage>b<block>c<conv>`, all counted from 1. NNI wants a choice for every label:
    an absent block, whose choices no network reads, has those of the first block of its stage. A leading `1` (input
    size 224), as the released file has it, is accepted and kept.

    Args:
        space: Name of the search space.
        depths: Allowed depths of each stage, in blocks.
        digits: Allowed ratio digits.
    """

    space: str
    depths: tuple[tuple[int, ...], ...]
    digits: tuple[int, ...]

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the digits."""
        labels = [f"depth{stage}" for stage in range(1, len(self.depths) + 1)]
        labels.append("stem")
        for stage, depths in enumerate(self.depths, 1):
            for block in range(1, max(depths) + 1):
                labels += [f"s{stage}b{block}c1", f"s{stage}b{block}c2"]
        return tuple(labels)

    def parse(self, code: str, name: str = "arch") -> Arch:
        """Return the arch of `code`.

        Raises:
            ArchError: `code` is not a string of digits of the right length, or a depth or digit is not allowed.
        """
        length = len(self.labels)
        if not isinstance(code, str) or not (code.isascii() and code.isdigit()):
            raise ArchError(f"{name}: the code is {code!r}; {self.space} expects {length} or {length + 1} digits")
        if len(code) not in (length, length + 1):
            raise ArchError(f"{name} {code!r} has {len(code)} digits; {self.space} has {length} or {length + 1}")
        if len(code) == length + 1 and code[0] != "1":
            raise ArchError(
                f"{name} {code!r} starts with {code[0]}; a code of {length + 1} digits starts with 1 (size 224)"
            )
        return self._checked([int(digit) for digit in code[-length:]], code, name)

    def arch(self, choices: Mapping[str, Choice], name: str = "arch") -> Arch:
        """Return the arch with these depths and digits by label.

        Absent blocks need no choices, and those given for them do not count. Second digits (`c2`) may be left out too,
        as NNI's samples leave out what is tied: that of the first block is then the stem's in stage 1, and those of
        other blocks are that of the first block of their stage.

        Raises:
            ArchError: A label is missing or unknown, or a choice is not an `int` or not allowed.
        """
        given = self._tied(choices) | dict(choices)
        depths = [_integer(given.get(label, 0), label, name) for label in self.labels[: len(self.depths)]]
        absent = self._absent(depths)
        needed = [label for label in self.labels if label not in absent]
        _check_labels(given, needed, self.space, name, also=absent.keys())
        given |= dict.fromkeys(absent, 0)
        digits = [_integer(given[label], label, name) for label in self.labels]
        return self._checked(digits, "".join(map(str, digits)), name)

    def canonical(self, code: str) -> str:
        """Return the code without the leading digit of the input size."""
        return code[-len(self.labels) :]

    def _tied(self, choices: Mapping[str, Choice]) -> dict[str, Choice]:
        """Return the second digits that follow from others, for choices that leave them out."""
        tied: dict[str, Choice] = {}
        for stage, depths in enumerate(self.depths, 1):
            leader = f"s{stage}b1c2"
            if stage == 1 and leader not in choices:
                leader = "stem"
            if leader in choices:
                tied |= {f"s{stage}b{block}c2": choices[leader] for block in range(1, max(depths) + 1)}
        return tied

    def _absent(self, depths: Sequence[int]) -> dict[str, str]:
        """Return the labels of blocks beyond the depth of their stage, each with that of the first block.

        A stage whose depth is not allowed has none.
        """
        absent: dict[str, str] = {}
        for stage, (depth, allowed) in enumerate(zip(depths, self.depths, strict=True), 1):
            if depth in allowed:
                for block in range(depth + 1, max(allowed) + 1):
                    absent |= {f"s{stage}b{block}c{conv}": f"s{stage}b1c{conv}" for conv in (1, 2)}
        return absent

    def _allowed(self, depths: Sequence[int]) -> tuple[list[tuple[int, ...]], dict[str, str]]:
        """Return the allowed values of each digit, and `_absent`; cached, as the released list has 45,000 archs."""
        key = tuple(depths)
        if key not in self._by_depths:
            absent = self._absent(depths)
            ratios = [(0,) if label in absent else self.digits for label in self.labels[len(depths) :]]
            self._by_depths[key] = [*self.depths, *ratios], absent
        return self._by_depths[key]

    @cached_property
    def _by_depths(self) -> dict[tuple[int, ...], tuple[list[tuple[int, ...]], dict[str, str]]]:
        return {}

    def _checked(self, digits: Sequence[int], code: str, name: str) -> Arch:
        stages = len(self.depths)
        every, absent = self._allowed(digits[:stages])
        for position, (digit, allowed) in enumerate(zip(digits, every, strict=True)):
            if digit not in allowed:
                what = "depth" if position < stages else "ratio digit"
                raise ArchError(
                    f"digit {position + 1} of {name} {code!r} asks for {what} {digit}; "
                    f"{self.space} allows {', '.join(map(str, allowed))} there" + self._because(position, digit, digits)
                )
        choices = dict(zip(self.labels, digits, strict=True))
        for label, of_first_block in absent.items():
            choices[label] = choices[of_first_block]
        return Arch(code, Choices(choices))

    def _because(self, position: int, digit: int, digits: Sequence[int]) -> str:
        """Return the depth that says whether a block is there, where a digit says otherwise."""
        match = re.match(r"s(\d+)b(\d+)", self.labels[position])
        if match is None:
            return ""
        stage, block = int(match[1]), int(match[2])
        depth = digits[stage - 1]
        if (digit == 0) == (block > depth):
            return ""
        return f", since depth {depth} of stage {stage} {'has' if block <= depth else 'leaves out'} block {block}"


@dataclass(frozen=True)
class SampleCodec:
    """The canonical JSON of an NNI sample: an object with sorted keys and no whitespace.

    Args:
        space: Name of the search space.
        allowed: The allowed choices of each label.
        needs: Labels that a network reads only where another label has certain choices, such as those of a block that
            shallow networks lack: label → the other label and these choices. Elsewhere they may be left out, and
            become their first allowed choice, so that equal networks are equal archs.
    """

    space: str
    allowed: Mapping[str, tuple[Choice, ...]]
    needs: Mapping[str, tuple[str, tuple[Choice, ...]]] = field(default_factory=dict)

    def parse(self, code: str, name: str = "arch") -> Arch:
        """Return the arch of `code`, in any JSON spelling.

        Raises:
            ArchError: `code` is not a JSON object, a label is missing, unknown or given twice, or a choice is not
                allowed.
        """
        if not isinstance(code, str):
            raise ArchError(f"{name}: the code is {code!r}; {self.space} expects the JSON text of a sample")
        try:
            pairs = json.loads(code, object_pairs_hook=tuple)
        except (ValueError, RecursionError) as error:
            raise ArchError(
                f"{name}: the code {_cut(code)} is not JSON ({error}); write the sample as an object"
            ) from error
        if not isinstance(pairs, tuple):  # which only objects become
            raise ArchError(f"{name}: the code {_cut(code)} is not a JSON object; write the sample as an object")
        choices = dict(pairs)
        if len(choices) < len(pairs):
            raise ArchError(f"{name}: a label appears twice in the code {_cut(code)}; keep one of them")
        return Arch(code, self._checked(choices, name))

    def arch(self, choices: Mapping[str, Choice], name: str = "arch") -> Arch:
        """Return the arch with these choices.

        Raises:
            ArchError: A label is missing or unknown, or a choice is not allowed.
        """
        checked = self._checked(choices, name)
        return Arch(_canonical_json(checked), checked)

    def canonical(self, code: str) -> str:
        """Return the code with sorted keys and no whitespace, and labels that are not read at their first choice."""
        choices = json.loads(code)
        return _canonical_json(choices | self._unread(choices))

    def _unread(self, choices: Mapping[str, Choice]) -> dict[str, Choice]:
        """Return the first allowed choice of each label that a network with these choices does not read."""
        return {
            label: self.allowed[label][0]
            for label, (other, where) in self.needs.items()
            if choices.get(other) not in where
        }

    def _checked(self, choices: Mapping[str, Choice], name: str) -> Choices:
        unread = self._unread(choices)
        choices = {**unread, **choices}
        _check_labels(choices, self.allowed, self.space, name)
        checked = Choices({label: choices[label] for label in self.allowed})
        for label, choice in checked.items():
            if repr(choice) not in self._allowed_texts[label]:  # equality would take True and 1.0 for 1
                allowed = ", ".join(self._allowed_texts[label])
                raise ArchError(f"{label} of {name} is {choice!r}; {self.space} allows {allowed}")
        return Choices({**checked, **unread}) if unread else checked

    @cached_property
    def _allowed_texts(self) -> dict[str, tuple[str, ...]]:
        return {label: tuple(map(repr, choices)) for label, choices in self.allowed.items()}


def _canonical_json(choices: Mapping[str, object]) -> str:
    return json.dumps(dict(choices), sort_keys=True, separators=(",", ":"))


def _check_labels(
    choices: Mapping[str, Choice],
    needed: Mapping[str, object] | Sequence[str],
    space: str,
    name: str,
    *,
    also: Collection[str] = (),
) -> None:
    for label in needed:
        if label not in choices:
            raise ArchError(f"{name} has no choice for {label}; {space} needs {', '.join(needed)}")
    for label in choices:
        if label not in needed and label not in also:
            raise ArchError(f"{name} has a choice for {label!r}, which {space} does not have")


def _integer(choice: Choice, label: str, name: str) -> int:
    if type(choice) is not int:
        raise ArchError(f"{label} of {name} is {choice!r}, a {type(choice).__name__}; give an int")
    return choice


def _cut(code: str) -> str:
    return repr(code if len(code) <= 60 else code[:60] + "…")


def resnet20_codec(space: str, width_unit: int = 4) -> WidthCodec:
    """Return the codec of the ResNet20 spaces: 7 layers of 4 widths, 6 of 8, 7 of 16, the last of which is unused.

    Args:
        space: Name of the search space.
        width_unit: Channels between neighbouring widths; the CVPR 2021 space has 4.
    """
    counts = (4,) * 7 + (8,) * 6 + (16,) * 7
    widths = tuple(tuple(width_unit * step for step in range(1, count + 1)) for count in counts)
    return WidthCodec(space, widths, frozenset({f"w{len(counts)}"}))


RESNET20_CODEC = resnet20_codec("resnet20")
"""Codes of CVPR 2021 track 1: twenty widths, such as `16-12-…`."""
DIGITS_CODEC = resnet20_codec("digits", width_unit=1)
"""Codes of the embedded benchmark: the same with widths of 1 to 16."""
RESNET48_CODEC = DigitCodec(
    "resnet48", ((2, 3, 4, 5), (2, 3, 4, 5), (2, 3, 4, 5, 6, 7, 8), (2, 3, 4, 5)), (1, 2, 3, 4, 5, 6, 7)
)
"""Codes of CVPR 2022 track 1: four depths, then a digit for every ratio."""
