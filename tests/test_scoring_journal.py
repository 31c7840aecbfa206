"""The journal: kills, torn lines, full disks, other settings, second writers, and the journals of version 0.1."""

import errno
import json
import random
import re
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext

import pytest
import torch
from helpers import random_archs, random_batch, tiny_supernet
from scoring_lists import ARCHS, MADE_BY, Killed, counting, killed_after, score_shard, scores_in, scoring

from nni_nas_consistency.archs.domains import DIGITS
from nni_nas_consistency.cli.main import main
from nni_nas_consistency.errors import FileError
from nni_nas_consistency.files.arch_lists import Entry, write_released
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.scoring import journal as journal_module
from nni_nas_consistency.scoring.arch_list import score_list, segments_of
from nni_nas_consistency.scoring.journal import Journal, read_journal
from nni_nas_consistency.scoring.scoring import Scoring
from nni_nas_consistency.supernet.checkpoint import save_supernet

SEGMENTS = segments_of(ARCHS)


@pytest.fixture(scope="module")
def whole_list(tmp_path_factory):
    """Return a function that returns the score file of an uninterrupted run, which is made once."""
    folder, files = tmp_path_factory.mktemp("whole"), {}

    def score_file(scorer="prefix", metric="loss"):
        if (scorer, metric) not in files:
            files[scorer, metric] = folder / f"{scorer}-{metric}.json"
            score_shard(files[scorer, metric], how=scoring(metric), scorer=scorer)
        return files[scorer, metric]

    return score_file


