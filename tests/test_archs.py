"""Archs as values: codecs read and write every code exactly, and domains expand draws to archs."""

import json
import pickle
from collections import Counter

import pytest
from codes import EVERY_CODEC, SAMPLE_CODEC, shared_data
from hypothesis import given, settings

from nni_nas_consistency.archs.arch import Arch, Choices
from nni_nas_consistency.archs.codecs import (
    DIGITS_CODEC,
    RESNET20_CODEC,
    RESNET48_CODEC,
    SampleCodec,
    WidthCodec,
    resnet20_codec,
)
from nni_nas_consistency.archs.cost import Cost, chain_cost, conv_cost, linear_cost
from nni_nas_consistency.archs.domains import (
    DEMO,
    DIGITS,
    NOMINAL,
    RELEASED,
    RESNET20,
    Domain,
    Variable,
    widths_domain,
)
from nni_nas_consistency.errors import ArchError

WIDTHS = "-".join(["16"] * 7 + ["32"] * 6 + ["64"] * 7)
# Depths 2, 3, 4, 5, a stem digit, then 5 + 5 + 8 + 5 blocks of two digits each, absent blocks as zeros.
STAGES = ("1111000000", "2222220000", "3333333300000000", "7777777777")
DEPTHS_AND_DIGITS = "23451" + "".join(STAGES)
RESNET48_DOMAINS = pytest.mark.parametrize(
    ("domain", "ratios"), [(RELEASED, (3, 3, 5, 7)), (DEMO, (7, 7, 7, 7))], ids=["released", "demo"]
)


