"""The folder of a study: what each run found, in a file of its own, so that several processes can fill one folder.

`study.json` has all that decides the results. `results/SETTING/seedN.json` is what a run found: written last, never
repeated. `trainings/DIGEST/seedN` are runs of `train`, shared by settings that differ in scoring alone;
`scores/DIGEST/seedN.json` the scores, shared by settings that differ in the metric alone; `pools/RULE/seedN.json` what
trainings draw from.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.atomic import write_text_atomically
from nni_nas_consistency.files.doors import check_output_folder, make_folder
from nni_nas_consistency.files.strict_json import (
    Json,
    fields_of,
    file_errors,
    finite,
    json_value,
    object_of,
    read_object,
    shown,
)

MEASURES = ("kendall", "pearson", "spearman")

MADE_BY_STUDIES = ("pools", "results", "scores", "trainings", "study.json")
"""What is written into the folder of a study, besides its reports."""


@dataclass(frozen=True)
class Result:
    """What one run found.

    Args:
        setting: The name of the setting.
        seed: Of the training.
        values: Kendall, Pearson and Spearman of the scores; None where there is none, as of scores that are all equal.
        seconds: What training and scoring took.
        failed: Why there are no values, such as a loss that is not finite; None where there are.
    """

    setting: str
    seed: int
    values: Mapping[str, float | None] = field(default_factory=lambda: dict.fromkeys(MEASURES))
    seconds: Mapping[str, float] = field(default_factory=dict)
    failed: str | None = None


def result_path(folder: Path, setting: str, seed: int) -> Path:
    """Return where the result of a run is."""
    return folder / "results" / setting / f"seed{seed}.json"


def write_result(folder: Path, result: Result) -> None:
    """Write what a run found.

    Raises:
        FileError: The file cannot be written.
    """
    path = result_path(folder, result.setting, result.seed)
    make_folder(path.parent)
    content = {"values": dict(result.values), "seconds": dict(result.seconds), "failed": result.failed}
    write_text_atomically(path, json.dumps(content, indent=1) + "\n")


def read_result(folder: Path, setting: str, seed: int) -> Result | None:
    """Return what a run found, or None if it is not finished.

    Raises:
        FileError: The file is damaged.
    """
    path = result_path(folder, setting, seed)
    if not os.path.lexists(path):
        return None
    with file_errors(path):
        values, seconds, failed = fields_of(read_object(path), "the file", ("values", "seconds", "failed"))
        numbers = fields_of(object_of(values, "values"), "values", MEASURES)
        if not isinstance(failed, (str, type(None))):
            raise ValueError(f"failed is {shown(failed)}; expected a text or null")
        return Result(
            setting,
            seed,
            {
                name: None if number is None else finite(number, name)
                for name, number in zip(MEASURES, numbers, strict=True)
            },
            {name: finite(number, name) for name, number in object_of(seconds, "seconds").items()},
            failed,
        )


def check_study_folder(folder: Path, settings: Mapping[str, Json]) -> None:
    """See that a folder holds this study, or none.

    Args:
        folder: The folder of the study.
        settings: All that decides the results.

    Raises:
        InputError: It holds a study with other settings, or results without settings.
        FileError: It cannot be made or written, or its settings are damaged.
    """
    check_output_folder(folder, ("study.json",))
    path = folder / "study.json"
    if not os.path.lexists(path):
        for name in MADE_BY_STUDIES:
            if os.path.lexists(folder / name):
                raise InputError(
                    f"{folder / name}: is there already, without the settings of the study that made it; choose "
                    "another --out, or --overwrite it"
                )
        return
    with file_errors(path):
        before = dict(_flat({name: json_value(value, name) for name, value in read_object(path).items()}))
    now = dict(_flat(json.loads(json.dumps(settings))))
    for name in [*before, *now]:
        if before.get(name) != now.get(name):
            raise InputError(
                f"{folder}: holds a study with {name} {before.get(name)!r}, not {now.get(name)!r}; go on with the same "
                "settings, choose another --out, or --overwrite it"
            )


def open_study_folder(folder: Path, settings: Mapping[str, Json], *, overwrite: bool = False) -> None:
    """Make the folder of a study, unless it is there; several processes may.

    Args:
        folder: The folder.
        settings: All that decides the results.
        overwrite: Whether what a study left there is deleted first.

    Raises:
        InputError: As `check_study_folder`.
        FileError: It cannot be written.
    """
    if overwrite:
        _delete(folder)
    check_study_folder(folder, settings)
    make_folder(folder)
    if not (folder / "study.json").exists():
        write_text_atomically(folder / "study.json", json.dumps(settings, indent=1) + "\n")


def digest_of(settings: Json) -> str:
    """Return a short name for settings, the same for equal ones."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _delete(folder: Path) -> None:
    for name in MADE_BY_STUDIES:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif os.path.lexists(path):
            path.unlink()


def _flat(settings: Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, Json]]:
    """Yield name and value of every setting; one inside another is named by both, such as `fair trainings 0 lr`."""
    for name, value in settings.items():
        if isinstance(value, list):
            value = {str(index): each for index, each in enumerate(value)}
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", value
