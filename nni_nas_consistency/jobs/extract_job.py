"""Take one arch out of a supernet, for programs that have torch alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nni_nas_consistency.errors import FileError, InputError
from nni_nas_consistency.files.checkpoint_header import (
    checkpoint_path,
)
from nni_nas_consistency.files.doors import check_output
from nni_nas_consistency.files.progress import ShowProgress, silent
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.jobs.inputs import importing, load_trained
from nni_nas_consistency.systems import DataSet, System

if TYPE_CHECKING:
    from torch import Tensor

    from nni_nas_consistency.archs.arch import Arch
    from nni_nas_consistency.images.datasets import Images


@dataclass(frozen=True)
class ExtractJob:
    """Take a subnet out of a supernet, for programs that have torch alone.

    Args:
        system: The competition or benchmark.
        data: The data set.
        checkpoint: The supernet.
        arch: The subnet.
        out: The safetensors file. The Python file that loads it lies beside it.
        bn: Batch-norm statistics that the subnet carries: re-estimated on `train` or `test` images, or the `supernet`'s
            running ones.
        images: Re-estimate on the first so many images; None: on all.
        batch_size: Images per batch.
        onnx: ONNX file to write too.
        overwrite: Whether files that are there are replaced.
        data_root: Folder that holds the data set.
        download: Whether the data set may be fetched into it.
        provenance: What was typed, and the machine and versions that run it.
    """

    system: System
    data: DataSet
    checkpoint: Path
    arch: Arch
    out: Path
    bn: Literal["train", "test", "supernet"] = "train"
    images: int | None = None
    batch_size: int = 512
    onnx: Path | None = None
    overwrite: bool = False
    data_root: Path | None = None
    download: bool = False
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def module(self) -> Path:
        """The Python file that loads the weights: of the same name, as far as a module can have it."""
        name = "".join(letter if letter.isalnum() or letter == "_" else "_" for letter in self.out.stem)
        return self.out.with_name(f"{name if name.isidentifier() else f'_{name}'}.py")

    def check(self) -> None:
        """See that the files can be written, and that what writes ONNX is installed.

        Raises:
            InputError: An output is there already or cannot be written; the module would hide one of Python's; the arch
                is none of the space; or the packages for ONNX are missing.
        """
        outputs = [self.out, self.module, *([] if self.onnx is None else [self.onnx])]
        for path in outputs:
            check_output(path, [checkpoint_path(self.checkpoint)])
            if path.exists() and not self.overwrite:
                raise FileError(f"{path}: is there already; choose another name, or --overwrite it")
        if len(set(outputs)) < len(outputs):
            raise FileError(f"{self.onnx}: would be written twice; choose another --onnx")
        if self.module.stem in {*sys.stdlib_module_names, "torch", "safetensors", "numpy"}:
            raise FileError(f"{self.module}: would hide the module {self.module.stem} of Python; choose another --out")
        if self.onnx is not None and not all(map(find_spec, ("onnx", "onnxruntime"))):
            raise InputError("--onnx needs onnx and onnxruntime; pip install 'nni-nas-consistency[onnx]'")
        self.system.domain.check(self.arch, "--arch")


@dataclass(frozen=True)
class Extracted:
    """A subnet that was taken out.

    Args:
        files: The files that were written.
        card: What its model card says.
        onnx_difference: The largest difference of a logit between onnxruntime and torch; None without ONNX.
    """

    files: list[Path]
    card: Mapping[str, Json]
    onnx_difference: float | None


def extract(job: ExtractJob, *, progress: ShowProgress = silent) -> Extracted:
    """Take a subnet out of a supernet, and write it.

    Args:
        job: What to take out.
        progress: Shows the progress, counted in batches.

    Raises:
        InputError: The checkpoint, the data or an output cannot be used, or the subnet cannot be written.
        RuntimeError: ONNX gives other logits.
    """
    job.check()
    if job.bn != "supernet":
        job.data.check_root(job.data_root, download=job.download)

    with importing():
        from nni_nas_consistency.search.costs import network_cost, nni_sample
        from nni_nas_consistency.supernet.checkpoint import space_identity, weights_sha256
        from nni_nas_consistency.supernet.take_away import with_statistics, write_onnx, write_subnet

    shape = job.data.shape
    supernet, about = load_trained(job.system, job.checkpoint, shape)
    network: Any = supernet.freeze(nni_sample(supernet, job.arch)).eval()
    described = "running statistics of the supernet, which all of its subnets moved"
    accuracy: dict[str, Json] = {}
    if job.bn != "supernet":
        images = job.data.images(job.data_root, train=job.bn == "train", download=job.download)
        images = images if job.images is None else images.first(job.images)
        network = with_statistics(network, _normalised(job, images, progress))
        which = "training" if job.bn == "train" else "test"
        described = f"re-estimated on {len(images)} {which} images in batches of {job.batch_size}"
        accuracy = {"accuracy": _accuracy(job, network)}
    cost = network_cost(network, shape)
    card: dict[str, Json] = {
        "space": job.system.space,
        "arch": job.arch.code,
        "params": cost.params,
        "macs": cost.macs,
        "data": job.data.name,
        "images": f"{shape[1]}x{shape[2]}x{shape[2]}, (pixels / 255 - {job.data.test.mean}) / {job.data.test.std}",
        "classes": shape[0],
        "batch_norm_statistics": described,
        **accuracy,
        "weights": "inherited from a supernet, not trained alone",
        "supernet": {"sha256": weights_sha256(supernet), **space_identity(supernet), "made_by": about},
        "made_by": dict(job.provenance),
    }
    normalisation = (job.data.test.mean, job.data.test.std)
    difference = None if job.onnx is None else write_onnx(job.onnx, network, shape, card)
    write_subnet(job.out, job.module, network, shape, normalisation=normalisation, card=card)
    files = [job.out, job.module, *([] if job.onnx is None else [job.onnx])]
    return Extracted(files, card, difference)


def _normalised(job: ExtractJob, images: Images, progress: ShowProgress) -> Iterator[Tensor]:
    """Yield the images that statistics are estimated from, in batches."""
    from nni_nas_consistency.images.loader import EvaluationLoader

    loader = EvaluationLoader(images, job.data.test, job.batch_size)
    with progress(len(loader), "batches") as advance:
        for batch, _ in loader:
            yield batch
            advance(1)


def _accuracy(job: ExtractJob, network: Any) -> str:
    """Return the accuracy on the test images, in words."""
    from nni_nas_consistency.scoring.images import image_scoring
    from nni_nas_consistency.scoring.plain import score_network

    test = job.data.images(job.data_root, train=False, download=job.download)
    scoring = image_scoring(test, job.data.test, metric="acc", bn="supernet", batch_size=job.batch_size)
    return f"{score_network(network, scoring).acc:.4f} on the {len(test)} test images"
