"""The words of the command line: which system, data set, recipe and shard they mean; the bounds of counts."""

import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import typer

from nni_nas_consistency.cli.main import app, main
from nni_nas_consistency.cli.parse import DataWord, RecipeWord, SpaceWord, recipe_of, shard_of, system_and_data
from nni_nas_consistency.errors import DataError, InputError
from nni_nas_consistency.systems import (
    CIFAR10,
    CIFAR100,
    CVPR2021,
    CVPR2022,
    CVPR2022_MISH,
    DATA_SETS,
    DIGITS_8,
    EMBEDDED_BENCHMARK,
    IMAGENET,
    SYSTEMS,
)
from nni_nas_consistency.training.recipes import ANS, EMBEDDED, NAZARICK, RECIPES, SHORT, SUPERNET_2022, Recipe


def recipe(word=None, system=CVPR2021, data=CIFAR100, epochs=None, n=None, changes=()) -> Recipe:
    return recipe_of(word, system, data, epochs, n, changes)


def with_phase(recipe, **changes):
    """Return a recipe of one phase with fields of that phase changed."""
    (phase,) = recipe.phases
    return replace(recipe, phases=(replace(phase, **changes),))


def with_optimization(recipe, **changes):
    return with_phase(recipe, optimization=replace(recipe.phases[0].optimization, **changes))


def test_the_command_line_offers_every_space_data_set_and_recipe():
    assert set(get_args(SpaceWord)) == {system.space for system in SYSTEMS}
    assert set(get_args(DataWord)) == {data.name for data in DATA_SETS}
    assert set(get_args(RecipeWord)) == {recipe.name for recipe in RECIPES}


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ({}, (CVPR2021, CIFAR100)),
        ({"space": "digits"}, (EMBEDDED_BENCHMARK, DIGITS_8)),
        ({"space": "resnet48"}, (CVPR2022, IMAGENET)),
        ({"space": "resnet48-mish", "data": "cifar10"}, (CVPR2022_MISH, CIFAR10)),
        ({"data": "imagenet"}, (CVPR2022, IMAGENET)),
        ({"data": "digits"}, (EMBEDDED_BENCHMARK, DIGITS_8)),
        ({"data": "cifar10"}, (CVPR2021, CIFAR10)),
        ({"space": "digits", "data": "cifar10"}, (EMBEDDED_BENCHMARK, CIFAR10)),
        ({"recipe": "digits"}, (EMBEDDED_BENCHMARK, DIGITS_8)),
        ({"recipe": "short", "data": "cifar10"}, (CVPR2021, CIFAR10)),
        ({"checkpoint": Path("resnet20-cifar100")}, (CVPR2021, CIFAR100)),
    ],
)
def test_space_and_data_follow_from_each_other_the_recipe_and_the_checkpoint(words, meant):
    assert system_and_data(**{"space": None, "data": None, **words}) == meant


@pytest.mark.parametrize(("word", "meant"), [("nazarick", NAZARICK), ("short", SHORT), ("ans", ANS)])
def test_a_word_means_its_recipe(word, meant):
    assert recipe(word) == meant


def test_the_first_recipe_of_a_system_is_its_default():
    assert recipe() == NAZARICK and recipe(system=EMBEDDED_BENCHMARK, data=DIGITS_8) == EMBEDDED


def test_a_recipe_for_images_with_other_channels_is_refused():
    with pytest.raises(InputError, match="nazarick is for images with 3 channel.s., digits has 1"):
        recipe("nazarick", data=DIGITS_8)


def test_another_length_moves_warm_up_and_teacher_in_proportion():
    (half,) = recipe("short", epochs=6).phases
    assert (half.optimization.epochs, half.optimization.warmup_steps, half.distill_from) == (6, 195, 3)
    assert half.for_epochs(12) == SHORT.phases[0]
    assert recipe("nazarick", epochs=150).phases[0].optimization.warmup_steps == 1000
    assert recipe("digits", data=DIGITS_8, epochs=12).phases[0].distill_from == 6
    assert recipe("short", epochs=1).phases[0].distill_from == 1  # never from an untrained teacher
    assert recipe("nazarick", epochs=1).phases[0].distill_from == 0


