"""The examples, run to the end as a reader would run them, on small data."""

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import psutil
import requests
import torch
import yaml
from helpers import free_port, listening_addresses, random_archs, tiny_supernet, wait_for

from nni_nas_consistency.files.arch_lists import Entry, write_released
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.images.augmentation import DIGITS_TEST
from nni_nas_consistency.images.datasets import digits
from nni_nas_consistency.nni3.workarounds import localhost_only
from nni_nas_consistency.scoring.arch_list import Shard, blocks_of, score_list
from nni_nas_consistency.supernet.checkpoint import save_supernet
from nni_nas_consistency.training.lightning import image_scoring

ROOT = Path(__file__).resolve().parents[1]
RELEASED = ROOT / "examples" / "released"


def test_the_shipped_search_has_one_trial_a_shard():
    config = yaml.safe_load((RELEASED / "search.yml").read_text())
    shards = config["maxTrialNumber"]
    assert config["searchSpace"] == {"shard": {"_type": "choice", "_value": list(range(1, shards + 1))}}
    assert config["trialCommand"] == f"python examples/released/trial.py --shards {shards}"
    assert (RELEASED / config["trialCodeDirectory"]).resolve() == ROOT
    assert (config["tuner"], config["trialConcurrency"]) == ({"name": "GridSearch"}, 2)  # each shard once


def test_nnictl_scores_a_released_list_in_shards_that_merge_to_what_one_process_writes(tmp_path):
    supernet = tiny_supernet(torch.float32)
    save_supernet(tmp_path / "supernet.safetensors", supernet, {"seed": 0})
    archs = {f"arch{i}": arch for i, arch in enumerate(random_archs(supernet.form, 67), 1)}
    write_released(tmp_path / "list.json", {name: Entry(arch, 0) for name, arch in archs.items()})

    with nnictl_experiment(search_in(tmp_path, shards=3), tmp_path) as api:
        wait_for(lambda: get(api, "check-status")["status"] == "DONE", seconds=240)
        trials, metrics = get(api, "trial-jobs"), get(api, "metric-data")

    merged = read_scores(tmp_path / "out" / "scores.json", supernet.form)
    made_from = {"checkpoint": {"seed": 0}, "list": "list.json", "data": "digits", "images": 50}
    assert made_from.items() <= merged.provenance.items()
    scoring = image_scoring(digits(train=False).first(50), DIGITS_TEST)
    score_list(supernet, archs, scoring, out=tmp_path / "scores.json", provenance=made_from)
    for name in ("scores.json", "scores.submission.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / name).read_bytes()

    assert [trial["status"] for trial in trials] == ["SUCCEEDED"] * 3
    for shard, reported in results(trials, metrics).items():
        names = [name for block in Shard(shard, 3).of(blocks_of(archs)) for name in block]
        scores = [merged.scores[name][1] for name in names]
        assert reported["FINAL"] == [sum(scores) / len(scores)]
        every = -(-len(scores) // 20)
        assert reported["PERIODICAL"] == list(range(every, len(scores) + 1, every))  # at most 20 of them


def search_in(folder, shards):
    """Write the shipped search with other shards and the files of a folder; return its path."""
    config = yaml.safe_load((RELEASED / "search.yml").read_text())
    config["searchSpace"]["shard"]["_value"] = list(range(1, shards + 1))
    config["maxTrialNumber"] = shards
    config["trialCodeDirectory"] = str(ROOT)
    config["trialCommand"] = re.sub(r"--shards \d+", f"--shards {shards} --images 50", config["trialCommand"])
    for option, name in {"checkpoint": "supernet.safetensors", "archs": "list.json", "out": "out/scores.json"}.items():
        config["trialCommand"] += f" --{option} {folder / name}"
    path = folder / "search.yml"
    path.write_text(yaml.safe_dump(config))
    return path


@contextmanager
def nnictl_experiment(config, home):
    """Run nnictl with a configuration, give the address of its manager, and leave no process of it behind."""
    port = free_port()
    with localhost_only():
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"HOME": str(home), "PATH": programs, "OMP_NUM_THREADS": "1"}
    command = ["nnictl", "create", "--config", config, "--port", str(port)]
    try:
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=120)
        assert listening_addresses(port) == {"127.0.0.1"}
        yield f"http://127.0.0.1:{port}/api/v1/nni"
    finally:
        stop_experiments(home, environment)


def stop_experiments(home, environment):
    """Stop what nnictl has started from a home folder."""
    manifest = home / "nni-experiments" / ".experiment"
    started = json.loads(manifest.read_text()) if manifest.exists() else {}
    managers = [psutil.Process(each["pid"]) for each in started.values() if psutil.pid_exists(each["pid"])]
    processes = managers + [child for manager in managers for child in manager.children(recursive=True)]
    try:
        for name in started:
            subprocess.run(["nnictl", "stop", name], env=environment, stdout=subprocess.DEVNULL, timeout=90)
    finally:
        _, left = psutil.wait_procs(processes, timeout=20)
        for process in left:
            process.kill()
    assert not left, f"{left} outlived nnictl stop"


def get(api, what):
    answer = requests.get(f"{api}/{what}", timeout=20)
    answer.raise_for_status()
    return answer.json()


def results(trials, metrics):
    """Return by shard what was reported.

    By the id of the parameters, not of the trial: NNI may list two trials that begin at once with each other's.
    """
    parameters = [json.loads(trial["hyperParameters"][0]) for trial in trials]
    shards = {str(each["parameter_id"]): each["parameters"]["shard"] for each in parameters}
    reported = {shard: {"FINAL": [], "PERIODICAL": []} for shard in shards.values()}
    for metric in sorted(metrics, key=lambda metric: metric["sequence"]):
        reported[shards[metric["parameterId"]]][metric["type"]].append(json.loads(json.loads(metric["data"])))
    assert sorted(reported) == list(range(1, len(trials) + 1))
    return reported
