"""Search a trained supernet by one of NNI's strategies, within bounds on what archs cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nni_nas_consistency.errors import FileError
from nni_nas_consistency.files.atomic import write_bytes_atomically
from nni_nas_consistency.files.checkpoint_header import (
    checkpoint_path,
)
from nni_nas_consistency.files.doors import check_output, check_output_folder, make_folder
from nni_nas_consistency.files.latencies import LatencySetup, check_latency_file
from nni_nas_consistency.files.progress import ShowProgress, silent
from nni_nas_consistency.files.score_files import (
    journal_beside,
)
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.jobs.inputs import BNWord, Metric, costs_of, device_of, dropped_of, importing, load_trained
from nni_nas_consistency.search.constraints import Bounds, Constraint, CostName, smallest_arch
from nni_nas_consistency.search.pareto import Candidate, pareto_set, write_pareto
from nni_nas_consistency.systems import DataSet, System

if TYPE_CHECKING:
    from nni_nas_consistency.archs.arch import Arch
    from nni_nas_consistency.images.datasets import Images
    from nni_nas_consistency.jobs.shrink_job import ShrinkJob
    from nni_nas_consistency.scoring.scoring import Scoring

PARETO_FILES = ("pareto.json", "pareto.png")


COST_LABELS: Mapping[CostName, str] = {
    "macs": "MACs for one image",
    "params": "parameters",
    "latency": "latency in ms",
}


@dataclass(frozen=True)
class SearchJob:
    """Search a trained supernet by one of NNI's strategies.

    Costs are those of an arch that is trained alone, as `rank` counts them.

    Args:
        system: The competition or benchmark.
        data: The data set.
        checkpoint: The supernet.
        out: Score file for all archs that are scored.
        strategy: `evolution`: regularized evolution; `random`: every arch is drawn anew.
        trials: Archs to score.
        population: Archs that live at a time, in an evolution.
        max_macs: Most MACs for one image that an arch may have.
        max_params: Most parameters.
        max_latency_ms: Longest time that a batch may take, in milliseconds.
        latency_batch: Images per batch whose latency is measured.
        latency_file: Where latencies are kept, and looked up; None: beside `out`.
        pareto: Folder for the Pareto set of score against cost, as JSON and figure; None: it is not written.
        pareto_cost: The cost that counts there.
        overwrite: Whether a search of other settings at `out` is deleted first.
        metric: What archs are scored by.
        bn: Batch-norm statistics, as for `ScoreJob`.
        batch_size: Images per batch.
        calibration_images: With `bn="train"`, re-estimate on the first so many training images; None: on all.
        images: Score on the first so many test images.
        data_root: Folder that holds the data set.
        download: Whether the data set may be fetched into it.
        seed: Of the draws.
        device: `cpu`, `cuda` or `auto`.
        provenance: What was typed, and the machine and versions that run it.
    """

    system: System
    data: DataSet
    checkpoint: Path
    out: Path
    strategy: Literal["evolution", "random"] = "evolution"
    trials: int = 200
    population: int = 50
    max_macs: int | None = None
    max_params: int | None = None
    max_latency_ms: float | None = None
    latency_batch: int = 1
    latency_file: Path | None = None
    pareto: Path | None = None
    pareto_cost: CostName = "macs"
    metric: Metric = "loss"
    bn: BNWord = "batch"
    batch_size: int = 512
    calibration_images: int | None = None
    overwrite: bool = False
    images: int | None = None
    data_root: Path | None = None
    download: bool = False
    seed: int = 0
    device: str = "auto"
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def latencies(self) -> Path:
        """The file of measured latencies."""
        return self.latency_file or self.out.with_name(f"{self.out.stem}.latencies.jsonl")

    @property
    def measures_latency(self) -> bool:
        """Whether latencies are measured."""
        return self.max_latency_ms is not None or (self.pareto is not None and self.pareto_cost == "latency")

    def settings(self) -> dict[str, Json]:
        """Return the bounds, and what the space was shrunk by, as they are written into score files."""
        bounds = {"max_macs": self.max_macs, "max_params": self.max_params, "max_latency_ms": self.max_latency_ms}
        return {name: bound for name, bound in bounds.items() if bound is not None} | dropped_of(self.system)


@dataclass(frozen=True)
class Searched:
    """The result of a search.

    Args:
        best: The arch with the best score.
        archs: How many archs were scored.
        pareto: The Pareto set of score against cost, the cheapest arch first; empty unless it was asked for.
        files: The files that were written.
    """

    best: Arch
    archs: int
    pareto: list[Candidate]
    files: list[Path]


def search(job: SearchJob, *, progress: ShowProgress = silent) -> Searched:
    """Search a trained supernet, and write the archs that were scored and their Pareto set.

    Raises:
        InputError: The checkpoint, the data or a file cannot be used, or no arch is within a bound.
        KeyboardInterrupt: The search was interrupted.
    """
    check_output(job.out, [checkpoint_path(job.checkpoint)])
    if job.pareto is not None:
        check_output_folder(job.pareto, PARETO_FILES)
    _check_latencies(job)
    job.data.check_root(job.data_root, download=job.download)
    counted = counted_bounds(job.system, job.data.shape, max_macs=job.max_macs, max_params=job.max_params)
    for constraint in counted:
        constraint.check()

    with importing():
        from nni_nas_consistency.search.evolution import Evolution, RandomSearch, best_of
        from nni_nas_consistency.search.evolution import search as search_supernet

    place = device_of(job.device)
    latency = _latency_of(job, place)
    bounds = _bounds(job, counted, latency)
    test = job.data.images(job.data_root, train=False, download=job.download, progress=progress)
    test = test if job.images is None else test.first(job.images)
    supernet, about = load_trained(job.system, job.checkpoint, test.shape)
    provenance: dict[str, Json] = {"space": job.system.space, "checkpoint": about, **job.data.settings(train=False)}
    provenance |= job.settings()
    if job.max_latency_ms is not None:
        provenance["latency"] = asdict(_latency_setup(job, place))
    with progress(job.trials, "archs") as advance:
        scores = search_supernet(
            supernet.to(place),
            search_scoring(job, test, place),
            Evolution(job.population) if job.strategy == "evolution" else RandomSearch(),
            out=job.out,
            trials=job.trials,
            seed=job.seed,
            provenance=provenance | {"made_by": dict(job.provenance)},
            bounds=bounds,
            overwrite=job.overwrite,
            progress=advance,
        )
    best = best_of(scores)
    if job.pareto is None:
        return Searched(best, len(scores), [], [job.out])
    chosen, files = _write_pareto(job, job.pareto, scores, latency, provenance)
    return Searched(best, len(scores), chosen, [job.out, *files])


def search_scoring(job: ShrinkJob | SearchJob, test: Images, place: str) -> Scoring:
    """Return how a job scores archs on test images."""
    from nni_nas_consistency.scoring.images import image_scoring

    calibration = None
    if job.bn == "train":
        calibration = job.data.images(job.data_root, train=True, download=job.download)
        count = job.calibration_images
        calibration = calibration if count is None else calibration.first(count)
    return image_scoring(
        test,
        job.data.test,
        device=place,
        metric=job.metric,
        bn=job.bn,
        batch_size=job.batch_size,
        train=calibration,
    )


def counted_bounds(
    system: System, shape: tuple[int, int, int], *, max_macs: int | None = None, max_params: int | None = None
) -> list[Constraint]:
    """Return the bounds on what can be counted."""
    if max_macs is None and max_params is None:
        return []
    cost, domain = costs_of(system, shape), system.domain
    bounds = []

    def macs(arch: Arch) -> float:
        return cost(arch).macs

    def params(arch: Arch) -> float:
        return cost(arch).params

    if max_macs is not None:
        bounds.append(Constraint("macs", max_macs, macs, smallest_arch(domain, macs)))
    if max_params is not None:
        bounds.append(Constraint("params", max_params, params, smallest_arch(domain, params)))
    return bounds


def _check_latencies(job: SearchJob) -> None:
    """See that latencies can be kept, and that those are there by which a search that goes on was decided."""
    if not job.measures_latency:
        return
    check_latency_file(job.latencies)
    begun = job.max_latency_ms is not None and journal_beside(job.out).exists() and not job.overwrite
    if begun and not job.latencies.exists():
        raise FileError(
            f"{job.latencies}: is missing, though the search at {job.out} was begun with it; copy it there, or "
            "--overwrite the search"
        )


def _latency_setup(job: SearchJob, device: str) -> LatencySetup:
    from nni_nas_consistency.search.costs import latency_setup

    classes, channels, side = job.data.shape
    network = f"{job.system.space}, {classes} classes, {channels}x{side}x{side}"
    return latency_setup(network, batch_size=job.latency_batch, device=device)


def _latency_of(job: SearchJob, device: str) -> Callable[[Arch], float] | None:
    """Return what measures the latency of an arch, or looks it up; None where it does not count."""
    if not job.measures_latency:
        return None
    from nni_nas_consistency.search.costs import cached_latency, frozen_network, measured_latency

    shape = job.data.shape
    space = job.system.make_space(shape, standalone=True)

    def measure(arch: Arch) -> float:
        return measured_latency(frozen_network(space, arch), shape, batch_size=job.latency_batch, device=device)

    return cached_latency(job.latencies, _latency_setup(job, device), measure, job.system.codec.canonical)


def _bounds(job: SearchJob, counted: list[Constraint], latency: Callable[[Arch], float] | None) -> Bounds | None:
    """Return all bounds, of which the latency comes last, since it takes a measurement.

    Raises:
        InputError: No arch is known within them.
    """
    constraints = list(counted)
    if job.max_latency_ms is not None and latency is not None:
        cost = costs_of(job.system, job.data.shape)
        smallest = smallest_arch(job.system.domain, lambda arch: cost(arch).macs)
        constraints.append(Constraint("latency", job.max_latency_ms, latency, smallest))
    if not constraints:
        return None
    bounds = Bounds(job.system.domain, tuple(constraints))
    bounds.check()
    return bounds


def _write_pareto(
    job: SearchJob,
    folder: Path,
    scores: Mapping[str, tuple[Arch, float]],
    latency: Callable[[Arch], float] | None,
    provenance: Mapping[str, Json],
) -> tuple[list[Candidate], list[Path]]:
    """Write the Pareto set of a search; return it, and the files."""
    from nni_nas_consistency.ranking.plots import pareto_plot, png

    cost, label = costs_of(job.system, job.data.shape), COST_LABELS[job.pareto_cost]
    candidates = []
    for name, (arch, score) in scores.items():
        costs: dict[CostName, float] = {"macs": cost(arch).macs, "params": cost(arch).params}
        if latency is not None:
            costs["latency"] = latency(arch)
        candidates.append(Candidate(name, arch, score, costs))
    chosen = pareto_set(candidates, job.pareto_cost)
    figure = pareto_plot(
        [each.costs[job.pareto_cost] for each in candidates],
        [each.score for each in candidates],
        [candidates.index(each) for each in chosen],
        title=f"{job.out.name}: score against {label}",
        cost_label=label,
    )
    made_by: dict[str, Json] = {"made_by": dict(job.provenance), "seed": job.seed, "trials": job.trials}
    if latency is not None:
        made_by["latency"] = asdict(_latency_setup(job, device_of(job.device)))
    make_folder(folder)
    files = [folder / name for name in PARETO_FILES]
    write_pareto(files[0], chosen, job.pareto_cost, {**provenance, **made_by})
    write_bytes_atomically(files[1], png(figure))
    return chosen, files
