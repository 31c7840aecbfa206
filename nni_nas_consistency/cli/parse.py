"""Words of the command line become the values of a job here, and nowhere else; without torch and NNI.

So a bad word is found in a fraction of a second, before anything heavy is imported.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.errors import CheckpointError, InputError
from nni_nas_consistency.files.arch_lists import read_released
from nni_nas_consistency.files.checkpoint_header import (
    CheckpointHeader,
    read_checkpoint_header,
    read_weights_header,
)
from nni_nas_consistency.files.score_files import SCORE_FORMAT
from nni_nas_consistency.files.shrinkings import read_shrinking
from nni_nas_consistency.files.strict_json import file_errors, object_of, read_object, shown
from nni_nas_consistency.images.augmentation import Augmentation
from nni_nas_consistency.images.folder_options import FolderOptions, class_names, resizing_to
from nni_nas_consistency.search.constraints import CostName
from nni_nas_consistency.supernet.sharing import Sharing, sharing_of_checkpoint
from nni_nas_consistency.systems import (
    CVPR2021,
    DATA_SETS,
    SYSTEMS,
    DataSet,
    System,
    shape_of_checkpoint,
    system_of_checkpoint,
)
from nni_nas_consistency.training.recipes import RECIPES, Loss, Optimization, Phase, Recipe

SpaceWord = Literal[
    "resnet20",
    "resnet48",
    "resnet48-prelu",
    "resnet48-mish",
    "resnet48-demo",
    "digits",
    "autoformer-tiny",
    "autoformer-small",
    "autoformer-base",
    "autoformer-digits",
    "spos-cifar",
    "spos-cifar-blocks",
    "spos-digits",
    "spos-digits-blocks",
    "efficient-cifar",
]
DataWord = Literal["cifar100", "cifar10", "digits", "imagenet", "folder"]
RecipeWord = Literal[
    "nazarick",
    "short",
    "ans",
    "digits",
    "ans-digits",
    "cvpr2022",
    "spos-cifar",
    "spos-digits",
    "autoformer",
    "autoformer-digits",
]
PrecisionWord = Literal["32-true", "bf16-mixed", "64-true"]

MOST_SHARDS = 10_000
MOST_IMAGES = 50_000
MOST_STEPS = 10_000_000
MOST_POOLED = 100_000
MOST_BINS = 100

Value = TypeVar("Value")


@dataclass(frozen=True)
class FolderWords:
    """What the command line says of a folder of images; None where it says nothing.

    Args:
        root: The folder.
        side: Side of the squares that images become, in pixels.
        smallest_crop: Smallest random crop, as a share of the area.
        val_fraction: Share of the training images that are held out.
        val_files: List of the training images that are held out.
        cache: Folder of decoded images.
        workers: Processes that decode.
    """

    root: Path | None = None
    side: int | None = None
    smallest_crop: float | None = None
    val_fraction: float | None = None
    val_files: Path | None = None
    cache: Path | None = None
    workers: int | None = None

    def check_unused(self, data: DataSet) -> None:
        """See that nothing but a folder is given where a data set is no folder of images.

        Raises:
            InputError: An option is.
        """
        values = {
            "--side": self.side,
            "--smallest-crop": self.smallest_crop,
            "--val-fraction": self.val_fraction,
            "--val-files": self.val_files,
            "--cache": self.cache,
            "--workers": self.workers,
        }
        for option, value in values.items():
            if value is not None:
                raise InputError(f"{option} is for a folder of images, and {data.name} is none; leave it out")


def system_and_data(
    space: str | None,
    data: str | None,
    *,
    checkpoint: Path | None = None,
    recipe: str | None = None,
    folder: FolderWords = FolderWords(),
) -> tuple[System, DataSet]:
    """Return the system and the data set of a command.

    What is not named follows from the checkpoint, where there is one, else from what is named: the data set from the
    space, the space from the data set or the recipe. By default it is CVPR 2021 track 1 on CIFAR-100.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        InputError: The checkpoint was trained for a different space or on different images than those that are named.
    """
    trained, of_checkpoint, shape = (None, None, None) if checkpoint is None else _trained_for(checkpoint)
    system = _system(space, data, trained, recipe)
    if trained not in (system, None):
        raise InputError(f"{checkpoint}: was trained for space {trained.space}, not {system.space}; leave --space out")
    chosen = _named([system.data, *DATA_SETS], data) or of_checkpoint or system.data
    if chosen.folder is not None:
        return system, _folder_of(chosen, folder, checkpoint, shape)
    folder.check_unused(chosen)
    if of_checkpoint is not None and of_checkpoint.shape != chosen.shape:
        raise InputError(
            f"{checkpoint}: was trained on {of_checkpoint.name}, whose classes or image size {chosen.name} does not "
            "have; leave --data out"
        )
    return system, chosen


def _folder_of(
    data: DataSet, words: FolderWords, checkpoint: Path | None, trained: tuple[int, int, int] | None
) -> DataSet:
    """Return a folder of images, with what the command line says of it.

    Args:
        data: The data set; where it has no classes, they are counted.
        words: What is said of it.
        checkpoint: The checkpoint that is used, if any.
        trained: Classes, channels and side of the images that it was trained on, if it says so.

    Raises:
        InputError: There is no such folder, a value is out of range, or the checkpoint is for other images.
    """
    assert data.folder is not None
    classes, channels, side = data.shape
    if not classes and trained is not None:
        side = trained[2]
    if not classes and trained is not None and words.root is None:
        classes = trained[0]
    elif not classes:
        data.check_root(words.root)
        assert words.root is not None
        classes = len(class_names(words.root.expanduser()))
    resizing = data.folder.resizing
    if (words.side or side) != resizing.side:
        resizing = replace(resizing_to(words.side or side), interpolation=resizing.interpolation)
    if words.smallest_crop is not None:
        resizing = replace(resizing, smallest_crop=words.smallest_crop)
    options = FolderOptions(resizing, words.val_fraction, words.val_files, words.cache, words.workers)
    shape = (classes, channels, resizing.side)
    if trained not in (shape, None):
        if words.root is None:
            data.check_root(None)
        raise InputError(
            f"{checkpoint}: was trained for {trained[0]} classes of images of {trained[2]} pixels; {data.name} has "
            f"{classes} classes and {resizing.side} pixels: give its own --data, --data-root and --side"
        )
    return replace(data, shape=shape, counts=None if options.holds_out else data.counts, folder=options)


def check_same_system(system: System, checkpoints: Sequence[Path]) -> None:
    """See that all checkpoints are of one system, and none is given twice.

    Raises:
        CheckpointError: A checkpoint cannot be read.
        InputError: One is of another system, or given twice.
    """
    for place, checkpoint in enumerate(checkpoints):
        if checkpoint in checkpoints[:place]:
            raise InputError(f"--checkpoint {checkpoint}: is given twice; its scores would count twice")
        trained, _, _ = _trained_for(checkpoint)
        if trained != system:
            raise InputError(
                f"{checkpoint}: was trained for space {trained.space}, {checkpoints[0]} for {system.space}; "
                "average supernets of one space"
            )


def system_and_data_of_network(
    space: str | None,
    data: str | None,
    weights: Path | None,
    folder: FolderWords,
    *,
    new_head: bool = False,
    image_size: int | None = None,
) -> tuple[System, DataSet]:
    """Return the system and the data set of a command about one network.

    What is not named follows from the weights, where there are some. Images of a folder get the size of the network's.

    Args:
        space: Word of the system.
        data: Word of the data set.
        weights: The network, or a supernet that it is cut out of.
        folder: What is said of a folder of images.
        new_head: Whether images may have other classes than those of the weights.
        image_size: Side of the squares that the images of a folder become; None: that of the weights, else of the data.

    Raises:
        InputError: The weights cannot be read, are of a different space than the one that is named, or for other
            classes; or the folder cannot be used.
    """
    if weights is None:
        system, chosen = system_and_data(space, data, folder=folder)
        if chosen.folder is None or image_size is None:
            return system, chosen
        return system, _folder_of(chosen, replace(folder, side=image_size), None, None)
    trained, of_weights, shape = _of_header(weights, read_weights_header(weights))
    if space not in (trained.space, None):
        raise CheckpointError(f"{weights}: is of space {trained.space}, not {space}; leave --space out")
    chosen = _named([trained.data, *DATA_SETS], data) or of_weights or trained.data
    if chosen.folder is None:
        folder.check_unused(chosen)
        return trained, chosen
    if new_head:
        words = replace(folder, side=image_size or (None if shape is None else shape[2]))
        return trained, _folder_of(chosen, words, None, None)
    return trained, _folder_of(chosen, folder, weights, shape)


def arch_of(system: System, code: str | None) -> Arch | None:
    """Return the arch of a code or a name, if one is given.

    Raises:
        ArchError: It is neither.
    """
    return None if code is None else system.arch(code, "--arch")


def _trained_for(checkpoint: Path) -> tuple[System, DataSet | None, tuple[int, int, int] | None]:
    """Return the system of a checkpoint, its data set if it is one of ours, and the shape of its images if it says so.

    Raises:
        CheckpointError: The checkpoint cannot be read, or its space, its sharing or its data set has no word.
    """
    header = read_checkpoint_header(checkpoint)
    sharing_of_checkpoint(checkpoint)
    return _of_header(checkpoint, header)


def _of_header(
    checkpoint: Path, header: CheckpointHeader
) -> tuple[System, DataSet | None, tuple[int, int, int] | None]:
    """Return the system of a header, its data set if it is one of ours, and the shape of its images if it says so."""
    system = system_of_checkpoint(header.space)
    if system is None:
        arguments = ", ".join(f"{name} {value!r}" for name, value in header.space.items())
        raise CheckpointError(
            f"{checkpoint}: was trained for a different space than {_words(SYSTEMS)}: {arguments}; load it in Python, "
            "into the space that it was trained with"
        )
    data = header.about.get("data")
    if data is not None and not isinstance(data, str):
        raise CheckpointError(f"{checkpoint}: 'data' of its metadata is {data!r}; expected a name such as cifar100")
    try:
        shape = shape_of_checkpoint(header.space)
    except CheckpointError:  # a space of your own
        return system, _named(DATA_SETS, data), None
    return system, _named(DATA_SETS, data), shape


def _words(systems: Sequence[System]) -> str:
    return ", ".join(system.space for system in systems)


def _system(space: str | None, data: str | None, trained: System | None, recipe: str | None) -> System:
    for system in SYSTEMS:
        if space == system.space:
            return system
    if trained is not None:
        return trained
    for system in SYSTEMS:
        if data is None and recipe in [own.name for own in system.recipes]:
            return system
    for system in SYSTEMS:
        if data == system.data.name:
            return system
    return CVPR2021


def system_of_scores(space: str | None, scores: Path) -> System:
    """Return the system of a score file; of an arch list, which does not name it, the one that is asked for.

    Raises:
        FileError: The file cannot be read.
        InputError: The score file is for a different space than the one that is named.
    """
    of_file = _space_of_scores(scores)
    if space is not None and of_file not in (space, None):
        raise InputError(f"{scores}: holds scores of space {of_file}, not {space}; leave --space out")
    return system_and_data(space or of_file, None)[0]


def _space_of_scores(scores: Path) -> str | None:
    with file_errors(scores):
        document = read_object(scores)
        if document.get("format") != SCORE_FORMAT:
            return None
        space = object_of(document.get("provenance"), "provenance").get("space")
        if space not in (None, *(system.space for system in SYSTEMS)):
            raise ValueError(f"holds scores of space {shown(space)}; known are {_words(SYSTEMS)}")
    return None if space is None else str(space)


def check_ensemble(scores: Sequence[Path], capacity_prior: float) -> None:
    """See that there is something to average, and nothing twice.

    Raises:
        InputError: There is one score file and no prior, or a file is given twice.
    """
    if len(scores) == 1 and not capacity_prior:
        raise InputError(f"{scores[0]}: the mean of one score file is the file itself; give two, or a --capacity-prior")
    for place, path in enumerate(scores):
        if path in scores[:place]:
            raise InputError(f"{path}: is given twice; its scores would count twice")


def recipe_of(
    word: str | None,
    system: System,
    data: DataSet,
    epochs: int | None,
    n: int | None,
    changes: Sequence[str],
    *,
    from_phase: int = 0,
) -> Recipe:
    """Return a recipe, changed where epochs, archs per step or other settings are given.

    Args:
        word: Its name; None: the first of the system.
        system: The competition or benchmark.
        data: The data set to train on.
        epochs: Epochs of the last phase; None: the recipe's. Warm-up and teacher's epoch change in proportion.
        n: Archs per step of the last phase; None: the recipe's.
        changes: Texts like `lr=0.2` for the last phase, or `phase0_lr=0.2` for another one; they win over the other
            arguments, and later ones over earlier ones.
        from_phase: The phases before this one are left out.

    Raises:
        InputError: The recipe is for images with other channels, or has no such phase; or a change has an unknown name
            or bad value.
    """
    recipe = system.recipes[0] if word is None else _named(RECIPES, word)
    assert recipe is not None
    channels = data.shape[1]
    if recipe.channels not in (channels, None):
        raise InputError(
            f"recipe {recipe.name} is for images with {recipe.channels} channel(s), {data.name} has {channels}; "
            "give another --recipe or --data"
        )
    recipe, changes = _recipe_changed(recipe, changes)
    if from_phase >= len(recipe.phases):
        raise InputError(
            f"--from-phase {from_phase}: recipe {recipe.name} has the phases 0 to {len(recipe.phases) - 1}"
        )
    recipe = recipe if epochs is None else recipe.for_epochs(epochs)
    phases = [*recipe.phases[:-1], replace(recipe.phases[-1], n=n or recipe.phases[-1].n)]
    for change in changes:
        index, setting = _phase_of(change, len(phases))
        if index < from_phase:
            raise InputError(f"--set {_cut(change)}: --from-phase {from_phase} leaves phase {index} out")
        phases[index] = _changed(phases[index], setting, change)
    for phase in phases:
        phase.check()
        _check_chain(phase, system)
    return replace(recipe, phases=tuple(phases)).from_phase(from_phase)


def _recipe_changed(recipe: Recipe, changes: Sequence[str]) -> tuple[Recipe, list[str]]:
    """Return a recipe with those settings changed that are not of a phase, and the other changes."""
    others = []
    for change in changes:
        name, _, text = change.partition("=")
        if name in RECIPE_READERS:
            recipe = replace(recipe, **{name: _read(change, name, text, *RECIPE_READERS[name])})
        else:
            others.append(change)
    return recipe, others


def weights_of(weights: Path | None, from_phase: int) -> Path | None:
    """Return the checkpoint to start from: the one that is named, or the end of the phase before in a run's folder.

    Raises:
        InputError: Training shall begin with a later phase, and there are no weights to begin with, in a folder either.
    """
    if weights is None and from_phase:
        raise InputError(
            f"--from-phase {from_phase} needs --weights: the supernet that phase {from_phase - 1} ended with, or the "
            "folder of the run that it was in"
        )
    if weights is None or not from_phase or not os.path.isdir(weights):
        return weights
    end = weights / f"phase{from_phase - 1}" / "supernet.safetensors"
    if not os.path.isfile(end):
        raise InputError(
            f"--from-phase {from_phase} starts from {end}, which is not there; name a phase whose predecessor has "
            f"ended in {weights}"
        )
    return end


def pools_of(texts: Sequence[str]) -> tuple[Path | None, dict[int, Path]]:
    """Return the pool of all phases, and those of single ones, from texts like `pool.json` and `phase4=other.json`.

    Raises:
        InputError: A phase has two pools.
    """
    pools: dict[int | None, Path] = {}
    for text in texts:
        match = re.fullmatch(r"phase(\d{1,9})=(.*)", text, re.ASCII | re.DOTALL)
        phase, path = (None, text) if match is None else (int(match[1]), match[2])
        if phase in pools:
            which = "all phases" if phase is None else f"phase {phase}"
            raise InputError(
                f"--pool {_cut(text)}: {which} would have two pools; give one, and phase4=… for another in phase 4"
            )
        pools[phase] = Path(path)
    return pools.get(None), {phase: path for phase, path in pools.items() if phase is not None}


def _check_chain(phase: Phase, system: System) -> None:
    """Refuse what only chain spaces can do."""
    for name, value, of_chains in (("rule", phase.rule, "frozen-teacher"), ("start", phase.start, "reordered")):
        if value == of_chains and not system.is_chain:
            raise InputError(f"{name}={value} is for chains of residual blocks, which {system.space} is not")


def _phase_of(change: str, phases: int) -> tuple[int, str]:
    """Return the phase that a change is for, the last one unless it names one, and the change without the phase.

    Raises:
        InputError: There is no such phase.
    """
    match = re.fullmatch(r"phase(\d{1,9})_(.*)", change, re.ASCII | re.DOTALL)
    if match is None:
        return phases - 1, change
    if int(match[1]) >= phases:
        raise InputError(f"--set {_cut(change)}: the recipe has the phases 0 to {phases - 1}")
    return int(match[1]), match[2]


def shrunk(system: System, record: Path | None) -> System:
    """Return a system without what a record of `shrink` dropped.

    Raises:
        FileError: The record cannot be read, or is for a different space.
    """
    if record is None:
        return system
    return system.without(
        [dropped for each in read_shrinking(record, system.domain) for dropped in each.dropped.items()]
    )


def always_of(system: System, archs: Path | None, recipe: Recipe) -> tuple[Arch, ...]:
    """Return the archs of a list that run at every step of the sandwich rule, in its order.

    Raises:
        FileError: The list cannot be read.
        InputError: The recipe has another rule or fewer archs per step, or an arch is not drawn from the space.
    """
    if archs is None:
        return ()
    phase = recipe.phases[-1]
    if phase.rule != "sandwich":
        raise InputError(f"--always {archs}: belongs to rule=sandwich, not {phase.rule}; add --set rule=sandwich")
    entries = read_released(archs, system.codec)
    for name, entry in entries.items():
        system.domain.check(entry.arch, name)
    if len(entries) > phase.n:
        raise InputError(f"--always {archs}: has {len(entries)} archs, more than the {phase.n} of a step; raise --n")
    return tuple(entry.arch for entry in entries.values())


def statistics_of(system: System, bn: str | None, default: str) -> Any:
    """Return the word of the batch-norm statistics: what is given, else the default, else none are needed.

    Raises:
        InputError: Some are chosen, and the networks of the space have no batch norms.
    """
    if system.has_batch_norm:
        return default if bn is None else bn
    if bn is not None:
        raise InputError(f"--bn {bn}: the networks of {system.space} have no batch norms; leave it out")
    return "supernet"


def calibration_of(data: DataSet, bn: str, count: int | None) -> None:
    """See that so many training images can be used to re-estimate batch-norm statistics.

    Raises:
        InputError: There are fewer, or they are not used.
    """
    if count is not None and bn != "train":
        raise InputError(f"--calibration-images {count} belongs to --bn train, not {bn}; leave it out")
    data.check_count("--calibration-images", count, train=True)


def archs_of(system: System, archs: Path | None, arch: str | None) -> Path | Arch:
    """Return the list of archs, or the arch of a code, of which one is given.

    Raises:
        ArchError: The code is that of no arch.
        InputError: Both are given, or neither.
    """
    if archs is not None and arch is None:
        return archs
    if arch is not None and archs is None:
        return system.arch(arch, "--arch")
    raise InputError("give either --archs, a list, or --arch, the code of one arch")


def optimization_of(
    system: System, epochs: int | None, changes: Sequence[str], *, finetune: bool = False
) -> Optimization:
    """Return how archs of a system are trained alone, changed where epochs or other settings are given.

    Args:
        system: The competition or benchmark.
        epochs: Epochs; None: the published ones. The warm-up changes in proportion.
        changes: Texts like `batch_size=1024`; later ones win over earlier ones.
        finetune: Whether a trained network goes on.

    Raises:
        InputError: A change has an unknown name or bad value.
    """
    optimization = (system.finetune if finetune else None) or system.standalone
    optimization = optimization if epochs is None else optimization.for_epochs(epochs)
    for change in changes:
        name, _, text = change.partition("=")
        if name not in OPTIMIZATION_READERS:
            raise _no_setting(change, name, [*OPTIMIZATION_READERS, *LOSS_READERS, "cutout"])
        optimization = replace(optimization, **{name: _read(change, name, text, *OPTIMIZATION_READERS[name])})
    optimization.check()
    return optimization


def loss_and_augmentation_of(
    system: System, data: DataSet, changes: Sequence[str]
) -> tuple[Loss, Augmentation, list[str]]:
    """Return the loss and the augmentation of archs that are trained alone, and the changes that are for neither.

    Args:
        system: The competition or benchmark.
        data: The data set.
        changes: Texts like `label_smoothing=0.1` or `cutout=6`; later ones win over earlier ones.

    Raises:
        InputError: A change has a bad value.
    """
    loss, augmentation = system.loss, system.augmentation(data)
    others = []
    for change in changes:
        name, _, text = change.partition("=")
        if name in LOSS_READERS:
            loss = replace(loss, **{name: _read(change, name, text, *LOSS_READERS[name])})
            others += ["label_smoothing=0"] if name == "label_smoothing" else []  # in place of the optimization's
        elif name == "cutout":
            augmentation = replace(augmentation, cutout=_read(change, name, text, *_cutout_reader(data.shape[2])))
        else:
            others.append(change)
    return loss, augmentation, others


def _cutout_reader(side: int) -> tuple[Callable[[str], int], str]:
    def read(text: str) -> int:
        value = _count(text)
        if value > side:
            raise ValueError(text)
        return value

    return read, f"the side of the square in pixels, from 0 for none to {side}, that of the images"


def _no_setting(change: str, name: str, allowed: Iterable[str]) -> InputError:
    return InputError(
        f"--set {_cut(change)}: there is no setting {_cut(name)!r}; give NAME=VALUE of {', '.join(allowed)}"
    )


def _changed(phase: Phase, setting: str, change: str) -> Phase:
    """Return a phase with one setting changed, which is what `--set` says without the phase."""
    name, _, text = setting.partition("=")
    if name == "epochs":
        return phase.for_epochs(_read(change, name, text, *EPOCHS_READER))
    if name in OPTIMIZATION_READERS:
        value = _read(change, name, text, *OPTIMIZATION_READERS[name])
        return replace(phase, optimization=replace(phase.optimization, **{name: value}))
    if name in PHASE_READERS:
        return replace(phase, **{name: _read(change, name, text, *PHASE_READERS[name])})
    raise _no_setting(change, name, ["epochs", *OPTIMIZATION_READERS, *PHASE_READERS, *RECIPE_READERS])


def _read(change: str, name: str, text: str, read: Callable[[str], Value], allowed: str) -> Value:
    try:
        return read(text)
    except (KeyError, ValueError) as error:
        raise InputError(f"--set {_cut(change)}: {name} is {allowed}, not {_cut(text)!r}") from error


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}…"


def _number(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError(text)
    return value


def _above_zero_or_none(text: str) -> float | None:
    if text == "none":
        return None
    value = _number(text)
    if value == 0:
        raise ValueError(text)
    return value


def _share(text: str) -> float:
    value = _number(text)
    if value >= 1:
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value <= MOST_STEPS:
        raise ValueError(text)
    return value


def _count_or_none(text: str) -> int | None:
    return None if text == "none" else _count(text)


def _decay_or_none(text: str) -> float | None:
    value = _above_zero_or_none(text)
    if value is not None and value >= 1:
        raise ValueError(text)
    return value


def _batch(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MOST_IMAGES:
        raise ValueError(text)
    return value


def _epochs_or_none(text: str) -> int | None:
    value = _count_or_none(text)
    if value == 0:
        raise ValueError(text)
    return value


def _size_or_none(text: str) -> int | None:
    if text == "none":
        return None
    value = int(text)
    if not 1 <= value <= MOST_POOLED:
        raise ValueError(text)
    return value


def _epoch_or_never(text: str) -> int | None:
    return None if text == "never" else _count(text)


def _one_of(*words: str) -> Callable[[str], str]:
    return {word: word for word in words}.__getitem__


def _above_zero(text: str) -> float:
    value = _above_zero_or_none(text)
    if value is None:
        raise ValueError(text)
    return value


def _macs_bins_or_none(text: str) -> tuple[float, float, int] | None:
    if text == "none":
        return None
    low, high, bins = text.split(":")
    if not _number(low) < _number(high) or not 1 <= int(bins) <= MOST_BINS:
        raise ValueError(text)
    return float(low), float(high), int(bins)


RECIPE_READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "init": (
        _one_of("kaiming-fan-out", "torch", "channels-in", "trunc-normal"),
        "kaiming-fan-out, torch, channels-in or trunc-normal",
    ),
    "stem_norm": (_one_of("affine", "plain"), "affine or plain"),
}
EPOCHS_READER: tuple[Callable[[str], Any], str] = (
    _count,
    f"a whole number from 0 to {MOST_STEPS:,}; a phase of 0 epochs is left out",
)
OPTIMIZATION_READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "lr": (_number, "a number of at least 0"),
    "end_lr": (_number, "a number of at least 0"),
    "weight_decay": (_number, "a number of at least 0"),
    "momentum": (_number, "a number of at least 0"),
    "batch_size": (_batch, f"a whole number from 1 to {MOST_IMAGES:,}, the images of the largest data set"),
    "optimizer": (_one_of("sgd", "adamw"), "sgd or adamw"),
    "label_smoothing": (_share, "a number of at least 0 and below 1"),
    "mixup": (_number, "a number of at least 0; 0 for none"),
    "cutmix": (_number, "a number of at least 0; 0 for none"),
    "warmup_steps": (_count, f"a whole number from 0 to {MOST_STEPS:,}"),
    "warmup_epochs": (_number, "a number of at least 0"),
    "decay_epochs": (_count_or_none, "the epochs of the decay at the end, 0 for a constant rate, or none"),
    "decay": (
        _one_of("cosine", "cosine-per-epoch", "linear", "linear-per-epoch"),
        "cosine, cosine-per-epoch, linear or linear-per-epoch",
    ),
    "nesterov": ({"true": True, "false": False}.__getitem__, "true or false"),
}
LOSS_READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "label_smoothing": (_share, "a number of at least 0 and below 1"),
    "logits_scale": (_above_zero, "a number above 0"),
}
PHASE_READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "n": (_batch, f"a whole number from 1 to {MOST_IMAGES:,}"),
    "rule": (
        _one_of("sandwich", "sampled-teacher", "multi-path", "pool-distillation", "frozen-teacher"),
        "sandwich, sampled-teacher, multi-path, pool-distillation or frozen-teacher",
    ),
    "sampling": (
        _one_of("strict-fair", "fair", "uniform", "params", "largest", "pool", "macs-bins"),
        "strict-fair, fair, uniform, params, largest, pool or macs-bins",
    ),
    "distill_from": (_epoch_or_never, "an epoch, the first being 0, or never"),
    "grad_clip": (_above_zero_or_none, "a number above 0, or none"),
    "ema": (_decay_or_none, "a number above 0 and below 1, such as 0.999, or none"),
    "mean_epochs": (_epochs_or_none, f"a whole number of epochs from 1 to {MOST_STEPS:,}, or none"),
    "start": (_one_of("as-left", "reordered"), "as-left or reordered"),
    "sandwich_ramp": (_count_or_none, "epochs, 0 for full strength at once, or none"),
    "rank_weight": (_number, "a number of at least 0"),
    "rank_ramp": (_count, f"a whole number of epochs from 0 to {MOST_STEPS:,}"),
    "pool_size": (_size_or_none, f"a whole number from 1 to {MOST_POOLED:,}, or none"),
    "macs_bins": (_macs_bins_or_none, f"FROM:TO:BINS in MACs, such as 290e6:360e6:7, 1 to {MOST_BINS} bins; or none"),
}


def sharing_of(text: str | None) -> Sharing | None:
    """Return the sharing of a text like `conv=end,bn=end:4`; what is not named is `full`.

    Raises:
        InputError: The text is not of that form, or a rule does not exist.
    """
    return None if text is None else Sharing.parse(text)


def shard_of(text: str | None) -> tuple[int, int]:
    """Return index and count of a shard, from a text like `2/8`; None means the whole list, 1/1.

    Raises:
        InputError: The text is not of that form, or the index is out of range.
    """
    if text is None:
        return 1, 1
    match = re.fullmatch(r"(\d{1,9})/([1-9]\d{0,8})", text, re.ASCII)
    if match is None:
        raise InputError(f"shard {text!r} is not of the form I/N, such as 2/8")
    index, count = int(match[1]), int(match[2])
    if count > MOST_SHARDS:
        raise InputError(f"shard {text!r}: a list is dealt to at most {MOST_SHARDS:,} shards; use fewer")
    if not 1 <= index <= count:
        raise InputError(f"shard {index}/{count} does not exist; those of {count} are 1/{count} to {count}/{count}")
    return index, count


def count_of(option: str, text: str | None) -> int | None:
    """Return a count from a text like `41000000`, `41e6` or `41M`; None if there is none.

    Raises:
        InputError: The text is not of that form, or stands for less than 1 or more than 10^18.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,19}(?:\.\d{1,9})?(?:e\d{1,2})?)([kMGT]?)", text, re.ASCII)
    count = None if match is None else float(match[1]) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[match[2]]
    if count is None or not 1 <= count <= 1e18:
        raise InputError(f"{option} {_cut(text)!r} is no count from 1 to 10^18, such as 41000000, 41e6 or 41M")
    return round(count)


