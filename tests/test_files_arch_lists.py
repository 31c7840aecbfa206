import json
import math
import os
from itertools import count

import pytest
from codes import DIGITS_CODEC, EVERY_CODEC, RESNET20_CODEC, RESNET48_CODEC, SAMPLE_CODEC, shared_data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nni_nas_consistency.errors import FileError
from nni_nas_consistency.files.arch_lists import Entry, read_released, write_released
from nni_nas_consistency.files.score_files import (
    SCORE_FORMAT,
    ScoreFile,
    read_scores,
    read_table,
    read_table_and_provenance,
    submission,
    write_scores,
)

A, B, C = ("-".join([width, "8"] + ["4"] * 18) for width in ("4", "8", "12"))
DIGITS_48 = "22221" + "1111000000" * 2 + "1111000000000000" + "1111000000"
files = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
every_codec = pytest.mark.parametrize(("codec", "codes"), EVERY_CODEC, ids=[codec.space for codec, _ in EVERY_CODEC])
finite = st.floats(allow_nan=False, allow_infinity=False)


def scored(*scores: float) -> ScoreFile:
    """Return a score file of up to three archs."""
    archs = [RESNET20_CODEC.parse(code) for code in (A, B, C)]
    return ScoreFile(
        {f"arch{n}": pair for n, pair in enumerate(zip(archs, scores, strict=False), 1)},
        {"seed": 7, "bn": {"mode": "batch", "images": [64, 2.5, None, True]}},
    )


def listed(*accs: object) -> str:
    """Return the text of a released list whose numbers are written as given."""
    pairs = enumerate(zip(accs, (A, B, C), strict=False), 1)
    rows = [f'"arch{n}": {{"acc": {acc}, "arch": "{code}"}}' for n, (acc, code) in pairs]
    return "{" + ", ".join(rows) + "}"


def score_text(*, head: str = f'"format": "{SCORE_FORMAT}"', provenance: str = "{}", score: str = "-1.5") -> str:
    """Return the text of a score file with one arch."""
    return f'{{{head}, "provenance": {provenance}, "scores": {{"arch1": {{"arch": "{A}", "score": {score}}}}}}}'


def message_of(read, path, codec=RESNET20_CODEC) -> str:
    """Return what `read` says about the file, after its name; all of it must stand on one line."""
    with pytest.raises(FileError) as error:
        read(path, codec)
    name, _, message = str(error.value).partition(": ")
    assert name == str(path)
    assert "\n" not in message
    return message


# What is wrong with a text whatever kind of file it should be.
BAD_TEXTS = {
    "": "is empty; copy or create it again",
    " \n\t ": "is empty; copy or create it again",
    '{"arch1": {"acc": 0,': "is truncated: Expecting property name enclosed in double quotes: line 1 column 21",
    '{"arch1":\n {"acc": 0, "ar': "is truncated: Unterminated string starting at: line 2 column 13 (char 22)",
    '{"arch1": {"acc": 0}': "is truncated: Expecting ',' delimiter: line 1 column 21 (char 20); copy or create it",
    "{'arch1': 0}": "is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1);",
    '{"a": 0}\n{"b": 1}': "is not JSON: Extra data: line 2 column 1 (char 9); copy or create it again",
    "\ufeff{}": "is not JSON: Unexpected UTF-8 BOM (decode using utf-8-sig): line 1 column 1 (char 0);",
    "[1, 2]": "the file is a list; expected an object in braces",
    "null": "the file is null; expected an object in braces",
    '"arch1"': 'the file is "arch1"; expected an object in braces',
    "[" * 100_000: "is nested too deeply; give an arch list or a score file",
}


@pytest.mark.parametrize("read", [read_released, read_scores, read_table])
@pytest.mark.parametrize(("text", "message"), BAD_TEXTS.items(), ids=[text[:12] for text in BAD_TEXTS])
def test_a_text_that_is_no_json_object_is_refused(tmp_path, read, text, message):
    path = tmp_path / "archs.json"
    path.write_bytes(text.encode())
    assert message_of(read, path).startswith(message)


