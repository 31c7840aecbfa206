"""Evaluate one network; the networks of checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nni_nas_consistency.errors import CheckpointError, InputError
from nni_nas_consistency.files.checkpoint_header import (
    CheckpointHeader,
    read_weights_header,
)
from nni_nas_consistency.files.progress import ShowProgress, silent
from nni_nas_consistency.jobs.inputs import device_of, importing, load_trained
from nni_nas_consistency.systems import DataSet, System, shape_of_checkpoint, system_of_checkpoint

if TYPE_CHECKING:
    from nni.nas.nn.pytorch import ModelSpace
    from torch import nn

    from nni_nas_consistency.archs.arch import Arch
    from nni_nas_consistency.images.datasets import Images
    from nni_nas_consistency.training.network import Accuracy


@dataclass(frozen=True)
class EvaluateJob:
    """Find the accuracy of one network on the test images.

    Args:
        system: The competition or benchmark.
        data: The data set; images of another size than the network's are resized.
        weights: The network, or a supernet that it is cut out of.
        arch: The arch; None: that of the network.
        data_root: Folder that holds the data set.
        download: Whether the data set may be fetched into it.
        images: Use the first so many test images.
        batch_size: Images per batch.
        device: `cpu`, `cuda` or `auto`.
    """

    system: System
    data: DataSet
    weights: Path
    arch: Arch | None = None
    data_root: Path | None = None
    download: bool = False
    images: int | None = None
    batch_size: int = 256
    device: str = "auto"


def evaluate(job: EvaluateJob, *, progress: ShowProgress = silent) -> Accuracy:
    """Return top-1 and top-5 accuracy of one network; its batch norms have the statistics that it comes with.

    Args:
        job: What to evaluate.
        progress: Shows the progress, counted in images.

    Raises:
        InputError: The weights or the data cannot be used.
    """
    job.data.check_root(job.data_root, download=job.download)
    header = network_header(job.system, job.weights, job.arch)
    classes, channels, side = shape_of_checkpoint(header.space)
    if job.data.shape[:2] != (classes, channels):
        raise InputError(
            f"{job.weights}: is for {classes} classes and {channels} channel(s), {job.data.name} has "
            f"{job.data.shape[0]} and {job.data.shape[1]}; give the data that it was trained on, or fit a new head"
        )

    with importing():
        from nni_nas_consistency.training.network import Resized

    place = device_of(job.device)
    network, _, _ = network_of(job.system, job.weights, job.arch)
    test = job.data.images(job.data_root, train=False, download=job.download, progress=progress)
    test = test if job.images is None else test.first(job.images)
    return accuracy_of(Resized(network, side).to(place), job.data, test, job.batch_size, place, progress)


def network_header(system: System, weights: Path, arch: Arch | None) -> CheckpointHeader:
    """Return the header of a network, or of a supernet that it is cut out of; without torch.

    Raises:
        CheckpointError: The file is neither, or is of a different space.
        InputError: A supernet's arch is not named, or another one than the network's is.
    """
    header = read_weights_header(weights)
    if system_of_checkpoint(header.space) != system:
        raise CheckpointError(f"{weights}: is of a different space than {system.space}")
    try:
        shape_of_checkpoint(header.space)
    except CheckpointError as error:
        raise CheckpointError(f"{weights}: {error}") from error
    if header.arch is None and arch is None:
        raise InputError(f"{weights}: is a supernet; name the arch to cut out with --arch")
    if header.arch is not None:
        own = system.codec.parse(header.arch, str(weights))
        if arch is not None and own.choices != arch.choices:
            raise InputError(f"{weights}: is the network of {header.arch}, not of {arch.code}; leave --arch out")
    return header


def network_of(
    system: System, weights: Path, arch: Arch | None, *, classes: int | None = None
) -> tuple[nn.Module, ModelSpace, Arch]:
    """Return a network from a checkpoint, a space that it is of, and its arch.

    Args:
        system: The competition or benchmark.
        weights: The network, or a supernet that it is cut out of.
        arch: The arch; None: that of the network.
        classes: Of the space that is returned; None: those of the checkpoint.

    Raises:
        InputError: As `network_header`.
    """
    from nni_nas_consistency.supernet.checkpoint import load_network, space_identity
    from nni_nas_consistency.training.alone import plain_network

    header = network_header(system, weights, arch)
    shape = shape_of_checkpoint(header.space)
    spaces = [system.make_space(shape, standalone=alone) for alone in (True, False)]
    alone = space_identity(spaces[0]) == header.space
    space = system.make_space((classes or shape[0], *shape[1:]), standalone=alone)
    if header.arch is None:
        assert arch is not None
        supernet, _ = load_trained(system, weights, shape)
        return supernet.freeze(arch.sample), space, arch
    own = system.codec.parse(header.arch, str(weights))
    of_file = spaces[0] if alone else spaces[1]
    network = plain_network(of_file, own)
    load_network(weights, network, of_file)
    return network, space, own


def accuracy_of(
    network: nn.Module, data: DataSet, images: Images, batch_size: int, place: str, progress: ShowProgress
) -> Accuracy:
    """Return the accuracy of a network, to whose device the images are moved batch by batch."""
    from nni_nas_consistency.images.loader import EvaluationLoader
    from nni_nas_consistency.training.network import accuracy_of as accuracy_on

    batches = EvaluationLoader(images, data.test, batch_size)
    with progress(len(images), "images") as advance:
        return accuracy_on(network, ((x.to(place), labels.to(place)) for x, labels in batches), advance)
