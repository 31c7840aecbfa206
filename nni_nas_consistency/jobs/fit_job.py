"""Train the network of one arch, from scratch or from trained weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.checkpoint_header import (
    CheckpointHeader,
)
from nni_nas_consistency.files.doors import check_output, check_output_folder
from nni_nas_consistency.files.progress import ShowProgress, silent
from nni_nas_consistency.files.run_folder import check_run_folder, identity_of, open_run
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.jobs.evaluate_job import accuracy_of, network_header, network_of
from nni_nas_consistency.jobs.inputs import device_of, importing
from nni_nas_consistency.systems import DataSet, System, shape_of_checkpoint
from nni_nas_consistency.training.recipes import Loss, Optimization

if TYPE_CHECKING:
    from nni.nas.nn.pytorch import ModelSpace
    from torch import nn

    from nni_nas_consistency.archs.arch import Arch
    from nni_nas_consistency.images.datasets import Images
    from nni_nas_consistency.images.loader import TrainingImages
    from nni_nas_consistency.training.network import Accuracy


@dataclass(frozen=True)
class FitJob:
    """Train the network of one arch: from scratch, or fine-tune a trained one with a new head.

    Args:
        system: The competition or benchmark.
        data: The data set.
        arch: The arch.
        out: Folder of the run; made if missing.
        optimization: Optimizer and schedule, and how images are mixed.
        weights: The network to start from, or a supernet that it is cut out of; None: fresh weights.
        image_size: Side to which images are resized, in pixels; None: that of `weights`, else of the images.
        data_root: Folder that holds the data set.
        download: Whether the data set may be fetched into it.
        seed: Of fresh weights, order of the images, augmentation, mixing and drop path.
        resume: Whether `out` must hold a run to go on with; the same job goes on without it too.
        overwrite: Whether a run of other settings in `out` is deleted, and a finished one trained again.
        precision: Lightning's word for it.
        checkpoint_steps: Steps between checkpoints; None: one an epoch.
        train_images: Use the first so many training images.
        val_images: Test images that are looked at after every epoch; the last accuracy is that on all of them.
        device: `cpu`, `cuda` or `auto`.
        provenance: What was typed, and the machine and versions that run it.

    Raises:
        InputError: The networks of the space are trained with another loss than cross-entropy.
    """

    system: System
    data: DataSet
    arch: Arch
    out: Path
    optimization: Optimization
    weights: Path | None = None
    image_size: int | None = None
    data_root: Path | None = None
    download: bool = False
    seed: int = 0
    resume: bool = False
    overwrite: bool = False
    precision: str = "32-true"
    checkpoint_steps: int | None = None
    train_images: int | None = None
    val_images: int = 1000
    device: str = "auto"
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.system.loss != Loss():
            raise InputError(
                f"fit minimises plain cross-entropy, and {self.system.space} has {self.system.loss}; use standalone"
            )

    def settings(self) -> dict[str, Json]:
        """Return what decides the weights, besides the images and the weights to start from."""
        settings: dict[str, Json] = {"space": self.system.space, "arch": self.system.codec.canonical(self.arch.code)}
        return settings | self.optimization.settings() | {"seed": self.seed, "precision": self.precision}


def fit(
    job: FitJob, *, progress: ShowProgress = silent, write: Callable[[str], None] = print
) -> tuple[Path, Accuracy | None]:
    """Train one network; return the path of its checkpoint, and its accuracy unless it was trained already.

    Args:
        job: What to train.
        progress: Shows the progress, counted in steps.
        write: Writes a line of text: one an epoch, with what it reached and the time left.

    Raises:
        InputError: The data, the weights or the folder cannot be used.
        KeyboardInterrupt: The training was interrupted by Ctrl-C.
        Terminated: The process was asked to end by SIGTERM.
    """
    job.data.check_root(job.data_root, download=job.download)
    check_run_folder(job.out, resume=job.resume, overwrite=job.overwrite)
    if not job.optimization.epochs:
        raise InputError("epochs is 0: nothing would be trained; give some")
    before = None if job.weights is None else network_header(job.system, job.weights, job.arch)
    side = _side_of(job, before)

    with importing():
        import torch

        from nni_nas_consistency.training.network import MADE_BY_FITTING, RESULTS_OF_FITTING

    network, space, from_weights = _network_to_fit(job, side)
    images = job.data.training_images(job.data_root, download=job.download)
    test = job.data.images(job.data_root, train=False, download=job.download, progress=progress)
    images = images if job.train_images is None else images.first(job.train_images)
    job.optimization.check_warm_up(len(images))
    settings = job.settings() | job.data.settings(train=True) | images.identity() | from_weights
    settings |= {"images": len(images), "image_size": side}
    torch.manual_seed(job.seed)
    path = job.out / "network.safetensors"
    with open_run(
        job.out,
        settings,
        made_here=MADE_BY_FITTING,
        results=RESULTS_OF_FITTING,
        resume=job.resume,
        overwrite=job.overwrite,
    ):
        if path.is_file():
            write(f"{path}: is trained already, with these settings; --overwrite trains it again")
            return path, None
        check_output(path)
        for name in ("checkpoints", "metrics"):
            check_output_folder(job.out / name)
        accuracy = _fit_and_save(job, network, space, images, test, settings, progress=progress, write=write)
    return path, accuracy


def _network_to_fit(job: FitJob, side: int) -> tuple[nn.Module, ModelSpace, dict[str, Json]]:
    """Return the network that a job begins with, the space that it is of, and what tells the weights it comes from."""
    from nni_nas_consistency.supernet.checkpoint import sha256_of
    from nni_nas_consistency.training.alone import fresh_network
    from nni_nas_consistency.training.network import with_new_head

    classes, channels, _ = job.data.shape
    if job.weights is None:
        space = job.system.make_space((classes, channels, side), standalone=True)
        return fresh_network(space, job.arch, init=job.system.init, seed=job.seed), space, {}
    trained, space, _ = network_of(job.system, job.weights, job.arch, classes=classes)
    network = with_new_head(fresh_network(space, job.arch, init=job.system.init, seed=job.seed), trained)
    return network, space, {"weights": sha256_of(tensor for _, tensor in sorted(trained.state_dict().items()))}


def _side_of(job: FitJob, before: CheckpointHeader | None) -> int:
    """Return the side of the images that the network of a job sees."""
    if before is None:
        return job.image_size or job.data.shape[2]
    _, channels, side = shape_of_checkpoint(before.space)
    if channels != job.data.shape[1]:
        raise InputError(
            f"{job.weights}: is for images with {channels} channel(s), {job.data.name} has {job.data.shape[1]}"
        )
    if job.image_size not in (side, None):
        raise InputError(f"image_size {job.image_size}: {job.weights} is for images of {side} pixels; leave it out")
    return side


def _fit_and_save(
    job: FitJob,
    network: nn.Module,
    space: ModelSpace,
    images: TrainingImages,
    test: Images,
    settings: Mapping[str, Json],
    *,
    progress: ShowProgress,
    write: Callable[[str], None],
) -> Accuracy:
    """Train a network, write it with what made it and what it reached, and return its accuracy on all test images."""
    import torch

    from nni_nas_consistency.supernet.checkpoint import save_network
    from nni_nas_consistency.training.network import Resized, fit_network
    from nni_nas_consistency.training.run import TrainingRun

    place = device_of(job.device)
    run = TrainingRun(
        job.out,
        resume=True,
        checkpoint_steps=job.checkpoint_steps,
        progress=progress,
        precision=job.precision,
        accelerator="cpu" if place == "cpu" else "gpu",
        write=write,
        about={**job.provenance, **settings},
        identity=identity_of(settings),
    )
    resized = Resized(network, int(str(settings["image_size"])))
    val = test.first(min(job.val_images, len(test)))
    augmentation = job.system.augmentation(job.data)
    fit_network(resized, job.optimization, augmentation, images.to(place), val.to(place), seed=job.seed, run=run)
    accuracy = accuracy_of(resized.to(place), job.data, test, 256, place, progress)
    spent = {"threads": torch.get_num_threads(), "seconds": round(run.timer.time_elapsed("train"), 1)}
    reached = {"top1": accuracy.top1, "top5": accuracy.top5, "test_images": accuracy.images}
    save_network(run.folder / "network.safetensors", network, space, job.arch, {**run.about, **spent, **reached})
    return accuracy
