"""The examples of SPOS-CIFAR, run to the end as a reader would run them, on digits."""

import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from command import run
from helpers import keep_nni_in, wait_for
from test_examples import get, nnictl_experiment

from nni_nas_consistency.cli.main import command_tree
from nni_nas_consistency.files.arch_lists import read_released
from nni_nas_consistency.systems import EFFICIENT_CIFAR, SPOS_OF_DIGITS

ROOT = Path(__file__).resolve().parents[1]
TUNING = ROOT / "examples" / "efficient_cifar"
SPOS = ROOT / "examples" / "spos_cifar"

TINY = {"total_epoch": [2], "peak_epoch": [1], "cutout": [2, 3], "prep": [4, 8], "layer1": [8], "layer2": [4, 8]}
"""Choices in place of those of search.yml, for 8×8 digits; all but the number of epochs are drawn."""


def test_the_search_tunes_the_ten_published_hyper_parameters_by_tpe_with_a_short_trial():
    assert len((TUNING / "trial.py").read_text().splitlines()) < 40
    config = yaml.safe_load((TUNING / "search.yml").read_text())
    assert config["tuner"] == {"name": "TPE", "classArgs": {"optimize_mode": "maximize"}}
    space = {name: (each["_type"], each["_value"]) for name, each in config["searchSpace"].items()}
    assert space == {
        "peak_lr": ("loguniform", [4e-5, 4e-1]),
        "base_wd": ("loguniform", [5e-5, 5e-3]),
        "logits_weight": ("choice", [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]),
        "peak_epoch": ("choice", [5, 10, 15, 20]),
        "cutout": ("choice", [10, 8, 6, 4]),
        "total_epoch": ("choice", [24, 32, 40]),
        "prep": ("choice", [16, 32, 48, 64]),
        "layer1": ("choice", [64, 80, 96, 112, 128]),
        "layer2": ("choice", [128, 160, 192, 224, 256]),
        "layer3": ("choice", [256, 320, 384, 448, 512]),
    }


def test_nnictl_tunes_the_network_and_the_summary_has_every_trial(tmp_path):
    with nnictl_experiment(tuning_in(tmp_path), tmp_path) as api:
        wait_for(lambda: get(api, "check-status")["status"] in ("DONE", "ERROR"), seconds=240)
        trials, metrics = get(api, "trial-jobs"), get(api, "metric-data")
    assert [trial["status"] for trial in trials] == ["SUCCEEDED"] * 2
    results = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*/result.json")}
    assert sorted(results) == sorted(trial["trialJobId"] for trial in trials)
    for trial, result in results.items():
        reported = {"PERIODICAL": [], "FINAL": []}
        for metric in metrics:
            if metric["trialJobId"] == trial:
                reported[metric["type"]].append(float(json.loads(json.loads(metric["data"]))))
        assert reported["FINAL"] == [result["accuracy"]] and len(reported["PERIODICAL"]) == 1  # of two epochs
        about = json.loads((tmp_path / "out" / trial / "about.json").read_text())
        assert about["optimization"]["lr"] == result["parameters"]["peak_lr"]
        assert about["augmentation"]["cutout"] == result["parameters"]["cutout"]
        assert about["loss"]["logits_scale"] == result["parameters"]["logits_weight"]
    lines = example(TUNING / "summary.py", tmp_path / "out").splitlines()
    assert lines[0].split() == ["trial", "accuracy", "seconds", *next(iter(results.values()))["parameters"]]
    assert {line.split()[0] for line in lines[1:]} == set(results)


def commands_of(page):
    """Return the commands of a page, its variables filled in."""
    text = page.read_text()
    variables = dict(re.findall(r'^([A-Z]+)="(.*)"$', text, re.MULTILINE))
    lines = re.findall(r"^nni-consistency (?!nnictl).*", text, re.MULTILINE)
    return [re.sub(r"\$([A-Z]+)", lambda name: variables[name[1]], line) for line in lines]


