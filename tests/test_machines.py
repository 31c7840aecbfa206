"""Configurations for other machines, as NNI's own classes validate them; and the arithmetic of docs/machines.md."""

import json
import statistics
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from nni.experiment.config import ExperimentConfig
from nni.experiment.config.utils import internal

ROOT = Path(__file__).resolve().parents[1]
RELEASED = ROOT / "examples" / "released"
RESULTS = ROOT / "benchmarks" / "results"


def changed(config, path, tmp_path):
    """Put files of this machine in the place of those that a configuration names."""
    key, mount = tmp_path / "key", tmp_path / "mount"
    key.touch()
    mount.mkdir(exist_ok=True)
    service = config["trainingService"]
    for machine in service.get("machineList", []):
        machine["sshKeyFile"] = str(key)
    if "localStorageMountPoint" in service:
        service["localStorageMountPoint"] = str(mount)
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize("name", ["search", "remote", "kubeflow", "openpai"])
def test_nnis_classes_accept_the_example_and_refuse_it_with_a_misspelt_field(name, tmp_path, monkeypatch):
    monkeypatch.chdir(RELEASED)
    config = yaml.safe_load((RELEASED / f"{name}.yml").read_text())
    path = changed(config, tmp_path / "search.yml", tmp_path)
    loaded = ExperimentConfig.load(path)
    if "trialCodeDirectory" in config:
        loaded.trial_code_directory = RELEASED / config["trialCodeDirectory"]
    loaded.validate()
    assert loaded.canonical_copy().training_service.platform == ("local" if name == "search" else name)
    assert len(config["searchSpace"]["shard"]["_value"]) == config["maxTrialNumber"]

    monkeypatch.setattr(internal, "_current_base_path", None)  # NNI leaves it set where it refuses a file
    config["trainingService"]["platfrom"] = config["trainingService"]["platform"]
    with pytest.raises((ValueError, AttributeError, TypeError, RuntimeError)):
        ExperimentConfig.load(changed(config, path, tmp_path)).validate()


@pytest.mark.parametrize("name", ["remote", "kubeflow", "openpai"])
def test_the_command_of_an_example_is_one_that_its_trial_takes(name):
    config = yaml.safe_load((RELEASED / f"{name}.yml").read_text())
    command = config.get("trialCommand") or config["trainingService"]["master"]["command"]
    words = command.split()
    assert words[:2] == ["python", "trial.py"]
    trial = (RELEASED / "trial.py").read_text()
    options = {word for word in words if word.startswith("--")}
    assert options == {"--shards", "--checkpoint", "--archs", "--data-root", "--out"}
    for option in options:
        assert f'"{option}"' in trial
    assert words[words.index("--shards") + 1] == str(config["maxTrialNumber"])


# docs/machines.md


def result(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


ARCHS, IMAGES, EPOCHS, STEPS = 50_000, 10_000, 300, 391


def hours_to_score():
    """Return the hours of one machine of two cores, for the whole list on all test images."""
    measured = result("scoring-cpu")
    seconds = statistics.median(measured["seconds"]["prefix"])
    of_one = seconds / int(measured["settings"]["limit"]) / int(measured["settings"]["images"])
    return of_one * ARCHS * IMAGES / 3600


def hours_to_train():
    measured = result("training-cifar100-cpu")
    assert (measured["settings"]["n"], measured["settings"]["images"]) == ("18", "128")
    return statistics.median(measured["seconds"]["fast"]) * STEPS * EPOCHS / 3600


def test_the_page_of_machines_and_hours_follows_from_the_committed_measurements():
    page = (ROOT / "docs" / "machines.md").read_text()
    score, train = hours_to_score(), hours_to_train()
    for machines in (1, 2, 5, 10, 20, 50):
        assert f"| {machines} | {score / machines:.1f} | {ARCHS // machines:,} |" in page
    assert f"{train:.0f} h" in page and f"{train / 24:.1f} days" in page
    assert -(-50_000 // 128) == STEPS and f"{STEPS * EPOCHS:,} steps" in page
    shipped = json.loads((files("nni_nas_consistency") / "assets" / "resnet20-cifar100.json").read_text())
    spread = shipped["scoring_seconds"] / 300
    assert f"{spread:.1f} s an arch" in page
    of_list = score * 3600 / ARCHS
    assert f"{of_list:.1f} s an arch" in page
    trained = shipped["training"]["seconds"] + shipped["training"]["trained_on_from"]["seconds"]
    assert f"{trained / 60:.0f} min" in page
