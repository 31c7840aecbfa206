"""Scoring a list in segments and shards, merged byte for byte into what one run writes."""

import itertools
import json

import pytest
import torch
from codes import EVERY_CODEC
from helpers import random_archs, tiny_supernet
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring_chains import OTHERS, random_batches
from scoring_lists import ARCHS, MADE_BY, counting, score_shard, scores_in, scoring

from nni_nas_consistency.archs.domains import DIGITS
from nni_nas_consistency.errors import FileError, InputError
from nni_nas_consistency.files.arch_lists import read_released
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.scoring import arch_list
from nni_nas_consistency.scoring.arch_list import SEGMENT, Shard, score_list, segments_of
from nni_nas_consistency.scoring.journal import read_journal
from nni_nas_consistency.scoring.plain import score_archs
from nni_nas_consistency.scoring.prefix import score_prefixes, shares_prefixes
from nni_nas_consistency.scoring.scoring import Scoring
from nni_nas_consistency.spaces.hub import domain_of
from nni_nas_consistency.supernet.make import make_supernet

DIGITS_CODEC = DIGITS.codec
BOTH_SCORERS = pytest.mark.parametrize("scorer", ["prefix", "plain"])


def files_of(out, other="acc"):
    """Return the three files that a list is scored into."""
    return [out, out.with_name(f"{out.stem}.submission.json"), out.with_name(f"{out.stem}.{other}.json")]


@given(count=st.integers(1, 12), items=st.integers(0, 30))
def test_shards_divide_a_list_evenly_and_in_order(count, items):
    parts = [Shard(index, count).of(range(items)) for index in range(1, count + 1)]
    assert sorted(itertools.chain(*parts)) == list(range(items))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(part == sorted(part) for part in parts)


def test_each_shard_has_a_journal_beside_the_score_file(tmp_path):
    assert Shard(2, 8).journal(tmp_path / "scores.json") == tmp_path / "scores.shard2of8.journal"
    assert Shard(1, 1).journal(tmp_path / "scores.json") == tmp_path / "scores.journal"


@pytest.mark.parametrize(("index", "count"), [(0, 8), (9, 8), (1, 0), (-1, 8)])
def test_a_shard_that_is_out_of_range_is_refused(index, count):
    with pytest.raises(InputError, match=f"^shard {index}/{count} does not exist; N shards are numbered 1/N to N/N$"):
        Shard(index, count)


@pytest.mark.parametrize("count", [1, 7, 64, 200, 2000])
def test_segments_are_neighbours_of_the_sorted_list(count):
    archs = {f"arch{index}": arch for index, arch in enumerate(random_archs(DIGITS, count))}
    segments = segments_of(archs)
    assert sorted(itertools.chain(*segments)) == sorted(archs)
    widths = [tuple(archs[name].choices.values()) for segment in segments for name in segment]
    assert widths == sorted(widths)
    assert len(segments) >= min(count, 4) and all(len(segment) <= SEGMENT for segment in segments)


@pytest.mark.parametrize(("codec", "codes"), EVERY_CODEC, ids=lambda value: getattr(value, "space", ""))
@settings(max_examples=30)
@given(data=st.data())
def test_the_segments_of_a_list_of_any_codec_depend_on_the_archs_alone(codec, codes, data):
    drawn = data.draw(st.lists(codes, min_size=1, max_size=12, unique_by=codec.canonical))
    archs = {code: codec.parse(code) for code in drawn}
    segments = segments_of(archs)
    assert segments == segments_of(dict(reversed(archs.items())))
    assert sorted(itertools.chain(*segments)) == sorted(archs)


@BOTH_SCORERS
def test_a_list_is_scored_into_score_files_of_both_metrics_and_a_submission(tmp_path, scorer):
    out = tmp_path / "scores.json"
    scored = score_shard(out, scorer=scorer)
    assert scored.files == files_of(out)
    assert sorted(tmp_path.iterdir()) == sorted(scored.files)
    plain = list(score_archs(tiny_supernet(), ARCHS.values(), scoring()))
    for path, metric in ((out, "loss"), (files_of(out)[2], "acc")):
        score_file = read_scores(path, DIGITS_CODEC)
        assert MADE_BY.items() <= score_file.provenance.items()
        assert (score_file.provenance["metric"], score_file.provenance["bn"]) == (metric, "batch")
        assert score_file.provenance["scorer"] == scorer
        assert list(score_file.scores) == list(ARCHS)
        assert [arch for arch, _ in score_file.scores.values()] == list(ARCHS.values())
        assert [score for _, score in score_file.scores.values()] == pytest.approx(
            [score.of(metric) for score in plain], rel=1e-10
        )
    assert scores_in(out) == scored.scores