BAD_LISTS = {
    "{}": "contains no archs; give a list with at least one",
    listed(0, 0).replace("arch2", "arch1"): "'arch1' appears twice in the file; keep one of them",
    '{"arch1": {"acc": 0, "acc": 1, "arch": "4"}}': "'acc' appears twice in arch1; keep one of them",
    '{"arch1": {"acc": 0, "arch": "4", "arch": "4"}}': "'arch' appears twice in arch1; keep one of them",
    '{"arch1": {"acc": 0, "arch": "4", "seed": 1}}': "arch1 has an unknown field 'seed'; allowed are acc, arch",
    '{"arch1": {"arch": "4"}}': "arch1 lacks the field 'acc'; required are acc, arch",
    '{"arch1": {"acc": 0}}': "arch1 lacks the field 'arch'; required are acc, arch",
    '{"arch1": 0.5}': "arch1 is 0.5; expected an object in braces",
    '{"arch1": [0, "4"]}': "arch1 is a list; expected an object in braces",
    listed(0, "true"): "acc of arch2 is true; expected a finite number",
    listed(0, '"0.5"'): 'acc of arch2 is "0.5"; expected a finite number',
    listed(0, "null"): "acc of arch2 is null; expected a finite number",
    listed(0, "[0.5]"): "acc of arch2 is a list; expected a finite number",
    listed(0, "{}"): "acc of arch2 is an object; expected a finite number",
    listed(0, "NaN"): "acc of arch2 is NaN; expected a finite number",
    listed(0, "Infinity"): "acc of arch2 is Infinity; expected a finite number",
    listed(0, "-1e999"): "acc of arch2 is -Infinity; expected a finite number",
    listed(0, "1" + "0" * 350): "acc of arch2 is 1" + "0" * 59 + "…; expected a finite number",
    listed(0, "9" * 5000): "has a number of thousands of digits; copy or create it again",
    listed(0).replace(f'"{A}"', "16"): "arch of arch1 is 16; expected its code as a string",
    listed(0).replace(f'"{A}"', "null"): "arch of arch1 is null; expected its code as a string",
    listed(0, 0).replace(B, A): f"arch1 and arch2 are the same arch {A!r}; keep one of them",
    listed(0, 0, 0).replace(C, A): f"arch1 and arch3 are the same arch {A!r}; keep one of them",
    listed(0).replace(
        A, "5" + A[1:]
    ): f"layer 1 of arch1 {'5' + A[1:]!r} asks for width 5; resnet20 allows 4, 8, 12, 16; "
    "correct it, or give the search space that this file is for",
    listed(0).replace("arch1", ""): 'an arch has the name ""; use printable characters, such as arch1',
    listed(0).replace("arch1", "a\\nb"): 'an arch has the name "a\\nb"; use printable characters, such as arch1',
}


@pytest.mark.parametrize("read", [read_released, read_table])
@pytest.mark.parametrize(("text", "message"), BAD_LISTS.items(), ids=list(BAD_LISTS.values()))
def test_a_list_with_a_flaw_is_refused(tmp_path, read, text, message):
    path = tmp_path / "archs.json"
    path.write_text(text)
    assert message_of(read, path).startswith(message)


BAD_SCORES = {
    score_text(head='"format": "nni-nas-consistency scores 2"'): 'has format "nni-nas-consistency scores 2"; give a',
    score_text().replace(
        '"provenance": {}, ', ""
    ): "the file lacks the field 'provenance'; required are format, provenance,",
    score_text().replace(
        '"scores": {', '"score": {'
    ): "the file lacks the field 'scores'; required are format, provenance, scores",
    score_text(head=f'"format": "{SCORE_FORMAT}", "n": 1'): "the file has an unknown field 'n'; allowed are format, ",
    score_text(head=f'"format": "{SCORE_FORMAT}", "scores": 1'): "'scores' appears twice in the file; keep one of them",
    score_text(provenance="[]"): "provenance is a list; expected an object in braces",
    score_text(provenance='{"seed": 1, "seed": 2}'): "'seed' appears twice in provenance; keep one of them",
    score_text(provenance='{"bn": [{"n": 1, "n": 2}]}'): "'n' appears twice in provenance bn; keep one of them",
    score_text(provenance='{"bn": {"lr": NaN}}'): "provenance bn lr is NaN; expected a finite number",
    score_text(score="NaN"): "score of arch1 is NaN; expected a finite number",
    score_text(score="1e999"): "score of arch1 is Infinity; expected a finite number",
    score_text(score="false"): "score of arch1 is false; expected a finite number",
    score_text().replace('"score":', '"acc":'): "arch1 lacks the field 'score'; required are score, arch",
    score_text().replace(A, "4-8"): "arch1 '4-8' has 2 layers; resnet20 has 20; correct it, or give the search space",
    score_text().replace(f'{{"arch": "{A}", "score": -1.5}}', "1"): "arch1 is 1; expected an object in braces",
    f'{{"format": "{SCORE_FORMAT}", "provenance": {{}}, "scores": {{}}}}': "contains no archs; give a list",
    f'{{"format": "{SCORE_FORMAT}", "provenance": {{}}, "scores": []}}': "scores is a list; expected an object",
}