def message_of(refused, *arguments):
    """Return what is said about input that is refused; all of it must stand on one line."""
    with pytest.raises(ArchError) as error:
        refused(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_choices_keep_their_order_and_compare_and_hash_without_it():
    choices, other = Choices({"b": 1, "a": 2}), Choices({"a": 2, "b": 1})
    assert list(choices.items()) == [("b", 1), ("a", 2)]
    assert (choices, hash(choices)) == (other, hash(other))
    assert len({choices, other, Choices({"a": 2, "b": 2})}) == 2
    assert choices != {"b": 1, "a": 2}
    assert pickle.loads(pickle.dumps(choices)) == choices


def test_choices_cannot_be_changed_not_even_through_what_they_were_made_of():
    inputs = ["x", "y"]
    labels = {"a": 1, "inputs": inputs}
    choices = Choices(labels)
    labels["a"] = 2
    inputs.append("z")
    assert dict(choices) == {"a": 1, "inputs": ("x", "y")}
    with pytest.raises(TypeError):
        choices["a"] = 2
    with pytest.raises(TypeError):
        del choices["a"]


def test_a_sample_has_lists_where_nni_has_lists_and_is_the_callers():
    arch = SAMPLE_CODEC.arch({'layer "1"': "pool'ß", "depth": 2, "ratio": 3.0, "inputs": (0, 2.5)})
    assert arch.sample == {'layer "1"': "pool'ß", "depth": 2, "ratio": 3.0, "inputs": [0, 2.5]}
    arch.sample["inputs"].append(1)
    assert arch.choices["inputs"] == (0, 2.5)


@pytest.mark.parametrize(("codec", "codes"), EVERY_CODEC, ids=[codec.space for codec, _ in EVERY_CODEC])
def test_codes_of_every_space_survive_parsing_and_writing(codec, codes):
    @settings(deadline=None, max_examples=40)
    @given(codes)
    def check(code):
        arch = codec.parse(code)
        assert arch.code == code
        written = codec.arch(arch.choices)
        assert written.choices == arch.choices
        assert written.code == codec.canonical(code)
        assert codec.parse(written.code) == written
        assert codec.arch(arch.sample) == written

    check()


def test_a_width_code_has_a_label_for_each_layer():
    arch = RESNET20_CODEC.parse("4" + WIDTHS[2:])
    assert list(arch.choices) == [f"w{layer}" for layer in range(1, 21)]
    assert (arch.choices["w1"], arch.choices["w2"], arch.choices["w13"], arch.choices["w20"]) == (4, 16, 32, 64)


def test_layers_allow_multiples_of_the_width_unit():
    for codec, unit in ((RESNET20_CODEC, 4), (DIGITS_CODEC, 1), (resnet20_codec("threes", 3), 3)):
        most = [4 * unit] * 7 + [8 * unit] * 6 + [16 * unit] * 7
        assert list(codec.widths) == [tuple(range(unit, last + unit, unit)) for last in most]


def test_the_width_that_no_network_reads_may_be_missing_and_is_written_as_the_smallest():
    read = {f"w{layer}": 8 for layer in range(1, 20)}
    assert RESNET20_CODEC.arch(read).code == "8-" * 19 + "4"
    assert RESNET20_CODEC.arch(read | {"w20": 64}).code == "8-" * 19 + "64"


def test_a_digit_code_has_labels_for_depths_stem_and_the_two_convs_of_each_block():
    choices = RESNET48_CODEC.parse(DEPTHS_AND_DIGITS).choices
    assert list(choices)[:7] == ["depth1", "depth2", "depth3", "depth4", "stem", "s1b1c1", "s1b1c2"]
    assert list(choices)[-1] == "s4b5c2"
    assert [choices[f"depth{stage}"] for stage in (1, 2, 3, 4)] == [2, 3, 4, 5]
    assert [choices[label] for label in ("s1b2c2", "s2b3c1", "s3b4c2", "s4b5c2")] == [1, 2, 3, 7]


def test_a_digit_code_may_start_with_the_input_size_which_is_no_part_of_the_arch():
    with_size, without = RESNET48_CODEC.parse("1" + DEPTHS_AND_DIGITS), RESNET48_CODEC.parse(DEPTHS_AND_DIGITS)
    assert with_size.choices == without.choices
    assert with_size.code == "1" + without.code
    assert RESNET48_CODEC.canonical(with_size.code) == without.code


def present_in(arch):
    """Return the choices of an arch of DEPTHS_AND_DIGITS's depths but those of absent blocks."""
    written = dict(zip(RESNET48_CODEC.labels, map(int, arch.code), strict=True))
    return {label: choice for label, choice in arch.choices.items() if written[label]}


def test_choices_of_absent_blocks_are_optional_and_written_as_zero():
    arch = RESNET48_CODEC.parse(DEPTHS_AND_DIGITS)
    assert len(present_in(arch)) == 51 - 2 * (3 + 2 + 4)
    assert RESNET48_CODEC.arch(present_in(arch)) == arch
    assert RESNET48_CODEC.arch({**arch.choices, "s1b3c1": 7}) == arch


def test_absent_blocks_have_the_choices_of_the_first_block_of_their_stage_so_that_samples_are_valid():
    choices = RESNET48_CODEC.parse("2222" + "1" + "23110000002111000000" + "4567" + "0" * 12 + "7654000000").choices
    assert [choices[f"s1b{block}c1"] for block in range(1, 6)] == [2, 1, 2, 2, 2]
    assert [choices[f"s1b{block}c2"] for block in range(1, 6)] == [3, 1, 3, 3, 3]
    assert [choices[f"s3b{block}c1"] for block in range(1, 9)] == [4, 6, *[4] * 6]
    assert all(choice in RESNET48_CODEC.digits for label, choice in choices.items() if label.startswith("s"))


def test_second_digits_may_be_left_out_where_they_are_tied_as_in_the_samples_of_nni():
    arch = RESNET48_CODEC.parse(DEPTHS_AND_DIGITS)
    leaders = ("stem", "s2b1c2", "s3b1c2", "s4b1c2")
    sample = {label: arch.choices[label] for label in arch.choices if not label.endswith("c2") or label in leaders}
    assert len(sample) == 4 + 4 + 23
    assert RESNET48_CODEC.arch(sample) == arch
    assert RESNET48_CODEC.arch(sample | {"s1b1c2": 3}).code[5:9] == "1313"
    assert RESNET48_CODEC.arch(sample | {"s2b2c2": 3}).choices["s2b3c2"] == 2


@pytest.mark.parametrize("word", ["016", "+4", " 4", "4 ", "４", "²", "4.0", "1_6", "-4", "", "x"])
def test_a_width_in_another_spelling_is_refused(word):
    code = WIDTHS.replace("16", word, 1)
    assert message_of(RESNET20_CODEC.parse, code, "arch7").endswith("write a width as a plain integer")


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
        (WIDTHS[:-3] + "-0", "layer 20 of arch7 {code!r} asks for width 0; resnet20 allows {all64}"),
        (WIDTHS + "-64", "arch7 {code!r} has 21 layers; resnet20 has 20"),
        ("16-4", "arch7 {code!r} has 2 layers; resnet20 has 20"),
        ("016-4", "layer 1 of arch7 {code!r} is '016'; write a width as a plain integer"),
        (16, "arch7: the code is 16; resnet20 expects a string like '" + WIDTHS + "'"),
    ],
)
def test_a_refused_width_code_is_quoted_with_what_is_allowed(code, message):
    expected = message.format(code=code, all64=", ".join(map(str, range(4, 65, 4))))
    assert message_of(RESNET20_CODEC.parse, code, "arch7") == expected


