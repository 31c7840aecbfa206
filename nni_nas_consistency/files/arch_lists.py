"""Arch lists in the released form of the competitions: `{"arch1": {"acc": 0, "arch": "16-4-…"}, …}`.

Lists to score, submissions and reference accuracies all have this form. A reader refuses a bad file with one line; a
writer writes the whole list or nothing, and never what the reader would refuse.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.files.atomic import FilePath, write_text_atomically
from nni_nas_consistency.files.progress import Progress, ShowProgress, silent
from nni_nas_consistency.files.strict_json import fields_of, file_errors, finite, object_of, read_object, shown

if TYPE_CHECKING:
    from nni_nas_consistency.archs.codecs import Codec


@dataclass(frozen=True)
class Entry:
    """An arch and the number that belongs to it.

    Args:
        arch: The arch.
        acc: A reference accuracy, a submitted score, or 0 in a list that is to be scored. An int stays an int, so that
            a list is written back byte for byte.
    """

    arch: Arch
    acc: float | int


def read_released(path: FilePath, codec: Codec, *, progress: ShowProgress = silent) -> dict[str, Entry]:
    """Return the archs of a released list, a submission or a file of reference accuracies, by name, in file order.

    Args:
        path: The file.
        codec: How the search space writes its archs.
        progress: Shows the progress.

    Raises:
        FileError: The file cannot be read or is not an arch list; an arch is not allowed or appears twice.
    """
    with file_errors(path):
        document = read_object(path)
        with progress(len(document), "archs") as advance:
            return entries_of_list(document, codec, progress=advance)


def write_released(path: FilePath, entries: Mapping[str, Entry]) -> None:
    """Write an arch list, byte for byte as the competitions write theirs.

    Args:
        path: Where to; an older file is replaced at the end, or kept if anything fails.
        entries: The archs by name, in the order to write.

    Raises:
        FileError: An `acc` is not finite, `read_released` would refuse the list, or the file cannot be written.
    """
    with file_errors(path):
        check_entries(entries, "acc")
    document = {name: {"acc": entry.acc, "arch": entry.arch.code} for name, entry in entries.items()}
    write_text_atomically(path, json.dumps(document))


def entries_of_list(
    document: Mapping[str, object], codec: Codec, *, progress: Progress = lambda archs: None
) -> dict[str, Entry]:
    """Return the archs of a decoded arch list; `read_released` without the file.

    Raises:
        ValueError: The document is a score file, or what `parse_entries` refuses.
    """
    # In an arch list every value is an object, also that of an arch named "format".
    if isinstance(document.get("format"), str):
        raise ValueError("is a score file; give an arch list or a submission")
    return parse_entries(document, codec, "acc", progress=progress)


def parse_entries(
    document: Mapping[str, object], codec: Codec, number_key: str, *, progress: Progress = lambda archs: None
) -> dict[str, Entry]:
    """Return the archs of a decoded object of the form `{name: {number_key: number, "arch": code}}`, in its order.

    Args:
        document: Name → decoded object, as `strict_json.decode` leaves it.
        codec: How the search space writes its archs.
        number_key: What the number is called: `acc` or `score`.
        progress: Progress callback; called with 1 after every arch.

    Raises:
        ValueError: A field is missing, unknown or of the wrong type, or the list is empty, or an arch appears twice.
        ArchError: A code is not allowed.
    """
    entries: dict[str, Entry] = {}
    for name, value in document.items():
        number, code = fields_of(object_of(value, name), name, (number_key, "arch"))
        if not isinstance(code, str):
            raise ValueError(f"arch of {name} is {shown(code)}; expected its code as a string")
        entries[name] = Entry(codec.parse(code, name), finite(number, f"{number_key} of {name}"))
        progress(1)
    _check_archs(entries, lambda arch: codec.canonical(arch.code))
    return entries


def check_entries(entries: Mapping[str, Entry], number_key: str) -> None:
    """Refuse what `parse_entries` would refuse once it is written.

    Raises:
        ValueError: A number is not finite, a name is not printable, there are no archs, or an arch appears twice.
    """
    for name, entry in entries.items():
        finite(entry.acc, f"{number_key} of {name}")
    # Without a codec: spellings of one arch differ in their code but have equal choices.
    _check_archs(entries, lambda arch: arch.choices)


def _check_archs(entries: Mapping[str, Entry], identity: Callable[[Arch], Hashable]) -> None:
    if not entries:
        raise ValueError("contains no archs; give a list with at least one")
    first_names: dict[Hashable, str] = {}
    for name, entry in entries.items():
        if not name or not name.isprintable():
            raise ValueError(f"an arch has the name {shown(name)}; use printable characters, such as arch1")
        first_name = first_names.setdefault(identity(entry.arch), name)
        if first_name != name:
            raise ValueError(f"{first_name} and {name} are the same arch {entry.arch.code!r}; keep one of them")