@pytest.mark.parametrize("read", [read_scores, read_table])
@pytest.mark.parametrize(("text", "message"), BAD_SCORES.items(), ids=list(BAD_SCORES.values()))
def test_a_score_file_with_a_flaw_is_refused(tmp_path, read, text, message):
    path = tmp_path / "scores.json"
    path.write_text(text)
    assert message_of(read, path).startswith(message)


def test_a_file_of_the_other_kind_is_refused(tmp_path):
    (tmp_path / "scores.json").write_text(score_text())
    (tmp_path / "archs.json").write_text(listed(0))
    hint = "is a score file; give an arch list or a submission"
    assert message_of(read_released, tmp_path / "scores.json") == hint
    hint = f"has format null; give a score file of format {SCORE_FORMAT!r}"
    assert message_of(read_scores, tmp_path / "archs.json") == hint


@pytest.mark.parametrize("read", [read_released, read_scores, read_table])
def test_a_path_that_cannot_be_read_is_refused(tmp_path, read):
    missing = "cannot be read (No such file or directory); check the path and its permissions"
    assert message_of(read, tmp_path / "absent.json") == missing
    assert message_of(read, tmp_path) == "is a folder; give a regular file"
    binary = tmp_path / "archs.json.gz"
    binary.write_bytes(b"{\xff")
    assert message_of(read, binary) == "is not UTF-8 text (byte 1); give the JSON file itself, uncompressed"


def test_a_list_for_a_different_space_is_refused(tmp_path):
    path = tmp_path / "archs.json"
    path.write_text(listed(0))
    assert message_of(read_released, path, RESNET48_CODEC).startswith(
        f"arch1: the code is {A!r}; resnet48 expects 51 or 52 "
    )
    assert message_of(read_released, path, DIGITS_CODEC).startswith(
        f"layer 2 of arch1 {A!r} asks for width 8; digits allows 1"
    )


def test_an_arch_may_be_named_format(tmp_path):
    path = tmp_path / "archs.json"
    path.write_text(listed(0.5).replace("arch1", "format"))
    assert read_table(path, RESNET20_CODEC) == {"format": Entry(RESNET20_CODEC.parse(A), 0.5)}


def test_a_list_is_read_in_the_order_and_with_the_numbers_of_the_file(tmp_path):
    path = tmp_path / "archs.json"
    path.write_text(listed("1", "0.25").replace("arch1", "zebra"))
    entries = read_released(path, RESNET20_CODEC)
    assert list(entries.items()) == [
        ("zebra", Entry(RESNET20_CODEC.parse(A), 1)),
        ("arch2", Entry(RESNET20_CODEC.parse(B), 0.25)),
    ]
    assert type(entries["zebra"].acc) is int


@every_codec
@files
@given(data=st.data())
def test_a_list_that_is_read_and_written_keeps_every_byte(tmp_path, codec, codes, data):
    drawn = data.draw(st.lists(codes, min_size=1, max_size=12, unique_by=codec.canonical))
    accs = data.draw(st.lists(finite | st.integers(-(10**20), 10**20), min_size=len(drawn), max_size=len(drawn)))
    rows = {f"arch{n} ä": {"acc": acc, "arch": code} for n, code, acc in zip(count(), drawn, accs, strict=False)}
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    before.write_text(json.dumps(rows))
    write_released(after, read_released(before, codec))
    assert after.read_bytes() == before.read_bytes()


@every_codec
@files
@given(data=st.data())
def test_scores_read_back_exactly_and_are_written_again_byte_for_byte(tmp_path, codec, codes, data):
    drawn = data.draw(st.lists(codes, min_size=1, max_size=12, unique_by=codec.canonical))
    scores = data.draw(st.lists(finite, min_size=len(drawn), max_size=len(drawn)))
    archs = {f"arch{n}": (codec.parse(code), score) for n, code, score in zip(count(), drawn, scores, strict=False)}
    provenance = {"space": codec.space, "seed": 3, "images": [1, 0.1, None, True, "ä\n", {"deep": {}}]}
    path, again = tmp_path / "scores.json", tmp_path / "again.json"
    write_scores(path, ScoreFile(archs, provenance))
    read = read_scores(path, codec)
    assert read == ScoreFile(archs, provenance)
    assert list(read.scores) == list(archs)
    assert [math.copysign(1, score) for _, score in read.scores.values()] == [math.copysign(1, x) for x in scores]
    assert read_table(path, codec) == {name: Entry(arch, score) for name, (arch, score) in archs.items()}
    write_scores(again, read)
    assert again.read_bytes() == path.read_bytes()


