"""Measure on digits what shrinking does to rank consistency, against a training of the same length without it.

For each seed: a supernet; its space shrunk; trained on in the shrunk space, and, for as many epochs, in the whole one.
Both score the same archs, drawn from the shrunk space of that seed, whose reference accuracies are trained alone on few
images, so that they spread. Writes OUT/shrinking.json; the same command goes on after an interruption.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from nni_nas_consistency import jobs
from nni_nas_consistency.cli.console import progress, quiet_libraries
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.arch_lists import Entry, write_released
from nni_nas_consistency.files.atomic import write_text_atomically
from nni_nas_consistency.files.doors import check_output, make_folder
from nni_nas_consistency.files.provenance import provenance
from nni_nas_consistency.strategies.sampling import UniformSampler
from nni_nas_consistency.systems import DIGITS_8, SPOS_OF_DIGITS
from nni_nas_consistency.training.recipes import SPOS_DIGITS

TRAIN_IMAGES = 200
"""Training images of the archs that are trained alone; on all 1,200 they are equally good."""
MEAN_SEEDS = 2
"""Seeds that mean accuracies are over; the archs that are ranked may have more."""


def row(seed, folder, *, epochs, archs, alone_epochs, alone_seeds):
    """Return what one seed gives: Kendall with and without shrinking, and how good the archs left are."""
    recipe = SPOS_DIGITS.for_epochs(epochs)
    job = jobs.TrainJob(SPOS_OF_DIGITS, DIGITS_8, recipe, folder / "first", seed=seed, device="cpu")
    first, record = jobs.train(job), folder / "shrunk.json"
    shrunk = jobs.ShrinkJob(SPOS_OF_DIGITS, DIGITS_8, first, record, archs_per_candidate=16, seed=seed, device="cpu")
    dropped = dict(jobs.shrink(shrunk, progress=progress).dropped)
    smaller = SPOS_OF_DIGITS.without(list(dropped.items()))
    plan = replace(SPOS_OF_DIGITS.standalone.for_epochs(alone_epochs), batch_size=32, lr=0.05)
    means, halves = {}, None
    for name, system, seeds in (("whole", SPOS_OF_DIGITS, MEAN_SEEDS), ("left", smaller, alone_seeds)):
        drawn = UniformSampler(system.domain, torch.Generator().manual_seed(seed)).draw(archs)
        means[name], halves = train_alone(drawn, folder / name, plan, seeds)
    result = {"seed": seed, "dropped": dropped}
    result |= {"mean_accuracy_left": means["left"], "mean_accuracy_whole": means["whole"]}
    for name, system in (("shrunk", smaller), ("not_shrunk", SPOS_OF_DIGITS)):
        on = replace(job, system=system, out=folder / name, weights=first)
        scores, of_left = folder / f"scores-{name}.json", folder / "left.json"
        scoring = jobs.ScoreJob(SPOS_OF_DIGITS, DIGITS_8, jobs.train(on), of_left, scores, device="cpu")
        jobs.score(scoring, progress=progress)
        ranked = jobs.rank(jobs.RankJob(SPOS_OF_DIGITS, scores, folder / "left" / "reference.json"))
        kendall, macs = ranked.consistency.kendall, ranked.baselines["MACs"].kendall
        result[f"kendall_{name}"] = None if kendall is None else kendall.value
        result[f"kendall_{name}_interval"] = None if kendall is None else [kendall.low, kendall.high]
        result["kendall_macs"] = None if macs is None else macs.value
    return result | {"reference_split_half_kendall_tau": halves}


def train_alone(archs, folder, plan, seeds):
    """Train archs alone; return the mean accuracy of the first seeds, and how well two halves of all of them agree."""
    listed = folder.with_suffix(".json")
    write_released(listed, {f"arch{index}": Entry(arch, 0) for index, arch in enumerate(archs, 1)})
    how = {"seeds": seeds, "train_images": TRAIN_IMAGES, "device": "cpu"}
    jobs.train_standalone(jobs.StandaloneJob(SPOS_OF_DIGITS, DIGITS_8, listed, folder, plan, **how), progress=progress)
    about = json.loads((folder / "about.json").read_text())
    accuracies = [accuracy for each in about["accuracies"].values() for accuracy in each[:MEAN_SEEDS]]
    return sum(accuracies) / len(accuracies), about["split_half_kendall_tau"]


def measure(out, seeds, **how):
    """Measure all seeds, and write OUT/shrinking.json."""
    make_folder(out)
    check_output(out / "shrinking.json")
    rows = []
    for seed in range(seeds):
        make_folder(out / str(seed))
        rows.append(row(seed, out / str(seed), **how))
        print(json.dumps(rows[-1]), flush=True)
    made_by = provenance(["python", "examples/spos_cifar/shrinking.py"])
    settings = {name: made_by[name] for name in ("command", "machine")} | how
    settings |= {"mean_seeds": MEAN_SEEDS, "train_images_alone": TRAIN_IMAGES}
    text = json.dumps({"rows": rows, "settings": settings}, indent=1)
    write_text_atomically(out / "shrinking.json", text + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to work in; given again, it goes on")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40, help="of the first training, and of both that go on from it")
    parser.add_argument("--archs", type=int, default=24, help="archs to rank")
    parser.add_argument("--alone-epochs", type=int, default=6)
    parser.add_argument("--alone-seeds", type=int, default=6, help="of the archs that are ranked")
    o = parser.parse_args()
    quiet_libraries()
    how = {"epochs": o.epochs, "archs": o.archs, "alone_epochs": o.alone_epochs, "alone_seeds": o.alone_seeds}
    try:
        for name, value, least in (("seeds", o.seeds, 1), ("alone_seeds", o.alone_seeds, MEAN_SEEDS)):
            if value < least:
                raise InputError(f"--{name.replace('_', '-')} {value}: give at least {least}")
        for name in ("epochs", "archs", "alone_epochs"):
            if how[name] < 1:
                raise InputError(f"--{name.replace('_', '-')} {how[name]}: give at least 1")
        measure(o.out, o.seeds, **how)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
