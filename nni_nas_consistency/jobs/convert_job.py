"""Convert official weights of AutoFormer, or NNI's, to a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nni_nas_consistency.errors import CheckpointError, FileError, InputError
from nni_nas_consistency.files.doors import check_input, check_output
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.jobs.inputs import importing
from nni_nas_consistency.systems import System

if TYPE_CHECKING:
    from torch import Tensor

    from nni_nas_consistency.archs.arch import Arch


@dataclass(frozen=True)
class ConvertJob:
    """Convert weights of AutoFormer that others trained: the official code's, or NNI's.

    Args:
        system: Which AutoFormer.
        source: A file of `torch.save` or safetensors.
        out: The checkpoint to write.
        arch: The subnet to cut out of a supernet; None: the whole file.
        overwrite: Whether a file at `out` is replaced.
        provenance: What was typed, and the machine and versions that run it.
    """

    system: System
    source: Path
    out: Path
    arch: Arch | None = None
    overwrite: bool = False
    provenance: Mapping[str, str] = field(default_factory=dict)


def convert(job: ConvertJob) -> Arch | None:
    """Write weights that others trained as a checkpoint; return the arch of the network, None for a supernet.

    Raises:
        InputError: The file is not of an AutoFormer, or of a different space; or the output cannot be written.
    """
    if "mlp_ratio_0" not in getattr(job.system.codec, "allowed", {}):
        raise InputError(f"convert is for AutoFormer, not {job.system.space}; give --space autoformer-tiny or the like")
    check_input(job.source)
    check_output(job.out, [job.source])
    if job.out.exists() and not job.overwrite:
        raise FileError(f"{job.out}: is there already; choose another --out, or --overwrite it")

    with importing():
        from nni_nas_consistency.supernet.foreign import read_weights

    tensors = read_weights(job.source)
    try:
        return _converted(job, tensors)
    except CheckpointError as error:
        text = str(error)
        raise CheckpointError(text if text.startswith(str(job.source)) else f"{job.source}: {text}") from error


def _converted(job: ConvertJob, tensors: Mapping[str, Tensor]) -> Arch | None:
    from nni_nas_consistency.spaces import autoformer_weights as official
    from nni_nas_consistency.supernet.checkpoint import save_network, save_supernet
    from nni_nas_consistency.supernet.make import make_supernet
    from nni_nas_consistency.training.alone import plain_network

    domain = job.system.domain
    assert domain.largest is not None
    layout = official.layout_of(tensors)
    sizes = official.sizes_of(tensors, layout)
    is_supernet = layout != "hub network" and sizes.contain(domain.largest)
    arch = job.arch if is_supernet else official.arch_of(sizes, job.system.domain)
    if job.arch is not None and arch is not None and arch.choices != job.arch.choices:
        raise CheckpointError(f"is the network of {arch.code}, not of {job.arch.code}; leave --arch out")
    space = job.system.make_space(sizes.shape)
    about: dict[str, Json] = {**job.provenance, "converted_from": job.source.name, "layout": layout}
    if sizes.shape == job.system.data.shape:
        about["data"] = job.system.data.name
    if arch is None:
        whole = tensors if layout == "hub supernet" else official.supernet_weights(tensors, domain)
        supernet = make_supernet(space)
        official.load_exactly(supernet, whole)
        save_supernet(job.out, supernet, about)
        return None
    if layout == "hub supernet":
        supernet = make_supernet(job.system.make_space(sizes.shape))
        official.load_exactly(supernet, tensors)
        network = supernet.freeze(arch.sample)
    else:
        network = plain_network(space, arch)
        official.load_exactly(network, tensors if layout == "hub network" else official.network_weights(tensors, arch))
    save_network(job.out, network, space, arch, about)
    return arch
