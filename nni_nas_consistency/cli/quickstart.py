"""The main job on the embedded benchmark: train a supernet, score the shipped archs, rank them, report.

The benchmark is the digits of scikit-learn (8×8, 1,200 training and 597 test images), the ResNet20 space at a width
unit of one channel, and reference accuracies that `nni-consistency standalone` trained.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path

import torch

from nni_nas_consistency.archs.arch import DIGITS as FORM
from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.cli.console import progress, say
from nni_nas_consistency.files.arch_lists import Entry, read_released
from nni_nas_consistency.files.score_files import read_table
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.images.augmentation import DIGITS_TEST
from nni_nas_consistency.images.datasets import digits
from nni_nas_consistency.nni3.experiment import train_supernet
from nni_nas_consistency.ranking.compare import compare
from nni_nas_consistency.ranking.report import lines, write_report
from nni_nas_consistency.scoring.arch_list import score_list
from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.supernet.checkpoint import save_supernet
from nni_nas_consistency.training.lightning import TrainingRun, image_scoring
from nni_nas_consistency.training.recipes import DIGITS as RECIPE
from nni_nas_consistency.training.recipes import Recipe


def digits_reference() -> dict[str, Entry]:
    """Return the embedded benchmark: archs with the mean accuracy of training each alone with several seeds."""
    with as_file(files("nni_nas_consistency") / "assets" / "digits" / "reference.json") as path:
        return read_released(path, FORM)


def run_quickstart(
    out: Path, *, seed: int = 0, provenance: Mapping[str, str] | None = None, epochs: int | None = None
) -> list[str]:
    """Run the main job and return what to print: the table of correlations, then the path of the report.

    Args:
        out: Folder for the supernet, the scores and the report; made if missing.
        seed: Of everything random.
        provenance: What was typed and what ran it, for the report.
        epochs: Instead of the recipe's.
    """
    with one_thread():
        return _run(out, seed, provenance or {}, epochs)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: with nets as small as these a second one costs more than it gives.

    Four epochs took 17 s of processor time on one thread and 81 s on two; and the numbers are the same on any machine
    with the same torch and instruction set, however many cores it has.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(out: Path, seed: int, provenance: Mapping[str, str], epochs: int | None) -> list[str]:
    out.mkdir(parents=True, exist_ok=True)
    recipe = RECIPE if epochs is None else RECIPE.for_epochs(epochs)
    settings: dict[str, Json] = {
        "space": "ResNet20, width unit 1",
        "data": "digits, 8×8",
        "epochs": recipe.optimization.epochs,
        "archs a step": recipe.n,
        "score": "negative cross-entropy on the test images, batch-norm statistics of each batch of 512",
        "seed": seed,
    }
    begun = time.monotonic()
    supernet = _train(out, recipe, seed)
    trained = time.monotonic()
    save_supernet(out / "supernet.safetensors", supernet, {**settings, **provenance})
    reference = digits_reference()
    _score(out / "scores.json", supernet, {name: entry.arch for name, entry in reference.items()}, settings)
    spent = {"training": f"{trained - begun:.0f} s", "scoring": f"{time.monotonic() - trained:.1f} s"}
    report = compare(
        read_table(out / "scores.json", FORM),
        reference,
        supernet,
        title="Rank consistency on the embedded benchmark",
        settings=settings,
        provenance={**provenance, **spent},
    )
    return [*lines(report), f"report: {write_report(report, out)}"]


def _train(out: Path, recipe: Recipe, seed: int) -> ChainSpace:
    torch.manual_seed(seed)
    space = ResNet20Space(10, 1, 8, width_unit=1)
    run = TrainingRun(out, progress_bar=sys.stderr.isatty(), accelerator="cpu", write=say)
    return train_supernet(space, recipe, digits(train=True), digits(train=False), seed=seed, run=run)


def _score(out: Path, supernet: ChainSpace, archs: Mapping[str, Arch], settings: Mapping[str, Json]) -> None:
    scoring = image_scoring(digits(train=False), DIGITS_TEST)
    score_list(supernet, archs, scoring, out=out, provenance=settings, progress=progress)