@pytest.mark.parametrize("code", [23451, "x" * 51, "２" + DEPTHS_AND_DIGITS[1:], DEPTHS_AND_DIGITS + "\n", ""])
def test_a_digit_code_of_anything_but_plain_digits_is_refused(code):
    expected = f"arch7: the code is {code!r}; resnet48 expects 51 or 52 digits"
    assert message_of(RESNET48_CODEC.parse, code, "arch7") == expected


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
            changed(6, "8"),
            "digit 6 of arch7 {code!r} asks for ratio digit 8; resnet48 allows 1, 2, 3, 4, 5, 6, 7 there",
        ),
        # the last digit of stage 1 that is present, and the first and the last that are not
        (
            changed(9, "0"),
            "digit 9 of arch7 {code!r} asks for ratio digit 0; resnet48 allows 1, 2, 3, 4, 5, 6, 7 there, "
            "since depth 2 of stage 1 has block 2",
        ),
        (
            changed(10, "1"),
            "digit 10 of arch7 {code!r} asks for ratio digit 1; resnet48 allows 0 there, "
            "since depth 2 of stage 1 leaves out block 3",
        ),
        (
            changed(15, "1"),
            "digit 15 of arch7 {code!r} asks for ratio digit 1; resnet48 allows 0 there, "
            "since depth 2 of stage 1 leaves out block 5",
        ),
        (
            changed(41, "7"),
            "digit 41 of arch7 {code!r} asks for ratio digit 7; resnet48 allows 0 there, "
            "since depth 4 of stage 3 leaves out block 8",
        ),
        (DEPTHS_AND_DIGITS[:-1], "arch7 {code!r} has 50 digits; resnet48 has 51 or 52"),
        ("11" + DEPTHS_AND_DIGITS, "arch7 {code!r} has 53 digits; resnet48 has 51 or 52"),
        ("2" + DEPTHS_AND_DIGITS, "arch7 {code!r} starts with 2; a code of 52 digits starts with 1 (size 224)"),
    ],
)
def test_a_refused_digit_code_is_quoted_with_what_is_allowed(code, message):
    assert message_of(RESNET48_CODEC.parse, code, "arch7") == message.format(code=code)


WIDTH_CHOICES = {f"w{layer}": 4 for layer in range(1, 21)}
DIGIT_CHOICES = dict(RESNET48_CODEC.parse(DEPTHS_AND_DIGITS).choices)


@pytest.mark.parametrize(
    ("codec", "choices", "message"),
    [
        (
            RESNET20_CODEC,
            WIDTH_CHOICES | {"w1": 5},
            "layer 1 of best '5" + "-4" * 19 + "' asks for width 5; resnet20 allows 4, 8, 12, 16",
        ),
        (RESNET20_CODEC, WIDTH_CHOICES | {"w1": 4.0}, "w1 of best is 4.0, a float; give an int"),
        (RESNET20_CODEC, WIDTH_CHOICES | {"w1": True}, "w1 of best is True, a bool; give an int"),
        (RESNET20_CODEC, WIDTH_CHOICES | {"x1": 4}, "best has a choice for 'x1', which resnet20 does not have"),
        (
            RESNET20_CODEC,
            {"w1": 4},
            "best has no choice for w2; resnet20 needs " + ", ".join(WIDTH_CHOICES),
        ),
        (
            RESNET48_CODEC,
            DIGIT_CHOICES | {"s1b2c2": 0},
            f"digit 9 of best '{changed(9, '0')}' asks for ratio digit 0; resnet48 allows 1, 2, 3, 4, 5, 6, 7 there, "
            "since depth 2 of stage 1 has block 2",
        ),
        (RESNET48_CODEC, DIGIT_CHOICES | {"depth1": 2.0}, "depth1 of best is 2.0, a float; give an int"),
        (RESNET48_CODEC, DIGIT_CHOICES | {"s5b1c1": 1}, "best has a choice for 's5b1c1', which resnet48 does not have"),
    ],
)
def test_choices_that_the_space_does_not_allow_make_no_arch(codec, choices, message):
    assert message_of(codec.arch, choices, "best") == message


