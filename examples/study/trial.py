"""One trial of search.yml: train, score and rank one setting of a study with one seed. NNI shows its Kendall tau."""

import argparse
from pathlib import Path

import nni

from nni_nas_consistency import jobs
from nni_nas_consistency.cli.parse_study import study_job

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", required=True, help="a published study, or a file of settings")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study, the same for all trials")
    for name in ("--data-root", "--reference"):
        parser.add_argument(name, type=Path, help="as for nni-consistency study")
    for name in ("--epochs", "--limit", "--images", "--train-images"):
        parser.add_argument(name, type=int, help="as for nni-consistency study")
    o = parser.parse_args()
    job = study_job(
        o.study,
        o.out,
        data_root=o.data_root,
        reference=o.reference,
        epochs=o.epochs,
        limit=o.limit,
        images=o.images,
        train_images=o.train_images,
    )
    parameters = nni.get_next_parameter()
    result = jobs.study_run(job, parameters["setting"], parameters["seed"])
    nni.report_final_result(-1.0 if result.failed else result.values["kendall"])