def test_a_submission_holds_the_scores_on_a_scale_from_0_to_1(tmp_path):
    scored = score_shard(tmp_path / "scores.json")
    submitted = read_released(scored.files[1], DIGITS_CODEC)
    assert {name: entry.arch for name, entry in submitted.items()} == ARCHS
    low, high = min(scored.scores.values()), max(scored.scores.values())
    expected = {name: (score - low) / (high - low) for name, score in scored.scores.items()}
    assert {name: entry.acc for name, entry in submitted.items()} == pytest.approx(expected)
    assert {0.0, 1.0} <= {entry.acc for entry in submitted.values()}


def test_the_metric_that_was_asked_for_is_in_the_score_file_and_the_other_beside(tmp_path):
    loss, acc = tmp_path / "a.json", tmp_path / "b.json"
    score_shard(loss)
    by_acc = score_shard(acc, how=scoring("acc"))
    assert by_acc.files == files_of(acc, other="loss")
    assert by_acc.scores == scores_in(acc) == scores_in(files_of(loss)[2])
    assert scores_in(files_of(acc, other="loss")[2]) == scores_in(loss)
    assert files_of(loss)[2].read_bytes() == acc.read_bytes()


@pytest.mark.parametrize("case", OTHERS, ids=str)
def test_spaces_that_are_no_chains_get_the_plain_scorer(case, tmp_path):
    torch.manual_seed(0)
    supernet = make_supernet(case.make())
    batches = [(images.float(), labels) for images, labels in random_batches(case.images().shape[1:], (3,), seed=1)]
    archs = {f"arch{index}": arch for index, arch in enumerate(random_archs(domain_of(supernet), 2, seed=1), 1)}
    how = Scoring("loss", "batch", lambda: batches)
    scored = score_list(supernet, archs, how, out=tmp_path / "scores.json", provenance={})
    assert not shares_prefixes(supernet)
    with pytest.raises(TypeError, match=r"^\w+ is no chain whose prefixes can be shared; use the plain scorer$"):
        next(score_prefixes(supernet, [list(archs.values())], how))
    expected = {name: score.loss for name, score in zip(archs, score_archs(supernet, archs.values(), how), strict=True)}
    score_file = read_scores(tmp_path / "scores.json", supernet.active.codec)
    assert scored.scores == expected
    assert score_file.scores == {name: (archs[name], expected[name]) for name in archs}
    assert score_file.provenance["scorer"] == "plain"


def test_scores_that_are_all_equal_are_kept_without_a_submission(tmp_path):
    one = {"arch1": ARCHS["arch1"]}
    out = tmp_path / "scores.json"
    scored = score_shard(out, archs=one)
    assert scored.files == [out, tmp_path / "scores.acc.json"] and scored.scores == scores_in(out)
    assert sorted(tmp_path.iterdir()) == sorted(scored.files)
    calls = []
    assert score_shard(out, archs=one, progress=counting(calls)) == scored and not calls


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_merged_shards_are_byte_for_byte_the_files_of_the_whole_list(tmp_path, order):
    whole, out = tmp_path / "whole.json", tmp_path / "scores.json"
    score_shard(whole)
    scores = {}
    for index in order[:2]:
        part = score_shard(out, index, 3)
        assert part.files == [tmp_path / f"scores.shard{index}of3.journal"]
        assert not out.exists()
        scores |= part.scores
    last = score_shard(out, order[2], 3)
    assert last.files == files_of(out)
    assert scores | last.scores == scores_in(whole)
    for merged, expected in zip(files_of(out), files_of(whole), strict=True):
        assert merged.read_bytes() == expected.read_bytes()
    assert not list(tmp_path.glob("*.journal"))


def test_more_shards_than_segments_are_refused(tmp_path):
    few = dict(list(ARCHS.items())[:3])
    with pytest.raises(InputError, match="^3 archs make 3 segments, too few for 4 shards; use fewer$"):
        score_shard(tmp_path / "scores.json", 4, 4, archs=few)
    assert not list(tmp_path.iterdir())


def test_a_list_that_is_already_scored_is_left_alone(tmp_path):
    out, calls = tmp_path / "scores.json", []
    first = score_shard(out)
    before = {path: path.stat().st_mtime_ns for path in first.files}
    (tmp_path / "scores.journal").touch()  # as a kill between the score file and its deletion leaves it
    again = score_shard(out, progress=counting(calls))
    assert (again, calls) == (first, [])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    second_half = score_shard(out, 2, 2)
    assert second_half.files == first.files
    assert 0 < len(second_half.scores) < len(ARCHS) and second_half.scores.items() <= first.scores.items()


