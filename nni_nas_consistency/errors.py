"""Errors about input that cannot be used: each message is one line that quotes the value and names the next step.

The command line ends with exit code 2 on any of them. What fails although the input was good is a `RuntimeError`.
"""

from __future__ import annotations


class InputError(ValueError):
    """Input that cannot be used."""


class Terminated(BaseException):
    """The process is asked to end (SIGTERM), as a KeyboardInterrupt asks it; the command line ends with 143."""


class Diverged(RuntimeError):
    """A training diverged: its loss or its scores are not finite, or far from those of any result."""


class ArchError(InputError):
    """A code or sample that its search space does not allow."""


class FileError(InputError):
    """A file that cannot be read, written, or used for what it was given for."""


class CheckpointError(InputError):
    """A checkpoint that cannot be used."""


class DataError(InputError):
    """A data set that is missing, damaged or too small."""


class MatchError(InputError):
    """Scores and reference accuracies of different archs."""
