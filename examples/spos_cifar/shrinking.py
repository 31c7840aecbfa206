"""Measure on digits what shrinking does to rank consistency, against a training of the same length without it.

For each seed: a supernet; its space shrunk; trained on in the shrunk space, and, for as many epochs, in the whole one.
Both score the same archs, drawn from the shrunk space of that seed, whose reference accuracies are trained alone on few
images, so that they spread. Writes a table as JSON.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from nni_nas_consistency import jobs
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.arch_lists import Entry, write_released
from nni_nas_consistency.files.provenance import provenance
from nni_nas_consistency.files.shrinkings import read_shrinking, shrunk_domain
from nni_nas_consistency.strategies.sampling import UniformSampler
from nni_nas_consistency.systems import DIGITS_8, SPOS_OF_DIGITS
from nni_nas_consistency.training.recipes import SPOS_DIGITS

TRAIN_IMAGES = 200
"""Training images of the archs that are trained alone; on all 1,200 they are equally good."""


def tau_of(consistency):
    """Return Kendall's tau, or None where it is undefined."""
    return None if consistency.kendall is None else consistency.kendall.value


def row(seed, folder, *, epochs, archs, alone_epochs, alone_seeds):
    """Return what one seed gives: Kendall with and without shrinking, and how good the archs left are."""
    recipe = SPOS_DIGITS.for_epochs(epochs)
    job = jobs.TrainJob(SPOS_OF_DIGITS, DIGITS_8, recipe, folder / "first", seed=seed, device="cpu")
    first, record = jobs.train(job), folder / "shrunk.json"
    shrunk = jobs.ShrinkJob(SPOS_OF_DIGITS, DIGITS_8, first, record, archs_per_candidate=16, seed=seed, device="cpu")
    this = jobs.shrink(shrunk)
    smaller = SPOS_OF_DIGITS.without(list(this.dropped.items()))
    lists = {}
    for name, domain in (("left", smaller.domain), ("whole", SPOS_OF_DIGITS.domain)):
        drawn = UniformSampler(domain, torch.Generator().manual_seed(seed)).draw(archs)
        lists[name] = folder / f"{name}.json"
        write_released(lists[name], {f"arch{index}": Entry(arch, 0) for index, arch in enumerate(drawn, 1)})
    plan = replace(SPOS_OF_DIGITS.standalone.for_epochs(alone_epochs), batch_size=32, lr=0.05)
    result = {"seed": seed, "dropped": dict(this.dropped)}
    for name, path in lists.items():
        alone = jobs.StandaloneJob(
            SPOS_OF_DIGITS,
            DIGITS_8,
            path,
            folder / f"alone-{name}",
            plan,
            seeds=alone_seeds,
            train_images=TRAIN_IMAGES,
            device="cpu",
        )
        reference = jobs.train_standalone(alone)
        entries = json.loads(reference.read_text()).values()
        result[f"mean_accuracy_{name}"] = sum(entry["acc"] for entry in entries) / archs
    for name, system in (("shrunk", smaller), ("not_shrunk", SPOS_OF_DIGITS)):
        on = replace(job, system=system, out=folder / name, weights=first, recipe=recipe)
        scores = folder / f"scores-{name}.json"
        jobs.score(jobs.ScoreJob(SPOS_OF_DIGITS, DIGITS_8, jobs.train(on), lists["left"], scores, device="cpu"))
        ranked = jobs.rank(jobs.RankJob(SPOS_OF_DIGITS, scores, folder / "alone-left" / "reference.json"))
        result[f"kendall_{name}"] = tau_of(ranked.consistency)
        result["kendall_macs"] = tau_of(ranked.baselines["MACs"])
    assert shrunk_domain(SPOS_OF_DIGITS.domain, read_shrinking(record, SPOS_OF_DIGITS.domain)) == smaller.domain
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to work in; given again, it goes on")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40, help="of the first training, and of both that go on from it")
    parser.add_argument("--archs", type=int, default=24, help="archs to rank")
    parser.add_argument("--alone-epochs", type=int, default=6)
    parser.add_argument("--alone-seeds", type=int, default=2)
    o = parser.parse_args()
    how = {"epochs": o.epochs, "archs": o.archs, "alone_epochs": o.alone_epochs, "alone_seeds": o.alone_seeds}
    try:
        rows = []
        for seed in range(o.seeds):
            (o.out / str(seed)).mkdir(parents=True, exist_ok=True)
            rows.append(row(seed, o.out / str(seed), **how))
            print(json.dumps(rows[-1]), flush=True)
    except InputError as error:
        parser.error(str(error))
    about = provenance(["python", "examples/spos_cifar/shrinking.py"]) | how | {"train_images_alone": TRAIN_IMAGES}
    (o.out / "shrinking.json").write_text(json.dumps({"rows": rows, "settings": about}, indent=1) + "\n")
