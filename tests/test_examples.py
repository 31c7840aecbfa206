"""The examples, run to the end as a reader would run them, on small data."""

import json
import re
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from helpers import random_archs, tiny_supernet, wait_for
from nnictl_runs import get, nnictl_experiment, running

from nni_nas_consistency import jobs
from nni_nas_consistency.archs.codecs import DIGITS_CODEC
from nni_nas_consistency.files.arch_lists import Entry, write_released
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.scoring.arch_list import Shard, segments_of
from nni_nas_consistency.supernet.checkpoint import save_supernet
from nni_nas_consistency.systems import DIGITS_8, EMBEDDED_BENCHMARK

ROOT = Path(__file__).resolve().parents[1]
RELEASED = ROOT / "examples" / "released"


def test_the_trial_of_the_example_is_short_and_the_search_has_one_trial_per_shard():
    assert len((RELEASED / "trial.py").read_text().splitlines()) < 40
    config = yaml.safe_load((RELEASED / "search.yml").read_text())
    shards = config["maxTrialNumber"]
    assert config["searchSpace"] == {"shard": {"_type": "choice", "_value": list(range(1, shards + 1))}}
    assert config["trialCommand"].startswith(f"python examples/released/trial.py --shards {shards} ")
    assert (RELEASED / config["trialCodeDirectory"]).resolve() == ROOT
    assert (config["tuner"], config["trialConcurrency"]) == ({"name": "GridSearch"}, 2)  # each shard once


def test_nnictl_scores_a_released_list_in_shards_that_merge_to_what_one_process_writes(tmp_path):
    supernet = tiny_supernet(torch.float32)
    save_supernet(tmp_path / "supernet.safetensors", supernet, {"seed": 0})
    archs = {f"arch{i}": arch for i, arch in enumerate(random_archs(supernet.domain, 65), 1)}
    write_released(tmp_path / "list.json", {name: Entry(arch, 0) for name, arch in archs.items()})

    with nnictl_experiment(search_in(tmp_path, shards=2), tmp_path) as api:
        wait_for(lambda: get(api, "check-status")["status"] == "DONE", seconds=240)
        trials, metrics = get(api, "trial-jobs"), get(api, "metric-data")

    job = jobs.ScoreJob(
        EMBEDDED_BENCHMARK,
        DIGITS_8,
        tmp_path / "supernet.safetensors",
        tmp_path / "list.json",
        tmp_path / "scores.json",
        images=50,
    )
    for path in jobs.score(job).files:
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()

    assert [trial["status"] for trial in trials] == ["SUCCEEDED"] * 2
    merged = read_scores(tmp_path / "out" / "scores.json", DIGITS_CODEC)
    for shard, reported in results(trials, metrics).items():
        names = [name for segment in Shard(shard, 2).of(segments_of(archs)) for name in segment]
        scores = [merged.scores[name][1] for name in names]
        assert reported["FINAL"] == [sum(scores) / len(scores)]
        done = reported["PERIODICAL"]
        assert 2 <= len(done) <= 20 and done == sorted(set(done)) and done[-1] == len(scores)


@pytest.mark.slow
def test_after_kill_9_of_the_manager_nnictl_resume_loses_no_shard_and_counts_none_twice(tmp_path):
    supernet = tiny_supernet(torch.float32)
    save_supernet(tmp_path / "supernet.safetensors", supernet, {"seed": 0})
    archs = {f"arch{i}": arch for i, arch in enumerate(random_archs(supernet.domain, 97), 1)}
    write_released(tmp_path / "list.json", {name: Entry(arch, 0) for name, arch in archs.items()})
    config = search_in(tmp_path, shards=3, at_once=1)

    with nnictl_experiment(config, tmp_path) as api:
        wait_for(lambda: [trial["status"] for trial in get(api, "trial-jobs")] == ["SUCCEEDED", "RUNNING"], seconds=240)
        id = get(api, "experiment")["id"]
        kill_manager(tmp_path, id)
    with running(["resume", id], tmp_path) as api:
        wait_for(lambda: get(api, "check-status")["status"] == "DONE", seconds=240)
        trials = get(api, "trial-jobs")

    shards = [json.loads(trial["hyperParameters"][0])["parameters"]["shard"] for trial in trials]
    assert sorted(shards) == [1, 2, 3]
    assert [trial["status"] for trial in trials] == ["SUCCEEDED"] * 3
    assert list(read_scores(tmp_path / "out" / "scores.json", DIGITS_CODEC).scores) == list(archs)


def kill_manager(home, id):
    """Kill NNI's manager and what it runs, all at once; as a machine that loses its power does."""
    started = json.loads((home / "nni-experiments" / ".experiment").read_text())
    manager = psutil.Process(started[id]["pid"])
    doomed = [manager, *manager.children(recursive=True)]
    for process in doomed:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(doomed, timeout=20)


def search_in(folder, shards, at_once=2):
    """Write the search of the example with other shards and the files of a folder; return its path."""
    config = yaml.safe_load((RELEASED / "search.yml").read_text())
    config["searchSpace"]["shard"]["_value"] = list(range(1, shards + 1))
    config |= {"maxTrialNumber": shards, "trialConcurrency": at_once}
    config["trialCodeDirectory"] = str(ROOT)
    config["trialCommand"] = re.sub(r"--shards \d+", f"--shards {shards} --images 50", config["trialCommand"])
    for option, name in {"checkpoint": "supernet.safetensors", "archs": "list.json", "out": "out/scores.json"}.items():
        config["trialCommand"] = re.sub(rf"--{option} \S+", f"--{option} {folder / name}", config["trialCommand"])
    path = folder / "search.yml"
    path.write_text(yaml.safe_dump(config))
    return path


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
