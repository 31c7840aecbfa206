"""One trial of search.yml: train the network with NNI's hyper-parameters; accuracies go to NNI after every epoch."""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import nni

from nni_nas_consistency import jobs
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.arch_lists import read_released
from nni_nas_consistency.systems import DATA_SETS
from nni_nas_consistency.systems import EFFICIENT_CIFAR as SYSTEM
from nni_nas_consistency.training.recipes import Loss

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=[data.name for data in DATA_SETS], default="cifar100")
    parser.add_argument("--data-root", type=Path, help="folder that holds the data set")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed", "16-mixed"], default="32-true")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results of all trials")
    o = parser.parse_args()
    data = next(data for data in DATA_SETS if data.name == o.data)
    h, out, begun = nni.get_next_parameter(), o.out / nni.get_trial_id(), time.monotonic()
    schedule = {"epochs": h["total_epoch"], "warmup_epochs": h["peak_epoch"]}
    plan = replace(SYSTEM.standalone, lr=h["peak_lr"], weight_decay=h["base_wd"], **schedule)
    cutout = replace(SYSTEM.augmentation(data), cutout=h["cutout"])
    how = {"loss": Loss(logits_scale=h["logits_weight"]), "augmentation": cutout, "precision": o.precision}
    try:
        arch = SYSTEM.codec.parse("-".join(str(h[name]) for name in ("prep", "layer1", "layer2", "layer3")))
        job = jobs.StandaloneJob(SYSTEM, data, arch, out, plan, data_root=o.data_root, **how)
        trained = jobs.train_standalone(job, report=lambda accuracies: nni.report_intermediate_result(accuracies[0]))
    except InputError as error:
        parser.error(str(error))
    result = {"accuracy": float(read_released(trained, SYSTEM.codec)["arch1"].acc), "seconds": time.monotonic() - begun}
    (out / "result.json").write_text(json.dumps({**result, "parameters": h}))
    nni.report_final_result(result["accuracy"])
