"""Released lists and score files: read them, write them, check them.

Every check on a file is here: a reader refuses what it cannot use in one line, a writer puts down a whole file or
nothing, and never what the readers would refuse. What a code may say is up to `arch.py`; ranking is up to `ranking.py`.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from nni_nas_consistency.archs.arch import Arch, ArchForm
from nni_nas_consistency.errors import ArchError, FileError

SCORE_FORMAT = "nni-nas-consistency scores 1"
Json: TypeAlias = "None | bool | int | float | str | Sequence[Json] | Mapping[str, Json]"
FilePath: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True)
class Entry:
    """One arch of a released list; an integer `acc` stays one, so that a round trip changes no byte."""

    arch: Arch
    acc: float | int


@dataclass(frozen=True)
class ScoreFile:
    """The scores that one supernet gave to a list of archs.

    Args:
        scores: Arch and score by arch name, in the order of the list; higher is better.
        provenance: How the scores were made: settings, seeds, versions.
    """

    scores: dict[str, tuple[Arch, float]]
    provenance: Mapping[str, Json]


def read_released(path: FilePath, form: ArchForm) -> dict[str, Entry]:
    """Return the archs of a released list, a submission or a reference file, by name, in file order.

    Args:
        path: A file of the form `{"arch1": {"acc": 0, "arch": "16-4-…"}, …}`; it is read once.
        form: How the search space writes its codes.

    Raises:
        FileError: There is no such file, it is no such list, or an arch in it is not allowed or stands there twice.
    """
    with _naming(path):
        return _released(_document(path), form)


def read_scores(path: FilePath, form: ArchForm) -> ScoreFile:
    """Return the scores that `write_scores` wrote, exactly.

    Args:
        path: A score file; it is read once.
        form: How the search space writes its codes.

    Raises:
        FileError: There is no such file, it is no score file, or an arch in it is not allowed or stands there twice.
    """
    with _naming(path):
        return _score_file(_document(path), form)


def read_table(path: FilePath, form: ArchForm) -> dict[str, Entry]:
    """Return the archs of a released list or of a score file, by name; of the latter, `acc` is the raw score.

    Args:
        path: Either file, told apart by `"format"`; it is read once.
        form: How the search space writes its codes.

    Raises:
        FileError: As `read_released` and `read_scores` raise it.
    """
    with _naming(path):
        document = _document(path)
        if not isinstance(document.get("format"), str):
            return _released(document, form)
        scores = _score_file(document, form).scores
    return {name: Entry(arch, score) for name, (arch, score) in scores.items()}


def write_released(path: FilePath, entries: Mapping[str, Entry]) -> None:
    """Write a released list or a submission, byte for byte as the competitions write theirs.

    Args:
        path: Where to; an older file is replaced at the end, or kept if anything fails.
        entries: The archs by name, in the order to write.

    Raises:
        FileError: An `acc` is not finite, `read_released` would refuse the list, or the file cannot be written.
    """
    with _naming(path):
        archs = _checked(((name, entry.arch, entry.acc) for name, entry in entries.items()), "acc")
    document = {name: {"acc": acc, "arch": arch.code} for name, (arch, acc) in archs.items()}
    write_text_atomically(path, json.dumps(document))


def write_scores(path: FilePath, score_file: ScoreFile) -> None:
    """Write scores as JSON, one arch a line, floats so that they read back exactly.

    Args:
        path: Where to; an older file is replaced at the end, or kept if anything fails.
        score_file: The scores and how they were made.

    Raises:
        FileError: A score is not finite, `read_scores` would refuse the file, or the file cannot be written.
        TypeError: The provenance holds a value that JSON has no form for.
    """
    made_by = json.dumps(dict(score_file.provenance), indent=1)
    with _naming(path):
        _plain_json(_decoded(made_by), "provenance")
        archs = _checked(((name, *scored) for name, scored in score_file.scores.items()), "score")
    rows = {name: {"arch": arch.code, "score": float(score)} for name, (arch, score) in archs.items()}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    text = f'{{"format": "{SCORE_FORMAT}",\n"provenance": {made_by},\n"scores": {{\n{lines}\n}}}}\n'
    write_text_atomically(path, text)


def submission(score_file: ScoreFile) -> dict[str, Entry]:
    """Return the list to submit: same names, same order, `acc` = the scores scaled to [0, 1] over the list.

    Args:
        score_file: The scores; the lowest becomes 0, the highest 1, and their order is kept up to rounding.

    Raises:
        ValueError: All scores are equal, one is not finite, there are none, or they span more than a float holds.
    """
    scores = [_finite(score, f"score of {name}") for name, (_, score) in score_file.scores.items()]
    lowest, highest = min(scores, default=0.0), max(scores, default=0.0)
    span = highest - lowest
    if not 0 < span <= sys.float_info.max:
        raise ValueError(f"scores from {lowest!r} to {highest!r} do not scale to [0, 1]; check checkpoint and metric")
    return {name: Entry(arch, (score - lowest) / span) for name, (arch, score) in score_file.scores.items()}


def write_text_atomically(path: FilePath, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all: a reader sees the older file or the new one, never a part.

    Args:
        path: Where to, in a folder that exists; a link is followed, an older file replaced.
        text: What to write, line ends as they are.

    Raises:
        FileError: The folder is missing, `path` is a folder or a device, or the system refuses to write.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileError(f"{path}: there is no folder {target.parent}; create it first")
    if target.exists() and not target.is_file():
        raise FileError(f"{path}: is a folder or a device; give the name of a file")
    temporary = target.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        # Mode x, not tempfile: the file keeps the permissions that the umask gives, and a stranger's is never taken.
        with open(temporary, "xb") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise FileError(f"{path}: cannot be written ({error.strerror}); choose a folder that can be written") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _naming(path: FilePath) -> Iterator[None]:
    """Put the file in front of what is wrong with its content."""
    try:
        yield
    except ArchError as flaw:
        raise FileError(f"{path}: {flaw}; correct it, or give the space that the file was made for") from flaw
    except RecursionError as flaw:
        raise FileError(f"{path}: is nested too deep; give a released list or a score file") from flaw
    except ValueError as flaw:
        raise FileError(f"{path}: {flaw}") from flaw


def _document(path: FilePath) -> dict[str, object]:
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror}); check the path and its permissions") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"is no UTF-8 text (offset {error.start}); give the JSON file, unpacked") from error
    if not text.strip():
        raise ValueError("is empty; copy or make it again")
    return _object(_decoded(text), "the file")


def _decoded(text: str) -> object:
    """Return the JSON value with each object as the tuple of its pairs, which keeps repeated keys; lists are lists."""
    try:
        return json.loads(text, object_pairs_hook=tuple)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        raise ValueError(f"is {'cut off' if cut else 'not JSON'}: {error}; copy or make it again") from error


def _released(document: dict[str, object], form: ArchForm) -> dict[str, Entry]:
    # In a list, whatever its arch names, each key holds an object.
    if isinstance(document.get("format"), str):
        raise ValueError("is a score file; give a released list, or make a submission of it first")
    archs = _checked(_entries(document, form, "acc"), "acc")
    return {name: Entry(arch, acc) for name, (arch, acc) in archs.items()}


def _score_file(document: dict[str, object], form: ArchForm) -> ScoreFile:
    if document.get("format") != SCORE_FORMAT:
        raise ValueError(f"has format {_shown(document.get('format'))}; give a score file of format {SCORE_FORMAT!r}")
    _, provenance, scores = _fields(document, "the file", ("format", "provenance", "scores"))
    made_by = {key: _plain_json(value, f"provenance {key}") for key, value in _object(provenance, "provenance").items()}
    archs = _checked(_entries(_object(scores, "scores"), form, "score"), "score")
    return ScoreFile({name: (arch, float(score)) for name, (arch, score) in archs.items()}, made_by)


def _entries(archs: dict[str, object], form: ArchForm, key: str) -> Iterator[tuple[str, Arch, object]]:
    for name, entry in archs.items():
        number, code = _fields(_object(entry, name), name, (key, "arch"))
        if not isinstance(code, str):
            raise ValueError(f"arch of {name} is {_shown(code)}; write its code as text")
        yield name, form.parse(code, name), number


def _checked(archs: Iterable[tuple[str, Arch, object]], key: str) -> dict[str, tuple[Arch, float | int]]:
    """Return arch and number by name: what readers and writers ask of a list alike."""
    checked: dict[str, tuple[Arch, float | int]] = {}
    names: dict[tuple[int, ...], str] = {}
    for name, arch, number in archs:
        if not name or not name.isprintable():
            raise ValueError(f"an arch is named {_shown(name)}; write a name of visible letters, like arch1")
        # By choices, not by code: with and without its leading 1, a code of 51 digits is one arch.
        first = names.setdefault(arch.choices, name)
        if first != name:
            raise ValueError(f"{first} and {name} are the same arch {arch.code!r}; keep one of them")
        checked[name] = arch, _finite(number, f"{key} of {name}")
    if not checked:
        raise ValueError("there are no archs in it; give a list with at least one")
    return checked


def _object(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, tuple):
        raise ValueError(f"{what} is {_shown(value)}; write an object, in braces")
    fields: dict[str, object] = {}
    for key, item in value:
        if key in fields:
            raise ValueError(f"{what} has {key!r} twice; keep one of them")
        fields[key] = item
    return fields


def _fields(fields: dict[str, object], what: str, keys: tuple[str, ...]) -> list[object]:
    wanted = ", ".join(keys)
    for key in (*keys, *fields):
        if key not in fields:
            raise ValueError(f"{what} has no {key!r}; write all of: {wanted}")
        if key not in keys:
            raise ValueError(f"{what} has {key!r}, which has no meaning here; write only: {wanted}")
    return [fields[key] for key in keys]


def _plain_json(value: object, what: str) -> Json:
    """Return `value` with its objects as dicts, all numbers finite."""
    if isinstance(value, tuple):
        return {key: _plain_json(item, f"{what} {key}") for key, item in _object(value, what).items()}
    if isinstance(value, list):
        return [_plain_json(item, what) for item in value]
    if value is None or isinstance(value, (bool, str)):
        return value
    return _finite(value, what)


def _finite(number: object, what: str) -> float | int:
    # A comparison, not isfinite: that overflows on large integers.
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not abs(number) <= sys.float_info.max:
        raise ValueError(f"{what} is {_shown(number)}; write a finite number")
    return number


def _shown(value: object) -> str:
    """Return a JSON value as the file has it, cut to a line."""
    if isinstance(value, (tuple, list)):
        return "an object" if isinstance(value, tuple) else "a list"
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else text[:60] + "…"
