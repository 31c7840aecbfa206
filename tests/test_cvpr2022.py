"""CVPR 2022 track 1 on the command line, with a member of the family for 8×8 digits."""

import csv
import json
import re
import shutil

import pytest
import torch
import torch.nn.functional as F
from command import run
from helpers import keep_nni_in, random_archs, randomize
from safetensors.torch import load_file

from nni_nas_consistency import jobs
from nni_nas_consistency.archs.codecs import RESNET48_CODEC
from nni_nas_consistency.archs.cost import Cost
from nni_nas_consistency.archs.domains import NOMINAL, RELEASED
from nni_nas_consistency.cli.parse import recipe_of
from nni_nas_consistency.files.arch_lists import Entry, read_released, write_released
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.images.augmentation import DIGITS_TEST
from nni_nas_consistency.images.datasets import digits
from nni_nas_consistency.images.loader import EvaluationLoader
from nni_nas_consistency.scoring.images import image_scoring
from nni_nas_consistency.scoring.plain import score_archs
from nni_nas_consistency.spaces.reorder import reorder_inner_channels
from nni_nas_consistency.supernet.checkpoint import load_supernet, save_supernet
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.systems import CVPR2022, CVPR2022_DEMO, CVPR2022_MISH, CVPR2022_PRELU, DIGITS_8, SYSTEMS

VARIANTS = (CVPR2022, CVPR2022_PRELU, CVPR2022_MISH, CVPR2022_DEMO)


@pytest.fixture(autouse=True)
def nni_writes_to_a_temporary_folder(tmp_path, monkeypatch):
    keep_nni_in(tmp_path, monkeypatch)


def write_list(path, archs):
    write_released(path, {f"arch{index}": Entry(arch, index / 100) for index, arch in enumerate(archs, 1)})
    return path


def trained(folder, system=CVPR2022):
    """Write a checkpoint of a supernet with random weights; return its path."""
    supernet = make_supernet(system.make_space((10, 1, 8)))
    randomize(supernet, seed=1)
    save_supernet(folder / "supernet.safetensors", supernet, {"data": "digits"})
    return folder / "supernet.safetensors"


@pytest.mark.parametrize("system", VARIANTS, ids=lambda system: system.space)
def test_a_checkpoint_of_each_variant_is_known_as_such_and_scored(tmp_path, system):
    checkpoint = trained(tmp_path, system)
    archs = random_archs(system.domain, 5, seed=2)
    words = ("--archs", write_list(tmp_path / "list.json", archs), "--images", 64, "--out", tmp_path / "scores.json")
    done = run("score", "--checkpoint", checkpoint, *words)
    assert re.search(r"shared prefixes saved \d+% of the MACs of scoring one by one\n$", done.err)
    scores = read_scores(tmp_path / "scores.json", system.codec)
    assert scores.provenance["space"] == system.space
    supernet = make_supernet(system.make_space((10, 1, 8)))
    load_supernet(checkpoint, supernet)
    scoring = image_scoring(digits(train=False).first(64), DIGITS_TEST)
    expected = [score.loss for score in score_archs(supernet, archs, scoring)]
    assert [score for _, score in scores.scores.values()] == pytest.approx(expected, rel=1e-4)
    assert len(set(expected)) == 5
    other = CVPR2022 if system is not CVPR2022 else CVPR2022_DEMO
    error = run("score", "--checkpoint", checkpoint, *words, "--space", other.space, code=2).error
    assert f"was trained for space {system.space}, not {other.space}; leave --space out" in error


def test_archs_that_the_supernet_does_not_have_are_one_line_and_exit_2(tmp_path):
    checkpoint = trained(tmp_path)
    narrow, untied = (
        RESNET48_CODEC.arch({**RELEASED.smallest.choices, **digit}) for digit in ({"s1b1c1": 5}, {"s1b2c2": 1})
    )
    for arch, message in (
        (narrow, f"s1b1c1 of arch1 {narrow.code!r} is 5; archs of resnet48 are drawn with 1, 2, 3 there"),
        (untied, f"s1b2c2 of arch1 {untied.code!r} is 1, stem is 3; the networks of resnet48 have one choice for both"),
    ):
        words = ("--archs", write_list(tmp_path / "list.json", [arch]), "--out", tmp_path / "scores.json")
        assert message in run("score", "--checkpoint", checkpoint, *words, code=2).error
    assert not (tmp_path / "scores.json").exists()