def test_the_labels_that_an_arch_lacks_are_those_of_its_depth():
    two_blocks = {label: choice for label, choice in DIGIT_CHOICES.items() if not label.startswith("s1b3")}
    assert RESNET48_CODEC.arch(two_blocks).code == DEPTHS_AND_DIGITS
    message = message_of(RESNET48_CODEC.arch, two_blocks | {"depth1": 3}, "best")
    assert message.startswith("best has no choice for s1b3c1; resnet48 needs depth1, ")
    assert message_of(RESNET48_CODEC.arch, {}, "best").startswith("best has no choice for depth1; ")


TOY = SampleCodec("toy", {"depth": (1, 2), "inputs": ((0, 1), (0, 2)), "op": ("conv", "pool")})
TOY_CODE = '{"depth":1,"inputs":[0,2],"op":"conv"}'


def test_a_sample_is_written_as_canonical_json():
    assert TOY.arch({"op": "conv", "inputs": [0, 2], "depth": 1}).code == TOY_CODE
    expected = '{"depth":1,"inputs":["a","b"],"layer \\"1\\"":"pool\'\\u00df","ratio":1e-07}'
    sample = {"ratio": 1e-7, 'layer "1"': "pool'ß", "inputs": ("a", "b"), "depth": 1}
    assert SAMPLE_CODEC.arch(sample).code == expected


@pytest.mark.parametrize(
    "code",
    [
        ' {"op": "conv", "inputs": [0, 2],\n\t"depth": 1} ',
        '{"inputs":[0,2],"depth":1,"op":"\\u0063onv"}',
        json.dumps(json.loads(TOY_CODE), indent=4),
    ],
)
def test_any_spelling_of_a_sample_is_read_kept_and_has_one_canonical_text(code):
    arch = TOY.parse(code)
    assert arch.code == code
    assert arch.choices == TOY.parse(TOY_CODE).choices
    assert TOY.canonical(code) == TOY_CODE


def spelled(**changes):
    return json.dumps(json.loads(TOY_CODE) | changes)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (spelled(depth=3), "depth of arch7 is 3; toy allows 1, 2"),
        # equal to an allowed choice, but another text: two codes for one arch
        (spelled(depth=True), "depth of arch7 is True; toy allows 1, 2"),
        (spelled(depth=1.0), "depth of arch7 is 1.0; toy allows 1, 2"),
        (spelled(depth="1"), "depth of arch7 is '1'; toy allows 1, 2"),
        (spelled(inputs=[False, 2]), "inputs of arch7 is (False, 2); toy allows (0, 1), (0, 2)"),
        (spelled(inputs=[0.0, 2]), "inputs of arch7 is (0.0, 2); toy allows (0, 1), (0, 2)"),
        (spelled(inputs=[2, 0]), "inputs of arch7 is (2, 0); toy allows (0, 1), (0, 2)"),
        (spelled(op=None), "op of arch7 is None; toy allows 'conv', 'pool'"),
        (spelled(more=1), "arch7 has a choice for 'more', which toy does not have"),
        ('{"depth": 1}', "arch7 has no choice for inputs; toy needs depth, inputs, op"),
        (TOY_CODE[:-1] + ',"depth":1}', "arch7: a label appears twice in the code {code}; keep one of them"),
        ('[["depth", 1]]', "arch7: the code {code} is not a JSON object; write the sample as an object"),
        ("[]", "arch7: the code {code} is not a JSON object; write the sample as an object"),
        ("1", "arch7: the code {code} is not a JSON object; write the sample as an object"),
        (
            '{"depth":\n1',
            "arch7: the code {code} is not JSON (Expecting ',' delimiter: line 2 column 2 (char 11)); "
            "write the sample as an object",
        ),
        (None, "arch7: the code is None; toy expects the JSON text of a sample"),
    ],
)
def test_a_refused_sample_is_quoted_with_what_is_allowed(code, message):
    expected = message.format(code=repr(code if code is None or len(code) <= 60 else code[:60] + "…"))
    assert message_of(TOY.parse, code, "arch7") == expected


