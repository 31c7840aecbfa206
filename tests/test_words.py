"""The words of the command line: which recipe they mean."""

from dataclasses import replace

import pytest
import torch

from nni_nas_consistency.cli.parse import recipe_of
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.images.datasets import Images, digits
from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.training.recipes import ANS, DIGITS, NAZARICK, SHORT, by_params, strict_fair, uniform

COLOUR = Images(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), 100)


@pytest.mark.parametrize(("word", "recipe"), [("nazarick", NAZARICK), ("short", SHORT), ("ans", ANS)])
def test_a_word_means_its_recipe(word, recipe):
    assert recipe_of(word, COLOUR) == recipe


def test_a_recipe_for_images_of_other_channels_is_refused():
    with pytest.raises(InputError, match="nazarick is for images of 3 channels, these have 1"):
        recipe_of("nazarick", digits(train=False))


def test_the_short_recipe_differs_from_the_published_one_in_what_its_decision_page_lists_only():
    shorter = replace(NAZARICK.optimization, epochs=12, lr=0.4, warmup_steps=390)
    assert replace(NAZARICK, optimization=shorter, n=6, distill_from=6) == SHORT


def test_another_length_moves_warm_up_and_teacher_in_proportion():
    half = recipe_of("short", COLOUR, epochs=6)
    assert (half.optimization.epochs, half.optimization.warmup_steps, half.distill_from) == (6, 195, 3)
    assert half.for_epochs(12) == SHORT
    assert recipe_of("nazarick", COLOUR, epochs=150).optimization.warmup_steps == 1000
    assert DIGITS.for_epochs(12).distill_from == 6
    assert recipe_of("short", COLOUR, epochs=1).distill_from == 1  # never from an untrained teacher
    assert NAZARICK.for_epochs(1).distill_from == 0


def test_the_number_of_archs_a_batch_can_be_another():
    assert recipe_of("nazarick", COLOUR, n=6) == replace(NAZARICK, n=6)


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ("lr=0.25", replace(SHORT, optimization=replace(SHORT.optimization, lr=0.25))),
        ("weight_decay=1e-4", replace(SHORT, optimization=replace(SHORT.optimization, weight_decay=1e-4))),
        ("momentum=0", replace(SHORT, optimization=replace(SHORT.optimization, momentum=0.0))),
        ("batch_size=64", replace(SHORT, optimization=replace(SHORT.optimization, batch_size=64))),
        ("warmup_steps=0", replace(SHORT, optimization=replace(SHORT.optimization, warmup_steps=0))),
        ("distill=false", replace(SHORT, distill=False)),
        ("distill_from=3", replace(SHORT, distill_from=3)),
        ("grad_clip=1.5", replace(SHORT, grad_clip=1.5)),
        ("grad_clip=none", replace(SHORT, grad_clip=None)),
        ("sampler=uniform", replace(SHORT, sampler=uniform)),
        ("sampler=params", replace(SHORT, sampler=by_params)),
        ("sampler=strict-fair", replace(SHORT, sampler=strict_fair)),
    ],
)
def test_every_setting_can_be_changed(change, changed):
    assert recipe_of("short", COLOUR, changes=[change]) == changed


def test_single_paths_are_two_changes():
    changes = ["sandwich=false", "distill=false"]
    assert recipe_of("short", COLOUR, changes=changes) == replace(SHORT, sandwich=False, distill=False)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["sandwich=false"], "without the sandwich rule there is no teacher; add --set distill=false"),
        (["distill=false", "distill_from=3"], "--set distill_from=3: nothing is distilled; leave it out"),
    ],
)
def test_changes_that_contradict_each_other_are_refused(changes, told):
    with pytest.raises(InputError, match=f"^{told}$"):
        recipe_of("short", COLOUR, changes=changes)


def test_settings_tell_any_two_recipes_apart():
    changes = ["lr=0.2", "sampler=uniform", "grad_clip=none", "distill=false", "weight_decay=1e-4", "batch_size=64"]
    told = [recipe_of("short", COLOUR, changes=[change]).settings() for change in changes]
    told += [SHORT.settings(), NAZARICK.settings(), ANS.settings(), recipe_of("short", COLOUR, n=5).settings()]
    assert len({str(sorted(settings.items())) for settings in told}) == len(told)


def test_the_last_change_wins_over_earlier_ones_and_over_another_length():
    changed = recipe_of("short", COLOUR, epochs=6, changes=["distill_from=2", "distill_from=5"])
    assert changed.distill_from == 5


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("depth=3", r"--set depth=3: there is no setting 'depth'; give NAME=VALUE of lr, .*, sampler$"),
        ("lr", r"--set lr: lr is a number of at least 0, not ''$"),
        ("lr=-1", r"lr is a number of at least 0, not '-1'$"),
        ("lr=nan", r"lr is a number of at least 0, not 'nan'$"),
        ("lr=inf", r"lr is a number of at least 0, not 'inf'$"),
        ("batch_size=0", r"batch_size is a whole number of at least 1, not '0'$"),
        ("warmup_steps=-1", r"warmup_steps is a whole number of at least 0, not '-1'$"),
        ("warmup_steps=1.5", r"warmup_steps is a whole number of at least 0, not '1.5'$"),
        ("sandwich=no", r"sandwich is true or false, not 'no'$"),
        ("grad_clip=0", r"grad_clip is a number above 0, or none, not '0'$"),
        ("sampler=greedy", r"sampler is strict-fair, uniform or params, not 'greedy'$"),
    ],
)
def test_a_change_that_cannot_be_made_is_refused_and_says_what_can(change, told):
    with pytest.raises(InputError, match=told):
        recipe_of("short", COLOUR, changes=[change])


def test_each_sampler_draws_from_the_whole_space_in_its_own_way():
    space, draws = ResNet20Space(10, 1, 8, width_unit=1), 64
    params = {
        make: [space.complexity(arch).params for arch in make(space, torch.Generator().manual_seed(0)).draw(draws)]
        for make in (strict_fair, uniform, by_params)
    }
    assert sum(params[by_params]) > 1.1 * sum(params[uniform])
    codes = [arch.choices for arch in strict_fair(space, torch.Generator().manual_seed(0)).draw(draws)]
    assert all(len({column.count(width) for width in set(column)}) == 1 for column in zip(*codes, strict=True))