def test_scores_rank_beside_params_and_macs_of_the_published_network(tmp_path):
    archs = random_archs(NOMINAL, 12, seed=5)
    path = write_list(tmp_path / "list.json", archs)
    shown = run("rank", path, path, "--space", "resnet48", "--resamples", 20).out
    assert re.search(r"\|pearson\| +1\.0000 .* 0\.\d{4} ", shown) and "MACs" in shown
    space = CVPR2022.make_space(CVPR2022.data.shape, standalone=True)
    assert space.complexity(space.largest) == Cost(params=34_043_688, macs=5_282_238_464)


@pytest.mark.parametrize(("side", "width"), [(224, 64), (128, 64), (64, 16), (32, 8), (8, 8)])
def test_images_of_less_than_128_pixels_have_smaller_members(side, width):
    for standalone in (False, True):
        space = CVPR2022.make_space((10, 3, side), standalone=standalone)
        frozen = space.freeze(space.sample(space.largest))
        assert frozen.links[0].conv.conv.out_channels == width
        assert space.image_size == side


def test_networks_that_are_trained_alone_take_any_code_whatever_the_supernet_draws():
    for system in VARIANTS:
        space = system.make_space((10, 3, 32), standalone=True)
        (arch,) = random_archs(NOMINAL, 1, seed=6)
        frozen = space.freeze(space.sample(arch))
        assert not [module for module in frozen.modules() if isinstance(module, (torch.nn.PReLU, torch.nn.Mish))]


SHORT_ALONE = ("standalone", "--space", "resnet48", "--data", "digits", "--epochs", 1, "--set", "batch_size=200")


def test_one_arch_or_each_of_a_list_is_trained_alone(tmp_path):
    archs = random_archs(NOMINAL, 2, seed=7)
    run(*SHORT_ALONE, "--archs", write_list(tmp_path / "list.json", archs), "--out", tmp_path / "list")
    for index, arch in enumerate(archs):
        out = tmp_path / str(index)
        done = run(*SHORT_ALONE, "--arch", "1" + arch.code, "--out", out)
        assert done.out == f"{out / 'reference.json'}\n"
        alone = read_released(out / "reference.json", RESNET48_CODEC)["arch1"]
        assert alone.arch.code == "1" + arch.code
        assert alone.acc == read_released(tmp_path / "list" / "reference.json", RESNET48_CODEC)[f"arch{index + 1}"].acc
    plan = json.loads((tmp_path / "list" / "about.json").read_text())["optimization"]
    assert (plan["batch_size"], plan["lr"], plan["lr_batch"]) == (200, 0.1, 256)
    assert (plan["epochs"], plan["warmup_epochs"], plan["weight_decay"]) == (1, pytest.approx(2 / 90), 1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give either --archs, a list, or --arch, the code of one arch"),
        (("--arch", "1", "--archs", "list.json"), "give either --archs, a list, or --arch, the code of one arch"),
        (("--arch", "16-4"), "--arch: the code is '16-4'; resnet48 expects 51 or 52 digits"),
        (("--arch", RELEASED.largest.code, "--set", "n=2"), "there is no setting 'n'; give NAME=VALUE of lr, "),
    ],
)
def test_archs_that_cannot_be_trained_alone_are_one_line_and_exit_2(tmp_path, words, message):
    assert message in run(*SHORT_ALONE, *words, "--out", tmp_path / "alone", code=2).error
    assert not (tmp_path / "alone").exists()


SHORT_RECIPE = ("train", "--space", "resnet48", "--data", "digits", "--train-images", 200, "--val-images", 50)
SHORT_RECIPE += ("--set", "phase0_epochs=3", "--epochs", 2, "--set", "phase0_batch_size=32", "--set", "batch_size=64")


