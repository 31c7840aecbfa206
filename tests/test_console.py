"""Progress of long work: lines where nobody watches, a bar on a terminal; items done, rate and time left on both."""

import os
import pty
import re
import sys
import time

import pytest

from nni_nas_consistency.cli.console import progress


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
