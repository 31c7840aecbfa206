import json
import math
import os
import stat
import time
from itertools import count

import pytest
from helpers import digit_codes, shared_data, width_codes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nni_nas_consistency.archs.arch import DIGITS, RESNET20, RESNET48
from nni_nas_consistency.errors import FileError
from nni_nas_consistency.files.lists import (
    SCORE_FORMAT,
    Entry,
    ScoreFile,
    read_released,
    read_scores,
    read_table,
    submission,
    write_released,
    write_scores,
    write_text_atomically,
)

A, B, C = ("-".join([width, "8"] + ["4"] * 18) for width in ("4", "8", "12"))
DIGITS_48 = "22221" + "1111000000" * 2 + "1111000000000000" + "1111000000"
files = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
lists = st.one_of(
    st.tuples(st.just(RESNET20), st.lists(width_codes(RESNET20), min_size=1, unique=True)),
    st.tuples(st.just(DIGITS), st.lists(width_codes(DIGITS), min_size=1, unique=True)),
    st.tuples(st.just(RESNET48), st.lists(digit_codes(), min_size=1, unique_by=lambda code: code[-51:])),
)
finite = st.floats(allow_nan=False, allow_infinity=False)


def scored(*scores: float) -> ScoreFile:
    """Return a score file of up to three archs."""
    archs = [RESNET20.parse(code) for code in (A, B, C)]
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


def message_of(read, path, form=RESNET20) -> str:
    """Return what `read` says about the file, after its name; all of it must stand on one line."""
    with pytest.raises(FileError) as error:
        read(path, form)
    name, _, message = str(error.value).partition(": ")
    assert name == str(path)
    assert "\n" not in message
    return message


# What is wrong with a text whatever kind of file it should be.
BAD_TEXTS = {
    "": "is empty; copy or make it again",
    " \n\t ": "is empty; copy or make it again",
    '{"arch1": {"acc": 0,': "is cut off: Expecting property name enclosed in double quotes: line 1 column 21 (char 20)",
    '{"arch1":\n {"acc": 0, "ar': "is cut off: Unterminated string starting at: line 2 column 13 (char 22)",
    '{"arch1": {"acc": 0}': "is cut off: Expecting ',' delimiter: line 1 column 21 (char 20); copy or make it again",
    "{'arch1': 0}": "is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1);",
    '{"a": 0}\n{"b": 1}': "is not JSON: Extra data: line 2 column 1 (char 9); copy or make it again",
    "\ufeff{}": "is not JSON: Unexpected UTF-8 BOM (decode using utf-8-sig): line 1 column 1 (char 0);",
    "[1, 2]": "the file is a list; write an object, in braces",
    "null": "the file is null; write an object, in braces",
    '"arch1"': 'the file is "arch1"; write an object, in braces',
    "[" * 100_000: "is nested too deep; give a released list or a score file",
}


@pytest.mark.parametrize("read", [read_released, read_scores, read_table])
@pytest.mark.parametrize(("text", "message"), BAD_TEXTS.items(), ids=[text[:12] for text in BAD_TEXTS])
def test_a_text_that_is_no_json_object_is_refused(tmp_path, read, text, message):
    path = tmp_path / "archs.json"
    path.write_bytes(text.encode())
    assert message_of(read, path).startswith(message)


