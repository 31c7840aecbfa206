"""Faults on purpose: each long verb is killed many times in one run, on a full disk, beside a second process.

Whatever happens, the same command goes on, loses nothing that was finished, and ends with the bytes or the weights of
the undisturbed run. Minutes: `make faults`, which shows the counts.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nni_nas_consistency.scoring.journal import read_journal
from nni_nas_consistency.training.checkpoints import AtomicCheckpoints

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

KILLS = 20
"""At least so many SIGKILLs in one run of a job; SIGTERM and SIGINT come on top."""

SERVER = Path(__file__).parent / "fork_server.py"
REFERENCE = files("nni_nas_consistency") / "assets" / "digits" / "reference.json"
SCORING = ("score", "--checkpoint", "../inputs/supernet.safetensors", "--archs", "../inputs/list.json")
TRAINING = (
    *("train", "--recipe", "digits", "--n", "3", "--train-images", "64", "--val-images", "20", "--device", "cpu"),
    *("--set", "warmup_steps=2", "--out", "run"),
)


@dataclass(frozen=True)
class Job:
    """A command that takes some seconds, and how to see that its result is right.

    Args:
        words: The command line, in a folder of its own.
        calls: Functions of os and the ends of paths of their files: it is killed in such calls.
        last: The file that is written last.
        progress: Counts what is finished in the folder.
        total: What that is in the end; 0 for a job that begins anew.
        identical: Patterns of files that have the same bytes as those of an undisturbed run.
        weights: Patterns of checkpoints that hold the same weights.
    """

    words: tuple[str, ...]
    calls: tuple[tuple[str, str], ...] = ()
    last: str = ""
    progress: Callable[[Path], int] = lambda folder: 0
    total: int = 0
    identical: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()


def steps_in(*runs):
    """Return what counts the steps that the checkpoints of runs have behind them."""

    def steps(folder):
        paths = [folder / each / "checkpoints" / "last.ckpt" for each in runs]
        return sum(AtomicCheckpoints().load_checkpoint(path)["global_step"] for path in paths if path.exists())

    return steps


def segments_in(folder):
    """Return how many segments are finished in the journal; a score file has as many again as it takes."""
    if (folder / "scores.json").exists():
        return 10**6
    return len(read_journal(folder / "scores.journal").segments)


def seeds_in(folder):
    return len(list((folder / "alone" / "seeds").glob("*.json")))


KEPT_STEPS = (("replace", "last.ckpt"), ("fsync", ".tmp"))
KEPT_SEGMENTS = (("write", ".journal"), ("fsync", ".journal"))
LONG_JOBS = {
    "train": Job(
        (*TRAINING, "--epochs", "50", "--keep-epochs"),
        (*KEPT_STEPS, ("replace", ".safetensors")),
        "run/supernet.safetensors",
        steps_in("run"),
        total=100,
        weights=("run/supernet.safetensors", "run/epochs/*.safetensors"),
    ),
    "train with averaged weights, a checkpoint a step": Job(
        (*TRAINING, "--epochs", "16", "--train-images", "160", "--checkpoint-steps", "1", "--set", "ema=0.8"),
        KEPT_STEPS,
        "run/supernet.safetensors",
        steps_in("run"),
        total=80,
        weights=("run/supernet.safetensors",),
    ),
    "train in two phases": Job(
        ("train in two phases", *TRAINING[1:], "--epochs", "20"),
        KEPT_STEPS,
        "run/supernet.safetensors",
        steps_in("run/phase0", "run/phase1"),
        total=80,
        weights=("run/supernet.safetensors",),
    ),
    "score": Job(
        (*SCORING, "--images", "60", "--out", "scores.json"),
        KEPT_SEGMENTS,
        "/scores.json",
        segments_in,
        total=40,
        identical=("scores.json", "scores.acc.json", "scores.submission.json"),
    ),
    "search": Job(
        (
            *("search", "--checkpoint", "../inputs/supernet.safetensors", "--images", "60"),
            *("--trials", "250", "--population", "20", "--out", "scores.json"),
        ),
        KEPT_SEGMENTS,
        "/scores.json",
        segments_in,
        total=250,
        identical=("scores.json",),
    ),
    "standalone": Job(
        (
            *("standalone", "--space", "digits", "--archs", "../inputs/list.json", "--limit", "2"),
            *("--epochs", "1", "--seeds", "40", "--out", "alone"),
        ),
        (("replace", ".json"), ("fsync", ".tmp")),
        "alone/reference.json",
        seeds_in,
        total=40,
        identical=("alone/reference.json", "alone/about.json", "alone/seeds/*.json", "alone/settings.json"),
    ),
}
JOBS = LONG_JOBS | {
    "rank": Job(
        ("rank", str(REFERENCE), str(REFERENCE), "--space", "digits", "--resamples", "300", "--report", "report"),
        (("replace", "report/"), ("replace", ""), ("fsync", ".tmp")),
        "report/report.html",
        identical=("report/report.html", "report/report.json", "report/scatter.png", "report/ranks.png"),
    ),
    "archs sample": Job(
        ("archs", "sample", "--space", "digits", "--count", "3000", "--seed", "1", "--out", "list.json"),
        (("replace", "list.json"), ("fsync", ".tmp")),
        "list.json",
        identical=("list.json",),
    ),
}


class Server:
    """The fork server, which starts commands in folders."""

    def __init__(self, home):
        own = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HOME": str(home)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", SERVER], **pipes, text=True, env=os.environ | own
        )
        json.loads(self.process.stdout.readline())

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, job, folder, log, die=None):
        """Start a job, to die in a call of a function of os; return its process id."""
        folder.mkdir(exist_ok=True)
        return self.ask(words=job.words, folder=str(folder), log=str(log), die=die)["pid"]

    def wait(self, pid):
        """Return the exit code of a process that has been started; negative: the signal that ended it."""
        return self.ask(wait=pid)["code"]

    def run(self, job, folder, log, die=None):
        return self.wait(self.start(job, folder, log, die))


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing disturbs.

    Args:
        folder: Where it was.
        before: Seconds until the first piece of work was finished.
        seconds: Seconds until the end.
    """

    folder: Path
    before: float
    seconds: float


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("home"))
    yield server
    server.process.stdin.close()
    server.process.wait(60)


