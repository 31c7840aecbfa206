"""Train archs alone, which gives their reference accuracies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nni_nas_consistency.files.progress import ShowProgress, silent
from nni_nas_consistency.files.run_folder import check_run_folder
from nni_nas_consistency.jobs.inputs import device_of, first_archs, importing
from nni_nas_consistency.systems import DataSet, System
from nni_nas_consistency.training.recipes import AlonePrecision, Loss, Optimization

if TYPE_CHECKING:
    from nni_nas_consistency.archs.arch import Arch
    from nni_nas_consistency.images.augmentation import Augmentation


@dataclass(frozen=True)
class StandaloneJob:
    """Train archs alone, which gives their reference accuracies.

    Args:
        system: The competition or benchmark.
        data: The data set.
        archs: The list, in released form; or the arch itself, to train one.
        out: Folder to write into; seeds that are finished there are not trained again.
        optimization: Optimizer and schedule.
        seeds: Train every arch with seeds 0 … seeds − 1.
        limit: Train the first so many archs.
        train_images: Use the first so many training images.
        overwrite: Whether what `out` holds of other settings is deleted first.
        data_root: Folder that holds the data set.
        download: Whether the data set may be fetched into it.
        loss: What is minimised; None: the system's.
        augmentation: Of the training images; None: the system's.
        precision: Precision of the convolutions; see `training.alone.train_alone`.
        device: `cpu`, `cuda` or `auto`.
        provenance: What was typed, and the machine and versions that run it.
    """

    system: System
    data: DataSet
    archs: Path | Arch
    out: Path
    optimization: Optimization
    seeds: int = 1
    limit: int | None = None
    train_images: int | None = None
    overwrite: bool = False
    data_root: Path | None = None
    download: bool = False
    loss: Loss | None = None
    augmentation: Augmentation | None = None
    precision: AlonePrecision = "32-true"
    device: str = "auto"
    provenance: Mapping[str, str] = field(default_factory=dict)


def train_standalone(
    job: StandaloneJob, *, progress: ShowProgress = silent, report: Callable[[list[float]], None] | None = None
) -> Path:
    """Train archs alone and return the path of their mean accuracies; see `training.reference.train_references`.

    Raises:
        InputError: The list, the data or the folder cannot be used.
    """
    job.data.check_root(job.data_root, download=job.download)
    check_run_folder(job.out, overwrite=job.overwrite)
    archs = first_archs(job.archs, job.system, job.limit) if isinstance(job.archs, Path) else {"arch1": job.archs}

    with importing():
        import torch

        from nni_nas_consistency.training.alone import MixedPrecision
        from nni_nas_consistency.training.reference import train_references

    place = device_of(job.device)
    MixedPrecision.of(job.precision, torch.device(place))
    images = job.data.training_images(job.data_root, download=job.download)
    images = images if job.train_images is None else images.first(job.train_images)
    job.optimization.check_warm_up(len(images))
    test = job.data.images(job.data_root, train=False, download=job.download, progress=progress)
    return train_references(
        job.system.make_space(images.shape, standalone=True),
        archs,
        optimization=job.optimization,
        train=images.to(place),
        test=test,
        augmentation=job.augmentation or job.system.augmentation(job.data),
        loss=job.loss or job.system.loss,
        precision=job.precision,
        seeds=job.seeds,
        folder=job.out,
        about=dict(job.provenance),
        identity={"space": job.system.space, **job.data.settings(train=True), **images.identity()},
        init=job.system.init,
        overwrite=job.overwrite,
        progress=progress,
        report=report,
    )
