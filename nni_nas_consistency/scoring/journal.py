"""The journal of a shard: which segments of a list are scored, so that a killed run can be resumed.

A text file: one line that says what is scored and how, then one per finished segment, on disk as soon as it is
finished. The writer holds a lock on the file, which the system releases when the process dies. A line that a kill cut
off is dropped; no finished segment is lost. Journals of version 0.1, which hold one metric, are read and resumed.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

from nni_nas_consistency.errors import FileError
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.scoring.scoring import Metric

FORMAT = "nni-nas-consistency journal 2"
FORMAT_1 = "nni-nas-consistency journal 1"
HEAD = b'{"format": "nni-nas-consistency journal '

SegmentScores: TypeAlias = "Mapping[Metric, list[float]]"
"""The scores of a segment by metric, in the order of its archs."""

SCORERS_OF_VERSION_0_1 = {"score_prefixes": "prefix", "score_one_by_one": "plain"}


@dataclass(frozen=True)
class Written:
    """The content of a journal.

    Args:
        identity: What is scored and how; None while the first line is missing.
        segments: The scores of each finished segment.
        length: Bytes up to the end of the last whole line.
    """

    identity: Mapping[str, Json] | None
    segments: dict[int, SegmentScores]
    length: int


class Journal:
    """A journal that this process writes; use it in a `with` statement.

    Args:
        path: The file; created if missing, resumed if there.
        identity: What is scored and how, plain JSON values: all that decides the scores.

    Raises:
        FileError: The file was written with different settings, is in use, is no journal, or cannot be written.
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
            else:  # no segment is finished: settings of a run that failed at once bind nobody
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
        """Write the scores of a finished segment; they are on disk when this returns.

        Raises:
            FileError: The disk is full or fails; the segments written before are kept.
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
                f"{self.path}: cannot be written any further ({error.strerror}); finished segments are kept: free some "
                "space and run the same command again"
            ) from error


def read_journal(path: Path) -> Written:
    """Return the content of a journal, even while it is being written; a line that a kill cut off is left out.

    A missing file counts as empty.

    Raises:
        FileError: The file cannot be read, or is no journal.
    """
    _refuse_other_kinds(path)
    try:
        return _parsed(path.read_bytes(), path)
    except FileNotFoundError:
        return Written(None, {}, 0)
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def remove_journal(path: Path, identity: Mapping[str, Json]) -> None:
    """Delete what a finished scoring left of its journal; a file of anything else is left alone."""
    try:
        written = read_journal(path)
    except FileError:
        return
    if written.identity in (None, identity):
        path.unlink(missing_ok=True)


def present_identity(identity: Mapping[str, Json]) -> dict[str, Json]:
    """Return what version 0.1 wrote into journals and score files as it is written now; any other identity as it is."""
    present = dict(identity)
    if "blocks" in present:
        present["segments"] = present.pop("blocks")
        present["scorer"] = SCORERS_OF_VERSION_0_1.get(str(present.get("scorer")))
    return present


def check_identity(path: Path, written: Mapping[str, Json], wanted: Mapping[str, Json]) -> None:
    """Raise `FileError`, which says what differs, if a journal does not have the wanted identity."""
    different = []
    for key in sorted(written.keys() | wanted.keys()):
        if written.get(key) != wanted.get(key):
            different.append(f"{key} {_shown(written.get(key))} instead of {_shown(wanted.get(key))}")
    if different:
        raise FileError(
            f"{path}: was written with different settings: {', '.join(different)}; use the same settings, or delete "
            "the file to score from scratch"
        )


def _parsed(content: bytes, path: Path) -> Written:
    entries, length = _whole_entries(content)
    if not entries and _is_torn_head(content):
        return Written(None, {}, 0)
    head = entries[0] if entries else None
    if not isinstance(head, dict) or head.pop("format", None) not in (FORMAT, FORMAT_1):
        raise _no_journal(path)
    identity = present_identity(head)
    segments: dict[int, SegmentScores] = {}
    for entry in entries[1:]:
        if not isinstance(entry, list) or len(entry) != 2:
            raise _no_journal(path)
        index, scores = entry
        if isinstance(scores, list):  # version 0.1 has the wanted metric only
            scores = {identity["metric"]: scores}
        segments[index] = scores
    return Written(identity, segments, length)


def _whole_entries(content: bytes) -> tuple[list[object], int]:
    """Return the entries before the first line that a kill cut off, and the bytes that they take."""
    entries: list[object] = []
    length = 0
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
        length += len(line)
    return entries, length


def _is_torn_head(content: bytes) -> bool:
    """Return whether this is all that a kill, or a crash of the machine, left of a first line."""
    written = content.rstrip(b"\0")
    return b"\n" not in written and (HEAD.startswith(written) or written.startswith(HEAD))


def _no_journal(path: Path) -> FileError:
    return FileError(f"{path}: is not a scoring journal; move it away, or choose another name for the score file")


def _refuse_other_kinds(path: Path) -> None:
    """Refuse a pipe, which would be waited for, or a device; a folder cannot be opened anyway."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise _no_journal(path)


def _content(file: int) -> bytes:
    """Return the content of an open file; its path may be gone by now."""
    with open(os.dup(file), "rb") as copy:
        copy.seek(0)
        return copy.read()


def _locked(path: Path) -> int:
    """Return the file, open and locked; not one that another writer has just deleted, having merged it."""
    _refuse_other_kinds(path)
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise FileError(f"{path}: cannot be written ({error.strerror}); choose another --out") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(file)
            raise FileError(
                f"{path}: another process is scoring this shard; wait for it, or score another shard"
            ) from error
        except OSError as error:
            os.close(file)
            raise FileError(f"{path}: cannot be locked ({error.strerror}); put --out on a local disk") from error
        try:
            if os.fstat(file).st_ino == path.stat().st_ino:
                return file
        except FileNotFoundError:
            pass
        os.close(file)


def _shown(value: Json) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "…"
