"""The command line as a user types it, in processes of their own."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from nni_nas_consistency.archs.arch import DIGITS
from nni_nas_consistency.files.arch_lists import read_released
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.supernet.checkpoint import load_supernet, weights_sha256
from nni_nas_consistency.supernet.modules import make_supernet


def run(*words, code=0, timeout=200):
    command = [sys.executable, "-m", "nni_nas_consistency", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def only_line(done):
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A list, a supernet trained for one epoch, its scores, and references for the list."""
    folder = tmp_path_factory.mktemp("cli")
    run("archs", "sample", "--space", "digits", "--count", 6, "--out", folder / "list.json")
    options = ["--recipe", "digits", "--data", "digits", "--epochs", 1, "--n", 3, "--train-images", 128]
    run("train", *options, "--val-images", 20, "--out", folder / "run")
    run("score", *score_options(folder), "--out", folder / "scores.json")
    options = ["--archs", folder / "list.json", "--seeds", 2, "--epochs", 1, "--out", folder / "alone"]
    run("standalone", *options)
    return folder


def score_options(folder):
    checkpoint = folder / "run" / "supernet.safetensors"
    options = ["--checkpoint", checkpoint, "--archs", folder / "list.json", "--space", "digits", "--data", "digits"]
    return [*options, "--images", 64]


def test_check_counts_the_archs(folder):
    done = run("archs", "check", "--space", "digits", folder / "list.json")
    assert done.stdout == "6 archs, 6 valid, 6 distinct\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ('{"arch1": {"acc": 0, "arch": "5-1"}}', "arch1 '5-1' has 2 layers; digits has 20"),
        ('{"arch1": {"acc": 0, "arch": "5' + "-1" * 19 + '"}}', "asks for width 5; digits allows 1, 2, 3, 4"),
    ],
)
def test_a_bad_list_is_one_clear_line_and_exit_2(tmp_path, text, told):
    (tmp_path / "bad.json").write_text(text)
    line = only_line(run("archs", "check", "--space", "digits", tmp_path / "bad.json", code=2))
    assert "bad.json" in line and told in line


def test_training_leaves_a_checkpoint_metrics_and_says_where(folder):
    assert (folder / "run" / "supernet.safetensors").is_file()
    assert (folder / "run" / "checkpoints" / "last.ckpt").is_file()
    assert "val_acc/smallest" in (folder / "run" / "metrics" / "version_0" / "metrics.csv").read_text()


def test_a_run_is_resumed_with_its_own_settings_only(folder):
    options = ["--recipe", "digits", "--data", "digits", "--n", 3, "--train-images", 128, "--out", folder / "run"]
    line = only_line(run("train", *options, "--epochs", 2, "--resume", code=2))
    assert "was started with epochs 1, not 2; resume with the same settings" in line


def test_settings_of_the_recipe_can_be_changed_word_by_word(tmp_path):
    options = ["--recipe", "digits", "--data", "digits", "--epochs", 1, "--n", 3, "--train-images", 64]
    options += ["--val-images", 20, "--set", "lr=0", "--set", "sampler=uniform"]
    run("train", *options, "--out", tmp_path)
    torch.manual_seed(0)
    untrained = dict(make_supernet(ResNet20Space(10, 1, 8, width_unit=1)).named_parameters())
    trained = load_file(tmp_path / "supernet.safetensors")
    assert untrained and all(torch.equal(trained[name], weight) for name, weight in untrained.items())
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert (settings["lr"], settings["sampler"], settings["distill_from"]) == (0, "uniform", 1)
    told = only_line(run("train", *options, "--set", "sandwich=false", "--out", tmp_path, code=2))
    assert "add --set distill=false" in told and json.loads((tmp_path / "settings.json").read_text()) == settings


