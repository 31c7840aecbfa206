from itertools import accumulate

import pytest
from helpers import digit_codes, width_codes
from hypothesis import given, settings

from nni_nas_consistency.archs.arch import DIGITS, RESNET20, RESNET48, width_form
from nni_nas_consistency.errors import ArchError

WIDTHS = "-".join(["16"] * 7 + ["32"] * 6 + ["64"] * 7)
# Depths 2, 3, 4, 5, a stem digit, then 5 + 5 + 8 + 5 blocks of two digits each, absent blocks as zeros.
STAGES = ("1111000000", "2222220000", "3333333300000000", "7777777777")
DEPTHS_AND_DIGITS = "23451" + "".join(STAGES)


def test_the_width_space_has_the_published_size():
    assert RESNET20.size(effective=False) == 4**7 * 8**6 * 16**7
    assert RESNET20.size() == 4**7 * 8**6 * 16**6
    assert DIGITS.size() == RESNET20.size()


def test_layers_allow_multiples_of_the_width_unit():
    assert RESNET20.layers[0] == (4, 8, 12, 16)
    assert RESNET20.layers[7] == (4, 8, 12, 16, 20, 24, 28, 32)
    assert RESNET20.layers[13] == tuple(range(4, 65, 4))
    assert [len(layer) for layer in RESNET20.layers] == [4] * 7 + [8] * 6 + [16] * 7
    assert width_form("threes", width_unit=3).layers[0] == (3, 6, 9, 12)


def test_the_largest_arch_is_the_example():
    assert RESNET20.example() == WIDTHS


@settings(deadline=None)
@given(width_codes(RESNET20))
def test_a_width_code_survives_parsing_and_formatting(code):
    arch = RESNET20.parse(code)
    assert arch.code == code
    assert arch.choices == tuple(int(word) for word in code.split("-"))
    assert RESNET20.arch(arch.choices) == arch


@settings(deadline=None)
@given(width_codes(DIGITS))
def test_a_code_of_the_digits_space_survives_parsing_and_formatting(code):
    arch = DIGITS.parse(code)
    assert arch.code == code
    assert DIGITS.arch(arch.choices) == arch


@settings(deadline=None)
@given(digit_codes())
def test_a_digit_code_survives_parsing_with_and_without_its_leading_one(code):
    arch = RESNET48.parse(code)
    assert arch.code == code
    assert arch.choices == tuple(int(digit) for digit in code[-51:])
    assert RESNET48.arch(arch.choices).code == code[-51:]
    assert RESNET48.arch(arch.choices).choices == arch.choices


def test_the_layers_of_the_digit_form_allow_zero_only_where_a_block_may_be_absent():
    digits, optional = (1, 2, 3, 4, 5, 6, 7), (0, 1, 2, 3, 4, 5, 6, 7)
    small, large = [digits] * 4 + [optional] * 6, [digits] * 4 + [optional] * 12
    assert RESNET48.layers == (*RESNET48.depths, digits, *small, *small, *large, *small)


@pytest.mark.parametrize("word", ["016", "+4", " 4", "4 ", "４", "²", "4.0", "1_6", "-4", "", "x"])
def test_a_width_in_another_spelling_is_refused(word):
    code = WIDTHS.replace("16", word, 1)
    with pytest.raises(ArchError, match=r"arch7 .* a width is a plain whole number$"):
        RESNET20.parse(code, "arch7")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            WIDTHS.replace("16-16-16", "16-16-5", 1),
            "layer 3 of arch7 {code!r} asks for width 5; resnet20 allows 4, 8, 12, 16",
        ),
        (
            WIDTHS.replace("32", "36", 1),
            "layer 8 of arch7 {code!r} asks for width 36; resnet20 allows 4, 8, 12, 16, 20, 24, 28, 32",
        ),
        (WIDTHS[:-3] + "-0", "layer 20 of arch7 {code!r} asks for width 0; resnet20 allows " + "{all64}"),
        (WIDTHS + "-64", "arch7 {code!r} has 21 layers; resnet20 has 20"),
        ("16-4", "arch7 {code!r} has 2 layers; resnet20 has 20"),
        ("016-4", "layer 1 of arch7 {code!r} reads '016'; a width is a plain whole number"),
    ],
)
def test_a_refused_width_code_is_quoted_with_what_is_allowed(code, message):
    with pytest.raises(ArchError) as error:
        RESNET20.parse(code, "arch7")
    assert str(error.value) == message.format(code=code, all64=", ".join(map(str, range(4, 65, 4))))