def milliseconds_of(option: str, text: str | None) -> float | None:
    """Return a time in milliseconds; None if there is none.

    Raises:
        InputError: The text is no number above 0 and up to an hour.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII)
    if match is None or not 0 < float(text) <= 3_600_000:
        raise InputError(f"{option} {_cut(text)!r} is no time in milliseconds above 0, such as 3.5")
    return float(text)


def strategy_of(word: str, population: int | None) -> int:
    """Return the population of a search: the one that is given, or that of an evolution by default.

    Raises:
        InputError: A population is given for a strategy that has none.
    """
    if population is not None and word != "evolution":
        raise InputError(f"--population {population} belongs to --strategy evolution, not {word}; leave it out")
    return 50 if population is None else population


def pareto_cost_of(
    folder: Path | None, cost: CostName | None, macs: int | None, params: int | None, latency: float | None
) -> CostName:
    """Return the cost of a Pareto set: the one that is given, else one that is bounded, else MACs.

    Raises:
        InputError: A cost is given without a folder for the set.
    """
    if cost is not None and folder is None:
        raise InputError(f"--pareto-cost {cost} needs --pareto, the folder for the Pareto set")
    if cost is not None:
        return cost
    if latency is not None:
        return "latency"
    return "params" if params is not None and macs is None else "macs"


def _named(values: Sequence[Any], name: str | None) -> Any:
    for value in values:
        if value.name == name:
            return value
    return None
