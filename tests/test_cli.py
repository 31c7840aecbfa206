"""The command line, called in this process; what only a process can show runs in one of its own."""

import json
import shutil
import signal
import subprocess
import sys
from importlib.resources import files

import pytest
import torch
from command import SHORT_TRAINING, run
from helpers import keep_nni_in, tiny_space
from safetensors.torch import load_file

from nni_nas_consistency.archs.codecs import DIGITS_CODEC
from nni_nas_consistency.files.arch_lists import read_released
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.supernet.checkpoint import load_supernet, weights_sha256
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.systems import SYSTEMS

VERBS = ("quickstart", "train", "score", "rank", "standalone", "search", "extract", "archs", "spaces", "doctor")


@pytest.fixture(scope="module", autouse=True)
def nni_home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        keep_nni_in(tmp_path_factory.mktemp("home"), patch)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A list, a supernet trained for an epoch, its scores, and reference accuracies for the list."""
    folder = tmp_path_factory.mktemp("cli")
    run("archs", "sample", "--space", "digits", "--count", 5, "--out", folder / "list.json")
    run(*SHORT_TRAINING, "--out", folder / "run")
    run(*scoring(folder), "--out", folder / "scores.json")
    alone = ("--archs", folder / "list.json", "--seeds", 2, "--epochs", 1, "--out", folder / "alone")
    run("standalone", "--space", "digits", *alone)
    return folder


def scoring(folder):
    checkpoint = folder / "run" / "supernet.safetensors"
    return ("score", "--checkpoint", checkpoint, "--archs", folder / "list.json", "--images", 64)


def ranking(folder, reference=None):
    return ("rank", folder / "scores.json", reference or folder / "alone" / "reference.json", "--resamples", 20)


# archs and spaces


def test_check_counts_the_archs(folder):
    assert run("archs", "check", "--space", "digits", folder / "list.json").out == "5 archs, 5 valid, 5 distinct\n"


def test_sample_prints_what_it_wrote_and_replaces_other_lists_on_request_only(tmp_path):
    out = tmp_path / "list.json"
    words = ("archs", "sample", "--space", "digits", "--out", out, "--count")
    printed = f"{out}: 3 archs of space digits, drawn with seed 0\n"
    assert run(*words, 3).out == printed
    before = out.read_bytes()
    assert len(read_released(out, DIGITS_CODEC)) == 3
    assert run(*words, 3).out == printed
    for other in ((4,), (3, "--seed", 1)):
        assert "holds something else than this list; choose another --out" in run(*words, *other, code=2).error
        assert out.read_bytes() == before
    run(*words, 4, "--overwrite")
    assert len(read_released(out, DIGITS_CODEC)) == 4


def test_a_report_goes_into_a_folder_that_can_be_made(folder, tmp_path):
    (tmp_path / "file").touch()
    for report in (tmp_path / "file", tmp_path / "file" / "below"):
        done = run(*ranking(folder), "--report", report, code=2)
        assert str(report) in done.error and "is no folder; choose another one" in done.error and done.out == ""
    assert "cannot be made" in run(*ranking(folder), "--report", tmp_path / ("x" * 300), code=2).error


def test_the_list_of_spaces_names_each_with_its_largest_arch():
    shown = run("spaces").out
    for system in SYSTEMS:
        assert f"{system.space}: {system.about}" in shown
        largest = system.domain.largest  # operators have none
        assert largest is None or largest.code in shown


# train


def test_training_leaves_a_checkpoint_and_metrics_and_prints_the_path(folder, tmp_path):
    done = run(*SHORT_TRAINING, "--out", tmp_path)
    assert done.out == f"{tmp_path / 'supernet.safetensors'}\n" and "epoch 1/1" in done.err
    again = load_file(tmp_path / "supernet.safetensors")
    assert all(
        torch.equal(again[name], weight) for name, weight in load_file(folder / "run/supernet.safetensors").items()
    )
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
    assert "val_acc/smallest" in (tmp_path / "metrics" / "version_0" / "metrics.csv").read_text()


def test_settings_of_the_recipe_are_changed_by_name(tmp_path):
    run(*SHORT_TRAINING, "--set", "lr=0", "--set", "sampling=uniform", "--out", tmp_path)
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert (settings["lr"], settings["sampling"], settings["distill_from"]) == (0, "uniform", 1)
    error = run(*SHORT_TRAINING, "--set", "rule=multi-path", "--out", tmp_path / "no", code=2).error
    assert "add --set distill_from=never" in error
    assert not (tmp_path / "no").exists()


def test_a_trained_supernet_is_trained_on_from_its_weights(folder, tmp_path):
    weights = shutil.copy(folder / "run" / "supernet.safetensors", tmp_path / "before.safetensors")
    options = (*SHORT_TRAINING, "--seed", 1, "--weights", weights, "--out")
    run(*options, tmp_path / "still", "--set", "lr=0")
    run(*options, tmp_path / "on")
    supernet = make_supernet(tiny_space())
    before, still, on = (
        load_file(path / "supernet.safetensors") for path in (folder / "run", tmp_path / "still", tmp_path / "on")
    )
    for name, _ in supernet.named_parameters():
        assert torch.equal(before[name], still[name])
    assert not torch.equal(before["links.0.conv.conv.weight"], on["links.0.conv.conv.weight"])
    about = load_supernet(tmp_path / "on" / "supernet.safetensors", supernet)
    assert about["trained_on_from"] == load_supernet(weights, supernet) and about["weights"] == weights_sha256(supernet)

    run(*options, tmp_path / "on", "--resume")
    again = load_file(tmp_path / "on" / "supernet.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in on.items())
    shutil.copy(tmp_path / "still" / "supernet.safetensors", weights)
    error = run(*options, tmp_path / "on", "--resume", code=2).error
    assert "holds a run with weights " in error and "choose another --out" in error
    own = tmp_path / "on" / "supernet.safetensors"
    error = run(*SHORT_TRAINING, "--weights", own, "--out", tmp_path / "on", code=2).error
    assert "is what this run would write; give another --out" in error


def test_a_training_that_diverges_is_one_line_and_exit_1(tmp_path):
    wild = ("--set", "lr=1e30", "--set", "warmup_steps=0", "--set", "grad_clip=none")
    assert "the loss of arch" in run(*SHORT_TRAINING, *wild, "--out", tmp_path, code=1).error
    assert not (tmp_path / "supernet.safetensors").exists()


# score and search


def test_scores_and_submission_have_the_archs_of_the_list_and_both_metrics_are_written(folder):
    listed = read_released(folder / "list.json", DIGITS_CODEC)
    scores = read_scores(folder / "scores.json", DIGITS_CODEC)
    accuracies = read_scores(folder / "scores.acc.json", DIGITS_CODEC)
    submitted = read_released(folder / "scores.submission.json", DIGITS_CODEC)
    assert list(scores.scores) == list(submitted) == list(accuracies.scores) == list(listed)
    assert {entry.acc for entry in submitted.values()} >= {0.0, 1.0}
    assert (scores.provenance["metric"], accuracies.provenance["metric"]) == ("loss", "acc")
    assert scores.provenance["images"] == 64


def test_shards_scored_one_after_the_other_merge_into_the_same_files(folder, tmp_path):
    for shard in ("2/2", "1/2"):
        assert not (tmp_path / "scores.json").exists()
        run(*scoring(folder), "--out", tmp_path / "scores.json", "--shard", shard)
    for name in ("scores.json", "scores.submission.json", "scores.acc.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_mirrored_images_and_other_orders_reach_the_scorer(folder, tmp_path):
    scored = set()
    for views in ((), ("--flip",), ("--orders", 2), ("--orders", 2, "--flip")):
        out = tmp_path / f"scores{len(scored)}.json"
        run(*scoring(folder), "--batch-size", 32, "--limit", 2, *views, "--out", out)
        scored.add(read_scores(out, DIGITS_CODEC).provenance["scored_images"])
    assert len(scored) == 4


def test_search_writes_all_scored_archs_and_prints_the_best(folder, tmp_path):
    options = ("--checkpoint", folder / "run/supernet.safetensors", "--trials", 4, "--population", 2, "--images", 64)
    done = run("search", *options, "--out", tmp_path / "searched.json")
    scores = read_scores(tmp_path / "searched.json", DIGITS_CODEC).scores
    best, _ = max(scores.values(), key=lambda scored: scored[1])
    assert len(scores) == 4 and done.out.splitlines() == [str(tmp_path / "searched.json"), f"best: {best.code}"]


# rank and standalone


def test_rank_prints_the_three_correlations_with_baselines_and_writes_a_report(folder, tmp_path):
    words = ranking(folder)
    done = run(*words, "--report", tmp_path / "report")
    for word in ("kendall", "pearson", "spearman", "params", "MACs"):
        assert word in done.out
    settings = json.loads((tmp_path / "report" / "report.json").read_text())["settings"]
    assert settings == read_scores(folder / "scores.json", DIGITS_CODEC).provenance
    page = (tmp_path / "report" / "report.html").read_text()
    assert settings["scored_images"] in page and settings["weights"] in page and "batch_size" in page
    shown = json.loads(run(*words, "--json").out)
    assert shown["scores"]["n"] == 5 and set(shown) == {"scores", "params", "MACs"}
    assert f"{shown['scores']['kendall']['value']:.4f}" in done.out


def test_rank_names_archs_that_only_one_side_has_unless_common(folder, tmp_path):
    entries = json.loads((folder / "alone" / "reference.json").read_text())
    entries["arch77"] = entries.pop("arch5")
    (tmp_path / "other.json").write_text(json.dumps(entries))
    words = ranking(folder, tmp_path / "other.json")
    error = run(*words, code=2).error
    assert "arch77" in error and "arch5" in error and "--common" in error
    assert "4 archs" in run(*words, "--common").out


def constant(path, to, acc):
    """Write a list with this accuracy throughout."""
    entries = json.loads(path.read_text())
    to.write_text(json.dumps({name: {**entry, "acc": acc} for name, entry in entries.items()}))
    return to


def only_the_first(path, to):
    name, entry = next(iter(json.loads(path.read_text()).items()))
    to.write_text(json.dumps({name: entry}))
    return to


def test_rank_tells_a_correlation_that_does_not_exist_as_such(folder, tmp_path):
    reference = folder / "alone" / "reference.json"
    same = constant(reference, tmp_path / "same.json", 0.5)
    one = only_the_first(reference, tmp_path / "one.json")
    cases = [
        (("rank", same, reference), "all scores are equal", False),
        (("rank", reference, same), "all reference accuracies are equal", True),
        (("rank", one, one), "there is one arch", True),
        (("rank", folder / "scores.json", one, "--common"), "there is one arch", True),
    ]
    for words, why, no_baselines in cases:
        words = (*words, "--space", "digits", "--resamples", 20)
        done = run(*words, "--report", tmp_path / "report")
        assert done.out.count(f"undefined ({why})") == (9 if no_baselines else 3), done.out
        page = (tmp_path / "report" / "report.html").read_text()
        assert "undefined" in page and why in page
        found = json.loads(run(*words, "--json").out)
        assert (found["scores"]["kendall"], found["scores"]["undefined"]) == (None, why)
        assert (found["params"]["kendall"] is None) == no_baselines


def test_standalone_keeps_finished_seeds_and_says_how_well_they_agree(folder, tmp_path):
    alone = shutil.copytree(folder / "alone", tmp_path / "alone")
    about = json.loads((alone / "about.json").read_text())
    assert about["seeds"] == 2 and "split_half_kendall_tau" in about
    means = {name: entry.acc for name, entry in read_released(alone / "reference.json", DIGITS_CODEC).items()}
    assert means == pytest.approx({name: sum(row) / 2 for name, row in about["accuracies"].items()})

    seed = alone / "seeds" / "0.json"
    edited = json.loads(seed.read_text())
    edited["arch1"]["acc"] = 0.125
    seed.write_text(json.dumps(edited))
    options = ("--archs", folder / "list.json", "--seeds", 2, "--epochs", 1, "--out", alone)
    run("standalone", "--space", "digits", *options)
    assert json.loads((alone / "about.json").read_text())["accuracies"]["arch1"][0] == 0.125


# what follows from what, and what contradicts it


def test_space_and_data_follow_from_recipe_checkpoint_and_score_file(folder):
    settings = json.loads((folder / "run" / "settings.json").read_text())
    assert (settings["recipe"], settings["data"]) == ("digits", "digits")
    scored = read_scores(folder / "scores.json", DIGITS_CODEC).provenance
    assert (scored["space"], scored["data"], scored["checkpoint"]["data"]) == ("digits", "digits", "digits")
    assert "5 archs" in run(*ranking(folder)).out


# what only a process can show

WITHOUT_TORCH = """
import sys
from nni_nas_consistency.cli.main import main