def test_the_number_of_archs_per_step_can_be_changed():
    assert recipe("nazarick", n=6) == with_phase(NAZARICK, n=6)


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ("lr=0.25", with_optimization(SHORT, lr=0.25)),
        ("weight_decay=1e-4", with_optimization(SHORT, weight_decay=1e-4)),
        ("momentum=0", with_optimization(SHORT, momentum=0.0)),
        ("batch_size=64", with_optimization(SHORT, batch_size=64)),
        ("warmup_steps=0", with_optimization(SHORT, warmup_steps=0)),
        ("distill_from=never", with_phase(SHORT, distill_from=None)),
        ("distill_from=3", with_phase(SHORT, distill_from=3)),
        ("grad_clip=1.5", with_phase(SHORT, grad_clip=1.5)),
        ("grad_clip=none", with_phase(SHORT, grad_clip=None)),
        ("sampling=uniform", with_phase(SHORT, sampling="uniform")),
        ("sampling=fair", with_phase(SHORT, sampling="fair")),
        ("sampling=params", with_phase(SHORT, sampling="params")),
        ("init=torch", replace(SHORT, init="torch")),
        ("epochs=6", SHORT.for_epochs(6)),
        ("n=5", with_phase(SHORT, n=5)),
        ("sampling=largest", with_phase(SHORT, sampling="largest")),
        ("start=reordered", with_phase(SHORT, start="reordered")),
        ("warmup_epochs=1.5", with_optimization(SHORT, warmup_epochs=1.5)),
    ],
)
def test_every_setting_can_be_changed(change, changed):
    assert recipe("short", changes=[change]) == changed != SHORT


def of_2022(*changes, **settings) -> Recipe:
    return recipe(system=CVPR2022, data=DIGITS_8, changes=changes, **settings)


def test_a_change_is_for_the_last_phase_unless_it_names_another():
    full, subnets = SUPERNET_2022.phases
    assert of_2022() == SUPERNET_2022
    assert of_2022("phase0_lr=0.3").phases == (replace(full, optimization=replace(full.optimization, lr=0.3)), subnets)
    assert of_2022("lr=0.3").phases == (full, replace(subnets, optimization=replace(subnets.optimization, lr=0.3)))
    assert of_2022("phase1_lr=0.3") == of_2022("lr=0.3")
    assert of_2022(n=4).phases == (full, replace(subnets, n=4)) == of_2022("n=4").phases
    assert of_2022(epochs=35).phases == (full, subnets.for_epochs(35)) == of_2022("epochs=35").phases
    assert of_2022("phase0_epochs=9").phases[0].optimization == full.optimization.for_epochs(9)
    assert of_2022("phase0_epochs=9").phases[0].optimization.warmup_epochs == pytest.approx(0.2)
    skipped = of_2022("phase0_epochs=0").phases[0]
    assert skipped.optimization == replace(full.optimization, epochs=0)
    assert of_2022("phase0_epochs=0", "phase0_epochs=9").phases[0].optimization.epochs == 9
    with pytest.raises(InputError, match="^--set phase2_lr=0.3: the recipe has the phases 0 to 1$"):
        of_2022("phase2_lr=0.3")
    with pytest.raises(InputError, match="^--set phase0_depth=3: there is no setting 'depth'; give NAME=VALUE of "):
        of_2022("phase0_depth=3")


def test_what_entrants_added_is_set_by_name_and_its_ramps_move_with_the_length():
    changed = of_2022("sandwich_ramp=10", "rank_weight=2", "rank_ramp=20").phases[1]
    assert (changed.sandwich_ramp, changed.rank_weight, changed.rank_ramp) == (10, 2, 20)
    shorter = changed.for_epochs(7)
    assert (shorter.sandwich_ramp, shorter.rank_weight, shorter.rank_ramp) == (1, 2, 2)
    for change in ("phase0_sandwich_ramp=10", "phase0_rank_weight=2"):
        with pytest.raises(
            InputError, match="^sandwich_ramp and rank_weight belong to rule=frozen-teacher, not multi-"
        ):
            of_2022(change)
    with pytest.raises(InputError, match="^distill_from belongs to rule=sandwich, not frozen-teacher; add --set "):
        of_2022("distill_from=3")


def test_several_paths_need_the_teacher_to_be_switched_off():
    with pytest.raises(
        InputError, match="^distill_from belongs to rule=sandwich, not multi-path; add --set distill_from=never"
    ):
        recipe("short", changes=["rule=multi-path"])
    paths = recipe("short", changes=["rule=multi-path", "distill_from=never"])
    assert paths == with_phase(SHORT, rule="multi-path", distill_from=None)