BAD_LISTS = {
    "{}": "there are no archs in it; give a list with at least one",
    listed(0, 0).replace("arch2", "arch1"): "the file has 'arch1' twice; keep one of them",
    '{"arch1": {"acc": 0, "acc": 1, "arch": "4"}}': "arch1 has 'acc' twice; keep one of them",
    '{"arch1": {"acc": 0, "arch": "4", "arch": "4"}}': "arch1 has 'arch' twice; keep one of them",
    '{"arch1": {"acc": 0, "arch": "4", "seed": 1}}': "arch1 has 'seed', which has no meaning here; write only: acc",
    '{"arch1": {"arch": "4"}}': "arch1 has no 'acc'; write all of: acc, arch",
    '{"arch1": {"acc": 0}}': "arch1 has no 'arch'; write all of: acc, arch",
    '{"arch1": 0.5}': "arch1 is 0.5; write an object, in braces",
    '{"arch1": [0, "4"]}': "arch1 is a list; write an object, in braces",
    listed(0, "true"): "acc of arch2 is true; write a finite number",
    listed(0, '"0.5"'): 'acc of arch2 is "0.5"; write a finite number',
    listed(0, "null"): "acc of arch2 is null; write a finite number",
    listed(0, "[0.5]"): "acc of arch2 is a list; write a finite number",
    listed(0, "{}"): "acc of arch2 is an object; write a finite number",
    listed(0, "NaN"): "acc of arch2 is NaN; write a finite number",
    listed(0, "Infinity"): "acc of arch2 is Infinity; write a finite number",
    listed(0, "-1e999"): "acc of arch2 is -Infinity; write a finite number",
    listed(0, "1" + "0" * 350): "acc of arch2 is 1" + "0" * 59 + "…; write a finite number",
    listed(0, "9" * 5000): "Exceeds the limit",
    listed(0).replace(f'"{A}"', "16"): "arch of arch1 is 16; write its code as text",
    listed(0).replace(f'"{A}"', "null"): "arch of arch1 is null; write its code as text",
    listed(0, 0).replace(B, A): f"arch1 and arch2 are the same arch {A!r}; keep one of them",
    listed(0, 0, 0).replace(C, A): f"arch1 and arch3 are the same arch {A!r}; keep one of them",
    listed(0).replace(
        A, "5" + A[1:]
    ): f"layer 1 of arch1 {'5' + A[1:]!r} asks for width 5; resnet20 allows 4, 8, 12, 16; "
    "correct it, or give the space that the file was made for",
    listed(0).replace("arch1", ""): 'an arch is named ""; write a name of visible letters, like arch1',
    listed(0).replace("arch1", "a\\nb"): 'an arch is named "a\\nb"; write a name of visible letters, like arch1',
}


@pytest.mark.parametrize("read", [read_released, read_table])
@pytest.mark.parametrize(("text", "message"), BAD_LISTS.items(), ids=list(BAD_LISTS.values()))
def test_a_list_with_a_flaw_is_refused(tmp_path, read, text, message):
    path = tmp_path / "archs.json"
    path.write_text(text)
    assert message_of(read, path).startswith(message)


