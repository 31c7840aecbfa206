import numpy as np
import pytest
from codes import RESNET48_CODEC

from nni_nas_consistency.archs.arch import Arch, Choices
from nni_nas_consistency.errors import MatchError
from nni_nas_consistency.files.arch_lists import Entry
from nni_nas_consistency.ranking.matching import match


def entry(code, number):
    return Entry(Arch(code, Choices({"width": code})), number)


def listed(count, start=1):
    return {f"arch{index}": entry(f"code{index}", index / 10) for index in range(start, start + count)}


def test_match_pairs_by_name_in_the_order_of_the_reference():
    scores = {"b": entry("8-4", -1.0), "a": entry("4-4", -2.0), "c": entry("4-8", -3.0)}
    reference = {"c": entry("4-8", 0.1), "a": entry("4-4", 0.2), "b": entry("8-4", 0.3)}
    names, x, y = match(scores, reference)
    assert names == ["c", "a", "b"]
    assert (x.tolist(), y.tolist()) == ([-3.0, -2.0, -1.0], [0.1, 0.2, 0.3])
    assert x.dtype == y.dtype == np.float64


@pytest.mark.parametrize(
    "scores, reference, message",
    [
        (
            listed(3),
            listed(4),
            "the scores lack 1 arch of the reference: arch4; --common ranks the 3 that both have",
        ),
        (
            listed(5, start=3),
            listed(9, start=6),
            "the scores lack 7 archs of the reference: arch8, arch9, arch10, arch11, arch12 and 2 more; "
            "the reference lacks 3 archs of the scores: arch3, arch4, arch5; --common ranks the 2 that both have",
        ),
        (
            listed(7),
            listed(2),
            "the reference lacks 5 archs of the scores: arch3, arch4, arch5, arch6, arch7; "
            "--common ranks the 2 that both have",
        ),
        (
            listed(2),
            listed(1, start=2),
            "the reference lacks 1 arch of the scores: arch1; give a reference for the archs that were scored",
        ),
    ],
)
def test_archs_on_one_side_only_are_counted_named_and_refused(scores, reference, message):
    with pytest.raises(MatchError) as error:
        match(scores, reference)
    assert str(error.value) == message


def test_common_ranks_the_shared_archs():
    names, x, y = match(listed(5, start=3), listed(9, start=6), common=True)
    assert names == ["arch6", "arch7"]
    assert x.tolist() == y.tolist() == [0.6, 0.7]


def test_a_ranking_of_no_arch_is_refused_and_of_one_is_left_to_the_statistics():
    with pytest.raises(MatchError) as error:
        match(listed(3), listed(3, start=4), common=True)
    told = "scores and reference share no arch; give a reference for the archs that were scored"
    assert str(error.value) == told
    assert match(listed(3), listed(3, start=3), common=True)[0] == ["arch3"]


@pytest.mark.parametrize("common", [False, True])
def test_one_name_for_two_archs_is_refused(common):
    other = listed(4) | {"arch2": entry("8-8", 0.5)}
    with pytest.raises(MatchError) as error:
        match(other, listed(4), common=common)
    assert str(error.value) == (
        "arch2 is '8-8' in the scores but 'code2' in the reference; give a reference for the archs that were scored"
    )
    with pytest.raises(MatchError) as error:
        match(other | {"arch4": entry("4-4", 0.5)}, listed(4), common=common)
    assert "'code2' in the reference (2 archs differ like this); give" in str(error.value)


def test_an_arch_that_both_sides_spell_differently_is_matched():
    codes = {f"arch{stem}": f"2222{stem}" + "1111000000" * 2 + "1111000000000000" + "1111000000" for stem in "12"}
    scores = {name: Entry(RESNET48_CODEC.parse(code), 0.5) for name, code in codes.items()}
    reference = {name: Entry(RESNET48_CODEC.parse(f"1{code}"), 0.5) for name, code in codes.items()}
    assert match(scores, reference)[0] == ["arch1", "arch2"]
