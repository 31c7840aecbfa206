"""Atomic writes: a reader sees the old file or the new one, never a part, even if the process is killed."""

from __future__ import annotations

import errno
import os
import re
import secrets
from pathlib import Path
from typing import TypeAlias

from nni_nas_consistency.errors import FileError

FilePath: TypeAlias = "str | os.PathLike[str]"

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_text_atomically(path: FilePath, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all; line ends are kept as they are.

    A byte of a file name that is not UTF-8, which Python has as half a character, is written as its escape code.

    Args:
        path: Where to, in a folder that exists; a symbolic link is followed, an older file replaced.
        text: What to write.

    Raises:
        FileError: The folder is missing, `path` is a folder or a device, or the system refuses to write.
    """
    write_bytes_atomically(path, text.encode("utf-8", "backslashreplace"))


def write_bytes_atomically(path: FilePath, content: bytes) -> None:
    """Write `content`, whole or not at all.

    Args:
        path: Where to, in a folder that exists; a symbolic link is followed, an older file replaced.
        content: What to write.

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
        # Mode x instead of tempfile: permissions follow the umask, and a file of someone else is never overwritten.
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise cannot_be_written(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def cannot_be_written(path: FilePath, error: OSError) -> FileError:
    """Return the error of a file or folder that the system refuses to write, with what to do."""
    remedy = "free some space and run the same command again" if error.errno in FULL else "choose a writable folder"
    return FileError(f"{path}: cannot be written ({error.strerror}); {remedy}")


def remove_leftovers(folder: Path) -> None:
    """Delete what writes that were killed left in a folder, where no other process writes now."""
    for path in folder.glob(".*.tmp"):
        if re.fullmatch(r"\.[0-9a-f]{16}\.tmp", path.name):
            path.unlink(missing_ok=True)
