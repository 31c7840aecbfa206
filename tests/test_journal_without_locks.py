"""Journals on a file system that has no locks: every writer has a file of its own, and the merge goes by content."""

import errno
import fcntl

import pytest
from scoring_lists import ARCHS, MADE_BY, Killed, counting, killed_after, score_shard

from nni_nas_consistency.cli.console import kept_in_journal
from nni_nas_consistency.errors import FileError
from nni_nas_consistency.scoring.journal import Journal, read_journal

ANSWERS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def without_locks(patch, answer):
    def refuse(*arguments):
        raise OSError(answer, "no locks here")

    patch.setattr(fcntl, "flock", refuse)


@pytest.fixture
def no_locks(monkeypatch):
    without_locks(monkeypatch, errno.ENOLCK)


def scores(value):
    return {"loss": [value, value], "acc": [0.5, 0.25]}


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("answer", ANSWERS, ids=errno.errorcode.get)
def test_shards_merge_to_what_one_run_with_locks_writes_and_leave_nothing_behind(tmp_path, monkeypatch, answer):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    score_shard(whole / "scores.json")
    without_locks(monkeypatch, answer)
    for index in (2, 1):
        score_shard(parts / "scores.json", index, 2)
    assert names_in(parts) == names_in(whole)
    for path in whole.iterdir():
        assert (parts / path.name).read_bytes() == path.read_bytes()


def test_a_killed_run_goes_on_from_the_files_of_all_writers(tmp_path, no_locks):
    out, calls = tmp_path / "scores.json", []
    for finished in (1, 1):
        with pytest.raises(Killed):
            score_shard(out, progress=killed_after(finished))
    assert len(read_journal(tmp_path / "scores.journal").segments) == 2
    assert "are kept in" in kept_in_journal(tmp_path / "scores.journal")
    score_shard(out, progress=counting(calls))
    assert calls[0][:2] == (len(ARCHS) - 3 * 2, "archs")
    assert names_in(tmp_path) == ["scores.acc.json", "scores.json", "scores.submission.json"]


def test_two_writers_of_one_shard_lose_nothing_and_nothing_counts_twice(tmp_path, no_locks):
    path = tmp_path / "scores.journal"
    with Journal(path, MADE_BY) as first, Journal(path, MADE_BY) as second:
        assert len({path, first.path, second.path}) == 3
        first.add(0, scores(1.0))
        second.add(0, scores(2.0))
        first.add(1, scores(3.0))
        second.add(2, scores(4.0))
    merged = read_journal(path).segments
    winner = 1.0 if first.path < second.path else 2.0
    assert merged == {0: scores(winner), 1: scores(3.0), 2: scores(4.0)}
    with Journal(path, MADE_BY) as third:
        assert third.segments == merged


def test_a_line_that_a_kill_cut_off_costs_one_segment_of_one_writer(tmp_path, no_locks):
    path = tmp_path / "scores.journal"
    with Journal(path, MADE_BY) as first, Journal(path, MADE_BY) as second:
        first.add(0, scores(1.0))
        second.add(1, scores(2.0))
        second.add(2, scores(3.0))
    second.path.write_bytes(second.path.read_bytes()[:-5])
    assert sorted(read_journal(path).segments) == [0, 1]


def test_writers_with_other_settings_are_refused(tmp_path, no_locks):
    path = tmp_path / "scores.journal"
    with Journal(path, MADE_BY) as first:
        first.add(0, scores(1.0))
    with pytest.raises(FileError, match="was written with different settings"):
        Journal(path, {**MADE_BY, "metric": "acc"})


def test_a_writer_that_has_locks_goes_on_from_those_that_had_none(tmp_path, monkeypatch):
    path = tmp_path / "scores.journal"
    with monkeypatch.context() as patch:
        without_locks(patch, errno.ENOLCK)
        with Journal(path, MADE_BY) as first:
            first.add(0, scores(1.0))
    with Journal(path, MADE_BY) as second:
        assert second.path == path and second.segments == {0: scores(1.0)}
        second.add(1, scores(2.0))
        with pytest.raises(FileError, match="another process is scoring this shard"):
            Journal(path, MADE_BY)
    assert sorted(read_journal(path).segments) == [0, 1]
