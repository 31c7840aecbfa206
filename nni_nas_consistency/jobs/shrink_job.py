"""Shrink the space of a trained supernet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nni_nas_consistency.files.checkpoint_header import (
    checkpoint_path,
)
from nni_nas_consistency.files.doors import check_output
from nni_nas_consistency.files.progress import ShowProgress, silent
from nni_nas_consistency.files.shrinkings import Round, read_shrinking
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.jobs.inputs import BNWord, Metric, device_of, dropped_of, importing, load_trained
from nni_nas_consistency.jobs.search_job import counted_bounds, search_scoring
from nni_nas_consistency.systems import DataSet, System


@dataclass(frozen=True)
class ShrinkJob:
    """Shrink the space of a trained supernet: drop the worst candidate of every choice; see `search.shrinking`.

    Args:
        system: The competition or benchmark, without what earlier rounds dropped.
        data: The data set.
        checkpoint: The supernet.
        out: The record of all rounds, to write.
        earlier: The record of earlier rounds; None: this is the first.
        archs_per_candidate: Archs that every candidate is scored by.
        keep: A choice with as few candidates is not shrunk.
        max_macs: Most MACs for one image of an arch that counts.
        metric: What archs are scored by.
        bn: Batch-norm statistics, as for `ScoreJob`.
        batch_size: Images per batch.
        calibration_images: With `bn="train"`, re-estimate on the first so many training images; None: on all.
        images: Score on the first so many test images.
        overwrite: Whether a shrinking of other settings at `out` is deleted first.
        data_root: Folder that holds the data set.
        download: Whether the data set may be fetched into it.
        seed: Of the archs.
        device: `cpu`, `cuda` or `auto`.
        provenance: What was typed, and the machine and versions that run it.
    """

    system: System
    data: DataSet
    checkpoint: Path
    out: Path
    earlier: Path | None = None
    archs_per_candidate: int = 32
    keep: int = 2
    max_macs: int | None = None
    metric: Metric = "loss"
    bn: BNWord = "batch"
    batch_size: int = 512
    calibration_images: int | None = None
    images: int | None = None
    overwrite: bool = False
    data_root: Path | None = None
    download: bool = False
    seed: int = 0
    device: str = "auto"
    provenance: Mapping[str, str] = field(default_factory=dict)


def shrink(job: ShrinkJob, *, progress: ShowProgress = silent) -> Round:
    """Shrink the space of a trained supernet, write the record, and return the round.

    Raises:
        InputError: The checkpoint, the data or a record cannot be used, or nothing is left to drop.
        KeyboardInterrupt: It was interrupted; what is scored is kept.
    """
    check_output(job.out, [checkpoint_path(job.checkpoint), *([job.earlier] if job.earlier else [])])
    job.data.check_root(job.data_root, download=job.download)
    earlier = () if job.earlier is None else read_shrinking(job.earlier, job.system.domain)
    system = job.system.without([dropped for each in earlier for dropped in each.dropped.items()])
    constraints = counted_bounds(system, job.data.shape, max_macs=job.max_macs)
    for constraint in constraints:
        constraint.check()

    with importing():
        from nni_nas_consistency.search.shrinking import shrink as shrink_space

    place = device_of(job.device)
    test = job.data.images(job.data_root, train=False, download=job.download, progress=progress)
    test = test if job.images is None else test.first(job.images)
    supernet, about = load_trained(system, job.checkpoint, test.shape)
    provenance: dict[str, Json] = {"space": system.space, "checkpoint": about, **job.data.settings(train=False)}
    provenance |= dropped_of(system) | ({} if job.max_macs is None else {"max_macs": job.max_macs})
    return shrink_space(
        supernet.to(place),
        search_scoring(job, test, place),
        job.system.domain,
        out=job.out,
        earlier=earlier,
        archs_per_candidate=job.archs_per_candidate,
        keep=job.keep,
        seed=job.seed,
        provenance=provenance | {"made_by": dict(job.provenance)},
        allows=lambda arch: all(constraint.allows(arch) for constraint in constraints),
        overwrite=job.overwrite,
        progress=progress,
    )
