"""A lock that one process holds: the system takes it back from a process that dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nni_nas_consistency.errors import FileError


@contextmanager
def locked(path: Path, message: str, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock file, which stays when it is released.

    Args:
        path: The lock file, in a folder that exists.
        message: What is told where another process holds it.
        wait: Whether to wait for that process instead.

    Raises:
        FileError: Another process holds it and `wait` is false, or the file cannot be made or locked.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise FileError(f"{path}: cannot be written ({error.strerror}); choose another --out") from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise FileError(message) from error
        except OSError as error:
            raise FileError(f"{path}: cannot be locked ({error.strerror}); put --out on a local disk") from error
        yield
    finally:
        os.close(file)
