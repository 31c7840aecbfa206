"""Choosing images: scores of single images, the choice, image lists, and scoring by them."""

import json

import pytest
import torch
from command import run
from helpers import random_archs, tiny_supernet

from nni_nas_consistency.errors import FileError
from nni_nas_consistency.files.image_lists import read_image_list, write_image_list
from nni_nas_consistency.images.augmentation import DIGITS_TEST
from nni_nas_consistency.images.datasets import Images
from nni_nas_consistency.scoring.image_choice import scores_of_images, select_images
from nni_nas_consistency.scoring.images import image_scoring
from nni_nas_consistency.scoring.plain import score_one_by_one
from nni_nas_consistency.supernet.checkpoint import save_supernet


def digits(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(x, torch.randint(10, (count,), generator=generator), 10)


def test_the_mean_over_the_scores_of_images_is_the_score():
    supernet = tiny_supernet(torch.float64)
    archs = [*random_archs(supernet.domain, 4), supernet.largest]
    archs.append(archs[0])
    scoring = image_scoring(digits(50), DIGITS_TEST, batch_size=20, dtype=torch.float64)
    done = []
    scores = scores_of_images(supernet, archs, scoring, progress=done.append)
    (plain,) = score_one_by_one(supernet, [archs], scoring)
    assert scores.shape == (6, 50)
    torch.testing.assert_close(scores.mean(1).double(), torch.tensor([score.loss for score in plain]).double())
    assert sum(done) == 5 * 50  # archs that are the same network are scored once


def low_rank_scores(archs, images):
    """Return scores that three properties of an arch decide, besides noise; and an offset of each image."""
    generator = torch.Generator().manual_seed(0)
    properties = torch.randn(archs, 3, generator=generator)
    noise = 0.1 * torch.randn(archs, images, generator=generator)
    return (
        properties @ torch.randn(3, images, generator=generator) + noise + 5 * torch.randn(images, generator=generator)
    )


def test_chosen_images_score_other_archs_as_all_images_do():
    scores = low_rank_scores(80, 1000)
    chosen = select_images(scores[:40], 50, torch.Generator().manual_seed(1))
    assert len(chosen.unique()) == 50

    def error(images):
        differences = scores[40:, images].mean(1) - scores[40:].mean(1)
        return float(differences.std())

    at_random = [error(torch.randperm(1000, generator=torch.Generator().manual_seed(seed))[:50]) for seed in range(9)]
    assert error(chosen) < 0.2 * sorted(at_random)[4]


def test_the_choice_depends_on_the_generator_alone():
    scores = low_rank_scores(20, 100)
    one, same, other = (select_images(scores, 10, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_image_lists_are_read_as_they_were_written(tmp_path):
    write_image_list(tmp_path / "images.json", "digits", [5, 0, 9], {"seed": 1})
    assert read_image_list(tmp_path / "images.json", "digits", 10) == [5, 0, 9]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "images 2"}, 'has the format "images 2"'),
        ({"data": "cifar10"}, 'names images of "cifar10", not of "digits"'),
        ({"images": []}, "names no images"),
        ({"images": 3}, "names no images"),
        ({"images": [1, 2, 1]}, "image 1 appears twice"),
        ({"images": [1, 10]}, "names the image 10; the data set has those from 0 to 9"),
        ({"images": [-1]}, "names the image -1"),
        ({"images": [True]}, "names the image true"),
        ({"more": 1}, "unknown field 'more'"),
    ],
)
def test_other_image_lists_are_refused(change, said, tmp_path):
    path = tmp_path / "images.json"
    write_image_list(path, "digits", [5, 0, 9], {})
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(FileError, match=said):
        read_image_list(path, "digits", 10)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    save_supernet(folder / "supernet.safetensors", tiny_supernet(torch.float32), {"data": "digits"})
    run("archs", "sample", "--space", "digits", "--count", 12, "--out", folder / "archs.json")
    return "--checkpoint", folder / "supernet.safetensors", "--archs", folder / "archs.json"


def test_images_are_chosen_and_scored_on(inputs, tmp_path):
    chosen, scores, first = tmp_path / "images.json", tmp_path / "scores.json", tmp_path / "first.json"
    few = ("--count", 30, "--archs-scored", 8, "--batch-size", 15)
    printed = run("images", "choose", *inputs, *few, "--out", chosen).out
    assert "30 images" in printed and "at random" in printed
    again = tmp_path / "again.json"
    run("images", "choose", *inputs, *few, "--out", again)
    assert json.loads(again.read_text())["images"] == json.loads(chosen.read_text())["images"]
    run("score", *inputs, "--images-file", chosen, "--out", scores)
    write_image_list(chosen, "digits", range(30), {})
    run("score", *inputs, "--images-file", chosen, "--out", tmp_path / "named.json")
    run("score", *inputs, "--images", 30, "--out", first)
    by_list, by_count, by_choice = (
        json.loads(path.read_text())["scores"] for path in (tmp_path / "named.json", first, scores)
    )
    assert by_list == by_count
    assert by_choice != by_count


def test_more_archs_than_the_list_has_are_refused(inputs, tmp_path):
    done = run(
        "images", "choose", *inputs, "--count", 9, "--archs-scored", 13, "--out", tmp_path / "images.json", code=2
    )
    assert "has 12 archs, not 13" in done.error
