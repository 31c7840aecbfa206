"""Choose few test images on which archs rank as on all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nni_nas_consistency.errors import FileError, InputError
from nni_nas_consistency.files.checkpoint_header import (
    checkpoint_path,
)
from nni_nas_consistency.files.doors import check_output
from nni_nas_consistency.files.progress import ShowProgress, silent
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.jobs.inputs import device_of, first_archs, importing, load_trained
from nni_nas_consistency.systems import DataSet, System

if TYPE_CHECKING:
    from torch import Tensor

    from nni_nas_consistency.archs.arch import Arch
    from nni_nas_consistency.files.progress import Progress
    from nni_nas_consistency.images.datasets import Images
    from nni_nas_consistency.scoring.image_choice import Agreement


@dataclass(frozen=True)
class ChooseImagesJob:
    """Choose few test images on which archs rank as on all of them.

    Args:
        system: The competition or benchmark.
        data: The data set.
        checkpoint: The supernet.
        archs: The list, in released form, of which some archs are scored on all images.
        out: The image list.
        data_root: Folder that holds the data set.
        download: Whether the data set may be fetched into it.
        count: Images to choose.
        archs_scored: Archs of the list that are scored; images are chosen by one half, and checked on the other.
        batch_size: Images per batch.
        seed: Of the archs that are drawn, and of the choice.
        overwrite: Whether a file at `out` is replaced.
        device: `cpu`, `cuda` or `auto`.
        provenance: What was typed, and the machine and versions that run it.
    """

    system: System
    data: DataSet
    checkpoint: Path
    archs: Path
    out: Path
    data_root: Path | None = None
    download: bool = False
    count: int = 1024
    archs_scored: int = 200
    batch_size: int = 512
    seed: int = 0
    overwrite: bool = False
    device: str = "auto"
    provenance: Mapping[str, str] = field(default_factory=dict)


def choose_images(job: ChooseImagesJob, *, progress: ShowProgress = silent) -> Agreement:
    """Choose images, write the list, and return how well archs that took no part in the choice rank by them.

    Args:
        job: What to choose.
        progress: Shows the progress, counted in archs times images.

    Raises:
        InputError: The list, the checkpoint, the data or the output cannot be used; or the list is too short.
    """
    check_output(job.out, [checkpoint_path(job.checkpoint), job.archs])
    if job.out.exists() and not job.overwrite:
        raise FileError(f"{job.out}: is there already; choose another --out, or --overwrite it")
    job.data.check_root(job.data_root, download=job.download)
    archs = list(first_archs(job.archs, job.system, None).values())
    if len(archs) < job.archs_scored:
        raise InputError(f"{job.archs}: has {len(archs)} archs, not {job.archs_scored}; lower --archs-scored")

    with importing():
        import torch

        from nni_nas_consistency.files.image_lists import write_image_list
        from nni_nas_consistency.scoring.image_choice import (
            RANDOM_DRAWS,
            agreement_of,
            scores_of_images,
            select_images,
        )
        from nni_nas_consistency.scoring.images import image_scoring

    generator = torch.Generator().manual_seed(job.seed)
    place = device_of(job.device)
    test = job.data.images(job.data_root, train=False, download=job.download, progress=progress)
    supernet, about = load_trained(job.system, job.checkpoint, test.shape)
    drawn = [archs[index] for index in torch.randperm(len(archs), generator=generator)[: job.archs_scored].tolist()]
    supernet = supernet.to(place)
    half = len(drawn) // 2

    def scores_on(images: Images, archs: list[Arch], advance: Progress) -> Tensor:
        scoring = image_scoring(images, job.data.test, device=place, batch_size=job.batch_size)
        return scores_of_images(supernet, archs, scoring, progress=advance)

    checks = (1 + RANDOM_DRAWS) * (len(drawn) - half) * job.count
    with progress(len(drawn) * len(test) + checks, "images") as advance:
        scores = scores_on(test, drawn, advance)
        chosen = select_images(scores[:half], job.count, generator)
        agreement = agreement_of(
            scores[half:], chosen, generator, lambda images: scores_on(test.at(images), drawn[half:], advance)
        )
    made_by: dict[str, Json] = {"checkpoint": about, "list": job.archs.name, "archs_scored": len(drawn)}
    how: dict[str, Json] = {"batch_size": job.batch_size, "seed": job.seed}
    found: dict[str, Json] = {"kendall_chosen": agreement.chosen, "kendall_random": list(agreement.random)}
    settings = dict(job.provenance) | made_by | how | found
    write_image_list(job.out, job.data.name, chosen.tolist(), settings)
    return agreement
