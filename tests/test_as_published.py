"""The published recipes as they were published: the figures are those of the competitions' entries."""

import json
import math
import re
from dataclasses import replace
from importlib.resources import files
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file

from nni_nas_consistency.archs.codecs import DIGITS_CODEC, RESNET48_CODEC
from nni_nas_consistency.archs.domains import RESNET20
from nni_nas_consistency.cli.main import main
from nni_nas_consistency.cli.parse import PrecisionWord
from nni_nas_consistency.files.arch_lists import Entry, read_released, write_released
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.images.augmentation import DIGITS_TEST, Augmentation
from nni_nas_consistency.images.datasets import Images, digits
from nni_nas_consistency.images.loader import TrainingLoader
from nni_nas_consistency.jobs import params_of
from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.systems import CVPR2021, CVPR2022, IMAGENET
from nni_nas_consistency.training.lightning import training_evaluator
from nni_nas_consistency.training.recipes import (
    ANS,
    EMBEDDED,
    NAZARICK,
    STANDALONE_2022,
    STANDALONE_DIGITS,
    SUPERNET_2022,
)
from nni_nas_consistency.training.run import TrainingRun
from nni_nas_consistency.training.supernet import initialise, train_supernet

STEPS = 391  # of 128 images: the last incomplete batch counts


def lr(optimization, step):
    return optimization.lr * optimization.lr_factor(step, STEPS)


def test_nazarick_warms_up_from_0_over_2000_steps():
    optimization = NAZARICK.phases[0].optimization
    assert lr(optimization, 0) == 0
    assert lr(optimization, 1000) == pytest.approx(0.05)
    assert lr(optimization, 1999) == pytest.approx(0.1 * 1999 / 2000)
    assert lr(optimization, 2000) == 0.1


@pytest.mark.parametrize(("epoch", "rate"), [(100, 0.07723), (255, 0.00670), (299, 9.9e-5)])
def test_nazaricks_cosine_starts_its_clock_when_the_warm_up_ends(epoch, rate):
    optimization = NAZARICK.phases[0].optimization
    for step in (epoch * STEPS, epoch * STEPS + STEPS - 1):  # constant within an epoch
        assert lr(optimization, step) == pytest.approx(rate, rel=5e-3)


def test_ans_is_at_its_peak_in_epochs_0_and_1_and_has_no_warm_up():
    optimization = ANS.phases[0].optimization
    assert [lr(optimization, epoch * STEPS) for epoch in (0, 1)] == [0.025, 0.025]
    assert lr(optimization, 2 * STEPS) < 0.025


def test_the_networks_of_2022_are_trained_alone_at_rates_in_proportion_to_the_batch_and_warm_up_in_whole_steps():
    one, four = STANDALONE_2022, replace(STANDALONE_2022, batch_size=1024)
    assert (one.epochs, one.momentum, one.weight_decay, one.drop_last) == (90, 0.9, 1e-4, True)
    for optimization, peak, steps in ((one, 0.1, 5004), (four, 0.4, 1251)):
        assert optimization.peak_lr == pytest.approx(peak)
        assert optimization.steps_per_epoch(IMAGENET.counts[0]) == steps
        assert optimization.warm_up(steps) == 2 * steps
        factors = [optimization.lr_factor(step, steps) for step in (0, steps, 2 * steps, 3 * steps - 1, 3 * steps)]
        assert factors == [0, 0.5, 1, 1, 0.5 * (1 + math.cos(math.pi / 90))]
    assert STANDALONE_2022.for_epochs(45).warm_up(5004) == 5004
    assert CVPR2022.standalone == STANDALONE_2022


