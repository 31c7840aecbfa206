"""Progress of long work: lines where nobody watches, a bar on a terminal; items done, rate and time left on both."""

import json
import os
import pty
import re
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from command import run
from helpers import keep_nni_in, tiny_supernet

from nni_nas_consistency import jobs, save_supernet
from nni_nas_consistency.cli.console import progress
from nni_nas_consistency.systems import EMBEDDED_BENCHMARK
from nni_nas_consistency.training.lightning import EpochLines
from nni_nas_consistency.training.recipes import EMBEDDED


def test_without_a_terminal_lines_show_what_is_done_the_rate_and_the_time_left(monkeypatch, capsys):
    clock = iter([0.0, 5.0, 10.0, 15.0, 25.0, 30.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress(10, "archs") as advance:
        for done in (0.5, 2.0, 1.0, 1.5, 5.0):
            advance(done)
    assert capsys.readouterr().err.splitlines() == [
        "2/10 archs, 0.25/s, 0:00:30 left",
        "5/10 archs, 0.2/s, 0:00:25 left",
        "10/10 archs, 0.333/s, 0:00:00 left",
    ]


def test_work_of_less_than_two_seconds_shows_nothing(monkeypatch, capsys):
    clock = iter([0.0, 1.0, 1.9])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress(2, "archs") as advance:
        advance(1)
        advance(1)
    assert capsys.readouterr().err == ""


def test_parts_that_add_up_but_for_rounding_are_whole(monkeypatch, capsys):
    clock = iter(map(float, range(11)))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress(1, "archs") as advance:
        for _ in range(10):
            advance(0.1)
    assert capsys.readouterr().err.startswith("1/1 archs, ")


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
def test_a_terminal_shows_a_bar_with_what_is_done_the_rate_and_the_time_left(monkeypatch):
    ours, theirs = pty.openpty()
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    with open(theirs, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        with progress(8, "archs") as advance:
            for _ in range(16):
                advance(0.5)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # the terminal is gone with its last writer
        os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert re.search(r"archs ━+.* 8/8, [\d.e+]+/s 0:00:0\d 0:00:00", text), text


# What the verbs show.

REFERENCE = str(files("nni_nas_consistency") / "assets" / "digits" / "reference.json")


def shown_by(monkeypatch, *words):
    """Return the last progress line of each kind of work, without its rate and time."""
    monkeypatch.setattr("nni_nas_consistency.cli.console.SECONDS_WORTH_A_LINE", 0.0)
    lines = run(*words).err.splitlines()
    return [
        match[1]
        for match in (re.match(r"(\d+/\d+ [a-z ]+), \S+/s, \d:\d\d:\d\d left$", line) for line in lines)
        if match
    ]


def test_checking_sampling_ranking_and_scoring_count_what_they_do(monkeypatch, tmp_path):
    assert shown_by(monkeypatch, "archs", "check", "--space", "digits", REFERENCE) == ["64/64 archs"]
    sampled = ("archs", "sample", "--space", "digits", "--count", 5, "--out", tmp_path / "list.json")
    assert shown_by(monkeypatch, *sampled) == ["5/5 archs"]
    ranking = ("rank", REFERENCE, REFERENCE, "--space", "digits", "--resamples", 7)
    assert shown_by(monkeypatch, *ranking) == ["21/21 resamples"]
    same = {name: {**entry, "acc": 0.5} for name, entry in json.loads(Path(REFERENCE).read_text()).items()}
    (tmp_path / "same.json").write_text(json.dumps(same))
    assert shown_by(monkeypatch, *ranking[:2], tmp_path / "same.json", *ranking[3:]) == ["21/21 resamples"]

    about = {"space": "digits", "data": "digits"}
    save_supernet(tmp_path / "supernet.safetensors", tiny_supernet(torch.float32), about)
    scoring = ("score", "--checkpoint", tmp_path / "supernet.safetensors", "--archs", tmp_path / "list.json")
    scoring = (*scoring, "--images", 50, "--batch-size", 20, "--out", tmp_path / "scores.json")
    views = ("--orders", 2, "--flip")
    assert shown_by(monkeypatch, *scoring, *views) == ["12/12 batches normalised", "12/12 batches hashed", "5/5 archs"]


def test_epoch_lines_tell_the_time_that_is_left_at_the_pace_since_the_run_began_or_went_on(monkeypatch):
    lines = []
    callback = EpochLines(lines.append)
    for epoch, now in ((2, 100.0), (3, 4000.0)):
        trainer = SimpleNamespace(
            is_global_zero=True, current_epoch=epoch, max_epochs=6, callback_metrics={"train_loss": 0.5}
        )
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        if epoch == 2:
            callback.on_train_start(trainer, None)
            monkeypatch.setattr(time, "monotonic", lambda: 1600.0)
        callback.on_validation_end(trainer, None)
    assert lines == ["epoch 3/6  train_loss 0.5000  1:15:00 left", "epoch 4/6  train_loss 0.5000  1:05:00 left"]


def test_a_training_counts_the_steps_that_are_left(tmp_path, monkeypatch):
    keep_nni_in(tmp_path, monkeypatch)
    counted = []

    @contextmanager
    def show(total, what):
        counted.append([what, total, 0])

        def advance(done):
            counted[-1][2] += done

        yield advance
        counted[-1].append("closed")

    class Killed(BaseException):
        """Stands for a kill."""

    def kill_in_epoch_2(line):
        if line.startswith("epoch 2/"):
            raise Killed

    phase = replace(EMBEDDED.phases[0], n=2)
    phase = replace(phase, optimization=replace(phase.optimization, epochs=3, warmup_steps=0))
    recipe = replace(EMBEDDED, phases=(phase,))
    job = jobs.TrainJob(
        EMBEDDED_BENCHMARK,
        EMBEDDED_BENCHMARK.data,
        recipe,
        tmp_path / "run",
        train_images=64,
        val_images=20,
        device="cpu",
    )
    with pytest.raises(Killed):
        jobs.train(job, progress=show, write=kill_in_epoch_2)
    jobs.train(job, progress=show, write=lambda line: None)
    assert counted == [["steps", 6, 4, "closed"], ["steps", 4, 4, "closed"]]
