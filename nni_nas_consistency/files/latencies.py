"""Measured latencies, kept in a file: one JSON object a line, each with the machine and settings that it holds for.

A line is on disk before the next measurement begins. Lines of other machines, versions or settings are left alone, so
that one file can serve several. A line that a kill cut off is dropped.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from nni_nas_consistency.files.atomic import cannot_be_written
from nni_nas_consistency.files.doors import check_input, check_output
from nni_nas_consistency.files.strict_json import LARGEST, decode, fields_of, file_errors, finite, object_of, shown


@dataclass(frozen=True)
class LatencySetup:
    """What a latency depends on besides the arch.

    Args:
        machine: The machine's name.
        device: `cpu`, or the name of the GPU.
        torch: Version of torch.
        threads: Threads that torch computes with.
        batch_size: Images per batch.
        network: Space, and size of the images.
    """

    machine: str
    device: str
    torch: str
    threads: int
    batch_size: int
    network: str


KEYS = (*(field.name for field in fields(LatencySetup)), "arch", "milliseconds")
"""The fields of a line."""
HEAD = '{"machine": '
"""How a line begins."""


def check_latency_file(path: Path) -> None:
    """See that latencies can be kept in a file: in a new one, or in one that holds nothing else.

    Raises:
        FileError: It cannot be read or written, or holds something else.
    """
    check_output(path)
    if path.exists():
        read_latencies(path)


def read_latencies(path: Path) -> dict[LatencySetup, dict[str, float]]:
    """Return the latencies of a file: milliseconds by setup, and by the code of the arch.

    Raises:
        FileError: The file cannot be read, or a line is no latency.
    """
    check_input(path)
    with file_errors(path):
        if path.stat().st_size > LARGEST:
            raise ValueError(f"has more than {LARGEST:,} bytes; name another --latency-file")
        try:
            lines = path.read_bytes().decode("utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError("is no file of latencies; name another --latency-file") from error
        cut_off = lines[-1]
        if cut_off and not (cut_off.startswith(HEAD) or HEAD.startswith(cut_off)):
            raise ValueError("is no file of latencies; name another --latency-file")
        found: dict[LatencySetup, dict[str, float]] = {}
        for number, line in enumerate(lines[:-1], 1):  # the last one is empty, or was cut off
            try:
                setup, arch, milliseconds = _parsed(line)
            except ValueError as error:
                raise ValueError(f"line {number} is no latency: {error}; delete it, or name another file") from error
            found.setdefault(setup, {})[arch] = milliseconds
    return found


def add_latency(path: Path, setup: LatencySetup, arch: str, milliseconds: float) -> None:
    """Append a latency to a file, which is made if it is missing; it is on disk when this returns.

    Raises:
        FileError: The file cannot be written.
    """
    line = json.dumps({**asdict(setup), "arch": arch, "milliseconds": milliseconds}).encode() + b"\n"
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":
                os.ftruncate(file, os.pread(file, size, 0).rfind(b"\n") + 1)
            os.write(file, line)
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        raise cannot_be_written(path, error) from error


def _parsed(line: str) -> tuple[LatencySetup, str, float]:
    values = dict(zip(KEYS, fields_of(object_of(decode(line), "the line"), "the line", KEYS), strict=True))
    for key in ("machine", "device", "torch", "network", "arch"):
        if not isinstance(values[key], str):
            raise ValueError(f"{key} is {shown(values[key])}; expected a text")
    for key in ("threads", "batch_size"):
        if type(values[key]) is not int:
            raise ValueError(f"{key} is {shown(values[key])}; expected a whole number")
    milliseconds = finite(values["milliseconds"], "milliseconds")
    if milliseconds <= 0:
        raise ValueError(f"milliseconds is {milliseconds}; expected a number above 0")
    return _setup(values), str(values["arch"]), float(milliseconds)


def _setup(values: dict[str, object]) -> LatencySetup:
    return LatencySetup(
        machine=str(values["machine"]),
        device=str(values["device"]),
        torch=str(values["torch"]),
        threads=int(str(values["threads"])),
        batch_size=int(str(values["batch_size"])),
        network=str(values["network"]),
    )