@pytest.fixture(scope="module")
def two_phases(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        keep_nni_in(tmp_path_factory.mktemp("home"), patch)
        folder = tmp_path_factory.mktemp("train")
        done = run(*SHORT_RECIPE, "--keep-epochs", "--out", folder / "run")
    assert done.out == f"{folder / 'run' / 'supernet.safetensors'}\n"
    return folder / "run"


def supernet_from(path):
    supernet = make_supernet(CVPR2022.make_space((10, 1, 8)))
    load_supernet(path, supernet)
    return supernet.eval()


def test_the_recipe_trains_the_full_network_and_then_subnets_that_start_from_it(two_phases):
    assert sorted(path.name for path in two_phases.iterdir() if path.name.startswith("phase")) == ["phase0", "phase1"]
    settings = json.loads((two_phases / "settings.json").read_text())
    assert (settings["phase0_epochs"], settings["phase1_epochs"], settings["recipe"]) == (3, 2, "cvpr2022")
    assert (settings["phase0_rule"], settings["phase1_rule"]) == ("multi-path", "frozen-teacher")
    fresh, full, subnets = (
        supernet_from(path)
        for path in (
            two_phases / "phase0" / "epochs" / "epoch000.safetensors",
            two_phases / "phase0" / "epochs" / "epoch002.safetensors",
            two_phases / "supernet.safetensors",
        )
    )
    assert not torch.equal(fresh.links[0].conv.conv.weight, full.links[0].conv.conv.weight)
    reorder_inner_channels(full)  # a small rate moves the weights little: they are the reordered ones
    for name, tensor in full.state_dict().items():
        if name.endswith("conv.weight"):
            assert (subnets.state_dict()[name] - tensor).norm() < 0.2 * tensor.norm(), name


def test_a_checkpoint_of_the_full_network_takes_the_place_of_the_first_phase(two_phases, tmp_path):
    weights = two_phases / "phase0" / "epochs" / "epoch002.safetensors"
    copy = shutil.copy(weights, tmp_path / "full.safetensors")
    without = [word if word != "phase0_epochs=3" else "phase0_epochs=0" for word in SHORT_RECIPE]
    run(*without, "--weights", copy, "--out", tmp_path / "run")
    assert not (tmp_path / "run" / "phase0").exists()
    expected, actual = (load_file(path / "supernet.safetensors") for path in (two_phases, tmp_path / "run"))
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())
    error = run(*without, "--out", tmp_path / "no", code=2).error
    assert "rule=frozen-teacher needs a trained network to learn from; give --weights" in error
    error = run(*without, "--set", "phase1_epochs=0", "--weights", copy, "--out", tmp_path / "no", code=2).error
    assert "recipe cvpr2022 has no epochs left" in error
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("phase", [0, 1])
def test_a_run_that_was_killed_in_either_phase_goes_on_to_the_same_weights(two_phases, tmp_path, phase):
    seen = []

    class Killed(BaseException):
        pass

    def write(line):
        seen.append(line.split()[1])
        if seen == [["1/3", "2/3"], ["1/3", "2/3", "3/3", "1/2", "2/2"]][phase]:
            raise Killed

    words = [str(word) for word in SHORT_RECIPE]
    changes = [words[index + 1] for index, word in enumerate(words) if word == "--set"]
    recipe = recipe_of("cvpr2022", CVPR2022, DIGITS_8, 2, None, changes)
    job = jobs.TrainJob(CVPR2022, DIGITS_8, recipe, tmp_path, train_images=200, val_images=50, keep_epochs=True)
    with pytest.raises(Killed):
        jobs.train(job, write=write)
    seen.clear()
    jobs.train(job, write=write)
    assert seen[-1] == "2/2" and len(seen) == (4 if phase == 0 else 1)
    expected, actual = (load_file(path / "supernet.safetensors") for path in (two_phases, tmp_path))
    assert not [name for name, tensor in expected.items() if not torch.equal(actual[name], tensor)]


