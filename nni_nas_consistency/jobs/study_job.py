"""Compare settings: each a training, a scoring and a ranking with several seeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from nni_nas_consistency.errors import Diverged, InputError
from nni_nas_consistency.files.arch_lists import Entry, read_released, write_released
from nni_nas_consistency.files.checkpoint_header import (
    read_checkpoint_header,
)
from nni_nas_consistency.files.doors import make_folder
from nni_nas_consistency.files.locks import locked
from nni_nas_consistency.files.progress import ShowProgress, silent
from nni_nas_consistency.files.score_files import (
    beside,
)
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.jobs.rank_job import RankJob, cost_baselines, rank
from nni_nas_consistency.jobs.score_job import ScoreJob, score
from nni_nas_consistency.jobs.train_job import TrainJob, train
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
from nni_nas_consistency.systems import DataSet, System

if TYPE_CHECKING:
    from nni_nas_consistency.studies.table import Reference, Table


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

    def scoring(self, setting: Setting, seed: int) -> ScoreJob:
        """Return the scoring of a run.

        Raises:
            InputError: The space has no batch norms, and the setting chooses their statistics.
        """
        how = setting.scoring
        return ScoreJob(
            self.system,
            self.data,
            self.chain(setting, seed)[-1].out / "supernet.safetensors",
            self.reference,
            self.scores(setting, seed),
            data_root=self.data_root,
            download=self.download,
            limit=self.limit,
            images=self.images,
            bn=how.bn,
            orders=how.orders,
            flip=how.flip,
            device=self.device,
        )

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


PROBED_STEPS = 8


PROBED_ARCHS = 8
"""What a probe trains and scores."""


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
        job.scoring(setting, 0)
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
        scores = _scores_of_study(job, setting, seed)
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


def _scores_of_study(job: StudyJob, setting: Setting, seed: int) -> Path:
    """Score the archs from the supernet of a run, unless that is done, and return the scores by its metric."""
    scoring = job.scoring(setting, seed)
    make_folder(scoring.out.parent)
    wanted = setting.scoring.metric
    by_metric = scoring.out if wanted == scoring.metric else beside(scoring.out, wanted)
    with locked(scoring.out.with_suffix(".lock"), "", wait=True):
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
    for name, costs in cost_baselines(job.system, [entry.arch for entry in entries.values()], job.data.shape).items():
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
        _scores_of_study(small, tiny, 0)
        times[scores] = (time.monotonic() - begun) * archs / min(archs, PROBED_ARCHS)
    return [times[path] for path in [*(probed.out for probed in chain), scores]]


def _time_to_train(training: TrainJob, share: float) -> float:
    """Return what a training takes whose steps are so many times those of this one, which is done."""
    begun = time.monotonic()
    train(training, write=lambda line: None)
    inside = _seconds_of_training(training)
    return time.monotonic() - begun - inside + inside * share


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
