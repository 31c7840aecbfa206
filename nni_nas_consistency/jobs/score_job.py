"""Score a list of archs from a supernet, or from several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.checkpoint_header import (
    checkpoint_path,
)
from nni_nas_consistency.files.doors import check_output
from nni_nas_consistency.files.image_lists import read_image_list
from nni_nas_consistency.files.progress import ShowProgress, silent
from nni_nas_consistency.files.score_files import (
    beside,
)
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.jobs.ensemble_job import EnsembleJob, ensemble
from nni_nas_consistency.jobs.inputs import Precision, device_of, dtype_of, first_archs, importing, load_trained
from nni_nas_consistency.systems import DataSet, System

if TYPE_CHECKING:
    from nni_nas_consistency.scoring.arch_list import Scored


@dataclass(frozen=True)
class ScoreJob:
    """Score a list of archs from a supernet.

    Args:
        system: The competition or benchmark.
        data: The data set.
        checkpoint: The supernet.
        archs: The list, in released form.
        out: The score file.
        data_root: Folder that holds the data set.
        download: Whether the data set may be fetched into it.
        limit: Score the first so many archs.
        images: Score on the first so many test images.
        images_file: Score on the images of this list, in its order.
        metric: `loss`: negative cross-entropy; `acc`: accuracy. The other one is written beside.
        bn: Batch-norm statistics: of each `batch`, re-estimated on `train` or `test` images, or the `supernet`'s; None:
            of each batch, where there are batch norms.
        batch_size: Images per batch.
        orders: In how many orders images are scored, and so in other batches.
        flip: Whether images are scored mirrored too.
        scorer: `prefix`: archs share prefixes; `plain`: each runs alone (the reference); None: `prefix` where the space
            is a chain.
        precision: Of the features.
        shard: Which part of the list, (i, n) for the i-th of n.
        overwrite: Whether scores of other settings at `out` are deleted first.
        device: `cpu`, `cuda` or `auto`.

    Raises:
        InputError: The space has no batch norms, and their statistics are chosen; or it is no chain.
    """

    system: System
    data: DataSet
    checkpoint: Path
    archs: Path
    out: Path
    data_root: Path | None = None
    download: bool = False
    limit: int | None = None
    images: int | None = None
    images_file: Path | None = None
    metric: Literal["loss", "acc"] = "loss"
    bn: Literal["supernet", "train", "test", "batch"] | None = None
    batch_size: int = 512
    orders: int = 1
    flip: bool = False
    scorer: Literal["prefix", "plain"] | None = None
    precision: Precision = "float32"
    shard: tuple[int, int] = (1, 1)
    overwrite: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        space = self.system.space
        if not self.system.has_batch_norm and self.bn is not None:
            raise InputError(f"bn {self.bn}: the networks of {space} have no batch norms; leave --bn out")
        if not self.system.has_batch_norm and self.orders > 1:
            raise InputError(
                f"orders {self.orders}: the networks of {space} have no batch norms, so the other images of a batch "
                "have no influence; leave --orders out"
            )
        if not self.system.is_chain and self.scorer == "prefix":
            raise InputError(f"scorer prefix: {space} is no chain, its archs share no prefixes; leave --scorer out")

    def provenance(self, images: int, checkpoint: Mapping[str, Json]) -> dict[str, Json]:
        """Return what the scores come from; what decides a score besides is added by `score_list`."""
        views: dict[str, Json] = {"orders": self.orders} if self.orders > 1 else {}
        views |= {"flip": True} if self.flip else {}
        views |= {"images_file": self.images_file.name} if self.images_file else {}
        made_from: dict[str, Json] = {"space": self.system.space, "checkpoint": checkpoint, "list": self.archs.name}
        settings: dict[str, Json] = {**self.data.settings(train=False), "images": images}
        return made_from | settings | views | {"batch_size": self.batch_size, "precision": self.precision}


def score(job: ScoreJob, *, progress: ShowProgress = silent) -> Scored:
    """Score a list of archs, or a shard of it; see `scoring.arch_list.score_list`.

    Args:
        job: What to score.
        progress: Shows the progress.

    Raises:
        InputError: The list, the checkpoint, the data or the score file cannot be used.
        RuntimeError: A score is not finite.
    """
    inputs = [checkpoint_path(job.checkpoint), job.archs, *([job.images_file] if job.images_file else [])]
    check_output(job.out, inputs)
    for what in ("submission", "loss", "acc"):
        check_output(beside(job.out, what), inputs)
    job.data.check_root(job.data_root, download=job.download)
    archs = first_archs(job.archs, job.system, job.limit)
    for name, arch in archs.items():
        job.system.domain.check(arch, name)
    named = None
    if job.images_file is not None:
        named = read_image_list(job.images_file, job.data.name, job.data.counts and job.data.counts[1])

    with importing():
        from nni_nas_consistency.scoring.arch_list import Shard, score_list
        from nni_nas_consistency.scoring.images import image_scoring

    shard = Shard(*job.shard)
    place = device_of(job.device)
    test = job.data.images(job.data_root, train=False, download=job.download, progress=progress)
    test = test if named is None else test.at(named)
    test = test if job.images is None else test.first(job.images)
    calibration = None
    if job.bn == "train":
        calibration = job.data.images(job.data_root, train=True, download=job.download, progress=progress)
    supernet, about = load_trained(job.system, job.checkpoint, test.shape)
    scoring = image_scoring(
        test,
        job.data.test,
        device=place,
        metric=job.metric,
        bn=job.bn or ("batch" if job.system.has_batch_norm else "supernet"),
        batch_size=job.batch_size,
        train=calibration,
        dtype=dtype_of(job.precision),
        orders=job.orders,
        flip=job.flip,
        progress=progress,
    )
    return score_list(
        supernet.double().to(place) if job.precision == "float64" else supernet.to(place),
        archs,
        scoring,
        out=job.out,
        provenance=job.provenance(len(test), about),
        shard=shard,
        scorer=job.scorer or ("prefix" if job.system.is_chain else "plain"),
        overwrite=job.overwrite,
        progress=progress,
    )


def score_by_each(job: ScoreJob, checkpoints: Sequence[Path], *, progress: ShowProgress = silent) -> list[Path]:
    """Score a list with several supernets, each into a file beside `job.out`, and the mean of all into `job.out`.

    Args:
        job: What to score and how; its checkpoint is not read.
        checkpoints: The supernets, at least two.
        progress: Shows the progress, supernet by supernet.

    Returns:
        The files of `ensemble`; while other shards are missing, the journals and score files that there are.

    Raises:
        InputError: As for `score` and `ensemble`.
        RuntimeError: A score is not finite.
    """
    outs = [beside(job.out, f"checkpoint{place}") for place in range(1, len(checkpoints) + 1)]
    of_all = EnsembleJob(job.system, tuple(outs), job.out, overwrite=job.overwrite)
    files = []
    for checkpoint, out in zip(checkpoints, outs, strict=True):
        files.append(score(replace(job, checkpoint=checkpoint, out=out), progress=progress).files[0])
    return ensemble(of_all) if files == outs else files
