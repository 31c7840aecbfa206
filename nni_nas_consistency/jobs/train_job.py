"""Train a supernet."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.doors import check_output, check_output_folder
from nni_nas_consistency.files.pools import pool_sha256, read_pool
from nni_nas_consistency.files.progress import ShowProgress, silent
from nni_nas_consistency.files.run_folder import check_run_folder, identity_of, open_run
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.jobs.inputs import costs_of, device_of, dropped_of, importing
from nni_nas_consistency.supernet.sharing import FULL, Sharing, coarser, sharing_of_checkpoint
from nni_nas_consistency.systems import DataSet, System
from nni_nas_consistency.training.processes import rank_of
from nni_nas_consistency.training.recipes import Recipe

if TYPE_CHECKING:
    from nni.nas.nn.pytorch import ModelSpace

    from nni_nas_consistency.archs.arch import Arch
    from nni_nas_consistency.archs.pool import Pool
    from nni_nas_consistency.images.datasets import Images
    from nni_nas_consistency.images.loader import TrainingImages
    from nni_nas_consistency.training.run import TrainingRun


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
        stacking: Whether the archs of a step run as one masked batch (`stacked`), one by one (`sliced`), one by one on
            threads of their own (`threads`), or `auto`, the fastest.
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
        sync_batch_norm: Whether batch norms normalise with the images of all devices, not with those of their own.
        provenance: What was typed, and the machine and versions that run it.

    Raises:
        InputError: Batch norm over all devices is asked for on one device; or the space is no chain, and that,
            sharing, or a way to run the archs of a step is asked for that only chains have.
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
    stacking: Literal["auto", "stacked", "sliced", "threads"] = "auto"
    precision: str = "32-true"
    checkpoint_steps: int | None = None
    keep_epochs: bool = False
    train_images: int | None = None
    val_images: int = 1000
    always: tuple[Arch, ...] = ()
    device: str = "auto"
    devices: int = 1
    sync_batch_norm: bool = False
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        space = self.system.space
        if not self.system.is_chain and self.sharing not in (None, FULL):
            raise InputError(
                f"sharing {self.sharing}: {space} is no chain, NNI's modules share by {FULL}; leave it out"
            )
        if self.stacking == "threads" and self.devices > 1:
            raise InputError(f"step threads: archs have threads of their own in one process, not in {self.devices}")
        if self.sync_batch_norm and self.devices == 1:
            raise InputError("--sync-batch-norm is for several devices: give --devices too, or leave it out")
        if self.sync_batch_norm and not self.system.is_chain:
            raise InputError(f"--sync-batch-norm: {space} has no elastic batch norms; leave it out")
        if not self.system.is_chain and self.stacking in ("stacked", "threads"):
            raise InputError(f"step {self.stacking}: {space} is no chain, its archs run one by one; leave --step out")

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
        devices |= {"sync_batch_norm": True} if self.sync_batch_norm else {}
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

    with importing():
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
    from nni_nas_consistency.strategies.oneshot import macs_of
    from nni_nas_consistency.training.supernet import sampler_of

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
        sync_batch_norm=job.sync_batch_norm,
        write=write,
        keep_epochs=job.keep_epochs,
        about={**job.provenance, **settings, **about},
        identity=identity_of(settings),
    )


def _train_and_save(
    job: TrainJob, space: ModelSpace, images: TrainingImages, val: Images, run: TrainingRun, pools: Mapping[int, Pool]
) -> None:
    """Train a space by the recipe of a job, and write the supernet with what made it."""
    with importing():
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
