"""One trial of search.yml: train a supernet by a changed recipe. NNI shows val_acc by epoch, then the mean score."""

import argparse
import os
import re
from pathlib import Path

import nni

from nni_nas_consistency import jobs
from nni_nas_consistency.cli.parse import recipe_of, system_and_data
from nni_nas_consistency.nni3.trial import trial_reporter

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", required=True, help="search space of the supernet")
    parser.add_argument("--archs", type=Path, required=True, help="list of archs, whose mean score is the result")
    parser.add_argument("--epochs", type=int, help="epochs; by default the recipe's")
    parser.add_argument("--data-root", type=Path, help="folder that holds the data set")
    parser.add_argument("--train-images", type=int, help="train on the first N images only")
    o = parser.parse_args()
    system, data = system_and_data(o.space, None)
    changes = [f"{name}={value}" for name, value in nni.get_next_parameter().items()]
    recipe = recipe_of(None, system, data, o.epochs, None, changes)
    run, report = Path(os.environ["NNI_OUTPUT_DIR"], "run"), trial_reporter()

    def write(line):  # one an epoch
        report(float(re.search(r"val_acc (\S+)", line)[1]))

    job = jobs.TrainJob(system, data, recipe, run, o.data_root, train_images=o.train_images)
    checkpoint = jobs.train(job, write=write)
    scoring = jobs.ScoreJob(system, data, checkpoint, o.archs, run.with_name("scores.json"), o.data_root)
    scores = jobs.score(scoring).scores.values()
    nni.report_final_result(sum(scores) / len(scores))
