"""The words of `nni-consistency study`, and of a YAML file of settings, become a job here, without torch and NNI."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nni_nas_consistency import jobs
from nni_nas_consistency.cli import parse
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.studies.settings_file import Described, Words, published_studies, read_settings
from nni_nas_consistency.studies.study import PoolRule, Scoring, Setting, Study, Training
from nni_nas_consistency.supernet.sharing import FULL, Sharing, coarser
from nni_nas_consistency.systems import EMBEDDED_BENCHMARK, SYSTEMS, DataSet, System
from nni_nas_consistency.training.recipes import RECIPES

SMALL_SIDE = 8
"""Up to this side of the images, in pixels, a study runs on one thread."""


def _orders(text: str) -> int:
    if not 1 <= int(text) <= 100:
        raise ValueError(text)
    return int(text)


def _one_of(*values: Any) -> Callable[[str], Any]:
    return {str(value).lower(): value for value in values}.__getitem__


SCORING_READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "metric": (_one_of("loss", "acc"), "loss or acc"),
    "bn": (_one_of("supernet", "train", "test", "batch"), "supernet, train, test or batch"),
    "orders": (_orders, "a whole number from 1 to 100"),
    "flip": (_one_of(True, False), "true or false"),
}


OTHERS = ("sharing", "pool", *SCORING_READERS)
"""Settings that are not of a recipe."""


def study_job(
    word: str,
    out: Path | None,
    *,
    space: str | None = None,
    data: str | None = None,
    reference: Path | None = None,
    seeds: int = 5,
    epochs: int | None = None,
    limit: int | None = None,
    images: int | None = None,
    train_images: int | None = None,
    data_root: Path | None = None,
    download: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    provenance: Mapping[str, str] | None = None,
) -> jobs.StudyJob:
    """Return the job of a published study, or of a YAML file of settings; for a trial of NNI too.

    Args:
        word: The name of a published study, or the path of a file that ends with .yml or .yaml.
        out: The folder; None: runs/studies/NAME.
        space: Search space; None: the first that the study has settings for, else the embedded benchmark.
        data: Data set; None: that of the space.
        reference: Reference accuracies; None: those of the embedded benchmark, for its space and data.
        seeds: As for `StudyJob`, like what follows.
        epochs: Epochs of all settings; None: those of the study. What is given in percent changes in proportion.
        limit: Score the first so many archs of the reference.
        images: Score on the first so many test images.
        train_images: Train on the first so many training images.
        data_root: Folder that holds the data set.
        download: Whether the data set may be fetched into it.
        overwrite: Whether a study of other settings in `out` is deleted first.
        device: `cpu`, `cuda` or `auto`.
        provenance: What was typed, and the machine and versions that run it.

    Raises:
        InputError: There is no such study, its file or one of its settings cannot be used, or an argument cannot.
    """
    described = read_settings(_file_of(word))
    for name in described.spaces:
        if name not in [each.space for each in SYSTEMS]:
            known = ", ".join(each.space for each in SYSTEMS)
            raise InputError(f"study {described.name}: there is no space {name!r}; allowed are {known}")
    if space is None:
        space = next(iter(described.spaces), EMBEDDED_BENCHMARK.space if data is None else None)
    system, data_set = parse.system_and_data(space, data, folder=parse.FolderWords(data_root))
    if described.spaces and system.space not in described.spaces:
        raise InputError(
            f"study {described.name} has settings for space {', '.join(described.spaces)}, not {system.space}; add "
            "them under 'spaces' in a copy of its file"
        )
    data_set.check_count("--images", images, train=False)
    data_set.check_count("--train-images", train_images, train=True)
    return jobs.StudyJob(
        _study_of(described, system, data_set, epochs),
        system,
        data_set,
        out or Path("runs") / "studies" / described.name,
        _reference_of(system, data_set, reference),
        seeds=seeds,
        limit=limit,
        images=images,
        train_images=train_images,
        data_root=data_root,
        download=download,
        threads=1 if data_set.shape[2] <= SMALL_SIDE else None,
        overwrite=overwrite,
        device=device,
        provenance=provenance or {},
    )


def _file_of(word: str) -> Path:
    """Return the file of a study.

    Raises:
        InputError: The word is neither a published study nor the name of a YAML file.
    """
    published = published_studies()
    if word in published:
        return published[word]
    if Path(word).suffix in (".yml", ".yaml"):
        return Path(word)
    shown = word if len(word) <= 60 else f"{word[:60]}…"
    raise InputError(
        f"there is no study {shown!r}; published ones are {', '.join(published)}; your own is a file whose name ends "
        "with .yml"
    )


def _reference_of(system: System, data: DataSet, reference: Path | None) -> Path:
    if reference is not None:
        return reference
    if system is EMBEDDED_BENCHMARK and data is system.data:
        return Path(jobs.__file__).parents[1] / "assets" / "digits" / "reference.json"
    raise InputError(
        f"there are no reference accuracies of {system.space} on {data.name} in the package; give --reference, such as "
        "what `nni-consistency standalone` writes"
    )


def _study_of(described: Described, system: System, data: DataSet, epochs: int | None) -> Study:
    common = {**described.spaces.get(system.space, {}), **described.common}
    recipe = common.pop("recipe", None)
    if recipe is not None and recipe not in [each.name for each in RECIPES]:
        raise InputError(
            f"study {described.name}: there is no recipe {recipe!r}; allowed are "
            f"{', '.join(each.name for each in RECIPES)}"
        )
    changes = [f"{name}={value}" for name, value in common.items() if name not in OTHERS]
    changes += [] if epochs is None else [f"epochs={epochs}"]
    with _about(described, "all"):
        base = parse.recipe_of(recipe, system, data, None, None, changes)
    whole = base.phases[-1].optimization.epochs
    settings = {}
    for name, trainings in described.settings.items():
        with _about(described, name):
            first = {key: common[key] for key in OTHERS if key in common}
            chain = _chain(system, data, recipe, changes, [{**first, **trainings[0]}, *trainings[1:]], whole)
            words = {key: value for each in (first, *trainings) for key, value in each.items()}
            settings[name] = Setting(name, chain, _scoring_of(words))
    return Study(described.name, described.title, described.published, described.baseline, settings)


@contextmanager
def _about(described: Described, setting: str) -> Iterator[None]:
    """Let errors tell which setting of which study they are about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"study {described.name}, {setting}: {error}") from error


