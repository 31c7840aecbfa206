"""Reference accuracies of a list of archs: every arch trained alone with several seeds, resumable seed by seed.

Writes `seeds/<seed>.json` for each finished seed, then `reference.json` (the means, in released form), and
`about.json` with all accuracies, the settings and how well two halves of the seeds agree.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from nni.nas.nn.pytorch import ModelSpace

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.errors import FileError
from nni_nas_consistency.files.arch_lists import Entry, read_released, write_released
from nni_nas_consistency.files.atomic import write_text_atomically
from nni_nas_consistency.files.doors import check_output_folder
from nni_nas_consistency.files.progress import ShowProgress, silent
from nni_nas_consistency.files.run_folder import open_run
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.images.augmentation import Augmentation
from nni_nas_consistency.images.datasets import Images
from nni_nas_consistency.images.loader import TrainingImages
from nni_nas_consistency.ranking.statistics import split_half
from nni_nas_consistency.supernet.active import can_stack
from nni_nas_consistency.supernet.make import codec_of
from nni_nas_consistency.training.alone import train_alone
from nni_nas_consistency.training.recipes import CROSS_ENTROPY, AlonePrecision, Init, Loss, Optimization

MADE_BY_REFERENCES = ("seeds", "about.json", "reference.json")
"""What is written into the folder."""

FINISHED = ("seeds/[0-9]*.json", "about.json", "reference.json")
"""What of that is kept for the next time."""


def train_references(
    space: ModelSpace,
    archs: Mapping[str, Arch],
    *,
    optimization: Optimization,
    train: TrainingImages,
    test: Images,
    augmentation: Augmentation,
    seeds: int,
    folder: Path,
    about: Mapping[str, object],
    identity: Mapping[str, Json] = MappingProxyType({}),
    init: Init = "torch",
    overwrite: bool = False,
    loss: Loss = CROSS_ENTROPY,
    precision: AlonePrecision = "32-true",
    progress: ShowProgress = silent,
    report: Callable[[list[float]], None] | None = None,
) -> Path:
    """Train every arch alone with seeds 0 … seeds−1 and return the path of the mean accuracies.

    Args:
        space: The search space; archs that share all modules train side by side, others one by one.
        archs: Name → arch.
        optimization: Optimizer and schedule.
        train: Training images.
        test: Test images.
        augmentation: Of the training images.
        seeds: How many seeds.
        folder: Where to; seeds that are finished there are not trained again.
        about: Provenance, plain JSON values.
        identity: What else decides the accuracies, such as the name of the data set.
        init: How first weights are drawn; see `Recipe`.
        overwrite: Whether seeds of other settings in the folder are deleted first.
        loss: What is minimised.
        precision: Precision of the convolutions; see `train_alone`.
        progress: Shows the progress.
        report: Called after every epoch but the last with the accuracies of the archs that train side by side.

    Raises:
        InputError: The folder holds seeds of other archs or settings.
        FileError: It cannot be written, or another process works in it.
    """
    settings: dict[str, Json] = {
        "archs": hashlib.sha256("\n".join(f"{name} {arch.code}" for name, arch in archs.items()).encode()).hexdigest(),
        "images": [len(train), len(test)],
        "optimization": dict(optimization.settings()),
        "augmentation": json.loads(json.dumps(asdict(augmentation))),
        **({} if init == "torch" else {"init": init}),
        **({} if loss == CROSS_ENTROPY else {"loss": asdict(loss)}),
        **({} if precision == "32-true" else {"precision": precision}),
        **identity,
    }
    how: dict[str, Any] = {"optimization": optimization, "train": train, "test": test, "augmentation": augmentation}
    how |= {"init": init, "loss": loss, "precision": precision, "report": report}
    with open_run(folder, settings, made_here=MADE_BY_REFERENCES, results=FINISHED, overwrite=overwrite):
        check_output_folder(folder / "seeds")
        check_output_folder(folder, ("about.json", "reference.json"))
        together = can_stack(space, list(archs.values()))
        bundles = [list(archs.values())] if together else [[arch] for arch in archs.values()]
        epochs = len(bundles) * optimization.epochs
        paths = [folder / "seeds" / f"{seed}.json" for seed in range(seeds)]
        columns = {path: _finished(path, space, archs) for path in paths if os.path.lexists(path)}
        seconds: dict[str, float] = {}
        with progress((seeds - len(columns)) * epochs, "epochs") as advance:
            for seed, path in enumerate(paths):
                if path in columns:
                    continue
                begun = time.monotonic()
                accuracies: list[float] = []
                for bundle in bundles:
                    accuracies += train_alone(space, bundle, seed=seed, progress=lambda epoch: advance(1), **how)
                _write_seed(path, archs, accuracies)
                seconds[str(seed)] = round(time.monotonic() - begun, 1)
                columns[path] = _finished(path, space, archs)
        told = {"optimization": optimization.settings(), "augmentation": asdict(augmentation), "seeds": seeds}
        told |= {"loss": asdict(loss), "precision": precision, "seconds_of_seeds_trained_now": seconds}
        return _write_means(folder, archs, np.array([columns[path] for path in paths]).T, {**about, **told})


def _write_seed(path: Path, archs: Mapping[str, Arch], accuracies: Sequence[float]) -> None:
    path.parent.mkdir(exist_ok=True)
    entries = zip(archs.items(), accuracies, strict=True)
    write_released(path, {name: Entry(arch, accuracy) for (name, arch), accuracy in entries})


def _finished(path: Path, space: ModelSpace, archs: Mapping[str, Arch]) -> list[float]:
    entries = read_released(path, codec_of(space))
    if {name: entry.arch for name, entry in entries.items()} != dict(archs):
        raise FileError(f"{path}: holds other archs than the list; train into another folder, or remove it")
    return [float(entries[name].acc) for name in archs]


def _write_means(folder: Path, archs: Mapping[str, Arch], accuracies: np.ndarray, about: Mapping[str, object]) -> Path:
    means = {name: Entry(arch, float(row.mean())) for (name, arch), row in zip(archs.items(), accuracies, strict=True)}
    content = {
        **about,
        "split_half_kendall_tau": _reliability(accuracies),
        "accuracies": {name: row.tolist() for name, row in zip(archs, accuracies, strict=True)},
    }
    write_text_atomically(folder / "about.json", json.dumps(content, indent=1) + "\n")
    write_released(folder / "reference.json", means)
    return folder / "reference.json"


def _reliability(accuracies: np.ndarray) -> float | None:
    """Return how well two halves of the seeds agree; None for too few seeds or archs, or where all archs tie."""
    try:
        return split_half(accuracies)
    except ValueError:
        return None
