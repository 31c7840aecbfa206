"""The doors: what a job reads and writes is looked at before any work begins."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

from nni_nas_consistency.errors import FileError


def check_input(path: Path) -> None:
    """See that a file can be read: a regular one, since a pipe can be read once and a device without end.

    Raises:
        FileError: There is no such file, it is no regular file, or it cannot be read.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: cannot be read ({_reason(error)}); check the path and its permissions") from error
    if not stat.S_ISREG(mode):
        raise FileError(f"{path}: is {_kind(mode)}; give a regular file")
    if not os.access(path, os.R_OK):
        raise FileError(f"{path}: cannot be read (Permission denied); check its permissions")


def check_output(path: Path, inputs: Iterable[Path] = ()) -> None:
    """See that a file can be written at the end: in a folder that exists, and in the place of no other input.

    Args:
        path: The file to write.
        inputs: The files that the job reads.

    Raises:
        FileError: The folder is missing or cannot be written, or `path` is a folder, device, dangling link or input.
    """
    try:
        mode = path.stat().st_mode if path.exists() else None
        link_to_nothing = mode is None and path.is_symlink()
        folder_is_there = path.parent.is_dir()
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: cannot be written ({_reason(error)}); choose another --out") from error
    if link_to_nothing:
        raise FileError(f"{path}: is a link to a file that is not there; remove it, or choose another --out")
    if mode is not None and not stat.S_ISREG(mode):
        raise FileError(f"{path}: is {_kind(mode)}; name a file to write")
    if not folder_is_there:
        raise FileError(f"{path}: there is no folder {path.parent}; make it, or choose another --out")
    if len(os.fsencode(path.name)) > 200:  # the files beside it have longer names
        raise FileError(f"{path}: the name is too long; choose another --out")
    for other in inputs:
        if mode is not None and other.exists() and other.samefile(path):
            raise FileError(f"{path}: is an input of this job, which would be overwritten; choose another --out")
    _check_can_write(path, Path(os.path.realpath(path)).parent)


def check_output_folder(path: Path, names: Iterable[str] = ()) -> None:
    """See that files can be written into a folder, which is made later if it is missing.

    Args:
        path: The folder.
        names: The files to write.

    Raises:
        FileError: It is something else or cannot be written, or it is missing and cannot be made; or something that is
            no file is in the place of one.
    """
    try:
        there = next(folder for folder in (path, *path.absolute().parents) if folder.exists() or folder.is_symlink())
        is_folder = there.is_dir()
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: cannot be made ({_reason(error)}); choose another folder") from error
    if not is_folder:
        raise FileError(f"{path}: {'' if there == path else f'{there} '}is no folder; choose another one")
    _check_can_write(path, there)
    for name in names:
        if os.path.lexists(path / name):
            check_output(path / name)


def make_folder(path: Path) -> None:
    """Make a folder, and those that it is in, unless they are there.

    Raises:
        FileError: It cannot be made, or nothing can be written into it.
    """
    check_output_folder(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{path}: cannot be made ({_reason(error)}); choose another folder") from error


def _check_can_write(path: Path, folder: Path) -> None:
    """Make a file in a folder and delete it: permissions alone do not tell, on /proc or on a full disk."""
    probe = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        probe.unlink()
    except OSError as error:
        raise FileError(
            f"{path}: nothing can be written into {folder} ({_reason(error)}); choose another folder"
        ) from error


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "no regular file"


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
