"""How well a supernet ranks archs with known reference accuracies: score them, rank them, keep the figures.

    python benchmarks/consistency.py --checkpoint runs/short/supernet.safetensors --data-root data \
        --reference reference_accuracies.json --out runs/short/consistency

Scores the archs of `--reference`, ranks the scores, and writes a report to `--out` and the figures to `--json`: how the
supernet was trained and scored, the seconds of scoring, all correlations, no reference accuracy. Scores and journals of
an earlier run in `--out` are removed first, so that the seconds are those of the whole list.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from side_by_side import machine

from nni_nas_consistency import jobs
from nni_nas_consistency.cli.console import progress
from nni_nas_consistency.cli.parse import system_and_data
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.provenance import provenance
from nni_nas_consistency.files.score_files import ScoreFile, read_scores
from nni_nas_consistency.ranking.report import Report, lines, write_report


def main() -> None:
    options = read_options()
    try:
        seconds, scores, report = measure(options)
    except InputError as error:
        sys.exit(f"error: {error}")
    write_report(report, options.out)
    path = options.json or options.out / "consistency.json"
    path.write_text(json.dumps(figures(options, seconds, scores, report), indent=1) + "\n")
    print("\n".join(lines(report)))


def measure(options: argparse.Namespace) -> tuple[float, ScoreFile, Report]:
    """Return the seconds of scoring, the scores, and how well they rank."""
    system, data = system_and_data(options.space, options.data, checkpoint=options.checkpoint)
    scores = options.out / "scores.json"
    options.out.mkdir(parents=True, exist_ok=True)
    scoring = jobs.ScoreJob(
        system,
        data,
        options.checkpoint,
        options.reference,
        scores,
        data_root=options.data_root,
        download=options.download,
        images=options.images,
        metric=options.metric,
        bn=options.bn,
        batch_size=options.batch_size,
        orders=options.orders,
        flip=options.flip,
        overwrite=True,
        device=options.device,
    )
    begun = time.perf_counter()
    jobs.score(scoring, progress=progress)
    seconds = time.perf_counter() - begun
    made_by = provenance(["python", *sys.argv])
    ranking = jobs.RankJob(system, scores, options.reference, common=True, provenance=made_by)
    return seconds, read_scores(scores, system.codec), jobs.rank(ranking)


def figures(options: argparse.Namespace, seconds: float, scores: ScoreFile, report: Report) -> dict[str, Any]:
    """Return what a table of results needs, as plain JSON values."""
    scoring = dict(scores.provenance)
    columns = {"scores": report.consistency, **report.baselines}
    return {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(str(scoring["device"])),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "training": scoring.pop("checkpoint"),
        "scoring": scoring,
        "scoring_seconds": round(seconds, 1),
        "reference": options.reference.name,
        "first_scores": {name: score for name, (_, score) in list(scores.scores.items())[:3]},
        "consistency": {name: asdict(consistency) for name, consistency in columns.items()},
    }


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="supernet.safetensors of a training run")
    parser.add_argument("--reference", type=Path, required=True, help="archs with reference accuracies")
    parser.add_argument("--space", help="by default that of the checkpoint")
    parser.add_argument("--data", help="by default that of the checkpoint")
    parser.add_argument("--data-root", type=Path, help="folder that holds the data set")
    parser.add_argument("--download", action="store_true", help="download the data set if it is missing")
    parser.add_argument("--out", type=Path, required=True, help="folder for scores and report")
    parser.add_argument("--json", type=Path, help="where the figures go; by default consistency.json in --out")
    parser.add_argument("--images", type=int, help="score on the first N test images only")
    parser.add_argument("--metric", choices=["loss", "acc"], default="loss")
    parser.add_argument("--bn", choices=["supernet", "train", "test", "batch"], default="batch")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--orders", type=int, default=1, help="average over N image orders")
    parser.add_argument("--flip", action="store_true", help="average over each image and its mirror image")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()
