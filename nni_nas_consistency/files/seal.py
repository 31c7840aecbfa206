"""A seal for what `torch.save` writes: the SHA-256 of the file, as the comment of the zip archive that it is.

Torch reads without checking a checksum: 15 % of the bits of a small checkpoint can flip so that it loads other values
without a word. The archive's CRC-32 would find all of those but the flag that makes a folder of a record, after which
torch reads noise. Readers of zip files, torch among them, skip the comment.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from nni_nas_consistency.errors import CheckpointError

DIGITS = 64
"""Length of the seal: a SHA-256 as hexadecimal digits."""


def sealed(archive: bytes) -> bytes:
    """Return a zip archive with its seal.

    Args:
        archive: The archive, without a comment: its last two bytes, the length of the comment, are 0.

    Raises:
        ValueError: It has a comment.
    """
    if not archive.endswith(b"\0\0"):
        raise ValueError("the archive has a comment already")
    signed = archive[:-2] + DIGITS.to_bytes(2, "little")
    return signed + hashlib.sha256(signed).hexdigest().encode()


def check_seal(path: Path, content: bytes) -> None:
    """See that a sealed archive is as it was written.

    Args:
        path: Its name in messages.
        content: All of it.

    Raises:
        CheckpointError: A bit is not as it was, the end is missing, or there is no seal.
    """
    signed, seal = content[:-DIGITS], content[-DIGITS:]
    if not re.fullmatch(rb"[0-9a-f]{64}", seal):
        raise CheckpointError(
            f"{path}: is cut off, or is no checkpoint of a training run; delete it, and the run begins anew"
        )
    found = hashlib.sha256(signed).hexdigest()
    expected = seal.decode()
    if found != expected:
        raise CheckpointError(
            f"{path}: is damaged: the SHA-256 of its content is {found[:12]}…, expected {expected[:12]}…; delete it, "
            "and the run begins anew"
        )
