"""One trial of search.yml: score one shard of a released list. NNI shows archs scored, then the shard's mean score."""

import argparse
from contextlib import contextmanager
from pathlib import Path

import nni

from nni_nas_consistency import jobs
from nni_nas_consistency.cli.parse import system_and_data


@contextmanager
def reported(total, what):
    done = 0.0

    def advance(more):
        nonlocal done
        before, done = int(20 * done / total + 1e-6), done + more
        if what == "archs" and int(20 * done / total + 1e-6) > before:  # some 20 reports per trial
            nni.report_intermediate_result(round(done))

    yield advance


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, required=True, help="as many as search.yml has values and trials")
    for name in ("--checkpoint", "--archs", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--data-root", type=Path, help="folder that holds the data set")
    parser.add_argument("--images", type=int, help="score on the first N test images only")
    o = parser.parse_args()
    o.out.parent.mkdir(parents=True, exist_ok=True)
    system, data = system_and_data(None, None, checkpoint=o.checkpoint)
    shard = (nni.get_next_parameter()["shard"], o.shards)
    job = jobs.ScoreJob(system, data, o.checkpoint, o.archs, o.out, o.data_root, images=o.images, shard=shard)
    scores = jobs.score(job, progress=reported).scores.values()
    nni.report_final_result(sum(scores) / len(scores))
