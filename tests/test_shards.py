"""Scoring a list in blocks and shards, merged byte for byte into what one run writes."""

import itertools
from contextlib import nullcontext

import pytest
from helpers import random_archs, tiny_supernet
from hypothesis import given
from hypothesis import strategies as st
from test_scoring import scoring

from nni_nas_consistency.archs.arch import DIGITS
from nni_nas_consistency.errors import FileError, InputError
from nni_nas_consistency.files.arch_lists import read_released
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.scoring import shards
from nni_nas_consistency.scoring.arch_list import BLOCK, Shard, blocks_of, score_list
from nni_nas_consistency.scoring.journal import read_journal
from nni_nas_consistency.scoring.plain import score_archs, score_one_by_one
from nni_nas_consistency.scoring.prefix import score_prefixes

ARCHS = {f"arch{index}": arch for index, arch in enumerate(random_archs(DIGITS, 21, seed=5), 1)}
MADE_BY = {"seed": 3, "checkpoint": "a"}


def score_shard(text, out, made_by=MADE_BY, archs=ARCHS, **settings):
    shard = Shard.parse(text)
    return score_list(tiny_supernet(), archs, scoring(), out=out, provenance=made_by, shard=shard, **settings)


def counting(scored):
    """Return a scorer that notes the archs it is given."""

    def scorer(supernet, blocks, scoring, *, advance):
        blocks = list(blocks)
        scored.extend(arch for block in blocks for arch in block)
        return score_prefixes(supernet, blocks, scoring, advance=advance)

    scorer.__name__ = "score_prefixes"
    return scorer


@given(count=st.integers(1, 12), items=st.integers(0, 30))
def test_shards_share_a_list_out_evenly_and_in_order(count, items):
    parts = [Shard(index, count).of(range(items)) for index in range(1, count + 1)]
    assert sorted(itertools.chain(*parts)) == list(range(items))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(part == sorted(part) for part in parts)


def test_a_shard_is_written_as_its_number_and_their_count(tmp_path):
    assert Shard.parse("2/8") == Shard(2, 8)
    assert Shard(2, 8).journal(tmp_path / "scores.json") == tmp_path / "scores.shard2of8.journal"
    assert Shard(1, 1).journal(tmp_path / "scores.json") == tmp_path / "scores.journal"
    for text in ("2", "2/", "/8", "2/8/1", "a/b", "-1/8", " 2/8", "2.0/8", ""):
        with pytest.raises(ValueError, match=f"shard {text!r} is not of the form I/N, such as 2/8"):
            Shard.parse(text)
    for text in ("0/8", "9/8", "1/0"):
        with pytest.raises(ValueError, match=f"shard {text} does not exist"):
            Shard.parse(text)


@pytest.mark.parametrize("count", [1, 7, 64, 200, 2000])
def test_blocks_are_neighbours_of_the_sorted_list(count):
    archs = {f"arch{index}": arch for index, arch in enumerate(random_archs(DIGITS, count))}
    blocks = blocks_of(archs)
    assert sorted(itertools.chain(*blocks)) == sorted(archs)
    choices = [archs[name].choices for block in blocks for name in block]
    assert choices == sorted(choices)
    assert len(blocks) >= min(count, 4) and all(len(block) <= BLOCK for block in blocks)


@pytest.mark.parametrize("settings", [{}, {"scorer": score_one_by_one}], ids=["prefix", "subnet"])
def test_a_list_is_scored_into_a_score_file_and_a_submission(tmp_path, settings):
    out = tmp_path / "scores.json"
    scored = score_shard("1/1", out, **settings)
    assert scored.files == [out, tmp_path / "scores.submission.json"]
    assert sorted(tmp_path.iterdir()) == sorted(scored.files)
    scores = read_scores(out, DIGITS)
    assert MADE_BY.items() <= scores.provenance.items()
    assert (scores.provenance["metric"], scores.provenance["bn"]) == ("loss", "batch")
    assert list(scores.scores) == list(ARCHS)
    assert [arch for arch, _ in scores.scores.values()] == list(ARCHS.values())
    values = list(score_archs(tiny_supernet(), ARCHS.values(), scoring()))
    assert [score for _, score in scores.scores.values()] == pytest.approx(values, rel=1e-10)
    assert {name: score for name, (_, score) in scores.scores.items()} == scored.scores

    submitted = read_released(scored.files[1], DIGITS)
    assert {name: entry.arch for name, entry in submitted.items()} == ARCHS
    low, high = min(values), max(values)
    assert [entry.acc for entry in submitted.values()] == pytest.approx([(v - low) / (high - low) for v in values])
    assert {0.0, 1.0} <= {entry.acc for entry in submitted.values()}


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_merged_shards_are_byte_for_byte_the_file_of_the_whole_list(tmp_path, order):
    whole, out = tmp_path / "whole.json", tmp_path / "scores.json"
    score_shard("1/1", whole)
    for index in order[:2]:
        assert score_shard(f"{index}/3", out).files == [tmp_path / f"scores.shard{index}of3.journal"]
        assert not out.exists()
    submission, expected = tmp_path / "scores.submission.json", tmp_path / "whole.submission.json"
    assert score_shard(f"{order[2]}/3", out).files == [out, submission]
    assert out.read_bytes() == whole.read_bytes()
    assert submission.read_bytes() == expected.read_bytes()
    assert not list(tmp_path.glob("*.journal"))