def test_the_supernet_of_2022_starts_from_the_full_network_and_learns_from_it_by_two_random_subnets():
    full, subnets = SUPERNET_2022.phases
    assert (full.rule, full.n, full.sampling, full.start) == ("multi-path", 1, "largest", "as-left")
    assert full.optimization == STANDALONE_2022
    assert (subnets.rule, subnets.n, subnets.sampling, subnets.start) == ("frozen-teacher", 2, "uniform", "reordered")
    assert (subnets.sandwich_ramp, subnets.rank_weight, subnets.grad_clip) == (None, 0, None)
    four = replace(subnets.optimization, batch_size=1024)
    assert (four.epochs, four.momentum, four.weight_decay, four.drop_last) == (70, 0.9, 3e-5, True)
    assert four.peak_lr == pytest.approx(0.004)
    assert four.warm_up(four.steps_per_epoch(IMAGENET.counts[0])) == 5 * 1251
    assert CVPR2022.recipes == (SUPERNET_2022,)


def test_images_of_imagenet_are_normalised_as_published():
    for augmentation in (IMAGENET.train, IMAGENET.test):
        assert augmentation.mean == (0.485, 0.456, 0.406) and augmentation.std == (0.229, 0.224, 0.225)
    assert IMAGENET.train.flip and not IMAGENET.test.flip


def test_the_last_incomplete_batch_is_kept(tmp_path):
    train = digits(train=True).first(100)
    run = TrainingRun(tmp_path, accelerator="cpu")
    optimization = replace(EMBEDDED.phases[0].optimization, batch_size=32, warmup_steps=0)
    evaluator = training_evaluator(optimization, train, DIGITS_TEST, train, seed=0, run=run)
    assert [len(labels) for _, labels in evaluator.train_dataloaders] == [32, 32, 32, 4]


def test_an_epoch_of_cifar_100_has_391_steps():
    images = Images(torch.zeros(50_000, 1, 1, 1, dtype=torch.uint8), torch.zeros(50_000, dtype=torch.long), 1)
    assert len(TrainingLoader(images, Augmentation((0.0,), (1.0,)), batch_size=128, seed=0)) == STEPS


def test_kaiming_fan_out_draws_convs_and_classifier_within_their_bounds_and_fills_them():
    supernet = make_supernet(ResNet20Space())
    initialise(supernet, "kaiming-fan-out", torch.Generator().manual_seed(0))
    weights = dict(supernet.named_parameters())
    for name, fan_out in (("links.18.conv2.conv.weight", 64 * 9), ("links.19.linear.weight", 100)):
        bound = math.sqrt(3) * math.sqrt(2) / math.sqrt(fan_out)
        assert 0.98 * bound < float(weights[name].detach().abs().max()) <= bound
    assert float(weights["links.18.conv2.conv.weight"].detach().std()) == pytest.approx(0.059, abs=5e-4)
    assert not weights["links.19.linear.bias"].any()
    assert (weights["links.18.conv2.bn.weight"] == 1).all() and not weights["links.18.conv2.bn.bias"].any()


def test_each_recipe_names_its_initialisation_and_fresh_weights_depend_on_the_seed_alone(tmp_path):
    assert NAZARICK.init == ANS.init == "kaiming-fan-out"
    recipe = replace(EMBEDDED, init="kaiming-fan-out").for_epochs(1)
    recipe = replace(recipe, phases=(replace(recipe.phases[0], n=2),))
    still = replace(recipe.phases[0], optimization=replace(recipe.phases[0].optimization, lr=0.0, warmup_steps=0))
    weights = []
    for attempt in range(2):
        torch.manual_seed(attempt)
        run = TrainingRun(tmp_path / str(attempt), accelerator="cpu", write=lambda line: None)
        images = digits(train=True).first(64)
        supernet = train_supernet(
            ResNet20Space(10, 1, 8, width_unit=1), replace(recipe, phases=(still,)), images, images, seed=3, run=run
        )
        weights.append(supernet.links[18].conv2.conv.weight)
    assert torch.equal(*weights)
    assert float(weights[0].detach().abs().max()) > math.sqrt(6 / (16 * 9)) * 0.95


