"""Augmentation: every transform equals torchvision's image by image; its parameters follow from the generator."""

import ast
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

import nni_nas_consistency
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.images.augmentation import (
    CIFAR10_TEST,
    CIFAR10_TRAIN,
    CIFAR100_ANS,
    CIFAR100_TEST,
    CIFAR100_TRAIN,
    DIGITS_TEST,
    DIGITS_TRAIN,
    Augmentation,
)
from nni_nas_consistency.images.datasets import digits
from nni_nas_consistency.images.transforms import apply_parameters, augment, draw_parameters, normalise

GREY = Augmentation(mean=(0.0,), std=(1.0,))
RGB = Augmentation(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
JITTER = replace(RGB, brightness=0.4, contrast=0.6, jitter_probability=0.8)
EVERYTHING = {"crop_padding": 4, "flip": True, "rotation": 40.0, "brightness": 0.3, "contrast": 0.3, "cutout": 7}


def random_images(batch, channels, height, width, seed=0):
    return torch.randint(256, (batch, channels, height, width), generator=seeded(seed)).to(torch.uint8)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def one_by_one(x, augmentation, parameters):
    """The documented order, torchvision's functions, one image at a time."""
    chosen = [{name: values[i].item() for name, values in asdict(parameters).items()} for i in range(len(x))]
    return torch.stack([one(image, augmentation, values) for image, values in zip(x, chosen, strict=True)])


def one(image, augmentation, values):
    height, width = image.shape[-2:]
    image = image.float() / 255
    image = F.crop(F.pad(image, [augmentation.crop_padding] * 4), values["top"], values["left"], height, width)
    image = F.adjust_brightness(image, values["brightness"])
    image = F.adjust_contrast(image, values["contrast"])
    image = F.horizontal_flip(image) if values["flip"] else image
    image = F.rotate(image, values["angle"], interpolation=InterpolationMode.NEAREST)
    top, left = values["cutout_row"] - augmentation.cutout // 2, values["cutout_column"] - augmentation.cutout // 2
    bottom, right = min(top + augmentation.cutout, height), min(left + augmentation.cutout, width)
    image = F.erase(image, max(top, 0), max(left, 0), bottom - max(top, 0), right - max(left, 0), torch.zeros(1))
    return F.normalize(image, list(augmentation.mean), list(augmentation.std))


@pytest.mark.parametrize(
    ("augmentation", "size"),
    [
        (replace(RGB, crop_padding=4), (32, 32)),
        (replace(RGB, crop_padding=4, flip=True), (20, 28)),
        (replace(RGB, cutout=16), (32, 32)),
        (replace(GREY, cutout=5), (8, 12)),
    ],
)
def test_crop_flip_and_cutout_equal_torchvision_image_by_image_to_the_last_bit(augmentation, size):
    x = random_images(48, len(augmentation.mean), *size)
    parameters = draw_parameters(augmentation, 48, size, seeded(1))
    assert torch.equal(apply_parameters(x, augmentation, parameters), one_by_one(x, augmentation, parameters))


@pytest.mark.parametrize(
    ("channels", "rotation", "size"), [(3, 15.0, (32, 32)), (3, 180.0, (20, 28)), (1, 90.0, (8, 8))]
)
def test_rotation_equals_torchvision_image_by_image(channels, rotation, size):
    augmentation = replace(GREY if channels == 1 else RGB, rotation=rotation)
    x = random_images(48, channels, *size)
    parameters = draw_parameters(augmentation, 48, size, seeded(1))
    moved = apply_parameters(x, augmentation, parameters) != one_by_one(x, augmentation, parameters)
    # none where a product of matrices rounds after every term; elsewhere a pixel half way may fall to the other side
    assert moved.any(1).sum() <= 2


@pytest.mark.parametrize(
    ("augmentation", "size"),
    [
        (replace(RGB, brightness=0.7), (32, 32)),
        (replace(RGB, contrast=0.7), (32, 32)),
        (replace(GREY, brightness=0.5, contrast=0.5), (8, 8)),
        (CIFAR100_TRAIN, (32, 32)),
        (CIFAR100_ANS, (32, 32)),
        (CIFAR10_TRAIN, (32, 32)),
        (DIGITS_TRAIN, (8, 8)),
        (replace(CIFAR100_TEST, **EVERYTHING), (20, 28)),
        (replace(DIGITS_TEST, **EVERYTHING), (9, 11)),
    ],
)
def test_a_whole_recipe_equals_torchvision_image_by_image(augmentation, size):
    x = random_images(48, len(augmentation.mean), *size)
    parameters = draw_parameters(augmentation, 48, size, seeded(2))
    torch.testing.assert_close(
        apply_parameters(x, augmentation, parameters), one_by_one(x, augmentation, parameters), rtol=1e-6, atol=1e-6
    )


def test_a_hole_is_black_before_normalisation_and_clipped_at_the_border():
    augmentation = replace(CIFAR100_TEST, cutout=16)
    parameters = replace(
        draw_parameters(augmentation, 2, (32, 32), seeded(0)),
        cutout_row=torch.tensor([16, 0]),
        cutout_column=torch.tensor([16, 31]),
    )
    white = torch.full((2, 3, 32, 32), 255, dtype=torch.uint8)
    images = apply_parameters(white, augmentation, parameters)
    black = torch.tensor([-mean / std for mean, std in zip(CIFAR100_TEST.mean, CIFAR100_TEST.std, strict=True)])
    hole = torch.isclose(images, black.view(1, 3, 1, 1))
    assert hole[0].sum() == 3 * 16 * 16 and hole[0, :, 8:24, 8:24].all()
    assert hole[1].sum() == 3 * 8 * 9 and hole[1, :, :8, 23:].all()


def test_normalised_images_are_those_of_torchvision_and_nothing_is_random():
    x = random_images(5, 3, 32, 32)
    expected = F.normalize(F.to_dtype(x, torch.float32, scale=True), [0.5071, 0.4865, 0.4409], [0.1942, 0.1918, 0.1958])
    torch.testing.assert_close(normalise(x, CIFAR100_TRAIN), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(normalise(x, CIFAR100_TRAIN), augment(x, CIFAR100_TEST, seeded(3)))


def test_every_image_has_its_own_parameters_over_the_whole_range():
    parameters = draw_parameters(replace(CIFAR100_TRAIN, jitter_probability=1.0), 20_000, (32, 24), seeded(0))
    for offset in (parameters.top, parameters.left):
        assert torch.bincount(offset, minlength=9).sub(20_000 / 9).abs().max() < 200
    assert abs(parameters.flip.float().mean() - 0.5) < 0.02
    assert parameters.cutout_row.unique().tolist() == list(range(32))
    assert parameters.cutout_column.unique().tolist() == list(range(24))
    for values, low, high in [
        (parameters.angle, -15, 15),
        (parameters.brightness, 0.9, 1.1),
        (parameters.contrast, 0.9, 1.1),
    ]:
        assert low <= values.min() < low + 0.01 * (high - low) and high - 0.01 * (high - low) < values.max() <= high
        assert abs(values.double().mean() - (low + high) / 2) < 0.02 * (high - low)
    drawn = torch.stack([values.double() for values in asdict(parameters).values()])
    assert torch.corrcoef(drawn).fill_diagonal_(0).abs().max() < 0.03


@pytest.mark.parametrize("probability", [0.0, 0.5, 0.8])
def test_brightness_and_contrast_are_each_applied_with_the_given_probability(probability):
    parameters = draw_parameters(replace(JITTER, jitter_probability=probability), 20_000, (8, 8), seeded(0))
    brighter, sharper = parameters.brightness != 1, parameters.contrast != 1
    assert abs(brighter.float().mean() - probability) < 0.02
    assert abs(sharper.float().mean() - probability) < 0.02
    assert abs((brighter & sharper).float().mean() - probability**2) < 0.02


def test_equal_seeds_give_equal_images_and_a_generator_moves_on():
    x = random_images(16, 3, 32, 32)
    generator, again = seeded(7), seeded(7)
    first, second = augment(x, CIFAR100_TRAIN, generator), augment(x, CIFAR100_TRAIN, generator)
    assert torch.equal(first, augment(x, CIFAR100_TRAIN, again))
    assert torch.equal(second, augment(x, CIFAR100_TRAIN, again))
    assert not torch.equal(first, second)


def test_nothing_is_drawn_from_torchs_own_generator():
    before = torch.get_rng_state()
    augment(random_images(16, 3, 32, 32), replace(CIFAR100_TEST, **EVERYTHING), seeded(0))
    assert torch.equal(before, torch.get_rng_state())


def test_switching_an_operation_off_leaves_the_others_and_the_generator_as_they_were():
    full, less = seeded(0), seeded(0)
    with_all = draw_parameters(replace(CIFAR100_TRAIN, cutout=8), 32, (32, 32), full)
    without = draw_parameters(replace(CIFAR100_TEST, crop_padding=4), 32, (32, 32), less)
    assert torch.equal(with_all.top, without.top) and torch.equal(with_all.left, without.left)
    assert with_all.flip.any() and not without.flip.any()
    assert with_all.angle.all() and not without.angle.any()
    assert torch.equal(full.get_state(), less.get_state())


def test_the_images_given_are_not_changed():
    x = random_images(8, 3, 32, 32)
    before = x.clone()
    augment(x, replace(CIFAR100_TEST, **EVERYTHING), seeded(0))
    normalise(x, CIFAR100_TEST)
    assert torch.equal(x, before)


def test_the_recipes_are_the_documented_ones():
    shared = {"mean": (0.5071, 0.4865, 0.4409), "std": (0.1942, 0.1918, 0.1958)}
    moves = {**shared, "crop_padding": 4, "flip": True, "rotation": 15.0}
    assert Augmentation(**moves, brightness=0.1, contrast=0.1, jitter_probability=0.5) == CIFAR100_TRAIN
    assert Augmentation(**moves, cutout=16) == CIFAR100_ANS
    assert Augmentation(**shared) == CIFAR100_TEST
    assert replace(CIFAR10_TEST, crop_padding=4, flip=True) == CIFAR10_TRAIN
    assert replace(DIGITS_TEST, crop_padding=1) == DIGITS_TRAIN


def test_the_digits_are_normalised_by_the_statistics_of_their_training_part():
    pixels = digits(train=True).x.double() / 255
    assert DIGITS_TEST.mean == (round(float(pixels.mean()), 4),)
    assert DIGITS_TEST.std == (round(float(pixels.std()), 4),)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"mean": (0.0,)}, r"mean \(0.0,\) and std \(1.0, 1.0, 1.0\) differ in length"),
        ({"std": (1.0, 0.0, 1.0)}, r"std is \(1.0, 0.0, 1.0\); it must be positive"),
        (
            {"mean": (0.0,) * 2, "std": (1.0,) * 2, "contrast": 0.1},
            "contrast is 0.1 for 2 channels; it needs 1 or 3: set contrast to 0",
        ),
        ({"crop_padding": -1}, "crop_padding is -1; it must be at least 0 pixels"),
        ({"rotation": 181.0}, r"rotation is 181.0; it must lie in \[0, 180\]"),
        ({"brightness": 1.1}, r"brightness is 1.1; it must lie in \[0, 1\]"),
        ({"contrast": -0.1}, r"contrast is -0.1; it must lie in \[0, 1\]"),
        ({"jitter_probability": 2.0}, r"jitter_probability is 2.0; it must lie in \[0, 1\]"),
        ({"cutout": -16}, "cutout is -16; it must be at least 0 pixels"),
    ],
)
def test_a_setting_out_of_range_is_refused_and_quoted(setting, message):
    with pytest.raises(InputError, match=message):
        replace(RGB, **setting)


@pytest.mark.parametrize("function", [normalise, lambda x, augmentation: augment(x, augmentation, seeded(0))])
def test_images_with_another_number_of_channels_are_refused(function):
    with pytest.raises(InputError, match="the images have 1 channels, the augmentation has mean and std for 3"):
        function(random_images(2, 1, 8, 8), CIFAR100_TRAIN)


def test_an_augmentation_is_built_without_importing_torch():
    path = Path(nni_nas_consistency.__file__).parent / "images" / "augmentation.py"
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module)
        elif isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
    assert imported == {"__future__", "dataclasses", "typing", "nni_nas_consistency.errors"}