@pytest.mark.parametrize(
    "changes",
    [
        ("--space", "resnet48-mish"),
        ("--space", "resnet48-prelu", "--set", "sandwich_ramp=1"),
        ("--space", "resnet48-demo", "--set", "rank_weight=2", "--set", "rank_ramp=1", "--set", "sandwich_ramp=0"),
    ],
    ids=["mish", "prelu and sandwich", "rank loss"],
)
def test_what_entrants_added_trains_and_is_scored(tmp_path, changes):
    run(*SHORT_RECIPE, *changes, "--set", "phase0_epochs=1", "--out", tmp_path / "run")
    archs = write_list(tmp_path / "list.json", random_archs(RELEASED, 3, seed=8))
    words = ("--archs", archs, "--images", 64, "--out", tmp_path / "scores.json")
    run("score", "--checkpoint", tmp_path / "run" / "supernet.safetensors", *words)
    scores = read_scores(tmp_path / "scores.json", RESNET48_CODEC)
    assert scores.provenance["space"] == changes[1]
    assert len({score for _, score in scores.scores.values()}) == 3
    names = load_file(tmp_path / "run" / "supernet.safetensors")
    slopes = [tensor for name, tensor in names.items() if name.endswith("activation.weight")]
    assert len(slopes) == (23 if "prelu" in changes[1] else 0) and not any((slope == 0.25).all() for slope in slopes)


def test_subnets_learn_from_the_labels_and_from_the_full_network_as_it_was_trained(two_phases, tmp_path):
    weights = shutil.copy(two_phases / "phase0" / "epochs" / "epoch002.safetensors", tmp_path / "full.safetensors")
    still = ["phase0_epochs=0", "lr=0", "batch_size=200", "n=1", "sampling=largest"]
    words = [*SHORT_RECIPE, *(word for change in still for word in ("--set", change)), "--weights", weights]
    run(*words, "--out", tmp_path / "run")
    (metrics,) = (tmp_path / "run" / "phase1" / "metrics").glob("version_*/metrics.csv")
    loss = float(next(csv.DictReader(metrics.open()))["train_loss"])

    full = supernet_from(weights)  # not reordered: the function of the largest arch is the same
    network = full.freeze(full.sample(full.largest))
    ((images, labels),) = EvaluationLoader(digits(train=True).first(200), DIGITS_TEST, 200)
    target = network.eval()(images).softmax(1)
    logits = network.train()(images)
    expected = F.cross_entropy(logits, labels) + F.cross_entropy(logits, target)
    assert loss == pytest.approx(expected.item(), rel=1e-3)

    trained = supernet_from(tmp_path / "run" / "supernet.safetensors")
    reorder_inner_channels(full)
    for name, parameter in full.named_parameters():  # and no teacher among them
        assert torch.equal(trained.get_parameter(name), parameter), name


def test_evolution_searches_depths_and_widths(tmp_path):
    words = ("--images", 64, "--trials", 12, "--population", 4, "--out", tmp_path / "searched.json")
    done = run("search", "--checkpoint", trained(tmp_path), *words)
    scores = read_scores(tmp_path / "searched.json", RESNET48_CODEC).scores
    assert 4 < len({arch for arch, _ in scores.values()}) == len(scores) < 12  # 12 samples of NNI, some of one arch
    for arch, _ in scores.values():
        RELEASED.check(arch)
    best = max(scores.values(), key=lambda scored: scored[1])[0]
    assert done.out.endswith(f"best: {best.code}\n")


def test_a_list_is_sampled_and_checked(tmp_path):
    run("archs", "sample", "--space", "resnet48", "--count", 30, "--out", tmp_path / "list.json")
    archs = [entry.arch for entry in read_released(tmp_path / "list.json", RESNET48_CODEC).values()]
    for arch in archs:
        RELEASED.check(arch)
    assert len({arch.choices["depth3"] for arch in archs}) == 7
    assert (
        run("archs", "check", "--space", "resnet48", tmp_path / "list.json").out == "30 archs, 30 valid, 30 distinct\n"
    )


def test_imagenet_is_a_folder_that_has_to_be_named_and_to_be_one_of_images(tmp_path):
    words = ("--checkpoint", trained(tmp_path), "--archs", write_list(tmp_path / "list.json", [RELEASED.largest]))
    error = run("standalone", "--space", "resnet48", *words[2:], "--out", tmp_path / "alone", code=2).error
    assert "imagenet needs --data-root" in error
    words = ("standalone", "--space", "resnet48", *words[2:], "--data-root", tmp_path, "--out", tmp_path / "alone")
    assert "has neither train nor val; a folder of images has train/CLASS/FILE and" in run(*words, code=2).error
    assert {system.space for system in SYSTEMS} >= {system.space for system in VARIANTS}
