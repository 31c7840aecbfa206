"""Several score files as one: `nni-consistency ensemble`, `score` with several checkpoints, `rank --against`."""

import json
import subprocess
import sys
from math import log

import numpy as np
import pytest
import torch
from command import run
from helpers import tiny_supernet

from nni_nas_consistency import RESNET20_CODEC, save_supernet
from nni_nas_consistency.cli.main import main
from nni_nas_consistency.files.score_files import ScoreFile, read_scores, write_scores
from nni_nas_consistency.systems import CVPR2021

LARGEST, SMALLEST = CVPR2021.domain.largest, CVPR2021.domain.smallest
CODES = ["-".join(["16"] * 7 + ["32"] * 6 + [width] * 7) for width in ("4", "64", "32", "8")]
ARCHS = {f"arch{place}": RESNET20_CODEC.parse(code) for place, code in enumerate(CODES)}


def scores_at(path, numbers, archs=ARCHS):
    scores = dict(zip(archs, zip(archs.values(), numbers, strict=True), strict=True))
    write_scores(path, ScoreFile(scores, {"space": "resnet20", "made": path.name}))


def standardized(numbers):
    return (np.array(numbers) - np.mean(numbers)) / np.std(numbers)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scores_at(tmp_path / "a.json", [-1.0, -2.0, -4.0, -1.5])
    scores_at(tmp_path / "b.json", [0.30, 0.10, 0.20, 0.25])
    return tmp_path


def test_the_ensemble_is_the_mean_of_standardised_scores(folder):
    assert main(["ensemble", "a.json", "b.json", "--out", "mean.json"]) == 0
    found = read_scores("mean.json", RESNET20_CODEC)
    expected = (standardized([-1.0, -2.0, -4.0, -1.5]) + standardized([0.30, 0.10, 0.20, 0.25])) / 2
    assert [score for _, score in found.scores.values()] == pytest.approx(expected.tolist())
    assert {name: arch.choices for name, (arch, _) in found.scores.items()} == {
        name: arch.choices for name, arch in ARCHS.items()
    }
    assert found.provenance["ensemble"]["b.json"] == {"space": "resnet20", "made": "b.json"}
    submitted = json.loads((folder / "mean.submission.json").read_text())
    assert {entry["acc"] for entry in submitted.values()} >= {0.0, 1.0}


def test_a_capacity_prior_adds_the_standardised_mean_log_width_without_the_unread_one(folder):
    assert main(["ensemble", "a.json", "--capacity-prior", "0.2", "--out", "prior.json"]) == 0
    widths = [[int(width) for width in code.split("-")][:-1] for code in CODES]
    capacity = standardized([np.mean([log(width) for width in row]) for row in widths])
    expected = standardized([-1.0, -2.0, -4.0, -1.5]) + 0.2 * capacity
    found = read_scores("prior.json", RESNET20_CODEC)
    assert [score for _, score in found.scores.values()] == pytest.approx(expected.tolist())
    assert found.provenance["capacity_prior"] == 0.2


def test_an_ensemble_that_is_there_is_left_alone_and_another_is_replaced_only_when_asked(folder, capsys):
    words = ["ensemble", "a.json", "b.json", "--out", "mean.json"]
    assert main(words) == 0
    before = (folder / "mean.json").read_bytes()
    assert main(words) == 0
    assert (folder / "mean.json").read_bytes() == before
    assert main([*words, "--capacity-prior", "0.5"]) == 2
    assert "mean.json: is there already" in capsys.readouterr().err
    assert (folder / "mean.json").read_bytes() == before
    assert main([*words, "--capacity-prior", "0.5", "--overwrite"]) == 0
    assert (folder / "mean.json").read_bytes() != before


def test_scores_of_other_archs_are_refused(folder, capsys):
    scores_at(folder / "fewer.json", [1, 2, 3], dict(list(ARCHS.items())[:3]))
    assert main(["ensemble", "a.json", "fewer.json"]) == 2
    assert "fewer.json: has other archs than a.json, such as arch3" in capsys.readouterr().err
    scores_at(folder / "other.json", [1, 2, 3, 4], dict(zip(ARCHS, reversed(ARCHS.values()), strict=True)))
    assert main(["ensemble", "a.json", "other.json"]) == 2
    assert f"arch0 is '{CODES[0]}' in a.json but '{CODES[3]}' in other.json" in capsys.readouterr().err


def test_an_ensemble_and_a_difference_need_neither_torch_nor_nni(folder):
    code = (
        "import sys\n"
        "from nni_nas_consistency.cli.main import main\n"
        "assert main(['ensemble', 'a.json', 'b.json', '--out', 'mean.json']) == 0\n"
        "assert main(['rank', 'mean.json', 'b.json', '--against', 'a.json', '--resamples', '50']) == 0\n"
        "sys.exit(not {'torch', 'nni'}.isdisjoint(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "kendall against a.json: +" in done.stdout


def test_rank_tells_by_how_much_scores_rank_better_than_others(folder, capsys):
    reference = {
        name: {"acc": acc, "arch": arch.code} for (name, arch), acc in zip(ARCHS.items(), [4, 1, 2, 3], strict=True)
    }
    (folder / "reference.json").write_text(json.dumps(reference))
    words = ["rank", "b.json", "reference.json", "--against", "a.json", "--resamples", "50"]
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["scores"]["kendall"]["value"] == 1.0
    assert report["against"]["a.json"]["kendall"]["value"] == pytest.approx(1 - 2 / 3)
    assert main([*words, "--report", "report"]) == 0
    assert "kendall against a.json: +0.3333 [" in capsys.readouterr().out
    assert "<td>+0.3333 [" in (folder / "report" / "report.html").read_text()


def test_scoring_with_two_supernets_is_scoring_with_each_and_averaging(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_supernet(tmp_path / f"{seed}.safetensors", tiny_supernet(torch.float32), {"data": "digits"})
    run(*"archs sample --space digits --count 6 --out list.json".split())
    how = "--archs list.json --images 40 --batch-size 20 --device cpu"
    for seed in (0, 1):
        assert main(f"score --checkpoint {seed}.safetensors {how} --out {seed}.json".split()) == 0
    assert main("ensemble 0.json 1.json --out expected.json".split()) == 0
    capsys.readouterr()
    both = f"score --checkpoint 0.safetensors --checkpoint 1.safetensors {how} --out both.json".split()
    assert main(both) == 0
    assert capsys.readouterr().out.split() == ["both.json", "both.submission.json"]
    found, expected = (json.loads((tmp_path / name).read_text()) for name in ("both.json", "expected.json"))
    assert found["scores"] == expected["scores"]
    assert (tmp_path / "both.submission.json").read_bytes() == (tmp_path / "expected.submission.json").read_bytes()
    assert main(both) == 0  # all is there


def test_shards_of_two_supernets_are_averaged_by_the_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_supernet(tmp_path / f"{seed}.safetensors", tiny_supernet(torch.float32), {"data": "digits"})
    run(*"archs sample --space digits --count 6 --out list.json".split())
    both = "score --checkpoint 0.safetensors --checkpoint 1.safetensors --archs list.json --images 40 --device cpu"
    assert main(f"{both} --shard 1/2 --out both.json".split()) == 0
    assert not (tmp_path / "both.json").exists()
    assert main(f"{both} --shard 2/2 --out both.json".split()) == 0
    assert main(f"{both} --out whole.json".split()) == 0
    found, expected = (json.loads((tmp_path / name).read_text()) for name in ("both.json", "whole.json"))
    assert found["scores"] == expected["scores"]
