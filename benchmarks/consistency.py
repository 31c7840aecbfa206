"""How well a supernet ranks archs whose reference accuracies are known: score them, rank them, keep the figures.

    python benchmarks/consistency.py --checkpoint runs/short/supernet.safetensors --data-root data \
        --reference reference_accuracies.json --out runs/short/consistency

Runs `nni-consistency score` over the referenced archs, then `rank --report`, and writes to `--json` what a table of
results needs: how the supernet was trained, how it was scored, how long both took, and all correlations. The reference
accuracies stay out of that file. Any other option goes to `score`, such as `--images 2000 --flip`. What an earlier run
left in `--out`, `scores.json` and its journal, is scored anew, so that the time is that of the whole list.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from side_by_side import machine


def main() -> None:
    options, of_score = read_options()
    scores = options.out / "scores.json"
    options.out.mkdir(parents=True, exist_ok=True)
    for left_over in (scores, *options.out.glob("scores*.journal")):
        left_over.unlink(missing_ok=True)
    where = ["--space", options.space, "--data", options.data]
    where += [] if options.data_root is None else ["--data-root", str(options.data_root)]
    begun = time.perf_counter()
    score = ["--checkpoint", str(options.checkpoint), "--archs", str(options.reference), "--out", str(scores)]
    nni_consistency("score", *where, *score, *of_score)
    seconds = time.perf_counter() - begun
    rank = [str(scores), str(options.reference), "--space", options.space, "--common", "--report", str(options.out)]
    ranked = json.loads(nni_consistency("rank", *rank, "--json"))
    written = json.loads(scores.read_text())
    scoring = written["provenance"]
    content = {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(scoring["device"]),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "training": scoring.pop("checkpoint"),
        "scoring": scoring,
        "scoring_seconds": round(seconds, 1),
        "reference": options.reference.name,
        "first_scores": {name: row["score"] for name, row in list(written["scores"].items())[:3]},
        "consistency": ranked,
    }
    text = json.dumps(content, indent=1) + "\n"
    (options.json or options.out / "consistency.json").write_text(text)
    print(nni_consistency("rank", *rank), end="")


def nni_consistency(*words: str) -> str:
    """Run a command; its progress goes to the terminal, what it prints is returned."""
    command = [sys.executable, "-m", "nni_nas_consistency", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def read_options() -> tuple[argparse.Namespace, list[Any]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="supernet.safetensors of a training run")
    parser.add_argument("--reference", type=Path, required=True, help="archs with reference accuracies")
    parser.add_argument("--space", default="resnet20")
    parser.add_argument("--data", default="cifar100")
    parser.add_argument("--data-root", type=Path, help="folder that holds the data set")
    parser.add_argument("--out", type=Path, required=True, help="folder for scores and report")
    parser.add_argument("--json", type=Path, help="where the figures go; by default consistency.json in --out")
    return parser.parse_known_args()


if __name__ == "__main__":
    main()
