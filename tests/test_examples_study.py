"""The example of a study, run by NNI's manager as a reader would, on small data: both ways give one table."""

import json
import re

import yaml
from command import run
from test_examples import ROOT, get, nnictl_experiment, wait_for

from nni_nas_consistency.cli.parse_study import study_job

EXAMPLE = ROOT / "examples" / "study"
SMALL = ("--epochs", "1", "--train-images", "192", "--limit", "5", "--images", "30")


def test_the_search_of_the_example_is_a_grid_of_the_settings_and_seeds_of_its_study():
    assert len((EXAMPLE / "trial.py").read_text().splitlines()) < 40
    config = yaml.safe_load((EXAMPLE / "search.yml").read_text())
    grid = {name: variable["_value"] for name, variable in config["searchSpace"].items()}
    study, out = re.search(r"--study (\S+) --out (\S+)$", config["trialCommand"]).groups()
    job = study_job(study, None)
    assert grid == {"setting": list(job.study.settings), "seed": list(range(job.seeds))} and str(job.out) == out
    assert config["maxTrialNumber"] == len(grid["setting"]) * len(grid["seed"])
    assert config["tuner"] == {"name": "GridSearch"}
    assert (EXAMPLE / config["trialCodeDirectory"]).resolve() == ROOT


def test_the_settings_in_the_readme_are_a_study(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.DOTALL)
    (tmp_path / "batch.yml").write_text(text)
    study = study_job(str(tmp_path / "batch.yml"), None).study
    batches = {
        name: each.trainings[-1].recipe.phases[0].optimization.batch_size for name, each in study.settings.items()
    }
    assert batches == {"64": 64, "32": 32, "then larger": 128}


def test_trials_of_nni_and_the_command_give_the_same_table(tmp_path):
    with nnictl_experiment(search_in(tmp_path), tmp_path) as api:
        wait_for(lambda: get(api, "check-status")["status"] == "DONE", seconds=300)
        trials, metrics = get(api, "trial-jobs"), get(api, "metric-data")
    assert [trial["status"] for trial in trials] == ["SUCCEEDED"] * 2

    words = ("study", "sampling", *SMALL, "--seeds", 1)
    by_trials = run(*words, "--out", tmp_path / "out", "--show", "--json").out
    alone = run(*words, "--out", tmp_path / "alone", "--json").out
    rows = {row["setting"]: row for row in json.loads(alone)["rows"]}
    for row in json.loads(by_trials)["rows"]:
        if row["runs"]:
            assert {**row["runs"][0], "seconds": 0} == {**rows[row["setting"]]["runs"][0], "seconds": 0}
            assert row["kendall"] == rows[row["setting"]]["kendall"]
    reported = sorted(json.loads(json.loads(each["data"])) for each in metrics if each["type"] == "FINAL")
    assert reported == sorted(rows[name]["runs"][0]["kendall"] for name in ("fair", "uniform"))


def search_in(folder):
    """Write the search of the example with two settings, one seed and few images; return its path."""
    config = yaml.safe_load((EXAMPLE / "search.yml").read_text())
    config["searchSpace"]["setting"]["_value"] = ["fair", "uniform"]
    config["searchSpace"]["seed"]["_value"] = [0]
    config["maxTrialNumber"] = 2
    config["trialCodeDirectory"] = str(ROOT)
    config["trialCommand"] = re.sub(r"--out \S+", f"--out {folder / 'out'} {' '.join(SMALL)}", config["trialCommand"])
    path = folder / "search.yml"
    path.write_text(yaml.safe_dump(config))
    return path