BAD_SCORES = {
    score_text(head='"format": "nni-nas-consistency scores 2"'): 'has format "nni-nas-consistency scores 2"; give a',
    score_text().replace('"provenance": {}, ', ""): "the file has no 'provenance'; write all of: format, provenance,",
    score_text().replace(
        '"scores": {', '"score": {'
    ): "the file has no 'scores'; write all of: format, provenance, scores",
    score_text(head=f'"format": "{SCORE_FORMAT}", "n": 1'): "the file has 'n', which has no meaning here; write only: ",
    score_text(head=f'"format": "{SCORE_FORMAT}", "scores": 1'): "the file has 'scores' twice; keep one of them",
    score_text(provenance="[]"): "provenance is a list; write an object, in braces",
    score_text(provenance='{"seed": 1, "seed": 2}'): "provenance has 'seed' twice; keep one of them",
    score_text(provenance='{"bn": [{"n": 1, "n": 2}]}'): "provenance bn has 'n' twice; keep one of them",
    score_text(provenance='{"bn": {"lr": NaN}}'): "provenance bn lr is NaN; write a finite number",
    score_text(score="NaN"): "score of arch1 is NaN; write a finite number",
    score_text(score="1e999"): "score of arch1 is Infinity; write a finite number",
    score_text(score="false"): "score of arch1 is false; write a finite number",
    score_text().replace('"score":', '"acc":'): "arch1 has no 'score'; write all of: score, arch",
    score_text().replace(A, "4-8"): "arch1 '4-8' has 2 layers; resnet20 has 20; correct it, or give the space",
    score_text().replace(f'{{"arch": "{A}", "score": -1.5}}', "1"): "arch1 is 1; write an object, in braces",
    f'{{"format": "{SCORE_FORMAT}", "provenance": {{}}, "scores": {{}}}}': "there are no archs in it; give a list",
    f'{{"format": "{SCORE_FORMAT}", "provenance": {{}}, "scores": []}}': "scores is a list; write an object, in braces",
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
    hint = "is a score file; give a released list, or make a submission of it first"
    assert message_of(read_released, tmp_path / "scores.json") == hint
    hint = f"has format null; give a score file of format {SCORE_FORMAT!r}"
    assert message_of(read_scores, tmp_path / "archs.json") == hint


@pytest.mark.parametrize("read", [read_released, read_scores, read_table])
def test_a_path_that_cannot_be_read_is_refused(tmp_path, read):
    missing = "cannot be read (No such file or directory); check the path and its permissions"
    assert message_of(read, tmp_path / "absent.json") == missing
    assert message_of(read, tmp_path) == "cannot be read (Is a directory); check the path and its permissions"
    binary = tmp_path / "archs.json.gz"
    binary.write_bytes(b"{\xff")
    assert message_of(read, binary) == "is no UTF-8 text (offset 1); give the JSON file, unpacked"


def test_two_spellings_of_one_digit_code_are_the_same_arch(tmp_path):
    path = tmp_path / "archs.json"
    path.write_text(json.dumps({name: {"acc": 0, "arch": one + DIGITS_48} for name, one in (("a", ""), ("b", "1"))}))
    assert message_of(read_released, path, RESNET48) == f"a and b are the same arch '1{DIGITS_48}'; keep one of them"


def test_a_list_of_another_space_is_refused(tmp_path):
    path = tmp_path / "archs.json"
    path.write_text(listed(0))
    assert message_of(read_released, path, RESNET48).startswith(f"arch1: the code is {A!r}; resnet48 writes 51 or 52 ")
    assert message_of(read_released, path, DIGITS).startswith(
        f"layer 2 of arch1 {A!r} asks for width 8; digits allows 1"
    )


def test_an_arch_may_be_named_format(tmp_path):
    path = tmp_path / "archs.json"
    path.write_text(listed(0.5).replace("arch1", "format"))
    assert read_table(path, RESNET20) == {"format": Entry(RESNET20.parse(A), 0.5)}


def test_a_list_is_read_in_the_order_and_with_the_numbers_of_the_file(tmp_path):
    path = tmp_path / "archs.json"
    path.write_text(listed("1", "0.25").replace("arch1", "zebra"))
    entries = read_released(path, RESNET20)
    assert list(entries.items()) == [("zebra", Entry(RESNET20.parse(A), 1)), ("arch2", Entry(RESNET20.parse(B), 0.25))]
    assert type(entries["zebra"].acc) is int


@files
@given(lists, st.data())
def test_a_list_that_is_read_and_written_keeps_every_byte(tmp_path, drawn, data):
    form, codes = drawn
    accs = data.draw(st.lists(finite | st.integers(-(10**20), 10**20), min_size=len(codes), max_size=len(codes)))
    names = [f"arch{n} ä" for n in range(len(codes))]
    rows = zip(names, accs, codes, strict=True)
    text = json.dumps({name: {"acc": acc, "arch": code} for name, acc, code in rows})
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    before.write_bytes(text.encode())
    write_released(after, read_released(before, form))
    assert after.read_bytes() == before.read_bytes()


@files
@given(lists, st.data())
def test_scores_read_back_exactly(tmp_path, drawn, data):
    form, codes = drawn
    scores = data.draw(st.lists(finite, min_size=len(codes), max_size=len(codes)))
    archs = {f"arch{n}": (form.parse(code), score) for n, code, score in zip(count(), codes, scores, strict=False)}
    provenance = {"space": form.space, "seed": 3, "images": [1, 0.1, None, True, "ä\n", {"deep": {}}]}
    path = tmp_path / "scores.json"
    write_scores(path, ScoreFile(archs, provenance))
    read = read_scores(path, form)
    assert read == ScoreFile(archs, provenance)
    assert list(read.scores) == list(archs)
    assert [math.copysign(1, score) for _, score in read.scores.values()] == [math.copysign(1, x) for x in scores]
    assert read_table(path, form) == {name: Entry(arch, score) for name, (arch, score) in archs.items()}


def test_a_score_file_has_one_line_an_arch(tmp_path):
    path = tmp_path / "scores.json"
    write_scores(path, scored(-1.25, 0.1))
    lines = path.read_text().splitlines()
    assert lines[0] == f'{{"format": "{SCORE_FORMAT}",'
    assert lines[-4:] == [
        '"scores": {',
        f'"arch1": {{"arch": "{A}", "score": -1.25}},',
        f'"arch2": {{"arch": "{B}", "score": 0.1}}',
        "}}",
    ]
    assert path.read_text().endswith("}}\n")


def test_a_whole_score_reads_back_as_a_float(tmp_path):
    path = tmp_path / "scores.json"
    path.write_text(score_text(score="2"))
    assert type(read_scores(path, RESNET20).scores["arch1"][1]) is float
    assert type(read_table(path, RESNET20)["arch1"].acc) is float


@pytest.mark.parametrize("read", [read_released, read_scores, read_table])
def test_a_file_is_read_only_once(read):
    text = score_text() if read is read_scores else listed(0)
    source, sink = os.pipe()
    os.write(sink, text.encode())
    os.close(sink)
    try:
        # A pipe has nothing left for a second look.
        assert read(f"/dev/fd/{source}", RESNET20)
    finally:
        os.close(source)


NOT_FINITE = [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity"), (True, "true"), ("1", '"1"')]


@pytest.mark.parametrize(("number", "shown"), [*NOT_FINITE, (10**309, "1" + "0" * 59 + "…"), (1j, '"1j"')])
def test_a_number_that_is_not_finite_is_not_written(tmp_path, number, shown):
    entries = {name: Entry(arch, score) for name, (arch, score) in scored(0.5, number).scores.items()}
    with pytest.raises(FileError) as error:
        write_released(tmp_path / "archs.json", entries)
    assert str(error.value) == f"{tmp_path / 'archs.json'}: acc of arch2 is {shown}; write a finite number"
    with pytest.raises(FileError) as error:
        write_scores(tmp_path / "scores.json", scored(0.5, number))
    assert str(error.value) == f"{tmp_path / 'scores.json'}: score of arch2 is {shown}; write a finite number"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("archs", "message"),
    [
        ({}, "there are no archs in it; give a list with at least one"),
        ({"a": A, "b": A}, f"a and b are the same arch {A!r}; keep one of them"),
        ({"": A}, 'an arch is named ""; write a name of visible letters, like arch1'),
        ({"a\n": A}, 'an arch is named "a\\n"; write a name of visible letters, like arch1'),
    ],
)
def test_what_a_reader_would_refuse_is_not_written(tmp_path, archs, message):
    parsed = {name: RESNET20.parse(code) for name, code in archs.items()}
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
        ({"lr": math.nan}, "provenance lr is NaN; write a finite number"),
        ({"bn": {"images": [1, math.inf]}}, "provenance bn images is Infinity; write a finite number"),
        ({1: "a", "1": "b"}, "provenance has '1' twice; keep one of them"),
    ],
)
def test_provenance_that_a_reader_would_refuse_is_not_written(tmp_path, provenance, message):
    with pytest.raises(FileError) as error:
        write_scores(tmp_path / "scores.json", ScoreFile(scored(0.5).scores, provenance))
    assert str(error.value) == f"{tmp_path / 'scores.json'}: {message}"
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_scores(tmp_path / "scores.json", ScoreFile(scored(0.5).scores, {"path": tmp_path}))
    assert list(tmp_path.iterdir()) == []


