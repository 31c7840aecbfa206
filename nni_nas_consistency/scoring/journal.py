"""The journal of a shard: which segments of a list are scored, on disk at once, so that a killed run goes on.

A text file: one line that says what is scored and how, then one for each finished segment. Whoever writes it holds its
lock, which the system takes back from a process that dies. What a kill left of a line is cut off; no finished segment
is lost. Journals of version 0.1, which hold one metric, are read and gone on with.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, cast

from nni_nas_consistency.errors import FileError
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.scoring.scoring import Metric

FORMAT = "nni-nas-consistency journal 2"
FORMAT_1 = "nni-nas-consistency journal 1"

SegmentScores: TypeAlias = "Mapping[Metric, list[float]]"
"""The scores of a segment by metric, in the order of its archs."""

SCORERS_OF_FORMAT_1 = {"score_prefixes": "prefix", "score_one_by_one": "plain"}


@dataclass(frozen=True)
class Written:
    """What a journal holds.

    Args:
        identity: What is scored and how; None while the first line is not there.
        segments: The scores of each finished segment.
        length: Bytes up to the end of the last whole line.
    """

    identity: Mapping[str, Json] | None
    segments: dict[int, SegmentScores]
    length: int


class Journal:
    """A journal that this process writes; use it in a `with`.

    Args:
        path: The file; made if missing, gone on with if there.
        identity: What is scored and how, plain JSON values: all that decides the scores.

    Raises:
        FileError: The file is of another identity, is in use, is no journal, or cannot be written.
    """

    def __init__(self, path: Path, identity: Mapping[str, Json]) -> None:
        self.path = path
        self._file = _locked(path)
        try:
            written = _parsed(_content(self._file), path)
            self.segments = written.segments
            if written.identity is not None and written.segments:
                check_identity(path, written.identity, identity)
                os.ftruncate(self._file, written.length)
            else:  # nothing is scored yet: what a run that failed at once was given binds no other
                os.ftruncate(self._file, 0)
                self._append({"format": FORMAT, **identity})
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def add(self, index: int, scores: SegmentScores) -> None:
        """Write the scores of a finished segment; when this returns, they are on disk.

        Raises:
            FileError: There is no room; what was there before is kept.
        """
        self._append([index, scores])
        self.segments[index] = scores

    def _append(self, entry: object) -> None:
        line = json.dumps(entry).encode() + b"\n"
        end = os.lseek(self._file, 0, os.SEEK_END)
        try:
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, end)
            raise FileError(
                f"{self.path}: nothing more can be written ({error.strerror}); what was scored is kept: make room, and "
                "give the same command again"
            ) from error


def read_journal(path: Path) -> Written:
    """Return what a journal holds, whether or not it is being written; a line that a kill cut off is left out.

    A file that is not there holds nothing.

    Raises:
        FileError: The file cannot be read, or is no journal.
    """
    try:
        return _parsed(path.read_bytes(), path)
    except FileNotFoundError:
        return Written(None, {}, 0)
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def _parsed(content: bytes, path: Path) -> Written:
    entries: list[object] = []
    length = 0
    for line in content.splitlines(keepends=True):
        entry = _decoded(line)
        if entry is None:
            break
        entries.append(entry)
        length += len(line)
    if not entries:
        if content.strip(b"\0") and b"\n" in content:
            raise FileError(f"{path}: is no journal of scores; move it away")
        return Written(None, {}, 0)
    identity, *rest = entries
    if not isinstance(identity, dict) or identity.get("format") not in (FORMAT, FORMAT_1):
        raise FileError(f"{path}: is no journal of scores; move it away")
    if identity.pop("format") == FORMAT_1:
        identity = _of_present_form(identity)
    segments: dict[int, SegmentScores] = {}
    for index, scores in cast("list[tuple[int, SegmentScores | list[float]]]", rest):
        segments[index] = {identity["metric"]: scores} if isinstance(scores, list) else scores
    return Written(identity, segments, length)


def _of_present_form(identity: dict[str, Any]) -> dict[str, Any]:
    """Return the identity of a journal of format 1 as it is written now."""
    identity["segments"] = identity.pop("blocks", None)
    identity["scorer"] = SCORERS_OF_FORMAT_1.get(identity.get("scorer", ""), identity.get("scorer"))
    return identity


def _content(file: int) -> bytes:
    """Return what an open file holds; its path may be gone by now."""
    with open(os.dup(file), "rb") as copy:
        copy.seek(0)
        return copy.read()


def _decoded(line: bytes) -> object:
    if not line.endswith(b"\n"):
        return None
    try:
        entry: object = json.loads(line)
    except ValueError:
        return None
    return entry


def _locked(path: Path) -> int:
    """Return the file, open and locked; a file that its last writer has just deleted is not it."""
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise FileError(f"{path}: cannot be written ({error.strerror}); choose another --out") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(file)
            raise FileError(f"{path}: another process is scoring this shard; wait for it, or take another") from error
        except OSError as error:
            os.close(file)
            raise FileError(f"{path}: cannot be locked ({error.strerror}); put --out on a local disk") from error
        try:
            if os.fstat(file).st_ino == path.stat().st_ino:
                return file
        except FileNotFoundError:
            pass
        os.close(file)


def check_identity(path: Path, written: Mapping[str, Json], wanted: Mapping[str, Json]) -> None:
    """Raise `FileError`, which says what differs, if a journal is not of the wanted identity."""
    different = [
        f"{key} {_shown(written.get(key))}, not {_shown(wanted.get(key))}"
        for key in sorted(written.keys() | wanted.keys())
        if written.get(key) != wanted.get(key)
    ]
    if different:
        raise FileError(
            f"{path}: was begun with {'; '.join(different)}. Go on with the same, or delete the file to score anew"
        )


def _shown(value: Json) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "…"
