"""The folder of a run: one identity, one process, nothing replaced that the run did not make.

`settings.json` says what decides the result, and is written once. The same command goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.atomic import remove_leftovers, write_text_atomically
from nni_nas_consistency.files.doors import check_output_folder, make_folder
from nni_nas_consistency.files.locks import locked
from nni_nas_consistency.files.strict_json import Json, file_errors, json_value, read_object


@contextmanager
def open_run(
    folder: Path,
    settings: Mapping[str, Json],
    *,
    made_here: Sequence[str],
    results: Sequence[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Iterator[None]:
    """Hold the folder of a run, which no other process can write into, until the block ends.

    Args:
        folder: The folder; made if missing.
        settings: Everything that decides the result, plain JSON values.
        made_here: Patterns of the files and folders that such a run writes, besides `settings.json`.
        results: Patterns of those that can be gone on from; None: all of them. A run that has none yet binds nobody to
            its settings, and what it wrote is deleted.
        resume: Whether there must be a run to go on with.
        overwrite: Whether what such a run wrote is deleted first.

    Raises:
        InputError: The folder holds a run of other settings, or none although `resume` asks for one.
        FileError: Another process trains in the folder, or it cannot be written.
    """
    check_run_folder(folder, resume=resume, overwrite=overwrite)
    kept = made_here if results is None else results
    if not overwrite:  # before anything is made, so that a run that is refused leaves nothing
        _goes_on(folder, settings, made_here, kept, resume)
    make_folder(folder)
    with locked(folder / "lock", f"{folder}: another process works here; wait for it, or choose another --out"):
        if overwrite:
            _delete(folder, made_here)
        for place in [folder, *_folders(folder, made_here)]:
            remove_leftovers(place)
        if not _goes_on(folder, settings, made_here, kept, resume):
            _delete(folder, made_here)
            write_text_atomically(folder / "settings.json", json.dumps(dict(settings), indent=1) + "\n")
        yield


def check_run_folder(folder: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """See that a run can be kept in a folder, and that there is one to resume; the settings are not looked at.

    Args:
        folder: The folder of the run.
        resume: Whether there must be a run to go on with.
        overwrite: Whether what such a run wrote is deleted first.

    Raises:
        InputError: There is no run to resume, or it would be deleted.
        FileError: The folder cannot be made or written.
    """
    check_output_folder(folder)
    if resume and overwrite:
        raise InputError(f"{folder}: --overwrite would delete the run that --resume asks for; give one of them")
    if resume and not os.path.lexists(folder / "settings.json"):
        raise InputError(f"{folder}: there is no run to resume; start without --resume")


def _goes_on(
    folder: Path, settings: Mapping[str, Json], made_here: Sequence[str], results: Sequence[str], resume: bool
) -> bool:
    """Return whether the folder holds this run, to go on with; raise `InputError` if it holds another one."""
    before = _settings_of(folder)
    if before is None:
        _refuse_foreign(folder, made_here)
        return False
    goes_on = bool(_made(folder, results))
    if goes_on or resume:
        _check_same(folder, before, settings)
    return goes_on


def identity_of(settings: Mapping[str, Json]) -> str:
    """Return what tells the settings of one run from those of another: the SHA-256 of their JSON."""
    return hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()


def _settings_of(folder: Path) -> dict[str, Json] | None:
    path = folder / "settings.json"
    if not os.path.lexists(path):
        return None
    with file_errors(path):
        return {name: json_value(value, name) for name, value in read_object(path).items()}


def _check_same(folder: Path, before: Mapping[str, Json], settings: Mapping[str, Json]) -> None:
    for name in sorted(before.keys() | settings.keys()):
        if before.get(name) != settings.get(name):
            raise InputError(
                f"{folder}: holds a run with {name} {before.get(name)!r}, not {settings.get(name)!r}; go on with the "
                "same settings, choose another --out, or --overwrite it"
            )


def _refuse_foreign(folder: Path, made_here: Sequence[str]) -> None:
    for path in _made(folder, made_here):
        raise InputError(
            f"{path}: is there already, without the settings of the run that made it; choose another --out, or "
            "--overwrite it"
        )


def _delete(folder: Path, made_here: Sequence[str]) -> None:
    for path in _made(folder, ["settings.json", *made_here]):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _made(folder: Path, made_here: Sequence[str]) -> list[Path]:
    return [path for pattern in made_here for path in sorted(folder.glob(pattern))]


def _folders(folder: Path, made_here: Sequence[str]) -> list[Path]:
    """Return the folders that a run made, at any depth."""
    found = [path for path in _made(folder, made_here) if path.is_dir() and not path.is_symlink()]
    return [*found, *(path for each in found for path in each.rglob("*") if path.is_dir())]