SAMPLE = {"ratio": 0.25, "depth": 2, "inputs": ["a", "b"], 'layer "1"': 'conv{"kernel": 3}'}


@pytest.mark.parametrize(
    ("codec", "first", "second"),
    [
        (RESNET48_CODEC, DIGITS_48, "1" + DIGITS_48),
        (SAMPLE_CODEC, json.dumps(SAMPLE), json.dumps(SAMPLE, sort_keys=True, indent=1)),
    ],
    ids=["digits", "samples"],
)
def test_two_spellings_of_one_arch_are_kept_but_not_in_one_file(tmp_path, codec, first, second):
    archs = {"a": codec.parse(first), "b": codec.parse(second)}
    path = tmp_path / "archs.json"
    for name, code in (("a", first), ("b", second)):
        write_released(path, {name: Entry(archs[name], 0)})
        assert read_released(path, codec)[name].arch.code == code
    message = f"a and b are the same arch {second!r}; keep one of them"
    path.write_text(json.dumps({"a": {"acc": 0, "arch": first}, "b": {"acc": 0, "arch": second}}))
    assert message_of(read_released, path, codec) == message
    with pytest.raises(FileError) as error:
        write_released(path, {name: Entry(arch, 0) for name, arch in archs.items()})
    assert str(error.value) == f"{path}: {message}"
    with pytest.raises(FileError) as error:
        write_scores(path, ScoreFile({name: (arch, 0.5) for name, arch in archs.items()}, {}))
    assert str(error.value) == f"{path}: {message}"


def test_a_table_comes_with_the_provenance_of_its_score_file(tmp_path):
    write_scores(tmp_path / "scores.json", scored(-1.0, 2.0))
    (tmp_path / "archs.json").write_text(listed(0, 1))
    table, provenance = read_table_and_provenance(tmp_path / "scores.json", RESNET20_CODEC)
    assert ([entry.acc for entry in table.values()], provenance) == ([-1.0, 2.0], scored().provenance)
    table, provenance = read_table_and_provenance(tmp_path / "archs.json", RESNET20_CODEC)
    assert ([entry.acc for entry in table.values()], provenance) == ([0, 1], {})


def test_a_score_file_has_one_line_per_arch(tmp_path):
    path = tmp_path / "scores.json"
    write_scores(path, scored(-1.25, 2))
    lines = path.read_text().splitlines()
    assert lines[0] == f'{{"format": "{SCORE_FORMAT}",'
    assert lines[-4:] == [
        '"scores": {',
        f'"arch1": {{"arch": "{A}", "score": -1.25}},',
        f'"arch2": {{"arch": "{B}", "score": 2.0}}',
        "}}",
    ]
    assert path.read_text().endswith("}}\n")


def test_a_whole_score_reads_back_as_a_float(tmp_path):
    path = tmp_path / "scores.json"
    path.write_text(score_text(score="2"))
    assert type(read_scores(path, RESNET20_CODEC).scores["arch1"][1]) is float
    assert type(read_table(path, RESNET20_CODEC)["arch1"].acc) is float


@pytest.mark.parametrize("read", [read_released, read_scores, read_table])
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match=f"^{tmp_path / 'pipe'}: is a pipe; give a regular file$"):
        read(tmp_path / "pipe", RESNET20_CODEC)


