"""Damages: what is done to the files of the current folder before a command is run there. Imports no torch."""

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[], object]


def no_damage():
    """Leave the files as they are."""


def written(path, content):
    """Return what writes a file of text or bytes; its folder is made."""

    def damage():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content.encode() if isinstance(content, str) else content)

    return damage


def folder(path):
    return lambda: Path(path).mkdir(parents=True)


def pipe(path):
    return lambda: os.mkfifo(path)


def link(path, to):
    return lambda: Path(path).symlink_to(to)


def removed(path):
    return lambda: Path(path).unlink()


def copied(path, to):
    return lambda: Path(to).write_bytes(Path(path).read_bytes())


def several(*damages):
    def damage():
        for each in damages:
            each()

    return damage


def changed(path, change):
    """Return what changes the bytes of a file."""
    return lambda: Path(path).write_bytes(change(Path(path).read_bytes()))


def shortened(path, size):
    """Return what cuts a file off; a negative size is counted from its end."""
    return changed(path, lambda content: content[:size])


def fields(path, **changes):
    """Return what changes fields of a JSON object."""
    return changed(path, lambda content: json.dumps(json.loads(content) | changes).encode())


# checkpoints of supernets


def safetensors(header, tensors=b""):
    """Return the bytes of a safetensors file; the header is bytes or a JSON value."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + tensors


def header(change, path="supernet.safetensors"):
    """Return what changes the header of a checkpoint; its tensors stay as they are."""

    def damage():
        content = Path(path).read_bytes()
        length = int.from_bytes(content[:8], "little")
        before = json.loads(content[8 : 8 + length])
        change(before)
        Path(path).write_bytes(safetensors(before, content[8 + length :]))

    return damage


def metadata(**changes):
    """Return what changes the metadata of a checkpoint; None removes a key."""

    def change(before):
        after = before["__metadata__"] | changes
        before["__metadata__"] = {key: value for key, value in after.items() if value is not None}

    return header(change)


def inside(key, **changes):
    """Return what changes the JSON object under a key of the metadata."""

    def change(before):
        old = json.loads(before["__metadata__"][key])
        before["__metadata__"][key] = json.dumps(old | changes)

    return header(change)


# folders of runs and journals


def training(path, change):
    """Return what changes the content of a checkpoint of a training run, and seals it again."""

    def damage():
        import torch

        from nni_nas_consistency.files.seal import sealed

        stream = io.BytesIO()
        torch.save(change(torch.load(path, weights_only=True)), stream)
        Path(path).write_bytes(sealed(stream.getvalue()))

    return damage


def zipped(*names):
    """Return the bytes of a zip file that is no checkpoint."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return stream.getvalue()


class Malice:
    """Unpickled, it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def journal(path, change):
    """Return what changes the lines of a journal: given head and segments, returns lines, values or text."""

    def damage():
        first, *rest = map(json.loads, Path(path).read_text().splitlines())
        lines = [line if isinstance(line, str) else json.dumps(line) for line in change(first, rest)]
        Path(path).write_text("".join(f"{line}\n" for line in lines))

    return damage