COMMANDS = [line for folder in (TUNING, SPOS) for line in commands_of(folder / "README.md")]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_pages_has_words_that_the_command_line_takes(line):
    verb, *words = shlex.split(line)[1:]
    command = command_tree().commands[verb]
    read = command.make_context(verb, list(words))
    assert not read.args
    if "--arch" in words:
        EFFICIENT_CIFAR.make_space((10, 3, 32), standalone=True).codec.parse(read.params["arch"])


def test_of_equally_accurate_trials_the_shorter_comes_first(tmp_path):
    for name, accuracy, seconds in [("long", 0.9, 20.0), ("short", 0.9, 10.0), ("best", 0.91, 30.0)]:
        (tmp_path / name).mkdir()
        result = {"accuracy": accuracy, "seconds": seconds, "parameters": {"cutout": 8}}
        (tmp_path / name / "result.json").write_text(json.dumps(result))
    lines = example(TUNING / "summary.py", tmp_path).splitlines()
    assert [line.split()[0] for line in lines] == ["trial", "best", "short", "long"]
    assert "holds no finished trial" in example(TUNING / "summary.py", tmp_path / "best", code=2)


def tuning_in(folder):
    """Write the search of the example for two short trials on digits; return its path."""
    config = yaml.safe_load((TUNING / "search.yml").read_text())
    for name, choices in (TINY | {"layer3": [8]}).items():
        config["searchSpace"][name]["_value"] = choices
    config |= {"maxTrialNumber": 2, "trialConcurrency": 1, "trialCodeDirectory": str(ROOT)}
    command = re.sub(r"--data \S+ --data-root \S+", "--data digits", config["trialCommand"])
    config["trialCommand"] = re.sub(r"--out \S+", f"--out {folder / 'out'}", command)
    path = folder / "search.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def example(script, *words, code=0):
    """Run a script of an example and return what it prints."""
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.mark.timeout(120)
def test_the_whole_workflow_runs_on_digits(tmp_path, monkeypatch):
    keep_nni_in(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    *stages, last = stages_of_the_small_run()
    assert [stage.split()[1].rpartition("/")[2] for stage in (*stages, last)] == [
        "train", "shrink", "train", "search", "search", "beside.py", "standalone",
    ]  # fmt: skip
    for stage in stages:
        words = shlex.split(stage)
        if words[0] == "python":
            example(ROOT / words[1], *words[2:])
        else:
            run(*words[1:], *SHORT[words[1]].split())
    run(*shlex.split(last)[1:], *SHORT["standalone"].split())
    archs = read_released(Path("runs/spos/alone/reference.json"), SPOS_OF_DIGITS.codec)
    assert list(archs)[:3] == ["best", "largest", "random1"]
    record = json.loads(Path("runs/spos/shrunk.json").read_text())
    dropped = record["rounds"][0]["dropped"]
    for name in ("evolution", "random"):
        scored = json.loads(Path(f"runs/spos/{name}.json").read_text())["scores"].values()
        assert 4 < len(scored) <= 8  # more than the first population: evolution has mutated archs
        for entry in scored:
            choices = json.loads(entry["arch"])
            assert not any(choices[label] == choice for label, choice in dropped.items())
            arch = SPOS_OF_DIGITS.codec.parse(entry["arch"])
            assert SPOS_OF_DIGITS.cost(arch, (10, 1, 8)).macs <= 600_000


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_measurement_of_shrinking_writes_the_committed_form_and_goes_on(tmp_path, monkeypatch, capsys):
    keep_nni_in(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    words = "--seeds 1 --epochs 1 --archs 3 --alone-epochs 1 --alone-seeds 2".split()
    monkeypatch.setattr(sys, "argv", ["shrinking.py", "--out", "study", *words])
    script = str(SPOS / "shrinking.py")
    runpy.run_path(script, run_name="__main__")
    written = Path("study/shrinking.json").read_text()
    committed = json.loads((SPOS / "measured" / "shrinking.json").read_text())
    made = json.loads(written)
    assert list(made["settings"]) == list(committed["settings"])
    assert [list(row) for row in committed["rows"]] == [list(made["rows"][0])] * 3
    Path("study/shrinking.json").unlink()
    monkeypatch.setattr(torch.optim.SGD, "step", None)  # nothing is trained again
    runpy.run_path(script, run_name="__main__")
    assert Path("study/shrinking.json").read_text() == written
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["shrinking.py", "--out", "other", "--alone-seeds", "1"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(script, run_name="__main__")
    assert capsys.readouterr().err == "error: --alone-seeds 1: give at least 2\n"


def test_every_figure_of_shrinking_on_the_page_is_in_the_committed_file():
    page = (SPOS / "README.md").read_text()
    for row in json.loads((SPOS / "measured" / "shrinking.json").read_text())["rows"]:
        cells = [str(row["seed"])] + [f"{row[f'mean_accuracy_{name}']:.3f}" for name in ("left", "whole")]
        for name in ("shrunk", "not_shrunk"):
            low, high = row[f"kendall_{name}_interval"]
            cells.append(f"{row[f'kendall_{name}']:.2f} [{low:.2f}, {high:.2f}]")
        cells += [f"{row[name]:.2f}" for name in ("kendall_macs", "reference_split_half_kendall_tau")]
        assert f"| {' | '.join(cells)} |".replace("-", "−") in page


def test_every_figure_of_the_reduced_run_on_the_page_is_in_a_committed_file():
    page, folder = " ".join((SPOS / "README.md").read_text().split()), SPOS / "measured"
    found = {name: json.loads((folder / f"cifar100-{name}.json").read_text()) for name in ("evolution", "random")}
    for content in found.values():
        scores = [entry["score"] for entry in content["scores"].values()]
        assert f"{sum(scores) / len(scores):.1%}".replace("%", " %") in page
        assert f"{max(scores):.1%}".replace("%", " %") in page
    alone = json.loads((folder / "cifar100-alone.json").read_text())
    best = max(found["evolution"]["scores"].values(), key=lambda entry: entry["score"])
    assert alone["archs"]["best"]["arch"] == best["arch"]
    for name, accuracies in alone["accuracies"].items():
        cost = alone["archs"][name]
        counted = SPOS_OF_DIGITS.cost(SPOS_OF_DIGITS.codec.parse(cost["arch"]), (10, 3, 16))
        assert (cost["macs"], cost["params"]) == (counted.macs, counted.params)
        each = " / ".join(f"{accuracy:.1%}" for accuracy in accuracies)
        row = f"| {cost['macs'] / 1e6:.2f} M | {cost['params']:,} | {each} | {sum(accuracies) / 2:.2%} |"
        assert row.replace("%", " %") in page


def test_scores_that_do_not_say_their_images_are_refused_in_one_line(tmp_path):
    run("archs", "sample", "--space", "spos-digits", "--count", 5, "--out", tmp_path / "list.json")
    archs = {entry.arch for entry in read_released(tmp_path / "list.json", SPOS_OF_DIGITS.codec).values()}
    assert len(archs) == 5  # uniform: operators are no numbers that could be spread
    said = example(SPOS / "beside.py", tmp_path / "list.json", "--out", tmp_path / "out.json", code=2)
    assert said.count("\n") == 1 and said.startswith("error: ")


SHORT = {
    "train": "--train-images 64 --val-images 20 --epochs 1 --device cpu",
    "shrink": "--images 40 --archs-per-candidate 1 --device cpu",
    "search": "--images 40 --trials 8 --calibration-images 64 --device cpu",
    "standalone": "--epochs 1 --train-images 64 --device cpu",
}
"""What makes a stage of the README short."""


def stages_of_the_small_run():
    """Return the commands of the small run in the README of the example, one a stage."""
    text = (SPOS / "README.md").read_text()
    (block,) = re.findall(r"<!-- small run -->\n```bash\n(.*?)```", text, re.DOTALL)
    return [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]