@pytest.fixture(scope="module")
def place(server, tmp_path_factory):
    """Return a folder that holds the inputs of the jobs."""
    place = tmp_path_factory.mktemp("faults")
    sample = ("archs", "sample", "--space", "digits", "--count", "5000", "--out", "list.json")
    for words in (sample, (*TRAINING, "--epochs", "2")):
        assert server.run(Job(words), place / "inputs", place / "log") == 0, (place / "log").read_text()
    (place / "inputs" / "run" / "supernet.safetensors").rename(place / "inputs" / "supernet.safetensors")
    return place


@pytest.fixture(scope="module")
def undisturbed(server, place):
    """Return what runs a job undisturbed, once."""
    known = {}

    def run(name):
        if name not in known:
            known[name] = run_undisturbed(server, JOBS[name], place / f"undisturbed {name}", place / "log")
        return known[name]

    return run


def run_undisturbed(server, job, folder, log):
    begun, before = time.monotonic(), 0.0
    pid = server.start(job, folder, log)
    while not before and Path(f"/proc/{pid}/exe").exists():  # which a process that has ended does not have
        before = time.monotonic() - begun if job.progress(folder) else 0.0
        time.sleep(0.01)
    assert server.wait(pid) == 0, log.read_text()
    return Undisturbed(folder, before, time.monotonic() - begun)


def assert_same(job, folder, undisturbed):
    """See that a folder holds the result of the undisturbed run."""
    for pattern in (*job.identical, *job.weights):
        names = {path.relative_to(undisturbed) for path in undisturbed.glob(pattern)}
        assert names and names == {path.relative_to(folder) for path in folder.glob(pattern)}
    assert_nothing_wrong(job, folder, undisturbed)


def assert_nothing_wrong(job, folder, undisturbed):
    """See that the results that are there, perhaps not all of them, are those of the undisturbed run."""
    for pattern in job.identical:
        for path in folder.glob(pattern):
            assert path.read_bytes() == (undisturbed / path.relative_to(folder)).read_bytes(), path
    for pattern in job.weights:
        for path in folder.glob(pattern):
            one, other = load_file(path), load_file(undisturbed / path.relative_to(folder))
            assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one), path


def errors_in(log):
    """Return the error lines that a user saw; no traceback is among them."""
    text = log.read_text()
    assert "Traceback" not in text and "nobody foresaw" not in text, text
    return [line for line in text.splitlines() if line.startswith("error: ")]


# killed


