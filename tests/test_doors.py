"""The doors: what a verb cannot read or write is refused before work begins, and nothing that is there is lost."""

import shutil
from dataclasses import replace

import pytest
import torch
from command import run
from helpers import keep_nni_in, tiny_supernet

from nni_nas_consistency import image_scoring, save_supernet
from nni_nas_consistency.archs.codecs import DIGITS_CODEC
from nni_nas_consistency.errors import FileError
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.images.augmentation import DIGITS_TEST
from nni_nas_consistency.images.datasets import digits
from nni_nas_consistency.search.evolution import Evolution, best_of, search

ABOUT = {"space": "digits", "data": "digits"}


class Killed(BaseException):
    """Stands for the moment of a kill, where a process of its own would be slow."""


@pytest.fixture(scope="module", autouse=True)
def nni_home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        keep_nni_in(tmp_path_factory.mktemp("home"), patch)
        yield


@pytest.fixture
def folder(tmp_path):
    """A list and a supernet with random weights."""
    run("archs", "sample", "--space", "digits", "--count", 5, "--out", tmp_path / "list.json")
    save_supernet(tmp_path / "supernet.safetensors", tiny_supernet(torch.float32), ABOUT)
    return tmp_path


def scoring(folder, archs="list.json"):
    return ("score", "--checkpoint", folder / "supernet.safetensors", "--archs", folder / archs, "--images", 50)


def searching(folder):
    few = ("--images", 50, "--trials", 4, "--population", 2)
    return ("search", "--checkpoint", folder / "supernet.safetensors", *few)


VERBS = pytest.mark.parametrize("words", [scoring, searching], ids=["score", "search"])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# outputs


@pytest.mark.parametrize("name", ["supernet.safetensors", "list.json"])
@pytest.mark.parametrize("spelling", ["same", "symbolic link", "hard link"])
def test_no_score_file_is_written_over_an_input(folder, name, spelling):
    out = folder / (name if spelling == "same" else "alias.json")
    if spelling == "symbolic link":
        out.symlink_to(folder / name)
    elif spelling == "hard link":
        out.hardlink_to(folder / name)
    before = contents(folder)
    error = run(*scoring(folder), "--out", out, "--overwrite", code=2).error
    assert "is an input of this job, which would be overwritten; choose another --out" in error
    assert contents(folder) == before


@pytest.mark.parametrize("what", ["submission", "loss", "acc"])
def test_what_is_written_beside_a_score_file_is_no_input_either(folder, what):
    archs = shutil.copy(folder / "list.json", folder / f"out.{what}.json")
    before = contents(folder)
    error = run(*scoring(folder, f"out.{what}.json"), "--out", folder / "out.json", "--overwrite", code=2).error
    assert str(archs) in error and "is an input of this job" in error
    assert contents(folder) == before


@VERBS
def test_results_of_other_settings_are_replaced_on_request_only(folder, words):
    out = folder / "out.json"
    done = run(*words(folder), "--out", out)
    before = contents(folder)
    assert run(*words(folder), "--out", out).out == done.out and contents(folder) == before
    error = run(*words(folder), "--images", 60, "--out", out, code=2).error
    assert "choose another --out, or --overwrite it" in error and contents(folder) == before
    run(*words(folder), "--images", 60, "--out", out, "--overwrite")
    assert contents(folder)["out.json"] != before["out.json"] and contents(folder).keys() == before.keys()


@VERBS
def test_a_finished_job_deletes_the_rest_of_its_journal_but_no_foreign_file(folder, words):
    run(*words(folder), "--out", folder / "out.json")
    journal = folder / "out.journal"
    for content, stays in (("", False), ("foreign", True)):
        journal.write_text(content)
        run(*words(folder), "--out", folder / "out.json")
        assert journal.exists() == stays


# equal scores


def test_scores_that_are_all_equal_are_kept_and_the_missing_submission_is_told(folder):
    done = run(*scoring(folder), "--limit", 1, "--out", folder / "scores.json")
    assert done.out.splitlines() == [str(folder / "scores.json"), str(folder / "scores.acc.json")]
    assert "all scores are equal, so that no submission can be made of them\n" in done.err
    assert len(read_scores(folder / "scores.json", DIGITS_CODEC).scores) == 1
    assert "no submission" not in run(*scoring(folder), "--out", folder / "all.json").err


# search


def search_into(out, scored, progress=lambda archs: None):
    """Search for 12 archs; note every pass over the images."""
    scoring = image_scoring(digits(train=False).first(50), DIGITS_TEST, batch_size=50)

    def images():
        scored.append(1)
        return scoring.test()

    supernet = tiny_supernet(torch.float32)
    counted = replace(scoring, test=images)
    how = Evolution(population=4)
    return best_of(search(supernet, counted, how, out=out, trials=12, seed=0, provenance={}, progress=progress))


@pytest.mark.parametrize("kills", [(1,), (5,), (3, 8)])
def test_a_search_that_is_killed_and_begun_again_scores_no_arch_twice_and_ends_with_the_same_bytes(tmp_path, kills):
    whole, scored = tmp_path / "whole.json", []
    best = search_into(whole, scored)
    assert len(scored) == 1 + 12  # one pass is for the fingerprint of the images

    out, again = tmp_path / "out.json", []
    for kill in kills:
        seen = []

        def progress(archs, seen=seen, kill=kill):
            seen.append(archs)
            if len(seen) == kill:
                raise Killed

        with pytest.raises(Killed):
            search_into(out, again, progress)
        assert not out.exists()
    assert search_into(out, again) == best
    assert len(again) == len(kills) + 1 + 12
    assert out.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "out.journal").exists()


@pytest.mark.parametrize("line", ['[1, {"loss": [], "acc": []}]', '[1, {"acc": [0.5]}]', '[12, {"loss": [-1.0]}]'])
def test_a_search_does_not_go_on_with_scores_that_are_none_of_its_archs(tmp_path, line):
    def killed(archs):
        raise Killed

    with pytest.raises(Killed):
        search_into(tmp_path / "out.json", [], killed)
    with (tmp_path / "out.journal").open("a") as journal:
        journal.write(line + "\n")
    with pytest.raises(FileError, match="out.journal: the scores of segment .* delete its line, and the segment is sc"):
        search_into(tmp_path / "out.json", [])


# standalone


def test_accuracies_of_other_settings_are_replaced_on_request_only(folder):
    words = (
        "standalone",
        "--space",
        "digits",
        "--archs",
        folder / "list.json",
        "--limit",
        2,
        "--out",
        folder / "alone",
    )
    run(*words, "--epochs", 1)
    before = contents(folder / "alone"), contents(folder / "alone" / "seeds")
    error = run(*words, "--epochs", 2, code=2).error
    assert "holds a run with optimization " in error and "--overwrite it" in error
    assert "holds a run with archs " in run(*words, "--epochs", 1, "--limit", 3, code=2).error
    assert (contents(folder / "alone"), contents(folder / "alone" / "seeds")) == before
    seeds = shutil.copytree(folder / "alone" / "seeds", folder / "before")
    run(*words, "--epochs", 1, "--seeds", 2)
    assert contents(folder / "alone" / "seeds")["0.json"] == contents(seeds)["0.json"]
    run(*words, "--epochs", 2, "--overwrite")
    assert contents(folder / "alone" / "seeds").keys() == {"0.json"}
    assert contents(folder / "alone" / "seeds")["0.json"] != contents(seeds)["0.json"]
