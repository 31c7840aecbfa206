"""The examples that search, run to the end by NNI's real manager on small data, and read back from its REST."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from command import run
from helpers import random_archs, tiny_supernet, wait_for
from nnictl_runs import get, nnictl_experiment

from nni_nas_consistency import image_scoring, save_supernet, score_archs
from nni_nas_consistency.archs.codecs import DIGITS_CODEC
from nni_nas_consistency.archs.domains import DIGITS
from nni_nas_consistency.archs.nni_space import nni_search_space
from nni_nas_consistency.files.arch_lists import Entry, write_released
from nni_nas_consistency.images.augmentation import DIGITS_TEST
from nni_nas_consistency.images.datasets import digits
from nni_nas_consistency.spaces.hub import domain_of
from nni_nas_consistency.systems import SYSTEMS
from spaces import EVERY_SPACE

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"

TUNERS = {
    "Evolution": {"name": "Evolution", "classArgs": {"optimize_mode": "maximize", "population_size": 2}},
    "TPE": {"name": "TPE", "classArgs": {"optimize_mode": "maximize"}},
    "Random": {"name": "Random"},
}


def example(name, folder, *, options, **changes):
    """Write the search of an example with changes and more options for its trial; return its path."""
    config = yaml.safe_load((EXAMPLES / name / "search.yml").read_text())
    config |= {"trialCodeDirectory": str(ROOT), **changes}
    for option, value in options.items():
        command = re.sub(rf"--{option} \S+", "", config["trialCommand"])
        config["trialCommand"] = f"{command} --{option} {value}"
    path = folder / "search.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def finished(config, folder):
    """Run a search to its end; return the samples, final results and numbers of intermediate ones, in order of trials.

    By the id of the parameters, not of the trial: NNI may list two trials that begin at once with each other's.
    """
    with nnictl_experiment(config, folder) as api:
        wait_for(lambda: get(api, "check-status")["status"] == "DONE", seconds=500)
        trials, metrics = get(api, "trial-jobs"), get(api, "metric-data")
    assert [trial["status"] for trial in trials] == ["SUCCEEDED"] * len(trials)
    samples = {}
    for trial in trials:
        given = json.loads(trial["hyperParameters"][0])
        samples[str(given["parameter_id"])] = given["parameters"]
    reported = {key: {"FINAL": [], "PERIODICAL": []} for key in samples}
    for metric in sorted(metrics, key=lambda metric: metric["sequence"]):
        reported[metric["parameterId"]][metric["type"]].append(json.loads(json.loads(metric["data"])))
    return [(samples[key], reported[key]["FINAL"], reported[key]["PERIODICAL"]) for key in sorted(samples)]


@pytest.mark.parametrize("name", ["supernet", "recipe", "released", "study"])
def test_the_trial_of_an_example_is_short(name):
    assert len((EXAMPLES / name / "trial.py").read_text().splitlines()) < 40


@pytest.mark.parametrize("name", ["supernet", "recipe", "released", "study", "ans"])
def test_every_search_runs_from_the_top_of_the_repository(name):
    config = yaml.safe_load((EXAMPLES / name / "search.yml").read_text())
    assert config["trialCommand"].startswith(f"python examples/{name}/trial.py ")
    assert (EXAMPLES / name / config["trialCodeDirectory"]).resolve() == ROOT
    page = (EXAMPLES / name / "README.md").read_text()
    assert f"\nnni-consistency nnictl create --config examples/{name}/search.yml\n" in page


# archs of a supernet


@pytest.mark.parametrize("tuner", TUNERS)
def test_nnis_tuners_search_a_trained_supernet_arch_by_arch(tmp_path, tuner):
    supernet = tiny_supernet(torch.float32)
    save_supernet(tmp_path / "supernet.safetensors", supernet, {"data": "digits"})
    config = example(
        "supernet",
        tmp_path,
        options={"checkpoint": tmp_path / "supernet.safetensors", "images": 50},
        searchSpaceFile=str(EXAMPLES / "supernet" / "search_space.json"),
        tuner=TUNERS[tuner],
        maxTrialNumber=2,
    )
    trials = finished(config, tmp_path)
    archs = [DIGITS_CODEC.arch(sample) for sample, _, _ in trials]
    assert len(set(archs)) == 2
    scoring = image_scoring(digits(train=False).first(50), DIGITS_TEST)
    expected = [score.loss for score in score_archs(supernet, archs, scoring)]
    for (_, final, _), arch, score in zip(trials, archs, expected, strict=True):
        assert final == [{"default": pytest.approx(score, rel=1e-5), "arch": arch.code}]


def test_the_space_of_the_example_is_as_the_command_writes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("spaces", "export", "--space", "digits", "--out", "space.json")
    assert Path("space.json").read_bytes() == (EXAMPLES / "supernet" / "search_space.json").read_bytes()
    assert run("spaces", "export", "--space", "digits").out == Path("space.json").read_text()
    run("spaces", "export", "--space", "digits", "--out", "space.json")
    assert "space.json: holds something else" in run("spaces", "export", "--out", "space.json", code=2).error
    run("spaces", "export", "--out", "space.json", "--overwrite")
    assert '"w1": {"_type": "choice", "_value": [4, 8, 12, 16]},\n' in Path("space.json").read_text()


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.space)
def test_samples_of_the_exported_space_are_the_archs_of_the_space_and_no_choice_is_drawn_in_vain(system):
    space = json.loads(json.dumps(nni_search_space(system.domain)))
    assert all(each["_type"] == "choice" for each in space.values())
    for arch in random_archs(system.domain, 5):
        sample = {label: arch.sample[label] for label in space}
        assert all(sample[label] in each["_value"] for label, each in space.items())
        read = system.codec.arch(sample)
        assert system.codec.canonical(read.code) == read.code
        for variable in system.domain.variables:
            if variable.name in space:
                assert read.choices[variable.name] == arch.choices[variable.name]


@pytest.mark.parametrize("case", EVERY_SPACE, ids=str)
def test_any_space_is_exported_with_the_choices_that_nni_has(case):
    space = case.make()
    exported = nni_search_space(domain_of(space))
    labels = {label for label, each in space.simplify().items() if hasattr(each, "values") or hasattr(each, "grid")}
    assert set(exported) <= labels
    codec = domain_of(space).codec
    first = {label: each["_value"][0] for label, each in json.loads(json.dumps(exported)).items()}
    assert space.check_contains(dict(space_sample(space, codec.arch(first)))) is None


def space_sample(space, arch):
    from nni_nas_consistency.search.costs import nni_sample

    return nni_sample(space, arch)


# settings of a recipe


def test_nnis_tpe_searches_the_settings_of_a_training(tmp_path):
    archs = random_archs(DIGITS, 3)
    write_released(tmp_path / "archs.json", {f"arch{i}": Entry(arch, 0) for i, arch in enumerate(archs, 1)})
    config = example(
        "recipe",
        tmp_path,
        options={"archs": tmp_path / "archs.json", "epochs": 2, "train-images": 64},
        searchSpace={
            "lr": {"_type": "loguniform", "_value": [0.001, 0.1]},
            "n": {"_type": "choice", "_value": [3]},
            "warmup_steps": {"_type": "choice", "_value": [0]},
            "distill_from": {"_type": "choice", "_value": ["never", 1]},
        },
        maxTrialNumber=2,
        trialConcurrency=1,
    )
    trials = finished(config, tmp_path)
    assert len(trials) == 2
    for sample, final, accuracies in trials:
        assert 0.001 <= sample["lr"] <= 0.1 and len(final) == 1 and len(accuracies) == 2
        assert all(0 <= accuracy <= 1 for accuracy in accuracies)
    (runs,) = {tuple(sorted(tmp_path.rglob("run/settings.json")))}
    trained = [json.loads(path.read_text()) for path in runs]
    assert sorted(each["lr"] for each in trained) == sorted(sample["lr"] for sample, _, _ in trials)
    for path, settings in zip(runs, trained, strict=True):
        scores = json.loads((path.parents[1] / "scores.json").read_text())["scores"].values()
        mean = sum(each["score"] for each in scores) / len(scores)
        assert [final for sample, final, _ in trials if sample["lr"] == settings["lr"]] == [[pytest.approx(mean)]]
