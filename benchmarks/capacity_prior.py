"""The weight for `ensemble --capacity-prior`, chosen on the embedded benchmark, whose reference accuracies are ours.

    for seed in 0 1 2 3 4 5; do nni-consistency quickstart --seed $seed --out runs/prior/$seed; done
    python benchmarks/capacity_prior.py runs/prior/*/scores.json

Prints, for each weight, Kendall's tau of several supernets: its mean, and the mean difference to no prior with
Student's t interval over the supernets.
"""

from __future__ import annotations

import argparse
import json
from importlib.resources import as_file, files
from pathlib import Path
from statistics import fmean

from side_by_side import machine

from nni_nas_consistency.archs.codecs import DIGITS_CODEC
from nni_nas_consistency.files.arch_lists import Entry, read_released
from nni_nas_consistency.files.score_files import read_table
from nni_nas_consistency.ranking.statistics import kendall_tau
from nni_nas_consistency.scoring.ensemble import with_capacity_prior
from nni_nas_consistency.studies.table import estimate

WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0)


def main() -> None:
    options = read_options()
    with as_file(files("nni_nas_consistency") / "assets" / "digits" / "reference.json") as path:
        reference = read_released(path, DIGITS_CODEC)
    runs = [kendall_by_weight(path, reference) for path in options.scores]
    figures = {}
    for weight in WEIGHTS:
        difference = estimate([run[weight] - run[0.0] for run in runs]) if weight else None
        between = None if difference is None else [difference.low, difference.high]
        figures[f"{weight:g}"] = {"kendall": fmean(run[weight] for run in runs), "difference": between}
        print(f"{weight:g}", figures[f"{weight:g}"])
    document = {"machine": machine("cpu"), "supernets": len(runs), "figures": figures}
    options.json.write_text(json.dumps(document, indent=1) + "\n")


def kendall_by_weight(scores: Path, reference: dict[str, Entry]) -> dict[float, float]:
    """Return weight → Kendall's tau of one supernet's scores with the prior."""
    archs = {name: entry.arch for name, entry in reference.items()}
    accuracies = [entry.acc for entry in reference.values()]
    listed = {name: entry.acc for name, entry in read_table(scores, DIGITS_CODEC).items()}
    found = {}
    for weight in WEIGHTS:
        adjusted = with_capacity_prior(listed, archs, weight, DIGITS_CODEC.unused)
        found[weight] = kendall_tau([adjusted[name] for name in archs], accuracies)
    return found


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path, nargs="+", help="scores of the embedded benchmark, one file a supernet")
    parser.add_argument("--json", type=Path, default=Path("capacity-prior.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
