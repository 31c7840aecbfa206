"""Jobs: values that hold all that decides a result, and one function each that does them.

The command line, an NNI trial, the quickstart and a benchmark build a job and call the same function. Torch and NNI are
imported by the functions, so that a job is made, and its words are checked, without them.
"""

from __future__ import annotations

import copy
import gc
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from fnmatch import fnmatch
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from nni_nas_consistency.archs.codecs import Codec, WidthCodec
from nni_nas_consistency.errors import CheckpointError, Diverged, FileError, InputError, MatchError
from nni_nas_consistency.files.arch_lists import Entry, read_released, write_released
from nni_nas_consistency.files.atomic import write_bytes_atomically
from nni_nas_consistency.files.checkpoint_header import (
    CheckpointHeader,
    checkpoint_path,
    read_checkpoint_header,
    read_weights_header,
)
from nni_nas_consistency.files.doors import check_input, check_output, check_output_folder, make_folder
from nni_nas_consistency.files.image_lists import read_image_list
from nni_nas_consistency.files.latencies import LatencySetup, check_latency_file
from nni_nas_consistency.files.locks import locked
from nni_nas_consistency.files.pools import pool_sha256, read_pool
from nni_nas_consistency.files.progress import ShowProgress, silent
from nni_nas_consistency.files.run_folder import check_run_folder, identity_of, open_run
from nni_nas_consistency.files.score_files import (
    ScoreFile,
    beside,
    journal_beside,
    read_scores,
    read_table,
    read_table_and_provenance,
    submission,
    write_scores,
)
from nni_nas_consistency.files.shrinkings import Round, read_shrinking
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.search.constraints import Bounds, Constraint, CostName, smallest_arch
from nni_nas_consistency.search.pareto import Candidate, pareto_set, write_pareto
from nni_nas_consistency.studies.results import (
    MEASURES,
    Result,
    check_study_folder,
    digest_of,
    open_study_folder,
    read_result,
    write_result,
)
from nni_nas_consistency.studies.study import PoolRule, Setting, Study, Training
from nni_nas_consistency.supernet.sharing import FULL, Sharing, coarser, sharing_of_checkpoint
from nni_nas_consistency.systems import DataSet, System, shape_of_checkpoint, system_of_checkpoint
from nni_nas_consistency.training.processes import rank_of
from nni_nas_consistency.training.recipes import AlonePrecision, Loss, Optimization, Recipe

if TYPE_CHECKING:
    from nni.nas.nn.pytorch import ModelSpace
    from torch import Tensor, nn

    from nni_nas_consistency.archs.arch import Arch
    from nni_nas_consistency.archs.cost import Cost
    from nni_nas_consistency.archs.pool import Pool
    from nni_nas_consistency.files.arch_lists import Entry
    from nni_nas_consistency.files.progress import Progress
    from nni_nas_consistency.images.augmentation import Augmentation
    from nni_nas_consistency.images.datasets import Images
    from nni_nas_consistency.images.loader import TrainingImages
    from nni_nas_consistency.ranking.report import Report
    from nni_nas_consistency.ranking.statistics import Array
    from nni_nas_consistency.scoring.arch_list import Scored
    from nni_nas_consistency.scoring.image_choice import Agreement
    from nni_nas_consistency.scoring.scoring import Scoring
    from nni_nas_consistency.studies.table import Reference, Table
    from nni_nas_consistency.training.network import Accuracy
    from nni_nas_consistency.training.run import TrainingRun

Precision = Literal["float32", "bf16", "float64"]
Metric = Literal["loss", "acc"]
BNWord = Literal["supernet", "train", "test", "batch"]

PARETO_FILES = ("pareto.json", "pareto.png")
COST_LABELS: Mapping[CostName, str] = {
    "macs": "MACs for one image",
    "params": "parameters",
    "latency": "latency in ms",
}