def test_a_code_that_is_nested_without_end_is_refused():
    assert message_of(TOY.parse, "[" * 100_000, "arch7").startswith("arch7: the code '[[[[")


CONV, POOL = Variable("op", ("conv", "pool"), ("op1", "op2")), frozenset({"pool"})
TOY_DOMAIN = Domain(
    SampleCodec("toy", {"op1": ("conv", "pool"), "op2": ("conv", "pool"), "width": (2, 4)}),
    (CONV, Variable("width", (4, 2), ("width",))),
    constraints=(lambda choices: "a pool has width 4" if choices["op1"] == "pool" != choices["width"] == 2 else None,),
)


def test_tied_labels_take_the_choice_of_their_variable():
    assert TOY_DOMAIN.arch({"op": "conv", "width": 2}).choices == Choices({"op1": "conv", "op2": "conv", "width": 2})


def test_a_variable_without_a_choice_is_refused_if_it_exists():
    assert message_of(TOY_DOMAIN.arch, {"op": "conv"}) == "the draw has no choice for width, a variable of toy"
    domain = RELEASED
    picks = {variable.name: variable.choices[0] for variable in domain.variables}
    shallow = picks | {"depth1": 2}
    del shallow["s1b3c1"]
    assert domain.arch(shallow).code[9:15] == "000000"
    with pytest.raises(ArchError, match=r"^the draw has no choice for s1b3c1, a variable of resnet48$"):
        domain.arch(shallow | {"depth1": 3})


def test_constraints_forbid_archs_with_their_reason():
    assert TOY_DOMAIN.refusal({"op1": "pool", "op2": "pool", "width": 4}) is None
    assert TOY_DOMAIN.refusal({"op1": "pool", "op2": "pool", "width": 2}) == "a pool has width 4"
    assert message_of(TOY_DOMAIN.arch, {"op": "pool", "width": 2}) == "toy: a pool has width 4"


def test_an_arch_that_a_domain_does_not_draw_is_refused_though_its_code_is_valid():
    untied = RESNET48_CODEC.parse("2222" + "1" + "1112" + "0" * 6 + "1111" + "0" * 6 + "1111" + "0" * 12 + "1111000000")
    narrow = RESNET48_CODEC.parse("2222" + "1" + "7111" + "0" * 6 + "1111" + "0" * 6 + "1111" + "0" * 12 + "1111000000")
    for domain in (RELEASED, DEMO):
        assert message_of(domain.check, untied, "arch7") == (
            f"s1b2c2 of arch7 {untied.code!r} is 2, stem is 1; the networks of resnet48 have one choice for both"
        )
    assert message_of(RELEASED.check, narrow, "arch7") == (
        f"s1b1c1 of arch7 {narrow.code!r} is 7; archs of resnet48 are drawn with 1, 2, 3 there"
    )
    DEMO.check(narrow)
    for arch in (untied, narrow):
        NOMINAL.check(arch)
    for domain in (RELEASED, DEMO, RESNET20, DIGITS):
        domain.check(domain.largest)
        domain.check(domain.smallest)


def test_largest_and_smallest_do_not_depend_on_the_order_of_choices():
    domain = widths_domain(WidthCodec("toy", ((8, 2, 4), (1, 3, 2))))
    assert (domain.largest.code, domain.smallest.code) == ("8-3", "2-1")
    assert RESNET20.largest.code == WIDTHS
    assert DIGITS.smallest.code == "-".join("1" * 20)
    assert TOY_DOMAIN.largest is TOY_DOMAIN.smallest is None


@RESNET48_DOMAINS
def test_the_largest_digit_arch_is_deepest_at_digit_1_and_the_smallest_shallowest_at_the_last_digit(domain, ratios):
    assert domain.largest.code == "5585" + "1" * 47
    a, b, c, d = map(str, ratios)
    smallest = [4 * a + "0" * 6, 4 * b + "0" * 6, 4 * c + "0" * 12, 4 * d + "0" * 6]
    assert domain.smallest.code == "2222" + a + "".join(smallest)


