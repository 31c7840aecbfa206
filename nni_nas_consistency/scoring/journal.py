"""The journal of a shard: which segments of a list are scored, so that a killed run can be resumed.

A text file: one line that says what is scored and how, then one per finished segment, on disk as soon as it is
finished. The writer holds a lock on the file, which the system releases when the process dies. On a file system without
locks each writer has a file of its own beside it, and what all of them hold is merged. A line that a kill cut off is
dropped; no finished segment is lost. Journals of version 0.1, which hold one metric, are read and resumed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

from nni_nas_consistency.errors import FileError
from nni_nas_consistency.files.strict_json import Json, decode, finite, json_value, object_of, one_line, shown
from nni_nas_consistency.scoring.scoring import METRICS, Metric

FORMAT = "nni-nas-consistency journal 2"
FORMAT_1 = "nni-nas-consistency journal 1"
HEAD = b'{"format": "nni-nas-consistency journal '

SegmentScores: TypeAlias = "Mapping[Metric, list[float]]"
"""The scores of a segment by metric, in the order of its archs."""

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system without locks answers, such as NFS without its lock daemon, or Lustre on many clusters."""

SCORERS_OF_VERSION_0_1 = {"score_prefixes": "prefix", "score_one_by_one": "plain"}


@dataclass(frozen=True)
class Written:
    """The content of a journal.

    Args:
        identity: What is scored and how; None while the first line is missing.
        segments: The scores of each finished segment.
        length: Bytes up to the end of the last whole line, of the last file where there are several.
    """

    identity: Mapping[str, Json] | None
    segments: dict[int, SegmentScores]
    length: int