@pytest.mark.parametrize(("finished", "scorer"), [(0, "prefix"), (1, "plain"), (1, "prefix"), (3, "prefix")])
def test_a_run_resumes_after_the_last_finished_segment_and_ends_with_the_same_bytes(
    tmp_path, finished, scorer, whole_list
):
    whole, out, calls = whole_list(scorer), tmp_path / "scores.json", []
    with pytest.raises(Killed):
        score_shard(out, scorer=scorer, progress=killed_after(finished))
    assert not out.exists()
    assert len(read_journal(tmp_path / "scores.journal").segments) == finished
    score_shard(out, scorer=scorer, progress=counting(calls))
    assert calls[0][:2] == (len(ARCHS) - 3 * finished, "archs")
    for kind in ("", ".submission", ".acc"):
        assert out.with_suffix(f"{kind}.json").read_bytes() == whole.with_suffix(f"{kind}.json").read_bytes()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_segment_is_on_disk_before_the_next_one_is_scored(tmp_path):
    written = []

    def progress(total, what):
        return nullcontext(lambda done: written.append(len(read_journal(tmp_path / "scores.journal").segments)))

    score_shard(tmp_path / "scores.json", scorer="plain", progress=progress)
    assert written == [index // 3 for index in range(len(ARCHS))]


def test_what_a_kill_left_of_a_line_is_cut_off_wherever_it_struck(tmp_path):
    path = tmp_path / "scores.journal"
    scores = {index: {"loss": [index + 0.1, -1e-300], "acc": [0.5, 0.25]} for index in range(2)}
    with Journal(path, MADE_BY) as journal:
        for index, of_segment in scores.items():
            journal.add(index, of_segment)
    content = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for cut in range(len(content) + 1):
        zeros = b"\0" * (cut % 3)  # which a crash of the machine may leave behind what was written
        path.write_bytes(content[:cut] + zeros)
        whole = sum(end <= cut for end in ends)
        with Journal(path, MADE_BY) as journal:
            assert journal.segments == {index: scores[index] for index in range(whole - 1)}
            journal.add(7, {"loss": [1.5], "acc": [1.0]})
        read = read_journal(path)
        assert read.identity == MADE_BY
        assert read.segments == {index: scores[index] for index in range(whole - 1)} | {
            7: {"loss": [1.5], "acc": [1.0]}
        }
        assert read.length == path.stat().st_size


def other(**changes):
    """Return supernet, archs and scoring that differ in something from those of the first time."""
    settings = {"metric": "loss", "bn": "batch", "seed": 0, "archs": ARCHS, "test": scoring().test, **changes}
    how = Scoring(settings["metric"], settings["bn"], settings["test"], scoring().train)
    return tiny_supernet(seed=settings["seed"]), settings["archs"], how


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The journal of a run that was killed after its first segment."""
    folder = tmp_path_factory.mktemp("begun")
    with pytest.raises(Killed):
        score_shard(folder / "scores.json", progress=killed_after(1))
    return (folder / "scores.journal").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, 'weights "'),
        ({"archs": dict(list(ARCHS.items())[:-1])}, 'archs "'),
        ({"archs": dict(zip(ARCHS, reversed(ARCHS.values()), strict=True))}, 'archs "'),
        ({"metric": "acc"}, 'metric "loss" instead of "acc"; use the same settings'),
        ({"bn": "supernet"}, 'bn "batch" instead of "supernet"; use the same settings'),
        ({"bn": "train"}, 'bn "batch" instead of "train", calibration null instead of "'),
        ({"test": lambda: [random_batch(8, 5)]}, 'scored_images "'),
    ],
    ids=["checkpoint", "shorter list", "other archs", "metric", "running", "calibrated", "images"],
)
def test_a_journal_of_different_settings_is_refused_in_one_line_that_says_what_differs(
    tmp_path, change, message, begun
):
    journal = tmp_path / "scores.journal"
    journal.write_bytes(begun)
    supernet, archs, how = other(**change)
    with pytest.raises(FileError) as refused:
        score_list(supernet, archs, how, out=tmp_path / "scores.json", provenance=MADE_BY)
    text = str(refused.value)
    assert text.startswith(f"{journal}: was written with different settings: {message}")
    assert text.endswith("; use the same settings, or delete the file to score from scratch") and "\n" not in text
    assert journal.read_bytes() == begun


def test_a_run_that_failed_before_its_first_segment_binds_no_other(tmp_path):
    out = tmp_path / "scores.json"
    with pytest.raises(Killed):
        score_shard(out, made_by={"batch_size": 512}, progress=killed_after(0))
    score_shard(out, made_by={"batch_size": 256})
    assert read_scores(out, DIGITS.codec).provenance["batch_size"] == 256


@pytest.mark.parametrize(
    "content",
    [
        b"hello",
        b"hello\n",
        b'{"format": "other"}\n',
        b"[1, 2]\n",
        b'{"format": "nni-nas-consistency journal 9"}\n',
        b'{"format": "nni-nas-consistency journal 2", "lr": NaN}\n',
        b'{"format": "nni-nas-consistency journal 2", "metric": "loss", "metric": "acc"}\n',
        b"[" * 100_000 + b"\n",
    ],
    ids=["text", "line of text", "other format", "list", "later format", "NaN", "twice the same key", "nested deeply"],
)
def test_a_file_that_is_no_journal_is_left_alone(tmp_path, content):
    path = tmp_path / "scores.journal"
    path.write_bytes(content)
    message = "scores.journal: is not a scoring journal; move it away, or choose another name for the score file$"
    with pytest.raises(FileError, match=message):
        Journal(path, MADE_BY)
    with pytest.raises(FileError, match=message):
        read_journal(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("line", "flaw"),
    [
        ("7", "expected a list of its index and its scores"),
        ("[1]", "expected a list of its index and its scores"),
        ('["1", {"loss": [1.0]}]', 'its index is "1"; expected 0, 1, 2, …'),
        ('[-1, {"loss": [1.0]}]', "its index is -1; expected 0, 1, 2, …"),
        ('[[1], {"loss": [1.0]}]', "its index is a list; expected 0, 1, 2, …"),
        ("[1, null]", "what follows its index is null; expected an object in braces"),
        ('[1, {"loss": [1.0], "loss": [2.0]}]', "'loss' appears twice in what follows its index; keep one of them"),
        ("[1, {}]", "its metrics are none; allowed are loss, acc"),
        ('[1, {"loss": [1.0], "tau": [1.0]}]', "its metrics are loss, tau; allowed are loss, acc"),
        ("[1, [1.0]]", "its metrics are None; allowed are loss, acc"),
        ('[1, {"loss": 1.0}]', "its loss is 1.0; expected a list of numbers"),
        ('[1, {"loss": [1.0, NaN]}]', "loss is NaN; expected a finite number"),
        ('[1, {"loss": [1.0], "acc": ["a"]}]', 'acc is "a"; expected a finite number'),
        ('[1, {"loss": [1.0], "acc": [0.5, 0.5]}]', "its loss and acc are not of as many archs"),
    ],
)
def test_a_line_that_is_no_finished_segment_is_named_and_left_alone(tmp_path, line, flaw):
    path = tmp_path / "scores.journal"
    with Journal(path, MADE_BY) as journal:
        journal.add(0, {"loss": [1.0], "acc": [0.5]})
    with path.open("a") as file:
        file.write(line + "\n")
    before = path.read_bytes()
    message = f"{path}: line 3 is no finished segment: {flaw}; delete the line, and the segment is scored again"
    for read in (read_journal, lambda path: Journal(path, MADE_BY)):
        with pytest.raises(FileError, match=f"^{re.escape(message)}$"):
            read(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "flaw"),
    [
        ('[2, {"loss": [1.0], "acc": [0.5]}]', "of segment 2 are {'loss': 1, 'acc': 1}, expected 3 of loss"),
        ('[2, {"acc": [0.5, 0.5, 0.5]}]', "of segment 2 are {'acc': 3}, expected 3 of loss"),
        (
            '[7, {"loss": [1.0], "acc": [0.5]}]',
            "of segment 7 are {'loss': 1, 'acc': 1}, expected no such segment of loss",
        ),
    ],
)
@pytest.mark.parametrize("shard", [1, 2])
def test_segments_that_the_list_does_not_have_are_refused_by_writer_and_merge(tmp_path, line, flaw, shard):
    """Segments 2 and 7 would be in the first of two shards; the other one meets them when it merges."""
    out, path = tmp_path / "scores.json", tmp_path / "scores.shard1of2.journal"
    score_shard(out, 1, 2)
    kept = [written for written in path.read_text().splitlines() if not written.startswith(line[:2])]
    path.write_text("".join(f"{written}\n" for written in [*kept, line]))
    message = f"{path}: the scores {flaw}; delete its line, and the segment is scored again"
    with pytest.raises(FileError, match=f"^{re.escape(message)}$"):
        score_shard(out, shard, 2)
    assert not out.exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_arch(tmp_path):
    supernet = tiny_supernet()
    with torch.no_grad():
        supernet.links[19].linear.bias[0] = float("nan")
    message = r"^the loss of arch\d+ is nan; the supernet has diverged: take an earlier checkpoint$"
    with pytest.raises(RuntimeError, match=message):
        score_list(supernet, ARCHS, scoring(), out=tmp_path / "scores.json", provenance=MADE_BY)
    assert read_journal(tmp_path / "scores.journal").segments == {}


def test_a_folder_that_is_missing_or_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileError, match=r"scores.journal: cannot be written \(No such file.*choose another --out$"):
        score_shard(tmp_path / "none" / "scores.json")
    (tmp_path / "scores.shard1of2.journal").mkdir()
    with pytest.raises(
        FileError, match=r"shard1of2.journal: cannot be read \(Is a directory\); check its permissions$"
    ):
        score_shard(tmp_path / "scores.json", 2, 2)


def test_a_second_writer_of_a_shard_is_refused_until_the_first_is_gone(tmp_path):
    path = tmp_path / "scores.shard1of2.journal"
    with Journal(path, MADE_BY) as first:
        first.add(0, {"loss": [1.0], "acc": [0.5]})
        message = "another process is scoring this shard; wait for it, or score another shard$"
        with pytest.raises(FileError, match=message):
            Journal(path, MADE_BY)
        with Journal(tmp_path / "scores.shard2of2.journal", MADE_BY):
            pass
        first.add(2, {"loss": [2.0], "acc": [0.5]})
    with Journal(path, MADE_BY) as second:
        assert list(second.segments) == [0, 2]


def test_a_disk_that_cannot_be_locked_for_another_reason_is_refused(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(journal_module.fcntl, "flock", flock)
    with pytest.raises(FileError, match=r"cannot be locked \(Input/output error\); put --out on a local disk$"):
        Journal(tmp_path / "scores.journal", MADE_BY)


@contextmanager
def files_limited_to(size):
    """Let no file of this process grow beyond a size, as on a full disk: a write ends in the middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_an_error_of_one_line_and_what_was_scored_is_kept(tmp_path, whole_list):
    out, journal = tmp_path / "scores.json", tmp_path / "scores.journal"
    with files_limited_to(1300), pytest.raises(FileError) as failed:
        score_shard(out)
    assert str(failed.value) == (
        f"{journal}: cannot be written any further (File too large); finished segments are kept: free some space and "
        "run the same command again"
    )
    kept = read_journal(journal)
    assert kept.length == journal.stat().st_size
    assert 0 < len(kept.segments) < len(SEGMENTS)
    score_shard(out)
    assert out.read_bytes() == whole_list().read_bytes()


def journal_of_version_0_1(out, scorer, segments):
    """Write the journal that version 0.1 would have left after some segments of the list that `out` has the scores of.

    It called segments blocks, named the scorer by its function, and kept the wanted metric only.
    """
    score_file = read_scores(out, DIGITS.codec)
    made_from = dict(score_file.provenance)
    assert (made_from.pop("segments"), made_from.pop("scorer")) == (len(SEGMENTS), scorer)
    functions = {"prefix": "score_prefixes", "plain": "score_one_by_one"}
    head = {"format": "nni-nas-consistency journal 1", **made_from, "blocks": 7, "scorer": functions[scorer]}
    lines = [head]
    for index in segments:
        lines.append([index, [score_file.scores[name][1] for name in SEGMENTS[index]]])
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@pytest.mark.parametrize(("scorer", "metric"), [("prefix", "loss"), ("prefix", "acc"), ("plain", "loss")])
def test_a_journal_of_version_0_1_is_resumed(tmp_path, scorer, metric, whole_list):
    whole, out, calls = whole_list(scorer, metric), tmp_path / "scores.json", []
    old = journal_of_version_0_1(whole, scorer, segments=[0, 1, 4])
    assert old.startswith(b'{"format": "nni-nas-consistency journal 1", "seed": 3, "checkpoint": "a", "weights": "')
    (tmp_path / "scores.journal").write_bytes(old + b"[5, [-2.5, -")
    beside = tmp_path / ("scores.acc.json" if metric == "loss" else "scores.loss.json")
    beside.write_text("of an earlier scoring")
    scored = score_shard(out, how=scoring(metric), scorer=scorer, progress=counting(calls))
    assert calls[0][:2] == (len(ARCHS) - 9, "archs")
    assert out.read_bytes() == whole.read_bytes()
    assert scored.files == [out, tmp_path / "scores.submission.json"]  # of the other metric, three segments are unknown
    assert not beside.exists()


def test_a_journal_of_version_0_1_with_different_settings_is_refused(tmp_path, whole_list):
    out, journal = tmp_path / "scores.json", tmp_path / "scores.journal"
    old = journal_of_version_0_1(whole_list(), "prefix", segments=[0])
    journal.write_bytes(old)
    with pytest.raises(FileError, match='different settings: scorer "prefix" instead of "plain"; use the same'):
        score_shard(out, scorer="plain")
    journal.write_bytes(old.replace(b'"blocks": 7', b'"blocks": 8'))
    with pytest.raises(FileError, match="different settings: segments 8 instead of 7; use the same"):
        score_shard(out)


def test_shards_of_both_versions_merge_into_the_same_bytes(tmp_path, whole_list):
    whole, out = whole_list(), tmp_path / "scores.json"
    old = journal_of_version_0_1(whole, "prefix", segments=[0, 2, 4, 6])
    (tmp_path / "scores.shard1of2.journal").write_bytes(old)
    assert score_shard(out, 2, 2).files == [out, tmp_path / "scores.submission.json"]
    assert out.read_bytes() == whole.read_bytes()


def test_killed_for_real_the_same_command_ends_with_the_same_bytes(tmp_path, capsys):
    """The child is killed while it writes: when a number of segments, drawn from a seed, are in the journal."""
    save_supernet(tmp_path / "supernet.safetensors", tiny_supernet(torch.float32), {"seed": 0})
    archs = {f"arch{i}": Entry(arch, 0) for i, arch in enumerate(random_archs(DIGITS, 48), 1)}
    write_released(tmp_path / "list.json", archs)

    def command(out):
        return [
            *("score", "--checkpoint", tmp_path / "supernet.safetensors", "--archs", tmp_path / "list.json"),
            *("--out", out, "--scorer", "plain", "--images", 100, "--device", "cpu"),
        ]

    out, journal = tmp_path / "scores.json", tmp_path / "scores.journal"
    segments = segments_of({name: entry.arch for name, entry in archs.items()})
    wanted = random.Random(7).randrange(1, len(segments) - 3)
    words = [sys.executable, "-W", "ignore", "-m", "nni_nas_consistency", *map(str, command(out))]
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while child.poll() is None and len(read_journal(journal).segments) < wanted:
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    finished = len(read_journal(journal).segments)
    assert wanted <= finished < len(segments) and not out.exists()
    assert main([str(word) for word in command(out)]) == 0
    assert capsys.readouterr().out.split() == [
        str(tmp_path / name) for name in ("scores.json", "scores.submission.json", "scores.acc.json")
    ]
    assert not journal.exists()
    assert main([str(word) for word in command(tmp_path / "whole.json")]) == 0
    for kind in ("", ".submission", ".acc"):
        assert (tmp_path / f"scores{kind}.json").read_bytes() == (tmp_path / f"whole{kind}.json").read_bytes()
    assert scores_in(out).keys() == archs.keys()