def _chain(
    system: System, data: DataSet, recipe: str | None, changes: Sequence[str], trainings: Sequence[Words], whole: int
) -> tuple[Training, ...]:
    """Return the trainings of a setting; each keeps the changes of those before it.

    Args:
        system: The competition or benchmark.
        data: The data set.
        recipe: The recipe that is changed.
        changes: What all settings change.
        trainings: What each training changes.
        whole: The epochs that shares are of.
    """
    chain: list[Training] = []
    changes = list(changes)
    before = FULL
    pool: PoolRule | None = None
    for words in trainings:
        pool = _pool_of(words["pool"]) if "pool" in words else pool
        for name, text in words.items():
            if name not in OTHERS:
                changes.append(f"{name}={_share_of(text, whole) if name in ('epochs', 'distill_from') else text}")
        sharing = Sharing.parse(words["sharing"]) if "sharing" in words else before
        if chain and not sharing.refines(before):
            raise InputError(coarser(f"a supernet of {before}", sharing))
        changed = parse.recipe_of(recipe, system, data, None, None, changes)
        changed.check(fresh=not chain)
        if "pool" in words and not changed.pool_phases:
            raise InputError(f"pool {pool}: the recipe draws from no pool; leave it out, or add sampling: pool")
        chain.append(Training(changed, sharing, pool if changed.pool_phases else None))
        before = sharing
    return tuple(chain)


def _pool_of(text: str) -> PoolRule:
    match = re.fullmatch(r"(every|random) ([1-9]\d{0,5})", text, re.ASCII)
    if match is None:
        raise InputError(f"pool is 'every N' or 'random N', archs of the list that is scored, not {text!r}")
    return PoolRule(every=int(match[2])) if match[1] == "every" else PoolRule(count=int(match[2]))


def _share_of(text: str, whole: int) -> str:
    """Return a number of epochs, from a text like `50%` of the whole, of which there is at least one."""
    match = re.fullmatch(r"(\d{1,4})%", text, re.ASCII)
    return text if match is None else str(max(1, round(int(match[1]) * whole / 100)))


def _scoring_of(words: Words) -> Scoring:
    values = {}
    for name, (read, allowed) in SCORING_READERS.items():
        if name in words:
            try:
                values[name] = read(words[name])
            except (KeyError, ValueError) as error:
                raise InputError(f"{name} is {allowed}, not {words[name]!r}") from error
    return Scoring(**values)