def written_by_all(path):
    """Return the three writers, each to be called without arguments."""
    entries = {"arch1": Entry(RESNET20.parse(A), 0)}
    return [
        lambda: write_text_atomically(path, "new"),
        lambda: write_released(path, entries),
        lambda: write_scores(path, scored(0.5)),
    ]


@pytest.mark.parametrize("writer", [0, 1, 2])
@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_a_write_that_fails_keeps_the_older_file_and_leaves_nothing(tmp_path, monkeypatch, writer, failing):
    path = tmp_path / "file.json"
    path.write_text("old")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, failing, refuse)
    with pytest.raises(FileError) as error:
        written_by_all(path)[writer]()
    assert str(error.value) == f"{path}: cannot be written (Permission denied); choose a folder that can be written"
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_a_write_that_is_interrupted_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text_atomically(tmp_path / "file.json", "new")
    assert list(tmp_path.iterdir()) == []


def test_the_new_text_is_on_the_disk_and_complete_before_it_takes_the_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "file.json", []
    path.write_text("old")
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        seen.append(("fsync", os.fstat(descriptor).st_size))
        fsync(descriptor)

    def replaced(source, target):
        seen.append(("replace", os.path.getsize(source), os.path.dirname(source), path.read_text()))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_text_atomically(path, "new text")
    assert seen == [("fsync", 8), ("replace", 8, str(tmp_path), "old")]
    assert [file.read_text() for file in tmp_path.iterdir()] == ["new text"]