@dataclass(frozen=True)
class TrainJob:
    """Train a supernet.

    Args:
        system: The competition or benchmark.
        data: The data set.
        recipe: How to train.
        out: Folder of the run; made if missing.
        data_root: Folder that holds the data set.
        download: Whether the data set may be fetched into it.
        seed: Of first weights, sampler, order of the images and augmentation.
        weights: Supernet to start from, instead of fresh weights.
        sharing: How archs share weights; None: as in `weights`, else by one kernel per layer. Where it is finer than in
            `weights`, kernels start as slices of those.
        pool: Arch list that the phases with `sampling="pool"` draw from; None: as `Phase.pool_size` says.
        phase_pools: Phase → arch list, for phases with a pool of their own.
        resume: Whether `out` must hold a run to go on with; the same job goes on without it too.
        overwrite: Whether a run of other settings in `out` is deleted, and a finished one trained again.
        stacking: Whether the archs of a step run as one masked batch (`stacked`), one by one (`sliced`), or `auto`.
        precision: Lightning's word for it.
        checkpoint_steps: Steps between checkpoints; None: one an epoch.
        keep_epochs: Whether to keep the weights of every epoch, as checkpoints that can be scored.
        train_images: Use the first so many training images.
        val_images: Images that validation looks at.
        always: By the sandwich rule, the archs that run at every step, the teacher first; none: the largest and the
            smallest of the space.
        device: `cpu`, `cuda` or `auto`.
        devices: Processes that share each batch, on this machine; each is this program started once more, so that a
            script of your own needs no more than to reach `train` again.
        provenance: What was typed, and the machine and versions that run it.

    Raises:
        InputError: The space is no chain, and archs shall share weights or be stacked as only those of chains can.
    """

    system: System
    data: DataSet
    recipe: Recipe
    out: Path
    data_root: Path | None = None
    download: bool = False
    seed: int = 0
    weights: Path | None = None
    sharing: Sharing | None = None
    pool: Path | None = None
    phase_pools: Mapping[int, Path] = field(default_factory=dict)
    resume: bool = False
    overwrite: bool = False
    stacking: Literal["auto", "stacked", "sliced"] = "auto"
    precision: str = "32-true"
    checkpoint_steps: int | None = None
    keep_epochs: bool = False
    train_images: int | None = None
    val_images: int = 1000
    always: tuple[Arch, ...] = ()
    device: str = "auto"
    devices: int = 1
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        space = self.system.space
        if not self.system.is_chain and self.sharing not in (None, FULL):
            raise InputError(
                f"sharing {self.sharing}: {space} is no chain, NNI's modules share by {FULL}; leave it out"
            )
        if not self.system.is_chain and self.stacking == "stacked":
            raise InputError(f"step stacked: {space} is no chain, its archs run one by one; leave --step out")

    def settings(self) -> dict[str, Json]:
        """Return what decides the weights and the metrics, besides images, pools and the weights to start from."""
        phases: dict[str, Json] = {}
        for index, phase in enumerate(self.recipe.phases):
            prefix = self.recipe.prefix_of(index)
            phases |= {f"{prefix}{name}": value for name, value in phase.settings().items()}
        recipe = {"space": self.system.space, "recipe": self.recipe.name, "init": self.recipe.init}
        recipe |= {} if self.recipe.stem_norm == "affine" else {"stem_norm": self.recipe.stem_norm}
        how = {"seed": self.seed, "step": self.stacking, "precision": self.precision}
        sharing = {} if self.sharing in (None, FULL) else {"sharing": str(self.sharing)}
        always: dict[str, Json] = {"always": [arch.code for arch in self.always]} if self.always else {}
        devices: dict[str, Json] = {} if self.devices == 1 else {"devices": self.devices}
        return {**recipe, **phases, **how, **sharing, **dropped_of(self.system), **always, **devices}

    def check_devices(self) -> None:
        """See that every process has an image of every batch.

        Raises:
            InputError: There are more processes than images in a batch, or than images to validate on.
        """
        counts = [phase.optimization.batch_size for phase in self.recipe.phases]
        for name, count in [*(("batch_size", count) for count in counts), ("val_images", self.val_images)]:
            if count < self.devices:
                raise InputError(f"--devices {self.devices}: {name} is {count}; every device needs at least one image")


def train(job: TrainJob, *, progress: ShowProgress = silent, write: Callable[[str], None] = print) -> Path:
    """Train a supernet and return the path of its checkpoint.

    Args:
        job: What to train.
        progress: Shows the progress, counted in steps.
        write: Writes a line of text: one an epoch, with what it reached and the time left.

    Raises:
        InputError: The data, the weights, a pool or the folder cannot be used.
        NonFiniteLoss: The training diverged.
        Diverged: The training ended at a loss far above that of guessing.
        KeyboardInterrupt: The training was interrupted by Ctrl-C.
        Terminated: The process was asked to end by SIGTERM.
    """
    job.recipe.check(fresh=job.weights is None)
    job.check_devices()
    rank = rank_of(job.devices)
    progress = silent if rank else progress
    job.data.check_root(job.data_root, download=job.download)
    if rank == 0:
        check_run_folder(job.out, resume=job.resume, overwrite=job.overwrite)
    job = replace(job, sharing=_sharing_to_train(job))
    pools = _pools_of(job)

    with _importing():
        import torch

        from nni_nas_consistency.training.run import MADE_BY_TRAINING, RESULTS_OF_TRAINING

    place = device_of(job.device, job.devices, rank)
    images = job.data.training_images(job.data_root, download=job.download)
    test = job.data.images(job.data_root, train=False, download=job.download, progress=progress)
    images = images if job.train_images is None else images.first(job.train_images)
    for phase in job.recipe.phases:
        phase.optimization.check_warm_up(len(images))
    torch.manual_seed(job.seed)
    space = job.system.make_space(images.shape)
    _check_macs_bins(job.recipe, space)
    val = test.first(min(job.val_images, len(test)))
    settings = job.settings() | job.data.settings(train=True) | images.identity()
    settings |= {"images": len(images), "val_images": len(val)}
    about: dict[str, Json] = {}
    if job.weights is not None:
        about["trained_on_from"], settings["weights"] = _start_from(space, job)
    settings |= _pool_settings(job, pools)
    path = job.out / "supernet.safetensors"
    if rank:  # the first process holds the folder, and writes
        run = _run_of(job, settings, about, progress=progress, write=write)
        _train_and_save(job, space, images.to(place), val.to(place), run, pools)
        return path
    with open_run(
        job.out,
        settings,
        made_here=MADE_BY_TRAINING,
        results=RESULTS_OF_TRAINING,
        resume=job.resume,
        overwrite=job.overwrite,
    ):
        if path.is_file():
            write(f"{path}: is trained already, with these settings; --overwrite trains it again")
            return path
        check_output(path)
        for name in ("checkpoints", "metrics"):
            check_output_folder(job.out / name)
        run = _run_of(job, settings, about, progress=progress, write=write)
        _train_and_save(job, space, images.to(place), val.to(place), run, pools)
    return path


def _check_macs_bins(recipe: Recipe, space: ModelSpace) -> None:
    """See that there are archs in the bins of MACs that a recipe draws from."""
    import torch

    from nni_nas_consistency.spaces.hub import domain_of
    from nni_nas_consistency.training.supernet import macs_of, sampler_of

    for phase in recipe.phases:
        if phase.sampling == "macs-bins":
            sampler_of(phase, domain_of(space), torch.Generator(), macs=macs_of(space))