def test_a_code_that_is_no_text_is_refused():
    with pytest.raises(ArchError) as error:
        RESNET20.parse(16, "arch7")
    assert str(error.value) == f"arch7: the code is 16; resnet20 writes a text like {WIDTHS!r}"


@pytest.mark.parametrize("code", [23451, "x" * 51, "２" + DEPTHS_AND_DIGITS[1:], DEPTHS_AND_DIGITS + "\n", ""])
def test_a_digit_code_of_anything_but_plain_digits_is_refused(code):
    with pytest.raises(ArchError) as error:
        RESNET48.parse(code, "arch7")
    assert str(error.value) == f"arch7: the code is {code!r}; resnet48 writes 51 or 52 digits"


def changed(position: int, digit: str) -> str:
    """Return the valid code with the digit at `position`, counted from 1, replaced."""
    return DEPTHS_AND_DIGITS[: position - 1] + digit + DEPTHS_AND_DIGITS[position:]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (changed(1, "1"), "digit 1 of arch7 {code!r} asks for depth 1; resnet48 allows 2, 3, 4, 5 there"),
        (changed(1, "6"), "digit 1 of arch7 {code!r} asks for depth 6; resnet48 allows 2, 3, 4, 5 there"),
        (changed(3, "9"), "digit 3 of arch7 {code!r} asks for depth 9; resnet48 allows 2, 3, 4, 5, 6, 7, 8 there"),
        (
            changed(5, "0"),
            "digit 5 of arch7 {code!r} asks for ratio digit 0; resnet48 allows 1, 2, 3, 4, 5, 6, 7 there",
        ),
        (
            changed(9, "0"),
            "digit 9 of arch7 {code!r} asks for ratio digit 0; resnet48 allows 1, 2, 3, 4, 5, 6, 7 there",
        ),
        (
            changed(6, "8"),
            "digit 6 of arch7 {code!r} asks for ratio digit 8; resnet48 allows 1, 2, 3, 4, 5, 6, 7 there",
        ),
        (changed(10, "1"), "digit 10 of arch7 {code!r} asks for ratio digit 1; resnet48 allows 0 there"),
        (changed(41, "7"), "digit 41 of arch7 {code!r} asks for ratio digit 7; resnet48 allows 0 there"),
        (DEPTHS_AND_DIGITS[:-1], "arch7 {code!r} has 50 digits; resnet48 has 51 or 52"),
        ("11" + DEPTHS_AND_DIGITS, "arch7 {code!r} has 53 digits; resnet48 has 51 or 52"),
        ("2" + DEPTHS_AND_DIGITS, "arch7 {code!r} starts with 2; of 52 digits the first is 1 (size 224)"),
    ],
)
def test_a_refused_digit_code_is_quoted_with_what_is_allowed(code, message):
    with pytest.raises(ArchError) as error:
        RESNET48.parse(code, "arch7")
    assert str(error.value) == message.format(code=code)


def test_every_stage_keeps_its_absent_blocks_at_zero():
    assert RESNET48.parse(DEPTHS_AND_DIGITS).choices[5:] == tuple(map(int, "".join(STAGES)))
    ends = [5 + end for end in accumulate(map(len, STAGES))]
    for end, depth, most in zip(ends[:3], (2, 3, 4), (5, 5, 8), strict=True):
        first_absent = end - 2 * (most - depth) + 1
        for position in (first_absent, end):
            with pytest.raises(ArchError, match=f"digit {position} of .* allows 0 there"):
                RESNET48.parse(changed(position, "1"))
        with pytest.raises(ArchError, match=f"digit {first_absent - 1} of .* allows 1, 2, 3, 4, 5, 6, 7 there"):
            RESNET48.parse(changed(first_absent - 1, "0"))


def test_choices_that_the_space_does_not_allow_make_no_arch():
    with pytest.raises(ArchError, match="^layer 1 of best '5-16-.* asks for width 5; resnet20 allows 4, 8, 12, 16$"):
        RESNET20.arch([5, *RESNET20.parse(WIDTHS).choices[1:]], "best")
    with pytest.raises(ArchError, match="^best '16' has 1 layers; resnet20 has 20$"):
        RESNET20.arch([16], "best")
    with pytest.raises(ArchError, match="^best '2' has 1 digits; resnet48 has 51$"):
        RESNET48.arch([2], "best")
