"""How SPOS-CIFAR trains: augmentation, schedules, bins of FLOPs, archs that always run, fast training, shrinking."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command import run
from helpers import keep_nni_in, randomize

from nni_nas_consistency import jobs
from nni_nas_consistency.archs.spos_cifar import LAYERS
from nni_nas_consistency.errors import FileError, InputError
from nni_nas_consistency.files.arch_lists import Entry, write_released
from nni_nas_consistency.files.shrinkings import Round, read_shrinking, shrunk_domain, write_shrinking
from nni_nas_consistency.images.augmentation import CIFAR10_FAST, CIFAR10_TEST, Augmentation
from nni_nas_consistency.images.datasets import digits
from nni_nas_consistency.images.transforms import apply_parameters, augment, draw_parameters, normalise
from nni_nas_consistency.scoring.plain import score_archs
from nni_nas_consistency.scoring.scoring import Scoring
from nni_nas_consistency.search.shrinking import shrink, worst_of
from nni_nas_consistency.spaces.spos_cifar import SposCifarSpace
from nni_nas_consistency.strategies.sampling import MacsBinsSampler
from nni_nas_consistency.supernet.checkpoint import save_supernet
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.systems import DIGITS_8, EFFICIENT_CIFAR, SPOS_BLOCKS_OF_DIGITS, SPOS_OF_DIGITS
from nni_nas_consistency.training.alone import mean_loss, train_alone
from nni_nas_consistency.training.initialise import initialise
from nni_nas_consistency.training.recipes import SPOS_CIFAR, STANDALONE_FAST, Loss


@pytest.fixture(autouse=True)
def nni_home(tmp_path, monkeypatch):
    keep_nni_in(tmp_path / "home", monkeypatch)


def coloured(count=6, side=12):
    return torch.randint(256, (count, 3, side, side), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


# images


def test_reflect_padding_is_torchs_own():
    x = coloured()
    how = Augmentation(CIFAR10_TEST.mean, CIFAR10_TEST.std, crop_padding=4, padding="reflect")
    parameters = draw_parameters(how, len(x), (12, 12), torch.Generator().manual_seed(1))
    padded = F.pad(x.double(), [4] * 4, mode="reflect").to(torch.uint8)
    tops, lefts = parameters.top.tolist(), parameters.left.tolist()
    crops = [image[:, t : t + 12, s : s + 12] for image, t, s in zip(padded, tops, lefts, strict=True)]
    assert max(tops) > 4 > min(tops)
    assert torch.equal(apply_parameters(x, how, parameters), normalise(torch.stack(crops), how))


def test_a_cutout_inside_has_its_full_size_everywhere_and_the_mean_colour():
    x = torch.full((400, 3, 12, 12), 255, dtype=torch.uint8)
    how = Augmentation(CIFAR10_TEST.mean, CIFAR10_TEST.std, cutout=5, cutout_style="inside")
    cut = augment(x, how, torch.Generator().manual_seed(2)) == 0  # the mean colour, normalised
    assert torch.equal(cut[:, 0], cut[:, 1]) and torch.equal(cut[:, 0], cut[:, 2])
    assert (cut[:, 0].sum((1, 2)) == 25).all()
    rows, columns = cut[:, 0].any(2).int().argmax(1), cut[:, 0].any(1).int().argmax(1)
    assert set(rows.tolist()) == set(columns.tolist()) == set(range(8))  # every place, and none at the border clipped


def test_the_fast_augmentation_is_the_published_one_on_normalised_data():
    assert (CIFAR10_FAST.crop_padding, CIFAR10_FAST.padding, CIFAR10_FAST.flip) == (4, "reflect", True)
    assert (CIFAR10_FAST.cutout, CIFAR10_FAST.cutout_style) == (8, "inside")
    published = ((125.31, 122.95, 113.87), (62.99, 62.09, 66.70))
    for ours, theirs in zip((CIFAR10_FAST.mean, CIFAR10_FAST.std), published, strict=True):
        assert [255 * value for value in ours] == pytest.approx(theirs, abs=0.02)
    assert EFFICIENT_CIFAR.augmentation(DIGITS_8).flip is False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_padding": 12, "padding": "reflect"}, "crop_padding is 12; images of 12×12 pixels can be mirrored by"),
        ({"cutout": 13, "cutout_style": "inside"}, "cutout is 13; a square inside images of 12 pixels has at most 12"),
    ],
)
def test_what_does_not_fit_the_images_is_refused(changes, message):
    how = replace(CIFAR10_TEST, **changes)
    with pytest.raises(InputError, match=message):
        augment(coloured(), how, torch.Generator())


# schedules and weights


def test_the_fast_schedule_is_piecewise_linear_per_step():
    factors = [STANDALONE_FAST.lr_factor(step, 98) for step in range(24 * 98)]
    expected = np.interp(np.arange(24 * 98) / 98, [0, 5, 24], [0, 1, 0])
    assert factors == pytest.approx(expected.tolist())
    assert max(factors) == factors[5 * 98] == 1


def test_the_supernets_rate_falls_by_the_same_amount_after_every_epoch():
    plan = SPOS_CIFAR.phases[0].optimization
    factors = [plan.lr_factor(step, 98) for step in range(40 * 98)]
    assert factors == pytest.approx([1 - step // 98 / 40 for step in range(40 * 98)])
    assert (plan.epochs, plan.batch_size, plan.lr, plan.momentum, plan.weight_decay) == (40, 512, 0.4, 0.9, 5e-4)


def test_fresh_weights_are_drawn_by_input_channels():
    supernet = make_supernet(SposCifarSpace(100, 3, 32, 64, 128, 64, 64))
    initialise(supernet, "channels-in", torch.Generator().manual_seed(0))
    prep, wide = supernet.links[0].conv.conv.weight, supernet.links[3].choice.conv5.conv.conv.weight
    classifier, shifts = supernet.links[-1].linear.weight, supernet.links[3].choice.conv5.conv.bn.bias
    assert prep.std().item() == pytest.approx(1 / 3, rel=0.05)
    assert wide.std().item() == pytest.approx(1 / 128, rel=0.02)
    assert classifier.std().item() == pytest.approx(0.01, rel=0.05)
    assert shifts.tolist() == pytest.approx([1e-4] * 128)


# samplers and the sandwich rule


def macs(arch):
    return SPOS_OF_DIGITS.cost(arch, (10, 1, 8)).macs


def test_bins_of_macs_are_drawn_evenly_though_uniform_archs_crowd_in_the_middle():
    sampler = MacsBinsSampler(LAYERS, torch.Generator().manual_seed(0), macs=macs, low=4e5, high=7e5, bins=3)
    state = sampler.state_dict()
    drawn = [macs(arch) for arch in sampler.draw(300)]
    counts = np.histogram(drawn, [4e5, 5e5, 6e5, 7e5])[0]
    assert counts.sum() == 300 and counts.min() > 75
    sampler.load_state_dict(state)
    assert [macs(arch) for arch in sampler.draw(300)] == drawn


def test_a_bin_without_an_arch_gives_any_arch_and_a_range_without_one_is_refused():
    low = min(macs(LAYERS.codec.arch(dict.fromkeys(LAYERS.codec.allowed, name))) for name in ("conv3", "conv5"))
    sampler = MacsBinsSampler(
        LAYERS, torch.Generator().manual_seed(0), macs=macs, low=low - 6e5, high=low + 6e5, bins=2
    )
    drawn = [macs(arch) for arch in sampler.draw(40)]
    assert max(drawn) > low + 6e5  # of the lower bin, as published, anything
    with pytest.raises(InputError, match="none of 1000 archs of spos-cifar lies there; .* they have"):
        MacsBinsSampler(LAYERS, torch.Generator(), macs=macs, low=1, high=2, bins=1)


SHORT = "--epochs 1 --train-images 64 --val-images 20 --device cpu"


def test_the_sandwich_rule_trains_the_archs_that_are_named_at_every_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = [LAYERS.codec.arch(dict.fromkeys(LAYERS.codec.allowed, name)) for name in ("conv5_pool", "conv3")]
    write_released(Path("always.json"), {f"arch{i}": Entry(arch, 0) for i, arch in enumerate(named, 1)})
    words = f"train --space spos-digits {SHORT} --set rule=sandwich --n 2 --out new"
    assert "has no largest and smallest arch for the sandwich rule" in run(*words.split(), code=2).error
    run(*words.split(), "--always", "always.json")
    metrics = next(Path("new/metrics").glob("*/metrics.csv")).read_text().splitlines()[0]
    assert "val_acc/always0" in metrics and "val_acc/always1" in metrics
    weights = {name for name, tensor in untrained_and_trained("new") if not torch.equal(*tensor)}
    assert any(".conv5_pool." in name for name in weights) and any(".conv3." in name for name in weights)
    assert not any(".conv5." in name or ".conv3_pool." in name for name in weights)


def untrained_and_trained(folder):
    """Yield each weight's name, with its value before and after the training of a folder."""
    from safetensors.torch import load_file

    torch.manual_seed(0)
    fresh = make_supernet(SPOS_OF_DIGITS.make_space((10, 1, 8)))
    initialise(fresh, "channels-in", torch.Generator().manual_seed(0))
    trained = load_file(f"{folder}/supernet.safetensors")
    for name, parameter in fresh.named_parameters():
        yield name, (parameter.detach(), trained[name])