def _run_of(
    job: TrainJob,
    settings: Mapping[str, Json],
    about: Mapping[str, Json],
    *,
    progress: ShowProgress,
    write: Callable[[str], None],
) -> TrainingRun:
    """Return where and how the run of a job keeps itself."""
    from nni_nas_consistency.training.run import TrainingRun

    return TrainingRun(
        job.out,
        resume=True,
        checkpoint_steps=job.checkpoint_steps,
        progress=progress,
        precision=job.precision,
        accelerator="cpu" if device_of(job.device) == "cpu" else "gpu",
        devices=job.devices,
        write=write,
        keep_epochs=job.keep_epochs,
        about={**job.provenance, **settings, **about},
        identity=identity_of(settings),
    )


def _train_and_save(
    job: TrainJob, space: ModelSpace, images: TrainingImages, val: Images, run: TrainingRun, pools: Mapping[int, Pool]
) -> None:
    """Train a space by the recipe of a job, and write the supernet with what made it."""
    with _importing():
        import torch

        from nni_nas_consistency.supernet.checkpoint import save_supernet
        from nni_nas_consistency.training.supernet import train_supernet

    supernet = train_supernet(
        space,
        job.recipe.for_data(job.system.augmentation(job.data)),
        images,
        val,
        seed=job.seed,
        run=run,
        stacking=job.stacking,
        params=params_of(job.system, images.shape),
        sharing=job.sharing,
        pools=pools,
        always=job.always or None,
    )
    if rank_of(job.devices):
        return
    spent = {"threads": torch.get_num_threads(), "seconds": round(run.timer.time_elapsed("train"), 1)}
    save_supernet(run.folder / "supernet.safetensors", supernet, {**run.about, **spent})


def params_of(system: System, shape: tuple[int, int, int]) -> Callable[[Arch], int]:
    """Return what counts the parameters of an arch that is trained alone on images of this shape."""
    cost = costs_of(system, shape)
    return lambda arch: cost(arch).params


def _pools_of(job: TrainJob) -> dict[int, Pool]:
    """Return the pools that are given, by phase; from their files, without torch.

    Raises:
        InputError: A file cannot be used, a phase that has none given would not draw from it, or one that must have one
            has none.
    """
    drawing = job.recipe.pool_phases
    shown = ", ".join(map(str, drawing)) or "none"
    for index in job.phase_pools:
        if index not in drawing:
            raise InputError(
                f"--pool phase{index}={job.phase_pools[index]}: phase {index} draws from no pool, but these do: {shown}"
            )
    paths = {} if job.pool is None else dict.fromkeys(drawing, job.pool)
    if job.pool is not None and not drawing:
        raise InputError(
            f"--pool {job.pool}: recipe {job.recipe.name} draws from no pool; leave it out, or --set sampling=pool"
        )
    paths |= job.phase_pools
    for index in drawing:
        if index not in paths and job.recipe.phases[index].pool_size is None:
            raise InputError(
                f"phase {index} of recipe {job.recipe.name} draws from a pool; give one with --pool, or --set "
                "pool_size=N for one of N archs drawn by the seed"
            )
    read = {path: read_pool(path, job.system.domain) for path in dict.fromkeys(paths.values())}
    return {index: read[path] for index, path in sorted(paths.items())}


def _pool_settings(job: TrainJob, pools: Mapping[int, Pool]) -> dict[str, Json]:
    """Return what tells a run on given pools from one on others; its files must not be those that the run writes."""
    for path in (job.pool, *job.phase_pools.values()):
        if path is not None:
            _check_is_kept(path, job.out)
    return {f"{job.recipe.prefix_of(index)}pool": pool_sha256(pool) for index, pool in pools.items()}


def _sharing_to_train(job: TrainJob) -> Sharing:
    """Return how archs will share weights; from the header of the weights to start from, without torch."""
    if job.weights is None:
        return job.sharing or FULL
    before = sharing_of_checkpoint(job.weights)
    sharing = job.sharing or before
    if not sharing.refines(before):
        raise InputError(coarser(f"{job.weights}, of {before},", sharing))
    return sharing


def _start_from(space: ModelSpace, job: TrainJob) -> tuple[dict[str, Json], str]:
    """Make a space a supernet that starts from a checkpoint; return what made that, and its SHA-256."""
    import torch

    from nni_nas_consistency.supernet.checkpoint import supernet_of, weights_sha256
    from nni_nas_consistency.supernet.make import make_supernet
    from nni_nas_consistency.supernet.unsharing import unshare

    assert job.weights is not None and job.sharing is not None
    _check_is_kept(job.weights, job.out)
    with torch.random.fork_rng(devices=[]):  # its first weights are replaced at once: leave torch's generator alone
        shared, about = supernet_of(job.weights, copy.deepcopy(space))
    unshare(shared, make_supernet(space, sharing=job.sharing))
    return about, weights_sha256(shared)


def _check_is_kept(path: Path, out: Path) -> None:
    """See that a file that a training reads is not one that it would write."""
    from nni_nas_consistency.training.run import MADE_BY_TRAINING

    resolved, folder = path.resolve(), out.resolve()
    if not resolved.is_relative_to(folder) or resolved == folder:
        return
    first = resolved.relative_to(folder).parts[0]
    if any(fnmatch(first, pattern) for pattern in MADE_BY_TRAINING):
        raise InputError(f"{path}: is what this run would write; give another --out")


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

    with _importing():
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
        dtype=_dtype(job.precision),
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


