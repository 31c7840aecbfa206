"""One trial of search.yml: score the arch that NNI's tuner has drawn, from a trained supernet."""

import argparse
import os
from pathlib import Path

import nni

from nni_nas_consistency import jobs
from nni_nas_consistency.cli.parse import system_and_data
from nni_nas_consistency.files.arch_lists import Entry, write_released

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data-root", type=Path, help="folder that holds the data set")
    parser.add_argument("--images", type=int, help="score on the first N test images only")
    o = parser.parse_args()
    system, data = system_and_data(None, None, checkpoint=o.checkpoint)
    arch = system.codec.arch(nni.get_next_parameter(), "the sample")
    archs, out = (Path(os.environ["NNI_OUTPUT_DIR"], name) for name in ("arch.json", "scores.json"))
    write_released(archs, {"arch": Entry(arch, 0)})
    job = jobs.ScoreJob(system, data, o.checkpoint, archs, out, o.data_root, images=o.images)
    nni.report_final_result({"default": jobs.score(job).scores["arch"], "arch": arch.code})