def test_archs_are_drawn_by_the_parameters_that_they_have_alone():
    count = params_of(CVPR2021, (100, 3, 32))
    assert (count(RESNET20.largest), count(RESNET20.smallest)) == (278_612, 3_424)


def test_float16_is_refused_before_anything_is_trained():
    assert "16-mixed" not in get_args(PrecisionWord)


def test_the_weights_of_every_epoch_are_kept_on_request_and_can_be_scored(tmp_path, capsys):
    run = ["--space", "digits", "--epochs", "3", "--n", "2", "--train-images", "64", "--val-images", "20"]
    run += ["--set", "warmup_steps=0"]
    assert main(["train", *run, "--keep-epochs", "--out", str(tmp_path)]) == 0
    kept = sorted(path.name for path in (tmp_path / "epochs").iterdir())
    assert kept == ["epoch000.safetensors", "epoch001.safetensors", "epoch002.safetensors"]
    last = load_file(tmp_path / "supernet.safetensors")
    assert all(torch.equal(last[name], tensor) for name, tensor in load_file(tmp_path / "epochs" / kept[2]).items())
    first = load_file(tmp_path / "epochs" / kept[0])
    assert not torch.equal(last["links.0.conv.conv.weight"], first["links.0.conv.conv.weight"])

    assert main(["archs", "sample", "--space", "digits", "--count", "4", "--out", str(tmp_path / "list.json")]) == 0
    score = ["--archs", str(tmp_path / "list.json"), "--images", "64", "--out", str(tmp_path / "scores.json")]
    assert main(["score", "--checkpoint", str(tmp_path / "epochs" / kept[0]), *score]) == 0
    made_by = read_scores(tmp_path / "scores.json", DIGITS_CODEC).provenance["checkpoint"]
    assert (made_by["epoch"], made_by["epochs"]) == (0, 3)
    accuracies = read_scores(tmp_path / "scores.acc.json", DIGITS_CODEC)
    assert accuracies.provenance["metric"] == "acc" and capsys.readouterr().out.endswith("scores.acc.json\n")


@pytest.mark.parametrize("words", [["train", "--n", "2", "--train-images", "192"], ["standalone", "--limit", "1"]])
def test_fewer_epochs_mean_the_same_for_train_and_standalone(tmp_path, words):
    archs = ["--archs", str(files("nni_nas_consistency") / "assets" / "digits" / "archs.json")]
    archs = archs if words[0] == "standalone" else []
    assert main([*words, *archs, "--space", "digits", "--epochs", "2", "--out", str(tmp_path)]) == 0
    written = tmp_path / ("settings.json" if words[0] == "train" else "about.json")
    told = json.loads(written.read_text())
    told = told.get("optimization", told)
    recipe = EMBEDDED.phases[0].optimization if words[0] == "train" else STANDALONE_DIGITS
    assert told["epochs"] == 2
    assert told["warmup_steps"] == round(recipe.warmup_steps * 2 / recipe.epochs)


def test_the_board_of_2022_counts_the_absolute_value_of_pearson(tmp_path, capsys):
    sample = ["archs", "sample", "--space", "resnet48", "--count", "40", "--out", str(tmp_path / "list.json")]
    assert main(sample) == 0
    archs = read_released(tmp_path / "list.json", RESNET48_CODEC)
    reference = {name: Entry(entry.arch, index / 100) for index, (name, entry) in enumerate(archs.items())}
    scores = {name: Entry(entry.arch, -entry.acc) for name, entry in reference.items()}
    write_released(tmp_path / "reference.json", reference)
    write_released(tmp_path / "scores.json", scores)
    words = ["rank", str(tmp_path / "scores.json"), str(tmp_path / "reference.json"), "--space", "resnet48"]
    capsys.readouterr()
    assert main([*words, "--resamples", "20"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"\|pearson\| +1\.0000 \[", told) and re.search(r"kendall +-1\.0000 \[", told)
