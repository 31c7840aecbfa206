"""What long work shows: lines where nobody watches, a bar on a terminal; done, rate and time left on both."""

import os
import pty
import re
import subprocess
import sys

import pytest

from nni_nas_consistency import console
from nni_nas_consistency.cli.console import progress

WORK = """
import time
from nni_nas_consistency.cli.console import progress
with progress(8, "archs") as advance:
    for _ in range(16):
        time.sleep(0.05)
        advance(0.5)
"""


def test_without_a_terminal_lines_tell_what_is_done_how_fast_and_the_time_left(monkeypatch, capsys):
    clock = iter([0.0, 5.0, 10.0, 15.0, 25.0, 30.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with progress(10, "archs") as advance:
        for done in (0.5, 2.0, 1.0, 1.5, 5.0):
            advance(done)
    assert capsys.readouterr().err.splitlines() == [
        "2/10 archs, 0.25 a second, 30 s left",
        "5/10 archs, 0.2 a second, 25 s left",
        "10/10 archs, 0.333 a second, 0 s left",
    ]


def test_parts_that_add_up_but_for_rounding_are_whole(monkeypatch, capsys):
    with progress(1, "archs") as advance:
        for _ in range(10):
            advance(0.1)
    assert capsys.readouterr().err.startswith("1/1 archs, ")


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
def test_a_terminal_sees_a_bar_with_what_is_done_how_fast_and_the_time_left():
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "100", "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-c", WORK], stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # the terminal is gone when its last writer is
        pass
    assert process.wait(timeout=60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert re.search(r"archs ━+.* 8/8, [\d.]+ a second 0:00:0\d 0:00:00", text), text