@dataclass(frozen=True)
class EnsembleJob:
    """Make one score file of several: the mean of standardised scores.

    Args:
        system: The competition or benchmark.
        scores: Score files of one list, of one supernet each.
        out: The score file.
        capacity_prior: Weight of the standardised mean log width that is added; 0 for none.
        overwrite: Whether other scores at `out` are replaced.
    """

    system: System
    scores: tuple[Path, ...]
    out: Path
    capacity_prior: float = 0.0
    overwrite: bool = False


def ensemble(job: EnsembleJob) -> list[Path]:
    """Write the mean of several score files, and a submission beside it; return the paths of both.

    Needs neither torch nor NNI.

    Raises:
        InputError: A file cannot be used, they are of different archs, all scores of one are equal, or the archs have
            no widths for a prior.
    """
    from nni_nas_consistency.scoring.ensemble import ensemble_scores, with_capacity_prior

    files = [job.out, beside(job.out, "submission")]
    for path in files:
        check_output(path, job.scores)
    codec = job.system.codec
    members = {str(path): read_scores(path, codec) for path in job.scores}
    archs = _archs_of_all(members)
    scores = ensemble_scores({path: _numbers_of(member) for path, member in members.items()})
    made_from: dict[str, Json] = {"space": job.system.space}
    made_from["ensemble"] = {path: dict(member.provenance) for path, member in members.items()}
    if job.capacity_prior:
        if not isinstance(codec, WidthCodec):
            raise InputError(
                f"--capacity-prior {job.capacity_prior}: archs of {job.system.space} are no lists of widths"
            )
        scores = with_capacity_prior(scores, archs, job.capacity_prior, codec.unused)
        made_from["capacity_prior"] = job.capacity_prior
    mean = ScoreFile({name: (arch, scores[name]) for name, arch in archs.items()}, made_from)
    if job.out.exists() and not job.overwrite:
        if _scores_at(job.out, codec) != mean:
            raise FileError(f"{job.out}: is there already; choose another --out, or --overwrite it")
        return files
    write_released(files[1], submission(mean))
    write_scores(job.out, mean)
    return files


def _archs_of_all(members: Mapping[str, ScoreFile]) -> dict[str, Arch]:
    """Return the archs of several score files by name, in the order of the first; refuse a name of two archs."""
    first, *others = members
    archs = {name: arch for name, (arch, _) in members[first].scores.items()}
    for path in others:
        for name, (arch, _) in members[path].scores.items():
            if name in archs and arch.choices != archs[name].choices:
                raise MatchError(
                    f"{name} is {archs[name].code!r} in {first} but {arch.code!r} in {path}; "
                    "score one list with every supernet"
                )
    return archs


def _numbers_of(file: ScoreFile) -> dict[str, float]:
    return {name: score for name, (_, score) in file.scores.items()}


def _scores_at(path: Path, codec: Codec) -> ScoreFile | None:
    """Return the scores that a file holds; None if it holds something else."""
    try:
        return read_scores(path, codec)
    except FileError:
        return None


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

    with _importing():
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


@dataclass(frozen=True)
class RankJob:
    """Rank scores against reference accuracies.

    Args:
        system: The competition or benchmark.
        scores: Score file or submission.
        reference: Reference accuracies, in released form.
        common: Whether archs that only one side has are left out; otherwise they are an error.
        seed: Of the bootstrap.
        resamples: Bootstrap resamples for the intervals.
        title: Heading of the report; by default the names of the files.
        against: Score files of other supernets, that the scores are compared with.
        provenance: What was typed, and the machine and versions that run it.
    """

    system: System
    scores: Path
    reference: Path
    common: bool = False
    against: tuple[Path, ...] = ()
    seed: int = 0
    resamples: int = 1000
    title: str | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)


def rank(job: RankJob, *, progress: ShowProgress = silent) -> Report:
    """Return how well the scores rank the archs, next to parameters and MACs.

    Needs neither torch nor NNI.

    Args:
        job: What to rank.
        progress: Shows the progress, counted in bootstrap resamples.

    Raises:
        InputError: A file cannot be used, or the two sides have different archs.
    """
    scores, settings = read_table_and_provenance(job.scores, job.system.codec)
    reference = read_table(job.reference, job.system.codec)

    from nni_nas_consistency.ranking.matching import match
    from nni_nas_consistency.ranking.report import Report
    from nni_nas_consistency.ranking.statistics import paired_differences, rank_consistency

    names, values, accuracies = match(scores, reference, common=job.common)
    others = {str(path): _scores_of(path, job.system, reference, names) for path in job.against}
    archs = [reference[name].arch for name in names]
    columns: dict[str, Any] = {"scores": values, **_baselines(job.system, archs, _shape_of(job.system, settings))}
    consistency: dict[str, Any] = {}
    against = {}
    with progress(job.resamples * (len(columns) + len(others)), "resamples") as advance:
        for column, numbers in columns.items():
            consistency[column] = rank_consistency(
                numbers,
                accuracies,
                seed=job.seed,  # all columns draw the same archs, so that their intervals can be compared
                resamples=job.resamples,
                absolute_pearson=job.system.absolute_pearson,
                progress=advance,
            )
        for name, numbers in others.items():
            against[name] = paired_differences(
                values,
                numbers,
                accuracies,
                seed=job.seed,
                resamples=job.resamples,
                absolute_pearson=job.system.absolute_pearson,
                progress=advance,
            )
    return Report(
        title=job.title or f"{job.scores.name} against {job.reference.name}",
        settings=settings,
        provenance={**job.provenance, "seed": job.seed},
        names=names,
        codes=[arch.code for arch in archs],
        scores=values.tolist(),
        reference=accuracies.tolist(),
        consistency=consistency.pop("scores"),
        baselines=consistency,
        against=against,
    )


