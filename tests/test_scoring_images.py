"""Scoring on a data set: normalised images, mirrored views, other orders."""

import pytest
import torch
from helpers import random_archs, tiny_supernet

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.images.augmentation import DIGITS_TEST
from nni_nas_consistency.images.datasets import digits
from nni_nas_consistency.images.transforms import normalise
from nni_nas_consistency.scoring.images import image_scoring
from nni_nas_consistency.scoring.plain import score_archs
from nni_nas_consistency.scoring.scoring import Scoring

SETTINGS = {"batch_size": 20, "dtype": torch.float64}


def test_images_are_normalised_once_and_come_out_the_same_each_time():
    images, train = digits(train=False).first(50), digits(train=True).first(30)
    how = image_scoring(images, DIGITS_TEST, bn="train", train=train, **SETTINGS)
    for source, expected in ((how.test, images), (how.train, train)):
        x, y = (torch.cat(parts) for parts in zip(*source(), strict=True))
        assert torch.equal(x, normalise(expected.x, DIGITS_TEST).double()) and torch.equal(y, expected.y)
        assert all(first is again for (first, _), (again, _) in zip(source(), source(), strict=True))


def test_mirrored_images_and_other_orders_are_further_batches():
    images = digits(train=False).first(50)
    plain, mirrored, shuffled, all_of_it = (
        list(image_scoring(images, DIGITS_TEST, **SETTINGS, **views).test())
        for views in ({}, {"flip": True}, {"orders": 2}, {"orders": 2, "flip": True})
    )
    assert [len(y) for _, y in all_of_it] == 4 * [20, 20, 10]
    for batch, (flipped, labels) in zip(plain, mirrored[3:], strict=True):
        assert torch.equal(flipped, batch[0].flip(-1)) and torch.equal(labels, batch[1])
    x = torch.cat([images for images, _ in plain])
    moved, labels = (torch.cat(parts) for parts in zip(*shuffled[3:], strict=True))
    assert not torch.equal(moved, x)
    place = [int((x == image).flatten(1).all(1).nonzero()[0, 0]) for image in moved]
    assert len(set(place)) > 45 and torch.equal(images.y[place], labels)  # a few digits are the same image twice
    assert torch.equal(all_of_it[9][0], all_of_it[3][0].flip(-1))


def test_the_score_over_several_views_is_their_mean():
    supernet, images = tiny_supernet(), digits(train=False).first(40)
    arch = random_archs(supernet.domain, 1)[0]

    def loss(scored):
        return next(score_archs(supernet, [arch], scored)).loss

    both = loss(image_scoring(images, DIGITS_TEST, orders=2, **SETTINGS))
    batches = list(image_scoring(images, DIGITS_TEST, orders=2, **SETTINGS).test())
    alone = [loss(Scoring("loss", "batch", lambda part=part: iter(part))) for part in (batches[:2], batches[2:])]
    assert alone[0] != alone[1]
    assert both == pytest.approx(sum(alone) / 2, rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"orders": 2, "bn": "test"},
            "^2 orders change nothing with statistics 'test' and 50 images in batches of 20; ",
        ),
        ({"orders": 2, "batch_size": 50}, "in batches of 50; several orders need bn='batch' and more than one batch$"),
        ({"orders": 0}, "^orders is 0; score each image at least once$"),
    ],
)
def test_orders_that_change_nothing_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        image_scoring(digits(train=False).first(50), DIGITS_TEST, **{**SETTINGS, **settings})