@pytest.mark.parametrize("writer", [0, 1, 2])
def test_a_path_that_cannot_be_written_is_refused(tmp_path, writer):
    (tmp_path / "file").write_text("old")
    for path, message in (
        (tmp_path / "absent" / "x.json", f"there is no folder {tmp_path / 'absent'}; create it first"),
        (tmp_path / "file" / "x.json", f"there is no folder {tmp_path / 'file'}; create it first"),
        (tmp_path, "is a folder or a device; give the name of a file"),
        (os.devnull, "is a folder or a device; give the name of a file"),
    ):
        with pytest.raises(FileError) as error:
            written_by_all(path)[writer]()
        assert str(error.value) == f"{path}: {message}"
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_text_is_written_as_utf_8_with_the_line_ends_it_has(tmp_path):
    write_text_atomically(tmp_path / "page.html", "ä\r\nb\n")
    assert (tmp_path / "page.html").read_bytes() == b"\xc3\xa4\r\nb\n"


def test_a_written_file_has_the_permissions_that_the_umask_gives(tmp_path):
    write_text_atomically(tmp_path / "atomic", "text")
    (tmp_path / "plain").write_text("text")
    assert stat.S_IMODE((tmp_path / "atomic").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "target")
    write_text_atomically(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "target").read_text() == "text"


def test_a_submission_scales_the_scores_to_0_and_1():
    entries = submission(scored(-3.0, -1.0, -2.5))
    assert {name: entry.acc for name, entry in entries.items()} == {"arch1": 0.0, "arch2": 1.0, "arch3": 0.25}
    assert list(entries) == ["arch1", "arch2", "arch3"]
    assert [entry.arch.code for entry in entries.values()] == [A, B, C]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ((0.5, 0.5), "scores from 0.5 to 0.5 do not scale to [0, 1]; check checkpoint and metric"),
        ((), "scores from 0.0 to 0.0 do not scale to [0, 1]; check checkpoint and metric"),
        ((-1e308, 1e308), "scores from -1e+308 to 1e+308 do not scale to [0, 1]; check checkpoint and metric"),
        ((0.0, math.nan, 1.0), "score of arch2 is NaN; write a finite number"),
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
    assert read_released(tmp_path / "submission.json", RESNET20) == entries


def test_fifty_thousand_archs_are_read_within_three_seconds(tmp_path):
    def code(number: int) -> str:
        return "-".join(str(layer[number // 4**index % 4]) for index, layer in enumerate(RESNET20.layers))

    path = tmp_path / "archs.json"
    path.write_text(json.dumps({f"arch{n}": {"acc": 0, "arch": code(n)} for n in range(50_000)}))
    start = time.process_time()
    assert len(read_released(path, RESNET20)) == 50_000
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    ("parts", "form", "number"),
    [
        (("cvpr2021", "Track1_final_archs.json"), RESNET20, 50_000),
        (("cvpr2022", "CVPR_2022_NAS_Track1_test.json"), RESNET48, 45_000),
    ],
)
def test_the_released_lists_are_valid_distinct_and_keep_every_byte(tmp_path, parts, form, number):
    path = shared_data(*parts)
    entries = read_released(path, form)
    assert list(entries) == [f"arch{n}" for n in range(1, number + 1)]
    assert len({entry.arch for entry in entries.values()}) == number
    write_released(tmp_path / "copy.json", entries)
    assert (tmp_path / "copy.json").read_bytes() == path.read_bytes()


def test_the_reference_accuracies_belong_to_the_first_released_archs():
    entries = read_table(shared_data("cvpr2021", "reference_accuracies_300.json"), RESNET20)
    released = read_released(shared_data("cvpr2021", "Track1_final_archs.json"), RESNET20)
    assert len(entries) == 300
    assert all(released[name].arch == entry.arch for name, entry in entries.items())
    assert entries["arch1"].acc == 0.539