def _scores_of(path: Path, system: System, reference: Mapping[str, Entry], names: list[str]) -> Array:
    """Return the scores that another file gives to these archs, in this order."""
    from nni_nas_consistency.ranking.matching import match

    table = read_table(path, system.codec)
    missing = [name for name in names if name not in table]
    if missing:
        raise MatchError(f"{path}: lacks {len(missing)} of the archs that are ranked, such as {missing[0]}")
    return match(table, {name: reference[name] for name in names}, common=True)[1]


def _baselines(system: System, archs: list[Arch], shape: tuple[int, int, int]) -> dict[str, list[int]]:
    """Return what costs say of archs: any score has to beat it. Counted by the rule of the reference accuracies."""
    costs = list(map(costs_of(system, shape), archs))
    return {"params": [cost.params for cost in costs], "MACs": [cost.macs for cost in costs]}


def _shape_of(system: System, settings: Mapping[str, Json]) -> tuple[int, int, int]:
    """Return classes, channels and side of the images that archs were scored on, by default those of the system."""
    shape = settings.get("shape")
    if not isinstance(shape, list) or len(shape) != 3:
        return system.data.shape
    sizes = [size if type(size) is int and size > 0 else 1 for size in shape]
    return sizes[0], sizes[1], sizes[2]


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

    with _importing():
        import torch

        from nni_nas_consistency.training.alone import MixedPrecision
        from nni_nas_consistency.training.reference import train_references

    place = device_of(job.device)
    MixedPrecision.of(job.precision, torch.device(place))
    images = job.data.training_images(job.data_root, download=job.download)
    images = images if job.train_images is None else images.first(job.train_images)
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