class Journal:
    """A journal that this process writes; use it in a `with` statement.

    Args:
        path: The file; created if missing, resumed if there. Without locks it is another one, beside it.
        identity: What is scored and how, plain JSON values: all that decides the scores.

    Raises:
        FileError: The file was written with different settings, is in use, is no journal, or cannot be written.
    """

    def __init__(self, path: Path, identity: Mapping[str, Json]) -> None:
        file = _locked(path)
        self.path, self._file = (path, file) if file is not None else _own_file(path)
        try:
            others = _merged([each for each in files_of(path) if each != self.path])
            if others.segments and others.identity is not None:
                check_identity(path, others.identity, identity)
            written = _parsed(_content(self._file), path)
            self.segments = {**others.segments, **written.segments}
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

    What several writers have written without locks is merged: of a segment that several have scored, those scores
    count that come first in the order of the files' names. A missing file counts as empty.

    Raises:
        FileError: A file cannot be read, is no journal, or the writers had different settings.
    """
    return _merged(files_of(path))


def _merged(paths: Sequence[Path]) -> Written:
    merged = Written(None, {}, 0)
    for path in paths:
        written = _read(path)
        if written.segments and merged.segments:
            check_identity(path, written.identity or {}, merged.identity or {})
        identity = written.identity if merged.identity is None or not merged.segments else merged.identity
        merged = Written(identity or merged.identity, {**written.segments, **merged.segments}, written.length)
    return merged


def _read(path: Path) -> Written:
    _refuse_other_kinds(path)
    try:
        return _parsed(path.read_bytes(), path)
    except FileNotFoundError:
        return Written(None, {}, 0)
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def files_of(path: Path) -> list[Path]:
    """Return the files of a journal that may be there: its own, and those of writers without locks, by name."""
    try:
        beside = sorted(path.parent.iterdir())
    except OSError:
        return [path]
    name = re.compile(re.escape(path.name) + r"\.[A-Za-z0-9-]+-[0-9a-f]{8}")
    return [path, *(each for each in beside if name.fullmatch(each.name))]


def delete_journal(path: Path) -> None:
    """Delete all files of a journal."""
    for each in files_of(path):
        each.unlink(missing_ok=True)


def remove_journal(path: Path, identity: Mapping[str, Json]) -> None:
    """Delete what a finished scoring left of its journal; a file of anything else is left alone."""
    for each in files_of(path):
        try:
            written = _read(each)
        except FileError:
            continue
        if written.identity in (None, identity):
            each.unlink(missing_ok=True)


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


def check_segments(path: Path, segments: Mapping[int, SegmentScores], sizes: Mapping[int, int], metric: Metric) -> None:
    """See that the segments of a journal are segments of a list, with a score of every arch.

    Args:
        path: The journal.
        segments: The scores of each finished segment.
        sizes: The number of archs of each segment of the list.
        metric: The metric that is needed.

    Raises:
        FileError: There is no such segment in the list, or the scores are of another metric or number of archs.
    """
    for index, scores in segments.items():
        found = {name: len(numbers) for name, numbers in scores.items()}
        if index not in sizes or found.get(metric) != sizes[index]:
            raise FileError(
                f"{path}: the scores of segment {index} are {found}, expected {sizes.get(index, 'no such segment')} of "
                f"{metric}; delete its line, and the segment is scored again"
            )


def _parsed(content: bytes, path: Path) -> Written:
    entries, length = _whole_entries(content)
    if not entries and _is_torn_head(content):
        return Written(None, {}, 0)
    identity = _identity(entries, path)
    segments: dict[int, SegmentScores] = {}
    for line, entry in enumerate(entries[1:], 2):
        try:
            index, scores = _segment(entry, identity.get("metric"))
        except ValueError as flaw:
            raise FileError(
                f"{path}: line {line} is no finished segment: {one_line(flaw)}; delete the line, and the segment is "
                "scored again"
            ) from flaw
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
            entries.append(decode(line.decode()))
        except (ValueError, RecursionError):
            break
        length += len(line)
    return entries, length


def _identity(entries: Sequence[object], path: Path) -> dict[str, Json]:
    """Return what the first line says is scored and how, as it is written now."""
    try:
        head = object_of(entries[0] if entries else None, "the first line")
        written = {name: json_value(value, name) for name, value in head.items()}
    except (ValueError, RecursionError) as flaw:
        raise _no_journal(path) from flaw
    if written.pop("format", None) not in (FORMAT, FORMAT_1):
        raise _no_journal(path)
    return present_identity(written)


def _segment(entry: object, metric: Json) -> tuple[int, SegmentScores]:
    """Return the index and the scores of a decoded line; version 0.1 has scores of the wanted metric only."""
    if not isinstance(entry, list) or len(entry) != 2:
        raise ValueError("expected a list of its index and its scores")
    index, scores = entry
    if type(index) is not int or index < 0:
        raise ValueError(f"its index is {shown(index)}; expected 0, 1, 2, …")
    by_metric = {str(metric): scores} if isinstance(scores, list) else object_of(scores, "what follows its index")
    checked: dict[Metric, list[float]] = {}
    for name in METRICS:
        if name in by_metric:
            checked[name] = _numbers(by_metric[name], name)
    if not checked or len(checked) < len(by_metric):
        raise ValueError(f"its metrics are {', '.join(by_metric) or 'none'}; allowed are {', '.join(METRICS)}")
    if len({len(numbers) for numbers in checked.values()}) > 1:
        raise ValueError(f"its {' and '.join(checked)} are not of as many archs")
    return index, checked


def _numbers(scores: object, metric: Metric) -> list[float]:
    if not isinstance(scores, list):
        raise ValueError(f"its {metric} is {shown(scores)}; expected a list of numbers")
    return [finite(score, metric) for score in scores]


def _is_torn_head(content: bytes) -> bool:
    """Return whether this is all that a kill, or a crash of the machine, left of a first line."""
    written = content.rstrip(b"\0")
    return b"\n" not in written and (HEAD.startswith(written) or written.startswith(HEAD))


def _no_journal(path: Path) -> FileError:
    return FileError(f"{path}: is not a scoring journal; move it away, or choose another name for the score file")


def _refuse_other_kinds(path: Path) -> None:
    """Refuse a pipe, which would be waited for, a device or a link to nothing; a folder cannot be opened anyway."""
    if os.path.lexists(path) and not (path.is_file() or path.is_dir()):
        raise _no_journal(path)


def _content(file: int) -> bytes:
    """Return the content of an open file; its path may be gone by now."""
    with open(os.dup(file), "rb") as copy:
        copy.seek(0)
        return copy.read()


def _locked(path: Path) -> int | None:
    """Return the file, open and locked; None where there are no locks.

    It is not one that another writer has just deleted, having merged it.
    """
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
            if error.errno in NO_LOCKS:
                return None
            raise FileError(f"{path}: cannot be locked ({error.strerror}); put --out on a local disk") from error
        try:
            if os.fstat(file).st_ino == path.stat().st_ino:
                return file
        except FileNotFoundError:
            pass
        os.close(file)


def _own_file(path: Path) -> tuple[Path, int]:
    """Return a new file that no other process writes, beside the journal, and its descriptor."""
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:32] or "host"
    own = path.with_name(f"{path.name}.{host}-{secrets.token_hex(4)}")
    try:
        return own, os.open(own, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        raise FileError(f"{own}: cannot be written ({error.strerror}); choose another --out") from error


def _shown(value: Json) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "…"
