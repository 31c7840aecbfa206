"""Options that several verbs share: one name, one default and one help text each; and counts with a bound."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from nni_nas_consistency.cli.parse import DataWord, PrecisionWord, SpaceWord
from nni_nas_consistency.images.folder_options import MOST_WORKERS


def count_option(name: str, help_text: str, *, most: int, why: str, least: int = 1) -> Any:
    """Return an option that is a count with a bound, whose reason is in its help text and in the error.

    Args:
        name: The option, such as `--orders`.
        help_text: What is counted, as a sentence.
        most: The largest count.
        why: Why there is no point in more, as the end of a sentence.
        least: The smallest count.
    """

    def check(count: int | None) -> int | None:
        if count is not None and count > most:
            shown = str(count) if count < 10**30 else f"{str(count)[:30]}…"
            raise typer.BadParameter(f"Input should be less than or equal to {most}, not {shown}: {why}.")
        return count

    return typer.Option(name, min=least, callback=check, help=f"{help_text} At most {most:,}: {why}.")


SpaceOption = Annotated[
    SpaceWord | None,
    typer.Option("--space", help="Search space; by default that of the checkpoint, recipe or data set, else resnet20."),
]
DataOption = Annotated[
    DataWord | None, typer.Option("--data", help="Data set; by default that of the checkpoint, else of the space.")
]
RootOption = Annotated[
    Path | None,
    typer.Option("--data-root", help="Folder that holds the data set; of images: train/CLASS/FILE, val/CLASS/FILE."),
]
SideOption = Annotated[
    int | None,
    count_option(
        "--side",
        "Side in pixels that the images of a folder are resized to; by default that of the checkpoint, else 224.",
        most=2048,
        why="larger images do not fit the memory",
    ),
]
SmallestCropOption = Annotated[
    float | None,
    typer.Option(
        "--smallest-crop",
        help="Smallest random crop of a folder's training images, as a share of their area; 0.08 by default.",
    ),
]
ValFractionOption = Annotated[
    float | None,
    typer.Option(
        "--val-fraction", help="Hold out this share of each class in a folder's train, as test images in place of val."
    ),
]
ValFilesOption = Annotated[
    Path | None,
    typer.Option(
        "--val-files", help="Hold out the images of train that this text file names, one CLASS/FILE a line, instead."
    ),
]
CacheOption = Annotated[
    Path | None,
    typer.Option("--cache", help="Folder for the decoded test images of a folder; by default DATA-ROOT/prepared."),
]
WorkersOption = Annotated[
    int | None,
    count_option(
        "--workers",
        "Processes that decode a folder's images; 0: none of their own. By default one for each processor, up to 8.",
        least=0,
        most=MOST_WORKERS,
        why="each is a process",
    ),
]
DownloadOption = Annotated[bool, typer.Option("--download", help="Download the data set into --data-root if missing.")]
OutFile = Annotated[Path, typer.Option("--out", help="Output file.")]
OutFolder = Annotated[Path, typer.Option("--out", help="Output folder; created if missing.")]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Device; auto: cuda if there is one, else cpu.")
]
SeedOption = Annotated[
    int, count_option("--seed", "Random seed.", least=0, most=2**32 - 1, why="NumPy's generator takes 32 bits")
]
EpochsOption = Annotated[
    int | None,
    count_option(
        "--epochs",
        "Epochs; by default the recipe's. Its warm-up changes in proportion.",
        most=10_000,
        why="published recipes have 300",
    ),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what --out holds.")]
OverwriteScoresOption = Annotated[
    bool, typer.Option("--overwrite", help="Delete what --out holds of other settings first.")
]
OverwriteRunOption = Annotated[
    bool, typer.Option("--overwrite", help="Delete the run that --out holds, and train anew.")
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Fail unless --out holds this run; the same command goes on anyway.")
]
PrecisionOption = Annotated[
    PrecisionWord, typer.Option("--precision", help="Precision, as Lightning names it; float16 is for standalone.")
]
CheckpointStepsOption = Annotated[
    int | None,
    count_option(
        "--checkpoint-steps",
        "Steps between checkpoints; by default an epoch.",
        most=1_000_000,
        why="a run that is killed loses as many",
    ),
]
TrainImagesOption = Annotated[
    int | None,
    typer.Option(
        "--train-images", min=1, help="Train on the first N training images only; at most as many as there are."
    ),
]
TestImagesOption = Annotated[
    int | None,
    typer.Option("--images", min=1, help="Score on the first N test images only; at most as many as there are."),
]
ScoringMetricOption = Annotated[
    Literal["loss", "acc"], typer.Option("--metric", help="Score archs by negative cross-entropy or accuracy.")
]
StatisticsOption = Annotated[
    Literal["supernet", "train", "test", "batch"] | None,
    typer.Option(
        "--bn",
        help="Batch-norm statistics: of each batch (the default where there are batch norms), re-estimated on train or "
        "test images, or running ones.",
    ),
]
BatchSizeOption = Annotated[
    int, count_option("--batch-size", "Images per batch.", most=50_000, why="no data set has more images")
]
CalibrationImagesOption = Annotated[
    int | None,
    typer.Option(
        "--calibration-images",
        min=1,
        help="With --bn train, re-estimate on the first N training images; by default on all.",
    ),
]
ShrunkOption = Annotated[
    Path | None, typer.Option("--shrunk", help="Leave out the choices that this record of `shrink` dropped.")
]
MaxMacsOption = Annotated[
    str | None,
    typer.Option("--max-macs", help="Most MACs of an arch for one image, such as 41M; counted as trained alone."),
]
LimitOption = Annotated[
    int | None,
    count_option("--limit", "Use the first N archs of the list only.", most=1_000_000, why="no longer list is read"),
]
ArchOption = Annotated[
    str | None,
    typer.Option("--arch", help="An arch: its code, or the name of a published one, such as tiny of autoformer-tiny."),
]
Archs = Annotated[Path, typer.Option("--archs", help="Arch list: JSON in the released format.")]
Checkpoint = Annotated[
    Path,
    typer.Option(
        "--checkpoint", help="supernet.safetensors of a training run; or resnet20-cifar100, which is shipped."
    ),
]