def test_more_shards_than_blocks_are_refused(tmp_path):
    few = dict(list(ARCHS.items())[:3])
    with pytest.raises(InputError, match="3 archs make 3 blocks; give at most as many shards, not 4"):
        score_shard("4/4", tmp_path / "scores.json", archs=few)
    assert not list(tmp_path.iterdir())


def test_a_list_that_is_scored_is_left_as_it_is(tmp_path):
    out, scored = tmp_path / "scores.json", []
    first = score_shard("1/1", out)
    before = out.stat().st_mtime_ns
    (tmp_path / "scores.journal").touch()  # as a kill between the score file and its deletion leaves it
    again = score_shard("1/1", out, scorer=counting(scored))
    assert (again, scored, out.stat().st_mtime_ns) == (first, [], before)
    assert sorted(tmp_path.iterdir()) == sorted(first.files)
    assert score_shard("2/2", out).files == first.files
    score_shard("1/1", out, {**MADE_BY, "checkpoint": "b"})
    assert read_scores(out, DIGITS).provenance["checkpoint"] == "b"


def test_of_two_shards_that_finish_at_once_the_second_finds_the_score_file(tmp_path, monkeypatch):
    whole, out = tmp_path / "whole.json", tmp_path / "scores.json"
    score_shard("1/1", whole)
    score_shard("1/2", out)
    merge = shards.merge_shards

    def after_another(*arguments):
        assert merge(*arguments)  # the other one, which deletes the journals
        return merge(*arguments)

    monkeypatch.setattr(shards, "merge_shards", after_another)
    assert score_shard("2/2", out).files == [out, tmp_path / "scores.submission.json"]
    assert out.read_bytes() == whole.read_bytes()


def test_what_json_changes_in_the_provenance_is_compared_as_it_reads_back(tmp_path):
    out = tmp_path / "scores.json"
    for index in (1, 2):
        score_shard(f"{index}/2", out, {"seeds": (1, 2)})
    assert read_scores(out, DIGITS).provenance["seeds"] == [1, 2]


def test_shards_that_were_scored_in_different_ways_are_not_merged(tmp_path):
    out = tmp_path / "scores.json"
    score_shard("1/2", out)
    with pytest.raises(FileError, match=r'shard1of2.journal: was begun with checkpoint "a", not "b"'):
        score_shard("2/2", out, {**MADE_BY, "checkpoint": "b"})
    assert not out.exists()


def test_shards_of_another_list_with_the_same_names_are_not_merged(tmp_path):
    out = tmp_path / "scores.json"
    others = dict(zip(ARCHS, random_archs(DIGITS, len(ARCHS), seed=77), strict=True))
    score_shard("1/2", out, archs=others)
    with pytest.raises(FileError, match="shard1of2.journal: was begun with archs"):
        score_shard("2/2", out)
    assert not out.exists()


def test_a_shard_that_is_not_finished_is_waited_for(tmp_path):
    out = tmp_path / "scores.json"
    score_shard("1/2", out)
    journal = tmp_path / "scores.shard1of2.journal"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
    assert score_shard("2/2", out).files == [tmp_path / "scores.shard2of2.journal"]
    assert score_shard("1/2", out).files == [out, tmp_path / "scores.submission.json"]
    assert read_journal(journal).identity is None


def test_progress_counts_the_archs_that_are_left(tmp_path):
    seen = []

    def progress(total, what):
        seen.append((total, what, told := []))
        return nullcontext(told.append)

    out = tmp_path / "scores.json"
    score_shard("1/2", out, progress=progress)
    score_shard("1/2", out, progress=progress)
    first, again = seen
    assert first[:2] == (12, "archs") and sum(first[2]) == pytest.approx(12)
    assert again == (0, "archs", [])