verbs, reference = sys.argv[1].split(), sys.argv[2]
assert main(["--help"]) == 0
for verb in verbs:
    assert main([verb, "--help"]) == 0
assert main(["spaces"]) == 0
assert main(["archs", "check", "--space", "digits", reference]) == 0
assert main(["rank", reference, reference, "--space", "digits", "--resamples", "2"]) == 0
assert "matplotlib" not in sys.modules
assert main(["rank", reference, reference, "--space", "digits", "--resamples", "2", "--report", sys.argv[3]]) == 0
loaded = {"torch", "nni", "pytorch_lightning"} & set(sys.modules)
assert not loaded, loaded
"""


def test_help_and_rankings_load_neither_torch_nor_nni(tmp_path):
    reference = files("nni_nas_consistency") / "assets" / "digits" / "reference.json"
    command = [sys.executable, "-c", WITHOUT_TORCH, " ".join(VERBS), str(reference), str(tmp_path / "report")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in VERBS)
    assert not done.stderr


def test_ctrl_c_ends_a_training_with_exit_130_and_says_how_to_continue(tmp_path):
    words = ("train", "--recipe", "digits", "--epochs", 500, "--n", 3, "--train-images", 32, "--set", "warmup_steps=0")
    command = [sys.executable, "-m", "nni_nas_consistency", *map(str, words), "--out", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        lines = iter(process.stderr.readline, "")
        assert any(line.startswith("epoch 2/500") for line in lines)  # the first one is kept by now
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "give the same command again to go on" in shown and "Traceback" not in shown
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file() and not (tmp_path / "supernet.safetensors").exists()
