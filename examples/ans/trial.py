"""One trial of search.yml: fine-tune a supernet on a pool, then score a list.

NNI shows the accuracy of the largest arch after every epoch, then the mean accuracy of the list.
"""

import argparse
import re
from dataclasses import replace
from pathlib import Path

import nni

from nni_nas_consistency import jobs
from nni_nas_consistency.archs.pool import every, some
from nni_nas_consistency.cli.parse import system_and_data
from nni_nas_consistency.files.arch_lists import read_released, write_released
from nni_nas_consistency.nni3.trial import trial_reporter


def write_pool(path, entries, pool):
    """Write a pool such as `every 250` or `random 100` of a list."""
    kind, size = pool.split()
    write_released(path, every(entries, int(size)) if kind == "every" else some(entries, int(size), seed=0))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="ans-digits", help="ans on CIFAR-100")
    parser.add_argument("--phase", type=int, default=1, help="of the recipe: 1 without distillation, 2 with it")
    parser.add_argument("--epochs", type=int, help="by default those of the phase")
    for name in ("--weights", "--archs", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--data-root", type=Path, help="folder that holds the data set")
    parser.add_argument("--images", type=int, help="train and score on the first N images only")
    o = parser.parse_args()
    system, data = system_and_data(None, None, checkpoint=o.weights)
    pool = nni.get_next_parameter()["pool"]
    recipe = next(recipe for recipe in system.recipes if recipe.name == o.recipe)
    phase = recipe.phases[o.phase] if o.epochs is None else recipe.phases[o.phase].for_epochs(o.epochs)
    out = o.out / pool.replace(" ", "-")
    out.mkdir(parents=True, exist_ok=True)
    write_pool(out / "pool.json", read_released(o.archs, system.codec), pool)
    job = jobs.TrainJob(
        system, data, replace(recipe, phases=(phase,)), out, o.data_root, weights=o.weights, pool=out / "pool.json",
        train_images=o.images,
    )  # fmt: skip
    report = trial_reporter()
    checkpoint = jobs.train(job, write=lambda line: report(float(re.search(r"val_acc/largest ([\d.]+)", line)[1])))
    score = jobs.ScoreJob(
        system, data, checkpoint, o.archs, out / "scores.json", o.data_root, metric="acc", images=o.images
    )
    scores = jobs.score(score).scores.values()
    nni.report_final_result(sum(scores) / len(scores))
