"""Strict JSON: refuses what Python's `json` accepts but a result file must not contain.

Repeated keys, unknown and missing fields, NaN and infinite numbers. Messages name the field; `file_errors` puts the
file in front. What the fields mean is up to `arch_lists.py` and `score_files.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from nni_nas_consistency.errors import ArchError, FileError
from nni_nas_consistency.files.atomic import FilePath
from nni_nas_consistency.files.doors import check_input

Json: TypeAlias = "None | bool | int | float | str | Sequence[Json] | Mapping[str, Json]"


LARGEST = 100_000_000
"""Bytes of the largest file that is read: a million archs."""


@contextmanager
def file_errors(path: FilePath) -> Iterator[None]:
    """Turn every `ValueError` about the content of a file into a `FileError` that begins with its path."""
    try:
        yield
    except FileError:  # names its file already
        raise
    except ArchError as flaw:
        advice = "correct it, or give the search space that this file is for"
        raise FileError(f"{path}: {one_line(flaw)}; {advice}") from flaw
    except RecursionError as flaw:
        raise FileError(f"{path}: is nested too deeply; give an arch list or a score file") from flaw
    except ValueError as flaw:
        raise FileError(f"{path}: {one_line(flaw)}") from flaw


def one_line(flaw: Exception) -> str:
    """Return the message of an error about the content of a file on one line, whatever names the file brought into it.

    Characters that cannot be printed, such as line breaks and lone surrogates, are escaped; the middle of a long
    message is left out.
    """
    text = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in str(flaw))
    return text if len(text) <= 600 else f"{text[:400]}…{text[-200:]}"


def read_object(path: FilePath) -> dict[str, object]:
    """Return the fields of the object that a JSON file consists of; nested objects are as `decode` returns them.

    Args:
        path: A regular file of UTF-8 text.

    Raises:
        FileError: The file cannot be read.
        ValueError: It is empty, larger than 100 MB, or is not one JSON object.
    """
    check_input(Path(path))
    size = Path(path).stat().st_size
    if size > LARGEST:
        raise ValueError(f"has {size:,} bytes, of which at most {LARGEST:,} are read; split it")
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror}); check the path and its permissions") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start}); give the JSON file itself, uncompressed") from error
    if not text.strip():
        raise ValueError("is empty; copy or create it again")
    return object_of(decode(text), "the file")


def decode(text: str) -> object:
    """Return the JSON value of `text`; an object becomes the tuple of its pairs, in which repeated keys are kept.

    Raises:
        ValueError: `text` is truncated or not JSON.
        RecursionError: It is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_pairs)
    except json.JSONDecodeError as error:
        truncated = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        raise ValueError(f"is {'truncated' if truncated else 'not JSON'}: {error}; copy or create it again") from error
    except ValueError as error:  # Python reads integers of up to 4,300 digits
        raise ValueError("has a number of thousands of digits; copy or create it again") from error


def _pairs(pairs: list[tuple[str, object]]) -> tuple[tuple[str, object], ...]:
    """Return pairs as a tuple; in Python and not as `tuple` itself, so that Ctrl-C ends the reading of a large file."""
    return tuple(pairs)


def object_of(value: object, what: str) -> dict[str, object]:
    """Return a decoded object as a dict.

    Args:
        value: What `decode` made.
        what: Its name in messages.

    Raises:
        ValueError: `value` is not an object, or a key appears twice in it.
    """
    if not isinstance(value, tuple):
        raise ValueError(f"{what} is {shown(value)}; expected an object in braces")
    fields: dict[str, object] = {}
    for key, item in value:
        if key in fields:
            raise ValueError(f"{key!r} appears twice in {what}; keep one of them")
        fields[key] = item
    return fields


def fields_of(fields: Mapping[str, object], what: str, keys: tuple[str, ...]) -> list[object]:
    """Return the values of an object that must have exactly these keys, in the order of `keys`.

    Args:
        fields: The object, as `object_of` returns it.
        what: Its name in messages.
        keys: The keys that it must have.

    Raises:
        ValueError: A key is missing or unknown.
    """
    for key in keys:
        if key not in fields:
            raise ValueError(f"{what} lacks the field {key!r}; required are {', '.join(keys)}")
    if len(fields) > len(keys):
        unknown = next(key for key in fields if key not in keys)
        raise ValueError(f"{what} has an unknown field {unknown!r}; allowed are {', '.join(keys)}")
    return [fields[key] for key in keys]


def json_value(value: object, what: str) -> Json:
    """Return a decoded value with its objects as dicts, at any depth.

    Raises:
        ValueError: A number in it is not finite, or a key appears twice in an object.
    """
    if isinstance(value, tuple):
        return {key: json_value(item, f"{what} {key}") for key, item in object_of(value, what).items()}
    if isinstance(value, list):
        return [json_value(item, what) for item in value]
    if value is None or isinstance(value, (bool, str)):
        return value
    return finite(value, what)


def finite(number: object, what: str) -> float | int:
    """Return `number` as it is.

    Raises:
        ValueError: It is not an int or float, not finite, or an int that no float can hold.
    """
    # Compared rather than passed to math.isfinite, which overflows on large integers.
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not abs(number) <= sys.float_info.max:
        raise ValueError(f"{what} is {shown(number)}; expected a finite number")
    return number


def shown(value: object) -> str:
    """Return a decoded value as the file spells it, on one line of at most 61 characters."""
    if isinstance(value, tuple):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else text[:60] + "…"
