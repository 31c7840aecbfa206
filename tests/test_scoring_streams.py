"""Images that are too large to keep are normalised chunk by chunk; scores are the same, bit for bit."""

import weakref

import pytest
import torch
from helpers import random_archs, tiny_supernet

from nni_nas_consistency.images.augmentation import DIGITS_TEST
from nni_nas_consistency.images.datasets import Images, digits
from nni_nas_consistency.scoring import images as scoring_images
from nni_nas_consistency.scoring.images import image_scoring
from nni_nas_consistency.scoring.plain import score_one_by_one
from nni_nas_consistency.scoring.prefix import score_prefixes

SETTINGS = {"batch_size": 20, "dtype": torch.float64, "orders": 2, "flip": True}


def mapped(images, path):
    """Return the same images, mapped from a file."""
    path.write_bytes(images.x.numpy().tobytes())
    return Images(torch.from_file(str(path), size=images.x.numel(), dtype=torch.uint8).view_as(images.x), images.y, 10)


@pytest.mark.parametrize("scorer", [score_prefixes, score_one_by_one])
@pytest.mark.parametrize("bn", ["batch", "train", "test"])
def test_archs_score_the_same_on_images_that_are_not_kept(tmp_path, monkeypatch, scorer, bn):
    supernet = tiny_supernet()
    archs = random_archs(supernet.domain, 6)
    images, train = digits(train=False).first(50), digits(train=True).first(30)
    settings = SETTINGS if bn == "batch" else {**SETTINGS, "orders": 1}
    kept = image_scoring(images, DIGITS_TEST, bn=bn, train=train, **settings)
    expected = [*scorer(supernet, [archs[:4], archs[4:]], kept)]
    monkeypatch.setattr(scoring_images, "KEPT_BYTES", 0)
    streamed = image_scoring(mapped(images, tmp_path / "images"), DIGITS_TEST, bn=bn, train=train, **settings)
    assert [*scorer(supernet, [archs[:4], archs[4:]], streamed)] == expected
    for (x, y), (other_x, other_y) in zip(kept.test(), streamed.test(), strict=True):
        assert torch.equal(x, other_x) and torch.equal(y, other_y)


def test_no_more_than_a_chunk_and_the_batch_that_follows_are_in_memory(monkeypatch):
    monkeypatch.setattr(scoring_images, "KEPT_BYTES", 0)
    made = []

    def normalise(*arguments):
        assert sum(batch() is not None for batch in made) <= 2
        x = real(*arguments)
        made.append(weakref.ref(x))
        return x

    real = scoring_images.normalise
    monkeypatch.setattr(scoring_images, "normalise", normalise)
    supernet = tiny_supernet(torch.float32)
    scoring = image_scoring(digits(train=False).first(160), DIGITS_TEST, batch_size=20)
    list(score_prefixes(supernet, [random_archs(supernet.domain, 3)], scoring))
    assert len(made) > 8