@dataclass(frozen=True)
class StudyJob:
    """Compare settings by supernets that are trained with several seeds, each scored and ranked.

    Args:
        study: The settings.
        system: The competition or benchmark.
        data: The data set.
        out: The folder of the study; processes that run different settings or seeds of it may share it.
        reference: Reference accuracies that all rows are ranked against, in released form.
        seeds: Run every setting with seeds 0 … seeds − 1.
        limit: Score the first so many archs of the reference.
        images: Score on the first so many test images.
        train_images: Train on the first so many training images.
        data_root: Folder that holds the data set.
        download: Whether the data set may be fetched into it.
        threads: Threads of torch, on which the last bits depend; None: as many as it is set to.
        overwrite: Whether a study of other settings in `out` is deleted first.
        device: `cpu`, `cuda` or `auto`.
        provenance: What was typed, and the machine and versions that run it.
    """

    study: Study
    system: System
    data: DataSet
    out: Path
    reference: Path
    seeds: int = 5
    limit: int | None = None
    images: int | None = None
    train_images: int | None = None
    data_root: Path | None = None
    download: bool = False
    threads: int | None = None
    overwrite: bool = False
    device: str = "auto"
    provenance: Mapping[str, str] = field(default_factory=dict)

    def settings(self) -> dict[str, Json]:
        """Return what decides the results, besides the seeds."""
        archs = {name: [entry.arch.code, entry.acc] for name, entry in self.entries.items()}
        settings: dict[str, Json] = {}
        for setting in self.study.settings.values():
            trainings = [self._training_settings(training) for training in setting.trainings]
            settings[setting.name] = {"trainings": trainings, "scoring": setting.scoring.settings()}
        return {
            "study": self.study.name,
            "baseline": self.study.baseline,
            "space": self.system.space,
            "data": self.data.name,
            "images": self.images,
            "reference": digest_of(archs),
            **settings,
        }

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Return the archs that are scored, with their reference accuracies."""
        return dict(list(read_released(self.reference, self.system.codec).items())[: self.limit])

    @property
    def training_images(self) -> int | None:
        """How many images are trained on; None for a folder, which is not counted beforehand."""
        counts = self.data.counts
        return self.train_images or (None if counts is None else counts[0])

    def chain(self, setting: Setting, seed: int) -> list[TrainJob]:
        """Return the trainings of a run, each from the weights of the last; equal ones of two settings are one."""
        trained: list[Json] = []
        chain: list[TrainJob] = []
        for training in setting.trainings:
            trained.append(self._training_settings(training))
            job = self._training(training, self.out / "trainings" / digest_of(trained) / f"seed{seed}")
            weights = chain[-1].out / "supernet.safetensors" if chain else None
            pool = None if training.pool is None else self.pool(training.pool, seed)
            chain.append(replace(job, seed=seed, weights=weights, pool=pool))
        return chain

    def pool(self, rule: PoolRule, seed: int) -> Path:
        """Return where the pool of a run is."""
        return self.out / "pools" / str(rule) / f"seed{seed}.json"

    def scores(self, setting: Setting, seed: int) -> Path:
        """Return where the scores of a run by loss are; those by accuracy are beside them."""
        how = {name: value for name, value in setting.scoring.settings().items() if name != "metric"}
        trainings = [self._training_settings(training) for training in setting.trainings]
        return self.out / "scores" / digest_of([*trainings, how]) / f"seed{seed}.json"

    def _training(self, training: Training, out: Path) -> TrainJob:
        return TrainJob(
            self.system,
            self.data,
            training.recipe,
            out,
            data_root=self.data_root,
            download=self.download,
            sharing=training.sharing,
            train_images=self.train_images,
            val_images=VAL_IMAGES_OF_STUDIES,
            device=self.device,
            provenance=self.provenance,
        )

    def _training_settings(self, training: Training) -> Json:
        settings = self._training(training, self.out).settings() | {"train_images": self.train_images}
        settings |= {} if training.pool is None else {"pool": str(training.pool)}
        return {name: value for name, value in settings.items() if name != "seed"}


VAL_IMAGES_OF_STUDIES = 64
"""Nothing depends on the validation of a training in a study, so it is kept short."""


def study(job: StudyJob, *, progress: ShowProgress = silent, write: Callable[[str], None] = print) -> Table:
    """Do the runs of a study that are not finished, and return its table.

    What it will take is written before it begins. A run that fails, since it diverges, is a result too.

    Args:
        job: The study.
        progress: Shows the progress, counted in runs.
        write: Writes a line of text: the cost, then one a run.

    Raises:
        InputError: The data or the reference cannot be used, or the folder holds a study of other settings.
        KeyboardInterrupt: It was interrupted by Ctrl-C; runs that are finished are kept, the last one goes on.
        Terminated: The process was asked to end by SIGTERM.
    """
    _open_study(job)
    runs = [(name, seed) for seed in range(job.seeds) for name in job.study.settings]
    missing = [run for run in runs if read_result(job.out, *run) is None]
    if missing:
        write(_cost_of(job, missing, len(runs)))
    going_on = replace(job, overwrite=False)
    with progress(len(missing), "runs") as advance:
        for name, seed in missing:
            write(_told(study_run(going_on, name, seed)))
            advance(1)
    return study_table(job)


def study_run(job: StudyJob, setting: str, seed: int) -> Result:
    """Train, score and rank one setting with one seed, and keep the result in the folder; what is there is returned.

    Several processes may do different runs of one study at once; those that need the same training wait for it.

    Args:
        job: The study; its number of seeds does not matter.
        setting: The name of the setting.
        seed: The seed, at least 0.

    Raises:
        InputError: There is no such setting; or as `study`.
    """
    chosen = job.study.setting(setting)
    _open_study(job)
    found = read_result(job.out, setting, seed)
    if found is not None:
        return found
    with threads(job.threads):
        result = _run_of_study(job, chosen, seed)
    write_result(job.out, result)
    return result


def study_table(job: StudyJob) -> Table:
    """Return the table of the runs that are finished, whichever process did them; does no run.

    Raises:
        InputError: The reference cannot be used, or the folder holds a study of other settings.
    """
    settings = job.settings()
    check_study_folder(job.out, settings)
    results: dict[str, list[Result]] = {}
    for name in job.study.settings:
        found = (read_result(job.out, name, seed) for seed in range(job.seeds))
        results[name] = [result for result in found if result is not None]

    from nni_nas_consistency.studies.table import table_of

    about = settings | {"made by": dict(job.provenance)}
    return table_of(job.study, results, _reference_of(job), wanted=job.seeds, settings=about)


def _open_study(job: StudyJob) -> None:
    """Make the folder of a study once all that can be refused without torch is."""
    job.data.check_root(job.data_root, download=job.download)
    entries = job.entries
    for name, entry in entries.items():
        job.system.domain.check(entry.arch, name)
    if len({entry.acc for entry in entries.values()}) < 2:
        raise InputError(f"{job.reference}: the accuracies of {len(entries)} archs do not rank them; give another list")
    for setting in job.study.settings.values():
        for phase in (phase for training in setting.trainings for phase in training.recipe.phases):
            if job.training_images is not None:
                phase.optimization.check_warm_up(job.training_images)
        for rule in (training.pool for training in setting.trainings):
            if rule is not None:
                rule.of(entries, 0)
    open_study_folder(job.out, job.settings(), overwrite=job.overwrite)


def _run_of_study(job: StudyJob, setting: Setting, seed: int) -> Result:
    spent: dict[str, float] = {}
    try:
        _write_pools(job, setting, seed)
        chain = job.chain(setting, seed)
        for training in chain:
            make_folder(training.out.parent)
            with locked(training.out.with_suffix(".lock"), "", wait=True):
                train(training, write=lambda line: None)
        spent["training"] = sum(_seconds_of_training(training) for training in chain)
        begun = time.monotonic()
        scores = _scores_of_study(job, setting, seed, chain[-1].out / "supernet.safetensors")
        spent["scoring"] = round(time.monotonic() - begun, 1)
    except Diverged as error:
        return Result(setting.name, seed, seconds=spent, failed=str(error))
    ranking = RankJob(job.system, scores, job.reference, common=job.limit is not None, resamples=1)
    consistency = rank(ranking).consistency
    found = {name: getattr(consistency, name) for name in MEASURES}
    values = {name: None if interval is None else interval.value for name, interval in found.items()}
    return Result(setting.name, seed, values, spent)


def _write_pools(job: StudyJob, setting: Setting, seed: int) -> None:
    for rule in dict.fromkeys(training.pool for training in setting.trainings):
        if rule is None:
            continue
        pool = {name: Entry(entry.arch, 0) for name, entry in rule.of(job.entries, seed).items()}
        make_folder(job.pool(rule, seed).parent)
        write_released(job.pool(rule, seed), pool)


def _scores_of_study(job: StudyJob, setting: Setting, seed: int, checkpoint: Path) -> Path:
    """Score the archs from the supernet of a run, unless that is done, and return the scores by its metric."""
    path = job.scores(setting, seed)
    make_folder(path.parent)
    how = setting.scoring
    scoring = ScoreJob(
        job.system,
        job.data,
        checkpoint,
        job.reference,
        path,
        data_root=job.data_root,
        download=job.download,
        limit=job.limit,
        images=job.images,
        bn=how.bn,
        orders=how.orders,
        flip=how.flip,
        device=job.device,
    )
    by_metric = path if how.metric == scoring.metric else beside(path, how.metric)
    with locked(path.with_suffix(".lock"), "", wait=True):
        if not by_metric.is_file():
            score(scoring)
    return by_metric


def _seconds_of_training(training: TrainJob) -> float:
    seconds = read_checkpoint_header(training.out / "supernet.safetensors").about.get("seconds")
    return float(seconds) if isinstance(seconds, (int, float)) else 0.0


def _told(result: Result) -> str:
    value = result.values["kendall"]
    found = "failed: " + result.failed if result.failed else "undefined" if value is None else f"kendall {value:.4f}"
    return f"{result.setting}, seed {result.seed}: {found} ({sum(result.seconds.values()):.1f} s)"


def _reference_of(job: StudyJob) -> Reference:
    """Return the facts of the reference accuracies of a study, as far as its folder tells them."""
    from nni_nas_consistency.ranking.statistics import rank_consistency
    from nni_nas_consistency.studies.reference import reliability_of
    from nni_nas_consistency.studies.table import Reference

    entries = job.entries
    accuracies = [float(entry.acc) for entry in entries.values()]
    baselines: dict[str, dict[str, float | None]] = {}
    for name, costs in _baselines(job.system, [entry.arch for entry in entries.values()], job.data.shape).items():
        found = rank_consistency(costs, accuracies, resamples=1)
        intervals = {measure: getattr(found, measure) for measure in MEASURES}
        baselines[name] = {measure: None if each is None else each.value for measure, each in intervals.items()}
    seeds, split_half = reliability_of(job.reference, list(entries))
    return Reference(len(entries), seeds, split_half, baselines)


def _cost_of(job: StudyJob, missing: Sequence[tuple[str, int]], runs: int) -> str:
    """Return what the missing runs of a study will take, by a short probe of every training and scoring."""
    probes: dict[str, list[float]] = {}
    left: dict[Path, float] = {}
    with TemporaryDirectory() as folder, threads(job.threads):
        times: dict[Path, float] = {}
        for name, seed in missing:
            setting = job.study.setting(name)
            if name not in probes:
                try:
                    probes[name] = _probe(job, setting, Path(folder), times)
                except Diverged:  # so it will in its runs, at once
                    probes[name] = [0.0] * (len(setting.trainings) + 1)
            files = [training.out / "supernet.safetensors" for training in job.chain(setting, seed)]
            files.append(job.scores(setting, seed))
            left |= {path: seconds for path, seconds in zip(files, probes[name], strict=True) if not path.is_file()}
    totals = [sum(seconds) for seconds in probes.values()]
    total = timedelta(seconds=round(sum(left.values())))
    what = f"{runs} runs, {len(job.study.settings)} settings × {job.seeds} seeds"
    left_over = f"{runs - len(missing)} are finished, {len(missing)} are left"
    each = f"of about {min(totals):.0f} to {max(totals):.0f} s by a timed probe"
    return f"study {job.study.name}: {what}; {left_over}, {each}: {total} in all"


def _probe(job: StudyJob, setting: Setting, folder: Path, times: dict[Path, float]) -> list[float]:
    """Return what each training of a setting and its scoring will take, in seconds, by few steps and few archs.

    Args:
        job: The study.
        setting: The setting.
        folder: Where small runs are kept, so that settings which share one share its time.
        times: What each of those would take at full size; new ones are added.
    """
    trainings = tuple(replace(each, recipe=each.recipe.for_a_moment()) for each in setting.trainings)
    batch = max(phase.optimization.batch_size for each in trainings for phase in each.recipe.phases)
    most = job.training_images or len(job.data.training_images(job.data_root, download=job.download))
    images, archs = min(most, PROBED_STEPS * batch), len(job.entries)
    small = replace(job, out=folder, train_images=images, limit=min(archs, PROBED_ARCHS))
    tiny = replace(setting, trainings=trainings)
    _write_pools(replace(small, limit=job.limit), tiny, 0)
    chain, scores = small.chain(tiny, 0), small.scores(tiny, 0)
    if not times:  # the first one imports torch and NNI, and compiles
        train(replace(chain[0], out=folder / "warm"), write=lambda line: None)
    for each, probed in zip(setting.trainings, chain, strict=True):
        if probed.out not in times:
            share = each.recipe.steps(most) / probed.recipe.steps(images)
            times[probed.out] = _time_to_train(probed, share)
    if scores not in times:
        begun = time.monotonic()
        _scores_of_study(small, tiny, 0, chain[-1].out / "supernet.safetensors")
        times[scores] = (time.monotonic() - begun) * archs / min(archs, PROBED_ARCHS)
    return [times[path] for path in [*(probed.out for probed in chain), scores]]


def _time_to_train(training: TrainJob, share: float) -> float:
    """Return what a training takes whose steps are so many times those of this one, which is done."""
    begun = time.monotonic()
    train(training, write=lambda line: None)
    inside = _seconds_of_training(training)
    return time.monotonic() - begun - inside + inside * share


PROBED_STEPS = 8
PROBED_ARCHS = 8
"""What a probe trains and scores."""


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Run torch on so many threads inside the block, or on as many as it is set to.

    For networks as small as those of the embedded benchmark a second thread costs more than it gains: four epochs took
    17 s of processor time on one thread and 81 s on two. And on one thread results are the same on all machines with
    the same torch and instruction set, however many cores they have.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
    constraints = _counted_bounds(system, job.data.shape, max_macs=job.max_macs)
    for constraint in constraints:
        constraint.check()

    with _importing():
        from nni_nas_consistency.search.shrinking import shrink as shrink_space

    place = device_of(job.device)
    test = job.data.images(job.data_root, train=False, download=job.download)
    test = test if job.images is None else test.first(job.images)
    supernet, about = load_trained(system, job.checkpoint, test.shape)
    provenance: dict[str, Json] = {"space": system.space, "checkpoint": about, "data": job.data.name}
    provenance |= dropped_of(system) | ({} if job.max_macs is None else {"max_macs": job.max_macs})
    return shrink_space(
        supernet.to(place),
        _scoring_of(job, test, place),
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


def dropped_of(system: System) -> dict[str, Json]:
    """Return what the space of a system was shrunk by, as it stands in settings; nothing for a whole space."""
    return {"dropped": [f"{label} {choice}" for label, choice in system.dropped]} if system.dropped else {}


def _scoring_of(job: ShrinkJob | SearchJob, test: Images, place: str) -> Scoring:
    """Return how a job scores archs on test images."""
    from nni_nas_consistency.scoring.images import image_scoring

    calibration = None
    if job.bn == "train":
        calibration = job.data.images(job.data_root, train=True, download=job.download)
        count = job.calibration_images
        calibration = (calibration if count is None else calibration.first(count)).to(place)
    return image_scoring(
        test.to(place), job.data.test, metric=job.metric, bn=job.bn, batch_size=job.batch_size, train=calibration
    )


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
        """Return the bounds, as they are written into score files."""
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
    counted = _counted_bounds(job.system, job.data.shape, max_macs=job.max_macs, max_params=job.max_params)
    for constraint in counted:
        constraint.check()

    with _importing():
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
            _scoring_of(job, test, place),
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


def costs_of(system: System, shape: tuple[int, int, int]) -> Callable[[Arch], Cost]:
    """Return what counts parameters and MACs of an arch that is trained alone on images of this shape.

    By the system's formula or, where it has none, on the network, which takes torch and NNI.
    """
    formula = system.cost
    if formula is not None:
        return cache(lambda arch: formula(arch, shape))

    with _importing():
        from nni_nas_consistency.search.costs import frozen_network, network_cost

    space = system.make_space(shape, standalone=True)
    return cache(lambda arch: network_cost(frozen_network(space, arch), shape))


def _counted_bounds(
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

    with _importing():
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

    with _importing():
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
    accuracy = _accuracy_of(resized.to(place), job.data, test, 256, place, progress)
    spent = {"threads": torch.get_num_threads(), "seconds": round(run.timer.time_elapsed("train"), 1)}
    reached = {"top1": accuracy.top1, "top5": accuracy.top5, "test_images": accuracy.images}
    save_network(run.folder / "network.safetensors", network, space, job.arch, {**run.about, **spent, **reached})
    return accuracy


def _accuracy_of(
    network: nn.Module, data: DataSet, images: Images, batch_size: int, place: str, progress: ShowProgress
) -> Accuracy:
    """Return the accuracy of a network, to whose device the images are moved batch by batch."""
    from nni_nas_consistency.images.loader import EvaluationLoader
    from nni_nas_consistency.training.network import accuracy_of

    batches = EvaluationLoader(images, data.test, batch_size)
    with progress(len(images), "images") as advance:
        return accuracy_of(network, ((x.to(place), labels.to(place)) for x, labels in batches), advance)


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

    with _importing():
        from nni_nas_consistency.training.network import Resized

    place = device_of(job.device)
    network, _, _ = network_of(job.system, job.weights, job.arch)
    test = job.data.images(job.data_root, train=False, download=job.download, progress=progress)
    test = test if job.images is None else test.first(job.images)
    return _accuracy_of(Resized(network, side).to(place), job.data, test, job.batch_size, place, progress)


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

    with _importing():
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


def load_trained(system: System, checkpoint: Path, shape: tuple[int, int, int]) -> tuple[ModelSpace, dict[str, Json]]:
    """Return the supernet of a checkpoint, for images of this shape, and what made it.

    Raises:
        CheckpointError: The checkpoint cannot be used, or was trained for a different space.
    """
    from nni_nas_consistency.supernet.checkpoint import supernet_of

    return supernet_of(checkpoint, system.make_space(shape))


def first_archs(path: Path, system: System, limit: int | None) -> dict[str, Arch]:
    """Return the first archs of a list by name, or all of them."""
    entries = read_released(path, system.codec)
    return {name: entry.arch for name, entry in list(entries.items())[:limit]}


@contextmanager
def _importing() -> Iterator[None]:
    """Import without garbage collections: of 4.4 s of processor time for torch and NNI they took 0.9."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def device_of(device: str, devices: int = 1, rank: int = 0) -> str:
    """Return `cpu` or `cuda`, or of several devices one such as `cuda:1`.

    Args:
        device: `cpu`, `cuda` or `auto`.
        devices: How many are asked for.
        rank: Which of them this process has, from 0.

    Raises:
        InputError: There is no such device here, or there are not so many.
    """
    import torch

    found = torch.cuda.is_available()
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not found):
        raise InputError(f"device {device!r} is not here; allowed are auto, cpu{', cuda' if found else ''}")
    chosen = ("cuda" if found else "cpu") if device == "auto" else device
    if chosen == "cpu" or devices == 1:
        return chosen
    if devices > torch.cuda.device_count():
        raise InputError(f"--devices {devices}: there are {torch.cuda.device_count()} GPUs here; ask for fewer")
    return f"cuda:{rank}"


def _dtype(precision: Precision) -> Any:
    import torch

    return {"float32": torch.float32, "bf16": torch.bfloat16, "float64": torch.float64}[precision]