NOT_FINITE = [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity"), (True, "true"), ("1", '"1"')]


@pytest.mark.parametrize(("number", "shown"), [*NOT_FINITE, (10**309, "1" + "0" * 59 + "…"), (1j, '"1j"')])
def test_a_number_that_is_not_finite_is_not_written(tmp_path, number, shown):
    entries = {name: Entry(arch, score) for name, (arch, score) in scored(0.5, number).scores.items()}
    with pytest.raises(FileError) as error:
        write_released(tmp_path / "archs.json", entries)
    assert str(error.value) == f"{tmp_path / 'archs.json'}: acc of arch2 is {shown}; expected a finite number"
    with pytest.raises(FileError) as error:
        write_scores(tmp_path / "scores.json", scored(0.5, number))
    assert str(error.value) == f"{tmp_path / 'scores.json'}: score of arch2 is {shown}; expected a finite number"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("archs", "message"),
    [
        ({}, "contains no archs; give a list with at least one"),
        ({"a": A, "b": A}, f"a and b are the same arch {A!r}; keep one of them"),
        ({"": A}, 'an arch has the name ""; use printable characters, such as arch1'),
        ({"a\n": A}, 'an arch has the name "a\\n"; use printable characters, such as arch1'),
    ],
)
def test_what_a_reader_would_refuse_is_not_written(tmp_path, archs, message):
    parsed = {name: RESNET20_CODEC.parse(code) for name, code in archs.items()}
    path = tmp_path / "archs.json"
    with pytest.raises(FileError) as error:
        write_released(path, {name: Entry(arch, 0) for name, arch in parsed.items()})
    assert str(error.value) == f"{path}: {message}"
    with pytest.raises(FileError) as error:
        write_scores(path, ScoreFile({name: (arch, 0.5) for name, arch in parsed.items()}, {}))
    assert str(error.value) == f"{path}: {message}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("provenance", "message"),
    [
        ({"lr": math.nan}, "provenance lr is NaN; expected a finite number"),
        ({"bn": {"images": [1, math.inf]}}, "provenance bn images is Infinity; expected a finite number"),
        ({1: "a", "1": "b"}, "'1' appears twice in provenance; keep one of them"),
    ],
)
def test_provenance_that_a_reader_would_refuse_is_not_written(tmp_path, provenance, message):
    with pytest.raises(FileError) as error:
        write_scores(tmp_path / "scores.json", ScoreFile(scored(0.5).scores, provenance))
    assert str(error.value) == f"{tmp_path / 'scores.json'}: {message}"
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_scores(tmp_path / "scores.json", ScoreFile(scored(0.5).scores, {"path": tmp_path}))
    assert list(tmp_path.iterdir()) == []


def test_a_list_that_cannot_be_written_keeps_the_older_file(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    for name, write, content in (
        ("archs.json", write_released, {"arch1": Entry(RESNET20_CODEC.parse(A), 0)}),
        ("scores.json", write_scores, scored(0.5)),
    ):
        path = tmp_path / name
        path.write_text("old")
        with pytest.raises(FileError) as error:
            write(path, content)
        remedy = "free some space and run the same command again"
        assert str(error.value) == f"{path}: cannot be written (No space left on device); {remedy}"
        assert path.read_text() == "old"


def test_a_submission_scales_the_scores_to_0_and_1():
    entries = submission(scored(-3.0, -1.0, -2.5))
    assert {name: entry.acc for name, entry in entries.items()} == {"arch1": 0.0, "arch2": 1.0, "arch3": 0.25}
    assert list(entries) == ["arch1", "arch2", "arch3"]
    assert [entry.arch.code for entry in entries.values()] == [A, B, C]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ((0.5, 0.5), "scores from 0.5 to 0.5 cannot be scaled to [0, 1]; check checkpoint and metric"),
        ((), "scores from 0.0 to 0.0 cannot be scaled to [0, 1]; check checkpoint and metric"),
        ((-1e308, 1e308), "scores from -1e+308 to 1e+308 cannot be scaled to [0, 1]; check checkpoint and metric"),
        ((0.0, math.nan, 1.0), "score of arch2 is NaN; expected a finite number"),
    ],
)
def test_scores_that_cannot_be_scaled_make_no_submission(scores, message):
    with pytest.raises(ValueError) as error:
        submission(scored(*scores))
    assert str(error.value) == message
    assert not isinstance(error.value, FileError)


def test_a_submission_can_be_written_and_read(tmp_path):
    entries = submission(scored(-0.3, -0.1, -0.2))
    write_released(tmp_path / "submission.json", entries)
    assert read_released(tmp_path / "submission.json", RESNET20_CODEC) == entries


@pytest.mark.parametrize(
    ("parts", "codec", "number"),
    [
        (("cvpr2021", "Track1_final_archs.json"), RESNET20_CODEC, 50_000),
        (("cvpr2022", "CVPR_2022_NAS_Track1_test.json"), RESNET48_CODEC, 45_000),
    ],
)
def test_the_released_lists_are_valid_distinct_and_keep_every_byte(tmp_path, parts, codec, number):
    path = shared_data(*parts)
    entries = read_released(path, codec)
    assert list(entries) == [f"arch{n}" for n in range(1, number + 1)]
    assert len({entry.arch for entry in entries.values()}) == number
    write_released(tmp_path / "copy.json", entries)
    assert (tmp_path / "copy.json").read_bytes() == path.read_bytes()


def test_the_reference_accuracies_belong_to_the_first_released_archs():
    entries = read_table(shared_data("cvpr2021", "reference_accuracies_300.json"), RESNET20_CODEC)
    released = json.loads(shared_data("cvpr2021", "Track1_final_archs.json").read_text())
    assert list(entries) == list(released)[:300]
    assert all(released[name]["arch"] == entry.arch.code for name, entry in entries.items())
    assert entries["arch1"].acc == 0.539