@dataclass
class Disturbed:
    """A run that is killed again and again.

    Args:
        server: Starts the job.
        job: What to run.
        folder: Where.
        whole: Where the undisturbed run is.
        window: Kills come within so many seconds after a start; adapted, for a machine that has other work too.
        dice: Draws the kills.
        ends: How the attempts ended, and how often.
        progress: What was finished after each attempt.
    """

    server: Server
    job: Job
    folder: Path
    whole: Path
    window: float
    dice: random.Random
    ends: Counter[str] = field(default_factory=Counter)
    progress: list[int] = field(default_factory=list)

    @property
    def log(self):
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def kills(self):
        return self.ends["SIGKILL"] + self.ends["SIGKILL in a call"]

    def is_nearly_done(self):
        return self.progress[-1] >= 0.7 * self.job.total

    def adapt(self):
        """Aim at kills that let a twentieth of the job be done, however busy the machine is."""
        gain = self.progress[-1] - self.progress[-2]
        self.window *= 0.5 if gain > self.job.total / 20 else 1.1 if gain == 0 else 1.0

    def disturb(self):
        """Run the job with a fault that is drawn."""
        fault = self.dice.choices(["SIGKILL", "SIGKILL in a call", "SIGINT", "SIGTERM"], [5, 4, 1, 1])[0]
        if fault == "SIGKILL in a call":
            self.attempt(fault, die=[*self.dice.choice(self.job.calls), self.dice.randint(1, 3)])
        else:
            self.attempt(fault)
            if self.job.total:
                self.adapt()

    def attempt(self, fault, die=None):
        """Start the job, disturb it, and see that it ends as it should, and keeps what was finished before."""
        pid = self.server.start(self.job, self.folder, self.log, die)
        if fault in ("SIGKILL", "SIGINT", "SIGTERM"):
            time.sleep(self.dice.uniform(0, self.window))
            os.kill(pid, signal.Signals[fault])
        code = self.server.wait(pid)
        codes = {"SIGINT": 130, "SIGTERM": 143, "none": 0}
        assert code in (0, codes.get(fault, -signal.SIGKILL)), f"{fault}, exit {code}: {self.log.read_text()}"
        assert not errors_in(self.log)
        assert_nothing_wrong(self.job, self.folder, self.whole)
        self.ends[fault if code else "done"] += 1
        self.progress.append(self.job.progress(self.folder))
        assert self.progress == sorted(self.progress), f"{self.progress}: finished work was lost"


@pytest.mark.parametrize("name", JOBS)
def test_a_job_that_is_killed_twenty_times_ends_like_one_that_is_not(name, server, place, undisturbed):
    job, whole = JOBS[name], undisturbed(name)
    window = whole.before + (whole.seconds - whole.before) / (40 if job.total else 1)
    run = Disturbed(server, job, place / f"killed {name}", whole.folder, window, random.Random(name))
    run.attempt("SIGKILL in a call", die=[*job.calls[0], 1])  # nothing is finished yet
    assert run.progress == [0]
    while run.kills < KILLS or not run.is_nearly_done():
        run.disturb()
        if job.total:
            assert not run.ends["done"], f"{run.ends}, {run.progress}: the job ended too early: make it longer"
    run.attempt("SIGKILL in a call", die=["replace", job.last, 1])  # all is finished but the last file
    run.attempt("none")
    print(f"\n{name}: {run.kills} kills, {dict(run.ends)}, {len(run.progress)} starts, finished {run.progress}")
    if job.total:
        assert len(set(run.progress)) > 8, f"{run.progress}: the kills did not spread over the work"
    assert_same(job, run.folder, whole.folder)
    run.attempt("none")
    assert_same(job, run.folder, whole.folder)


# a second process


@pytest.mark.parametrize("name", LONG_JOBS)
def test_of_two_processes_that_start_the_same_job_at_once_one_is_refused(name, server, place, undisturbed):
    job, folder = JOBS[name], place / f"twice {name}"
    logs = [place / f"twice {name}.log{index}" for index in range(2)]
    processes = [server.start(job, folder, log) for log in logs]
    codes = [server.wait(pid) for pid in processes]
    assert sorted(codes) == [0, 2], [log.read_text() for log in logs]
    (error,) = errors_in(logs[codes.index(2)])
    assert "another process" in error and "wait for it" in error
    assert_same(job, folder, undisturbed(name).folder)


# a full disk


@contextmanager
def small_disk(folder, size):
    """Mount a file system that holds so many bytes, in memory."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def used(folder):
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


@pytest.mark.parametrize("name", JOBS)
def test_on_a_full_disk_a_job_says_so_and_goes_on_when_there_is_room(name, server, place, undisturbed):
    job, whole, disk = JOBS[name], undisturbed(name), place / f"disk {name}"
    need = used(whole.folder)
    dice, full, log = random.Random(name), 0, place / f"disk {name}.log"
    with small_disk(disk, 4 * need + 2**20):
        (disk / "inputs").symlink_to(place / "inputs")
        for free in sorted(dice.uniform(0.01, 1) * need for _ in range(8)):
            (disk / "filler").write_bytes(b"")
            room = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            (disk / "filler").write_bytes(bytes(max(0, room - max(0, int(free) - used(disk / "job")))))
            if server.run(job, disk / "job", log) != 0:
                (error,) = errors_in(log)
                assert "No space left on device" in error
                full += 1
        (disk / "filler").unlink()
        assert server.run(job, disk / "job", log) == 0, log.read_text()
        assert_same(job, disk / "job", whole.folder)
    print(f"\n{name}: the disk was full {full} times of 8")
    assert full >= 3