def test_the_last_change_wins_over_earlier_ones_and_over_another_length():
    changed = recipe("short", epochs=6, changes=["distill_from=2", "distill_from=5"])
    assert changed.phases[0].distill_from == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("depth=3", r"--set depth=3: there is no setting 'depth'; give NAME=VALUE of epochs, lr, .*, stem_norm$"),
        ("lr", r"--set lr: lr is a number of at least 0, not ''$"),
        ("lr=-1", r"lr is a number of at least 0, not '-1'$"),
        ("lr=nan", r"lr is a number of at least 0, not 'nan'$"),
        ("lr=inf", r"lr is a number of at least 0, not 'inf'$"),
        (
            "batch_size=0",
            r"batch_size is a whole number from 1 to 50,000, the images of the largest data set, not '0'$",
        ),
        ("warmup_steps=-1", r"warmup_steps is a whole number from 0 to 10,000,000, not '-1'$"),
        ("warmup_steps=1.5", r"warmup_steps is a whole number from 0 to 10,000,000, not '1.5'$"),
        (
            "rule=sandwiches",
            r"rule is sandwich, sampled-teacher, .*, pool-distillation or frozen-teacher, not 'sandwiches'$",
        ),
        ("grad_clip=0", r"grad_clip is a number above 0, or none, not '0'$"),
        (
            "sampling=greedy",
            r"sampling is strict-fair, fair, uniform, params, largest, pool or macs-bins, not 'greedy'$",
        ),
        ("distill_from=-1", r"distill_from is an epoch, the first being 0, or never, not '-1'$"),
    ],
)
def test_a_change_that_cannot_be_made_is_refused_and_says_what_can(change, message):
    with pytest.raises(InputError, match=message):
        recipe("short", changes=[change])


def test_settings_tell_any_two_recipes_apart():
    changes = ["lr=0.2", "sampling=uniform", "grad_clip=none", "distill_from=never", "weight_decay=1e-4"]
    changed = [recipe("short", changes=[change]) for change in changes]
    settings = [
        each.phases[-1].settings()
        for each in [
            of_2022("rank_ramp=3"),
            of_2022("sandwich_ramp=0"),
            *changed,
            SHORT,
            NAZARICK,
            ANS,
            recipe("short", n=5),
        ]
    ]
    assert len({str(sorted(values.items())) for values in settings}) == len(settings)


def test_a_shard_is_one_of_several_parts_or_the_whole_list():
    assert (shard_of("2/8"), shard_of(None)) == ((2, 8), (1, 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2", "shard '2' is not of the form I/N, such as 2/8"),
        ("-1/2", "shard '-1/2' is not of the form I/N"),
        ("3/2", "shard 3/2 does not exist; those of 2 are 1/2 to 2/2"),
        ("0/2", "shard 0/2 does not exist"),
    ],
)
def test_a_shard_that_does_not_exist_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        shard_of(text)


# counts


def counts():
    """Yield the words of each verb, each option of it that is a whole number, and its help text."""

    def of(command, words):
        for name, verb in getattr(command, "commands", {}).items():
            yield from of(verb, (*words, name))
        for parameter in command.params:
            if parameter.type_descriptor.annotation is int:
                yield words, parameter.opts[0], parameter.help

    return list(of(typer.main.get_command(app), ()))


OF_THE_DATA = ("--images", "--train-images", "--val-images", "--calibration-images")
BOUNDED = [case for case in counts() if case[1] not in OF_THE_DATA]


@pytest.mark.parametrize(("words", "option", "help_text"), BOUNDED, ids=lambda value: str(value)[:40])
def test_every_count_has_a_bound_and_its_reason_in_the_help_text_and_in_the_error(words, option, help_text, capsys):
    bound, reason = re.fullmatch(r".* At most ([\d,]+): (.+)\.", help_text).groups()
    most = int(bound.replace(",", ""))
    for beyond in (most + 1, 10**4000):
        assert main([*words, option, str(beyond)]) == 2
        (error,) = capsys.readouterr().err.splitlines()
        assert option in error and f"less than or equal to {most}" in error and str(beyond)[:10] in error
        assert reason in error and error.endswith(" --help") and len(error) < 300
    assert main([*words, option, "-1"]) == 2
    assert option in capsys.readouterr().err


def test_there_are_counts_to_bound():
    assert len(BOUNDED) >= 17 and {option for _, option, _ in counts()} > set(OF_THE_DATA)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("score --checkpoint resnet20-cifar100 --archs x --images 10001", "cifar100 has 10000 test images"),
        ("search --checkpoint resnet20-cifar100 --images 10001", "cifar100 has 10000 test images"),
        (
            "search --checkpoint resnet20-cifar100 --bn train --calibration-images 50001",
            "cifar100 has 50000 training images",
        ),
        ("train --data digits --train-images 1201", "digits has 1200 training images; choose 1 to 1200"),
        ("train --data digits --val-images 598", "digits has 597 test images; choose 1 to 597"),
    ],
)
def test_more_images_than_there_are_are_refused(words, error, capsys):
    assert main(words.split()) == 2
    option, count = words.split()[-2:]
    assert f"error: {option} {count}: {error}" in capsys.readouterr().err


@pytest.mark.parametrize("train", [True, False])
def test_data_sets_have_as_many_images_as_they_say(train, cifar100_root):
    for data, root in ((DIGITS_8, None), (CIFAR100, cifar100_root)):
        images = len(data.images(root, train=train))
        assert images == data.counts[0 if train else 1]
        data.check_count("--images", images, train=train)
        with pytest.raises(DataError, match=f"--images {images + 1}: "):
            data.check_count("--images", images + 1, train=train)
