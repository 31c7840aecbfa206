"""Ctrl-C and SIGTERM: what each verb says that it kept, how to go on, the exit code, and what binds whom afterwards."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from importlib.resources import files

import pytest
import torch
from command import FEW, SHORT_TRAINING, run
from helpers import keep_nni_in, tiny_supernet

from nni_nas_consistency import jobs, save_supernet
from nni_nas_consistency.cli.main import main
from nni_nas_consistency.errors import Terminated
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.systems import EMBEDDED_BENCHMARK

REFERENCE = str(files("nni_nas_consistency") / "assets" / "digits" / "reference.json")
CODEC = EMBEDDED_BENCHMARK.codec
ENDS = pytest.mark.parametrize(
    ("end", "code", "word"), [(KeyboardInterrupt, 130, "interrupted"), (Terminated, 143, "terminated")]
)


@pytest.fixture(scope="module", autouse=True)
def nni_home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        keep_nni_in(tmp_path_factory.mktemp("home"), patch)
        yield


@pytest.fixture
def folder(tmp_path):
    """A list, and a supernet with random weights."""
    run("archs", "sample", "--space", "digits", "--count", 20, "--out", tmp_path / "list.json")
    about = {"space": "digits", "data": "digits"}
    save_supernet(tmp_path / "supernet.safetensors", tiny_supernet(torch.float32), about)
    return tmp_path


# In a process of its own, on a terminal, where a bar shows when the work has begun.


def ended_on_a_terminal(words, pattern, number):
    """Run a command whose progress is on a terminal, signal it once the pattern appears; return code and what it said.

    The work would take minutes: a signal that is not heeded at once runs into the time limit.
    """
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "nni_nas_consistency", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    shown = ""
    try:
        while not re.search(pattern, shown):
            shown += os.read(ours, 4096).decode()
        process.send_signal(number)
        out, _ = process.communicate(timeout=20)
        shown += rest_of(ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert "Traceback" not in shown and out == ""
    return process.returncode, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)


def rest_of(terminal):
    shown = b""
    try:
        while chunk := os.read(terminal, 4096):
            shown += chunk
    except OSError:  # the terminal is gone with its last writer
        pass
    return shown.decode()


SIGNALS = pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)


@SIGNALS
def test_a_ranking_ends_at_once_and_says_that_nothing_was_written(tmp_path, number, code, word):
    words = ("rank", REFERENCE, REFERENCE, "--space", "digits", "--resamples", 100_000, "--report", tmp_path / "report")
    ended, shown = ended_on_a_terminal(words, "[1-9]/300000", number)
    assert ended == code
    assert f"{word}; nothing was written: give the same command again" in shown
    assert list(tmp_path.iterdir()) == []


def test_sampling_ends_at_once_and_says_that_nothing_was_written(tmp_path):
    words = ("archs", "sample", "--space", "resnet48", "--count", 100_000, "--out", tmp_path / "list.json")
    ended, shown = ended_on_a_terminal(words, "[1-9]/100000", signal.SIGINT)
    assert ended == 130
    assert "interrupted; nothing was written: give the same command again" in shown
    assert list(tmp_path.iterdir()) == []


def test_scoring_ends_at_once_and_says_what_is_kept(folder):
    out = folder / "scores.json"
    words = ("score", "--checkpoint", folder / "supernet.safetensors", "--archs", folder / "list.json", "--out", out)
    words = (*words, "--scorer", "plain", "--batch-size", 32)
    ended, shown = ended_on_a_terminal(words, "[4-9]/20", signal.SIGINT)  # a segment has three archs
    assert ended == 130
    kept = f"the archs that are scored are kept in {folder / 'scores.journal'}: give the same command again to go on"
    assert f"interrupted; {kept}" in shown
    assert not out.exists()


# In this process: what is said where nothing or something is kept.


def ending_in(monkeypatch, where, end, after=0):
    """Let a function raise an end of the process when it has been called so many times."""
    calls = []
    module, _, name = where.rpartition(".")
    original = getattr(sys.modules[module], name)

    def replaced(*args, **settings):
        calls.append(name)
        if len(calls) > after:
            raise end
        return original(*args, **settings)

    monkeypatch.setattr(where, replaced)


def standalone(folder, *more):
    words = ("standalone", "--space", "digits", "--epochs", 1, "--limit", 2, "--archs", folder / "list.json")
    return (*words, "--out", folder / "alone", *more)


@ENDS
def test_references_that_kept_no_seed_say_so_and_bind_nobody(folder, monkeypatch, end, code, word):
    from nni_nas_consistency.training import reference  # noqa: F401 - what is replaced has to be there

    with monkeypatch.context() as patch:
        ending_in(patch, "nni_nas_consistency.training.reference.train_alone", end)
        said = run(*standalone(folder), code=code).err
    assert f"{word}; no seed is finished, and nothing is kept: the same command begins anew\n" in said
    assert not (folder / "alone" / "seeds").exists()
    run(*standalone(folder, "--epochs", 2))
    assert (folder / "alone" / "reference.json").is_file()


def test_references_say_how_many_seeds_are_kept_and_go_on(folder, monkeypatch):
    with monkeypatch.context() as patch:
        ending_in(patch, "nni_nas_consistency.training.reference.train_alone", KeyboardInterrupt, after=2)
        said = run(*standalone(folder, "--seeds", 3), code=130).err
    assert f"interrupted; 2 finished seed(s) are kept in {folder / 'alone' / 'seeds'}: give the same command" in said
    kept = (folder / "alone" / "seeds" / "1.json").read_bytes()
    run(*standalone(folder, "--seeds", 3))
    assert (folder / "alone" / "seeds" / "1.json").read_bytes() == kept
    assert json.loads((folder / "alone" / "about.json").read_text())["seeds"] == 3


@ENDS
def test_a_training_that_kept_no_checkpoint_says_so_and_binds_nobody(tmp_path, monkeypatch, end, code, word):
    from nni_nas_consistency.training.lightning import EpochLines

    def stop(*_):
        raise end

    with monkeypatch.context() as patch:
        patch.setattr(EpochLines, "on_validation_end", stop)
        said = run(*SHORT_TRAINING, "--out", tmp_path, code=code)
    assert said.err.endswith(f"{word}; no checkpoint is kept yet: the same command begins anew\n") and said.out == ""
    assert not list(tmp_path.glob("**/*.ckpt")) and not (tmp_path / "nni").exists()
    run(*SHORT_TRAINING, "--seed", 1, "--out", tmp_path)
    assert json.loads((tmp_path / "settings.json").read_text())["seed"] == 1
    assert [path.name for path in (tmp_path / "metrics").iterdir()] == ["version_0"]


def test_a_training_says_which_checkpoint_is_kept(tmp_path, monkeypatch):
    def write(line):
        if line.startswith("epoch 2/"):
            raise KeyboardInterrupt
        shown.append(line)

    shown = []
    monkeypatch.setattr("nni_nas_consistency.cli.train.say", write)
    said = run("train", "--recipe", "digits", "--epochs", 3, *FEW, "--out", tmp_path, code=130).err
    assert said.endswith(
        f"interrupted; {tmp_path / 'checkpoints' / 'last.ckpt'} is kept: give the same command again to go on\n"
    )
    assert len(shown) == 1


def searching(folder, *more):
    words = ("search", "--checkpoint", folder / "supernet.safetensors", "--images", 50, "--trials", 3)
    return (*words, "--population", 2, "--out", folder / "searched.json", *more)


@ENDS
def test_a_search_says_whether_scores_are_kept(folder, monkeypatch, end, code, word):
    from nni_nas_consistency.search import evolution  # noqa: F401 - what is replaced has to be there

    for after, said in [
        (0, "no score is kept yet: the same command begins anew"),
        (
            1,
            f"the archs that are scored are kept in {folder / 'searched.journal'}: give the same command again",
        ),
    ]:
        with monkeypatch.context() as patch:
            ending_in(patch, "nni_nas_consistency.search.evolution.score_network", end, after)
            ended = run(*searching(folder), code=code)
        assert f"{word}; {said}" in ended.err and ended.out == ""
        assert not (folder / "searched.nni").exists()
    run(*searching(folder))
    assert len(read_scores(folder / "searched.json", CODEC).scores) == 3


def test_a_quickstart_says_which_part_of_it_is_kept(tmp_path, monkeypatch):
    words = ("quickstart", "--epochs", 1, "--out", tmp_path)
    for job, kept in [
        ("train", "no checkpoint is kept yet: the same command begins anew"),
        ("rank", f"{tmp_path / 'supernet.safetensors'} and the archs that are scored are kept: give the same command"),
    ]:
        with monkeypatch.context() as patch:
            if job == "rank":  # as if the parts before were done
                save_supernet(tmp_path / "supernet.safetensors", tiny_supernet(torch.float32), {})
                patch.setattr(jobs, "train", lambda *_, **__: tmp_path / "supernet.safetensors")
                patch.setattr(jobs, "score", lambda *_, **__: None)
            ending_in(patch, f"nni_nas_consistency.jobs.{job}", KeyboardInterrupt)
            assert f"interrupted; {kept}" in run(*words, code=130).err


def test_sigterm_has_its_former_effect_after_a_command_and_is_heeded_during_one(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    during = []
    monkeypatch.setattr("nni_nas_consistency.cli.rank.parse.system_of_scores", lambda *_: during.append(1))
    monkeypatch.setattr("nni_nas_consistency.cli.rank.jobs.rank", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    assert main(["rank", REFERENCE, REFERENCE]) == 143
    assert during and signal.getsignal(signal.SIGTERM) is before


# Permissions.


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_everything_that_is_written_has_the_permissions_of_the_umask(folder, umask):
    before = os.umask(umask)
    try:
        out = folder / "out"
        out.mkdir()
        shutil.copy(folder / "list.json", folder / "few.json")
        run(*SHORT_TRAINING, "--keep-epochs", "--out", out / "run")
        scoring = ("--checkpoint", out / "run" / "supernet.safetensors", "--images", 50, "--limit", 4)
        run("score", *scoring, "--archs", folder / "list.json", "--out", out / "scores.json")
        run("score", *scoring, "--archs", folder / "list.json", "--out", out / "half.json", "--shard", "1/2")
        run(*searching(folder), "--out", out / "searched.json")
        run(*standalone(folder), "--out", out / "alone")
        run("archs", "sample", "--space", "digits", "--count", 3, "--out", out / "sampled.json")
        run("rank", REFERENCE, REFERENCE, "--space", "digits", "--resamples", 2, "--report", out / "report")
    finally:
        os.umask(before)
    written = sorted(out.rglob("*"))
    assert {path.suffix for path in written} >= {
        ".json",
        ".safetensors",
        ".ckpt",
        ".journal",
        ".csv",
        ".html",
        ".png",
        "",
    }
    for path in [out, *written]:
        full = 0o777 if path.is_dir() else 0o666
        assert oct(path.stat().st_mode & 0o777) == oct(full & ~umask), path