@RESNET48_DOMAINS
def test_drawn_of_a_digit_arch_are_depths_an_outer_digit_a_stage_and_the_inner_digits(domain, ratios):
    most = (5, 5, 8, 5)
    expected = {f"depth{stage}": tuple(range(2, deepest + 1)) for stage, deepest in enumerate(most, 1)}
    outer = ("stem", "s2b1c2", "s3b1c2", "s4b1c2")
    expected |= {name: tuple(range(1, last + 1)) for name, last in zip(outer, ratios, strict=True)}
    for stage, (deepest, last) in enumerate(zip(most, ratios, strict=True), 1):
        expected |= {f"s{stage}b{block}c1": tuple(range(1, last + 1)) for block in range(1, deepest + 1)}
    assert {variable.name: variable.choices for variable in domain.variables} == expected
    assert [variable.name for variable in domain.tied] == list(outer)
    assert {label for variable in domain.variables for label in variable.sets} == set(RESNET48_CODEC.labels)


def test_every_digit_of_the_nominal_space_is_drawn_by_itself():
    assert {variable.name: variable.sets for variable in NOMINAL.variables} == {
        label: (label,) for label in RESNET48_CODEC.labels
    }
    assert NOMINAL.largest == DEMO.largest and NOMINAL.smallest == DEMO.smallest
    assert not NOMINAL.tied


def test_every_width_of_a_code_is_drawn_by_itself():
    for domain in (RESNET20, DIGITS):
        assert {variable.name: variable.choices for variable in domain.variables} == domain.codec.allowed
        assert all(variable.sets == (variable.name,) and not variable.needs for variable in domain.variables)


def test_the_45000_released_archs_of_2022_are_what_the_released_domain_draws():
    released = json.loads(shared_data("cvpr2022", "CVPR_2022_NAS_Track1_test.json").read_text())
    archs = [RESNET48_CODEC.parse(entry["arch"], name) for name, entry in released.items()]
    assert len(archs) == 45_000
    drawn = {variable.name: Counter() for variable in RELEASED.variables}
    for arch in archs:
        RELEASED.check(arch)
        assert RELEASED.arch(arch.choices).code == arch.code[1:]
        for variable in RELEASED.variables:
            drawn[variable.name][arch.choices[variable.name] if variable.exists(arch.choices) else None] += 1
    for variable in RELEASED.variables:
        found = drawn[variable.name]
        assert set(found) - {None} == set(variable.choices), variable.name
        # the list is uniform: about as many archs for each choice, among those that have the variable
        share = (len(archs) - found[None]) / len(variable.choices)
        assert all(abs(found[choice] - share) < 6 * share**0.5 for choice in variable.choices), variable.name


def test_the_50000_released_archs_of_2021_are_in_the_space():
    released = json.loads(shared_data("cvpr2021", "Track1_final_archs.json").read_text())
    archs = {RESNET20_CODEC.parse(entry["arch"], name) for name, entry in released.items()}
    assert len(archs) == 50_000


class ConvLink:
    """A strided conv of a width that the arch chooses."""

    def cost(self, arch: Arch, side: int) -> tuple[Cost, int]:
        return conv_cost(3, int(arch.choices["width"]), 3, side // 2), side // 2


class LinearLink:
    def cost(self, arch: Arch, side: int) -> tuple[Cost, int]:
        assert side == 4
        return linear_cost(int(arch.choices["width"]), 10), 1


def test_the_cost_of_a_chain_is_that_of_its_convolutions_batch_norms_and_classifier():
    arch = Arch("5", Choices({"width": 5}))
    conv = Cost(3 * 5 * 9 + 2 * 5, 3 * 5 * 9 * 4 * 4)
    linear = Cost(5 * 10 + 10, 5 * 10)
    assert chain_cost([ConvLink(), LinearLink()], arch, 8) == conv + linear
    assert conv + linear == Cost(205, 2210)
    assert conv_cost(6, 6, 3, 4, groups=6) == Cost(6 * 9 + 12, 6 * 9 * 16)