# the fast training


def alone(epochs=2, **how):
    space = EFFICIENT_CIFAR.make_space((10, 1, 8), standalone=True)
    settings = {
        "optimization": replace(STANDALONE_FAST.for_epochs(epochs), batch_size=32, lr=0.05),
        "train": digits(train=True).first(128),
        "test": digits(train=False).first(100),
        "augmentation": EFFICIENT_CIFAR.augmentation(DIGITS_8),
        "seed": 0,
    }
    return train_alone(space, [space.codec.parse("4-8-8-8")], **(settings | how))


def test_the_fast_training_learns_by_its_loss_alike_each_time():
    reported = []
    plain = alone(12, report=reported.append)
    assert plain[0] > 0.35 and len(reported) == 11  # where guessing has 0.1
    assert alone(12) == plain
    assert alone(12, loss=Loss(logits_scale=1e-9))[0] < 0.25


def test_scaled_logits_and_smoothed_labels_are_what_they_say():
    logits = torch.randn(5, 1, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([1, 2, 3, 4, 5])
    log_p = (0.25 * logits[:, 0]).log_softmax(1)
    expected = -(0.8 * log_p[range(5), labels] + 0.2 * log_p.mean(1)).mean()
    torch.testing.assert_close(mean_loss(logits, labels, Loss(0.2, 0.25)), expected)


def test_mixed_precision_learns_as_full_precision_does():
    assert alone(12, precision="bf16-mixed")[0] > 0.35
    with pytest.raises(InputError, match="precision '16-mixed' is for a GPU"):
        alone(precision="16-mixed")


# shrinking


def scoring_on_noise(images=12):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(images, 1, 8, 8, generator=generator)
    return Scoring("loss", "batch", lambda: [(x, torch.arange(images) % 10)])


def random_supernet(system=SPOS_OF_DIGITS):
    supernet = make_supernet(system.make_space((10, 1, 8)))
    randomize(supernet, 5)
    return supernet


def test_shrinking_drops_of_every_choice_the_candidate_whose_archs_score_worst(tmp_path):
    supernet = random_supernet()
    settings = {"archs_per_candidate": 3, "keep": 2, "seed": 1, "provenance": {"space": "spos-digits"}}
    this = shrink(supernet, scoring_on_noise(), LAYERS, out=tmp_path / "one.json", **settings)
    assert list(this.scores) == list(LAYERS.codec.allowed)
    for label, candidates in this.scores.items():
        assert [choice for choice, _ in candidates] == list(LAYERS.codec.allowed[label])
        assert this.dropped[label] == min(candidates, key=lambda scored: scored[1])[0]
    assert read_shrinking(tmp_path / "one.json", LAYERS) == (this,)
    assert not (tmp_path / "one.journal").exists()

    smaller = shrunk_domain(LAYERS, [this])
    assert {len(variable.choices) for variable in smaller.variables} == {3}
    again = SPOS_OF_DIGITS.without(list(this.dropped.items()))
    second = random_supernet(again)
    assert second.domain.variables == smaller.variables
    next_round = shrink(second, scoring_on_noise(), LAYERS, out=tmp_path / "two.json", earlier=(this,), **settings)
    assert read_shrinking(tmp_path / "two.json", LAYERS) == (this, next_round)
    assert {len(candidates) for candidates in next_round.scores.values()} == {3}
    both = shrunk_domain(LAYERS, [this, next_round])
    with pytest.raises(InputError, match=r"no choice of spos-cifar has more than 2 candidate\(s\) left; lower --keep"):
        rest = random_supernet(again.without(list(next_round.dropped.items())))
        assert rest.domain.variables == both.variables
        shrink(rest, scoring_on_noise(), LAYERS, out=tmp_path / "three.json", earlier=(this, next_round), **settings)


def test_the_candidates_of_a_choice_stand_in_the_same_archs(tmp_path):
    from nni_nas_consistency.search.shrinking import archs_by_candidate

    variable = LAYERS.variables[2]
    groups = archs_by_candidate(LAYERS, variable, 5, np.random.RandomState(0), lambda arch: True)
    others = [
        [{label: choice for label, choice in arch.choices.items() if label != variable.name} for arch in archs]
        for archs in groups.values()
    ]
    assert all(other == others[0] for other in others) and len(others[0]) == 5
    assert all({arch.choices[variable.name] for arch in archs} == {choice} for choice, archs in groups.items())
    bounded = archs_by_candidate(LAYERS, variable, 5, np.random.RandomState(0), lambda arch: macs(arch) <= 4e5)
    assert all(macs(arch) <= 4e5 for archs in bounded.values() for arch in archs)
    assert {len(archs) for archs in bounded.values()} == {5}


def test_a_candidate_beyond_the_bound_goes_first():
    assert worst_of((("conv3", -2.0), ("conv5", None), ("conv3_pool", -9.0))) == "conv5"


def test_an_interrupted_shrinking_goes_on_and_another_one_is_refused(tmp_path):
    class Killed(BaseException):
        pass

    settings = {"archs_per_candidate": 2, "keep": 1, "provenance": {"made_by": {"command": "x"}}}
    whole = shrink(random_supernet(), scoring_on_noise(), LAYERS, out=tmp_path / "whole.json", seed=0, **settings)
    calls = []

    class Counting:
        def __enter__(self):
            return self.count

        def __exit__(self, *error):
            return None

        def count(self, archs):
            calls.append(archs)
            if sum(calls) > 20:
                raise Killed

    with pytest.raises(Killed):
        shrink(
            random_supernet(),
            scoring_on_noise(),
            LAYERS,
            out=tmp_path / "out.json",
            seed=0,
            progress=lambda total, what: Counting(),
            **settings,
        )
    kept = (tmp_path / "out.journal").read_text().count("\n") - 1
    assert kept >= 1 and not (tmp_path / "out.json").exists()
    assert shrink(random_supernet(), scoring_on_noise(), LAYERS, out=tmp_path / "out.json", seed=0, **settings) == whole
    done = (tmp_path / "out.json").read_bytes()
    assert shrink(random_supernet(), scoring_on_noise(), LAYERS, out=tmp_path / "out.json", seed=0, **settings) == whole
    with pytest.raises(FileError, match="holds something else than this shrinking"):
        shrink(random_supernet(), scoring_on_noise(), LAYERS, out=tmp_path / "out.json", seed=1, **settings)
    assert (tmp_path / "out.json").read_bytes() == done


def test_nnis_strategies_see_a_shrunk_space_and_its_supernet_loads_the_whole_one(tmp_path):
    supernet = random_supernet(SPOS_BLOCKS_OF_DIGITS)
    save_supernet(tmp_path / "a.safetensors", supernet, {})
    smaller = SPOS_BLOCKS_OF_DIGITS.without([("skip", (0,)), ("layer2_conv3", "conv5")])
    loaded, _ = jobs.load_trained(smaller, tmp_path / "a.safetensors", (10, 1, 8))
    mutables = loaded.simplify()
    assert (list(mutables["skip"].grid()), list(mutables["layer2_conv3"].grid())) == ([[1], [2], [3]], ["conv3"])
    assert loaded.allowed["skip"] == ((1,), (2,), (3,))
    dice = np.random.RandomState(0)
    drawn = [{name: each.random(random_state=dice) for name, each in mutables.items()} for _ in range(40)]
    assert {tuple(sample["skip"]) for sample in drawn} == {(1,), (2,), (3,)}
    assert {sample["layer2_conv3"] for sample in drawn} == {"conv3"}
    assert {sample["layer1_conv2"] for sample in drawn} == {"conv3", "conv5"}
    left, gone = smaller.domain.arch(dict.fromkeys(loaded.allowed, "conv3") | {"skip": (2,)}), (0,)
    scores = [next(iter(score_archs(net, [left], scoring_on_noise()))) for net in (supernet, loaded)]
    assert scores[0] == scores[1]
    refused = loaded.check_contains({**left.sample, "skip": list(gone)})
    assert "skip is [0]; spos-cifar-blocks allows (1,), (2,), (3,)" in str(refused)


def test_a_record_is_read_back_as_it_was_written(tmp_path):
    rounds = (
        Round({"layer1_1": (("conv3", -0.5), ("conv5", None))}, {"layer1_1": "conv5"}, {"seed": 0, "list": ["a"]}),
        Round({}, {"layer1_1": "conv3"}, {}),
    )
    path = tmp_path / "record.json"
    write_shrinking(path, "spos-cifar", rounds[:1])
    assert read_shrinking(path, LAYERS) == rounds[:1]
    write_shrinking(path, "spos-cifar", rounds)
    with pytest.raises(FileError, match="record.json: round 2 drops 'conv3' of layer1_1, which it did not score"):
        read_shrinking(path, LAYERS)


def test_shrink_prints_every_candidate_and_what_went(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_supernet(Path("supernet.safetensors"), random_supernet(), {"data": "digits"})
    words = "shrink --checkpoint supernet.safetensors --images 30 --archs-per-candidate 1 --max-macs 600k --device cpu"
    path, *lines = run(*words.split()).out.splitlines()
    assert path == "shrunk.json" and len(lines) == 7
    record = json.loads(Path("shrunk.json").read_text())["rounds"][0]
    for line, (label, gone) in zip(lines, record["dropped"].items(), strict=True):
        assert line.startswith(f"{label}: conv3_pool ") and line.endswith(f"; dropped {gone}")
    assert record["provenance"]["max_macs"] == 600_000