def test_a_trained_supernet_is_trained_on_from_its_weights(folder, tmp_path):
    weights = tmp_path / "before.safetensors"
    shutil.copy(folder / "run" / "supernet.safetensors", weights)
    options = ["--recipe", "digits", "--data", "digits", "--epochs", 1, "--n", 3, "--train-images", 64]
    options += ["--val-images", 20, "--seed", 1, "--weights", weights, "--out"]
    run("train", *options, tmp_path / "still", "--set", "lr=0")
    run("train", *options, tmp_path / "on")
    supernet = make_supernet(ResNet20Space(10, 1, 8, width_unit=1))
    before, still, on = (
        load_file(path / "supernet.safetensors") for path in (folder / "run", tmp_path / "still", tmp_path / "on")
    )
    for name, _ in supernet.named_parameters():
        assert torch.equal(before[name], still[name])
    assert not torch.equal(before["stages.0.conv.weight"], on["stages.0.conv.weight"])
    about = load_supernet(tmp_path / "on" / "supernet.safetensors", supernet)
    assert about["trained_on_from"] == load_supernet(weights, supernet) and about["weights"] == weights_sha256(supernet)

    run("train", *options, tmp_path / "on", "--resume")
    again = load_file(tmp_path / "on" / "supernet.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in on.items())
    shutil.copy(tmp_path / "still" / "supernet.safetensors", weights)
    told = only_line(run("train", *options, tmp_path / "on", "--resume", code=2))
    assert "was started with weights " in told and "train into another folder" in told
    options[-2] = tmp_path / "on" / "supernet.safetensors"
    told = only_line(run("train", *options, tmp_path / "on", code=2))
    assert "is what this run would write; give another --out" in told


def test_mirrored_images_and_other_orders_reach_the_scorer(folder, tmp_path):
    scored = set()
    for views in ([], ["--flip"], ["--orders", 2], ["--orders", 2, "--flip"]):
        out = tmp_path / f"scores{len(scored)}.json"
        run("score", *score_options(folder), "--batch-size", 32, "--limit", 2, *views, "--out", out)
        scored.add(read_scores(out, DIGITS).provenance["scored_images"])
    assert len(scored) == 4


def test_scores_and_submission_have_the_lists_archs(folder):
    listed = read_released(folder / "list.json", DIGITS)
    scores = read_scores(folder / "scores.json", DIGITS)
    submitted = read_released(folder / "scores.submission.json", DIGITS)
    assert list(scores.scores) == list(submitted) == list(listed)
    assert {entry.acc for entry in submitted.values()} >= {0.0, 1.0}
    assert scores.provenance["metric"] == "loss" and scores.provenance["images"] == 64


def test_shards_scored_one_after_the_other_merge_into_the_same_files(folder, tmp_path):
    for shard in ("2/2", "1/2"):
        assert not (tmp_path / "scores.json").exists()
        run("score", *score_options(folder), "--out", tmp_path / "scores.json", "--shard", shard)
    for name in ("scores.json", "scores.submission.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_rank_prints_the_three_correlations_with_baselines_and_writes_a_report(folder, tmp_path):
    reference = folder / "alone" / "reference.json"
    done = run("rank", folder / "scores.json", reference, "--space", "digits", "--report", tmp_path / "report")
    for word in ("kendall", "pearson", "spearman", "params", "MACs"):
        assert word in done.stdout
    assert (tmp_path / "report" / "report.html").is_file()
    told = json.loads(run("rank", folder / "scores.json", reference, "--space", "digits", "--json").stdout)
    assert told["scores"]["n"] == 6 and set(told) == {"scores", "params", "MACs"}


def test_rank_names_archs_that_only_one_side_has_unless_common(folder, tmp_path):
    entries = json.loads((folder / "alone" / "reference.json").read_text())
    entries["arch77"] = entries.pop("arch6")
    (tmp_path / "other.json").write_text(json.dumps(entries))
    words = ["rank", folder / "scores.json", tmp_path / "other.json", "--space", "digits"]
    line = only_line(run(*words, code=2))
    assert "arch77" in line and "arch6" in line and "--common" in line
    assert "5 archs" in run(*words, "--common").stdout


def test_standalone_keeps_finished_seeds_and_tells_how_well_they_agree(folder):
    about = json.loads((folder / "alone" / "about.json").read_text())
    assert about["seeds"] == 2 and -1 <= about["split_half_kendall_tau"] <= 1
    assert {len(row) for row in about["accuracies"].values()} == {2}
    means = {name: entry.acc for name, entry in read_released(folder / "alone" / "reference.json", DIGITS).items()}
    assert means == pytest.approx({name: sum(row) / 2 for name, row in about["accuracies"].items()})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "--data", "cifar100"], "cifar100 needs --data-root"),
        (["train", "--data", "cifar100", "--data-root", "nowhere"], "--download"),
        (["train", "--data", "digits", "--recipe", "digits", "--out", "{tmp}", "--resume"], "no checkpoint to resume"),
        (["train", "--data", "digits"], "recipe nazarick is for images of 3 channels, these have 1"),
        (
            ["train", "--data", "digits", "--recipe", "digits", "--n", "1", "--out", "{tmp}"],
            "n is 1; it must be at least 2",
        ),
        (["train", "--data", "digits", "--recipe", "digits", "--train-images", "9", "--out", "{tmp}"], "make no batch"),
        (
            ["train", "--data", "digits", "--recipe", "digits", "--weights", "resnet20-cifar100", "--out", "{tmp}"],
            "resnet20-cifar100: holds a supernet of another space: ",
        ),
        (["train", "--data", "digits", "--device", "tpu"], "device 'tpu' is not here; allowed are auto, cpu"),
        (["score", "--shard", "3/2"], "shard 3/2 does not exist"),
        (["score", "--orders", "2", "--bn", "test"], "2 orders change nothing with statistics 'test'"),
        (
            ["score", "--orders", "2", "--batch-size", "64"],
            "2 orders change nothing with statistics 'batch' and 64 images",
        ),
        (["score", "--checkpoint", "none.safetensors"], "none.safetensors: cannot be read"),
    ],
)
def test_bad_words_are_one_clear_line_and_exit_2(folder, tmp_path, words, told):
    words = [word.format(tmp=tmp_path) for word in words]
    if words[0] == "score":
        words = ["score", *score_options(folder), "--out", tmp_path / "scores.json", *words[1:]]
    assert told in only_line(run(*words, code=2))
    assert not (tmp_path / "scores.json").exists()


def test_every_verb_has_help():
    told = run("--help").stdout
    for verb in ("quickstart", "train", "score", "rank", "standalone", "search", "archs", "spaces", "doctor"):
        assert verb in told
        assert "Usage" in run(verb, "--help").stdout


def test_doctor_finds_nothing_wrong_here():
    lines = run("doctor").stdout.splitlines()
    assert len(lines) > 10 and all(line.startswith("ok") for line in lines)