def contents(folder):
    """Return the content of each file of a folder, journals aside."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".journal"}


def test_scores_of_different_settings_are_replaced_on_request_only(tmp_path):
    out = tmp_path / "scores.json"
    score_shard(out)
    before = contents(tmp_path)
    other = {**MADE_BY, "checkpoint": "b"}
    with pytest.raises(FileError, match=r"scores.json: is there already, .*; choose another --out, or --overwrite it$"):
        score_shard(out, made_by=other)
    assert contents(tmp_path) == before
    score_shard(out, made_by=other, overwrite=True)
    assert read_scores(out, DIGITS_CODEC).provenance["checkpoint"] == "b"


@pytest.mark.parametrize("name", ["scores.json", "scores.submission.json", "scores.acc.json", "scores.journal"])
def test_a_file_that_no_scoring_wrote_is_replaced_on_request_only(tmp_path, name):
    (tmp_path / name).write_text("something else")
    with pytest.raises(FileError, match=f"/{name}: "):
        score_shard(tmp_path / "scores.json")
    assert (tmp_path / name).read_text() == "something else"
    score_shard(tmp_path / "scores.json", overwrite=True)
    assert scores_in(tmp_path / "scores.json").keys() == ARCHS.keys()
    assert name == "scores.journal" or b"something else" not in contents(tmp_path)[name]


def test_a_list_that_version_0_1_has_scored_is_left_alone(tmp_path):
    out, calls = tmp_path / "scores.json", []
    first = score_shard(out)
    document = json.loads(out.read_text())
    document["provenance"]["blocks"] = document["provenance"].pop("segments")
    document["provenance"]["scorer"] = "score_prefixes"
    out.write_text(json.dumps(document))
    files_of(out)[2].unlink()
    before = out.read_bytes()
    again = score_shard(out, progress=counting(calls))
    assert (again.scores, again.files, calls) == (first.scores, files_of(out)[:2], [])
    assert out.read_bytes() == before


def test_of_two_shards_that_finish_at_once_the_second_finds_the_score_file(tmp_path, monkeypatch):
    whole, out = tmp_path / "whole.json", tmp_path / "scores.json"
    score_shard(whole)
    score_shard(out, 1, 2)
    merge = arch_list.merge_shards

    def after_another(*arguments):
        assert merge(*arguments)  # the other one, which deletes the journals
        return merge(*arguments)

    monkeypatch.setattr(arch_list, "merge_shards", after_another)
    assert score_shard(out, 2, 2).files == files_of(out)
    assert out.read_bytes() == whole.read_bytes()


def test_the_provenance_is_compared_as_it_reads_back(tmp_path):
    out = tmp_path / "scores.json"
    for index in (1, 2):
        score_shard(out, index, 2, made_by={"seeds": (1, 2)})
    assert read_scores(out, DIGITS_CODEC).provenance["seeds"] == [1, 2]


def test_shards_that_were_scored_with_different_settings_are_not_merged(tmp_path):
    out = tmp_path / "scores.json"
    score_shard(out, 1, 2)
    message = 'shard1of2.journal: was written with different settings: checkpoint "a" instead of "b"; '
    with pytest.raises(FileError, match=message):
        score_shard(out, 2, 2, made_by={**MADE_BY, "checkpoint": "b"})
    assert not out.exists()


def test_shards_of_another_list_with_the_same_names_are_not_merged(tmp_path):
    out = tmp_path / "scores.json"
    others = dict(zip(ARCHS, random_archs(DIGITS, len(ARCHS), seed=77), strict=True))
    score_shard(out, 1, 2, archs=others)
    with pytest.raises(FileError, match='shard1of2.journal: was written with different settings: archs "'):
        score_shard(out, 2, 2)
    assert not out.exists()


def test_a_shard_that_is_not_finished_is_waited_for(tmp_path):
    out = tmp_path / "scores.json"
    score_shard(out, 1, 2)
    journal = tmp_path / "scores.shard1of2.journal"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
    assert score_shard(out, 2, 2).files == [tmp_path / "scores.shard2of2.journal"]
    assert score_shard(out, 1, 2).files == files_of(out)
    assert read_journal(journal).identity is None


def test_progress_counts_the_archs_that_are_left(tmp_path):
    calls = []
    out = tmp_path / "scores.json"
    for _ in range(2):
        score_shard(out, 1, 2, progress=counting(calls))
    first, again = calls
    assert first[:2] == (12, "archs") and sum(first[2]) == pytest.approx(12)
    assert again == (0, "archs", [])
