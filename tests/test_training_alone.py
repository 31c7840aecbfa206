"""Training alone: many networks side by side are each of them by itself, and reference accuracies resume by seed."""

import json
from dataclasses import replace

import pytest
import torch
from helpers import plain_logits, random_archs, random_batch, randomize, tiny_space
from torch import nn

from nni_nas_consistency.archs.codecs import DIGITS_CODEC
from nni_nas_consistency.archs.domains import DIGITS, NOMINAL
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.arch_lists import read_released
from nni_nas_consistency.images.augmentation import DIGITS_TEST, DIGITS_TRAIN
from nni_nas_consistency.images.datasets import digits
from nni_nas_consistency.images.loader import EvaluationLoader, TrainingLoader
from nni_nas_consistency.ranking.statistics import split_half
from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.spaces.resnet48 import ResNet48Space
from nni_nas_consistency.training import reference
from nni_nas_consistency.training.alone import side_by_side, train_alone
from nni_nas_consistency.training.recipes import Optimization
from nni_nas_consistency.training.reference import train_references

SHORT = Optimization(epochs=2, batch_size=30, lr=0.1, warmup_steps=3, weight_decay=0.1)
ARCHS = [tiny_space().largest, tiny_space().smallest, *random_archs(DIGITS, 3, seed=1)]


def train_short(archs, *, seed=0, space=None, **settings):
    data = {"train": digits(train=True).first(100), "test": digits(train=False).first(150)}
    choices = {"optimization": SHORT, "augmentation": DIGITS_TRAIN} | settings
    return train_alone(space or tiny_space(), archs, seed=seed, **data, **choices)


def networks(archs=ARCHS):
    """Return networks of one space with random weights and statistics, in float64 and training mode."""
    space = tiny_space()
    frozen = [space.freeze(space.sample(arch)).double() for arch in archs]
    for seed, network in enumerate(frozen):
        randomize(network, seed)
    return frozen


def grouped_logits(together, images, n):
    return together(images.repeat(1, n, 1, 1)).view(len(images), n, -1).transpose(0, 1)


def plain_training(network, batches):
    """Train by SGD with momentum 0.9 and weight decay 0.01, all written out; return the losses."""
    velocity = {name: torch.zeros_like(parameter) for name, parameter in network.named_parameters()}
    losses = []
    for images, labels in batches:
        network.zero_grad()
        loss = nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        losses.append(loss.detach())
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                velocity[name] = 0.9 * velocity[name] + parameter.grad + 0.01 * parameter
                parameter -= 0.1 * velocity[name]
    return torch.stack(losses)


def test_several_steps_side_by_side_are_those_of_every_network_by_itself():
    alone = networks()
    together = side_by_side(alone)
    batches = [random_batch(size, seed) for seed, size in enumerate((7, 7, 5, 7))]
    optimizer = torch.optim.SGD(together.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    losses = []
    for images, labels in batches:
        logits = grouped_logits(together, images, len(alone))
        losses.append(torch.stack([nn.functional.cross_entropy(own, labels) for own in logits]))
        optimizer.zero_grad()
        losses[-1].sum().backward()
        optimizer.step()
    expected = torch.stack([plain_training(network, batches) for network in alone], 1)
    torch.testing.assert_close(torch.stack(losses).detach(), expected, rtol=1e-10, atol=1e-10)
    images, _ = random_batch(5, seed=9)
    for training in (True, False):
        logits = grouped_logits(together.train(training), images, len(alone))
        for own, network in zip(logits, alone, strict=True):
            torch.testing.assert_close(own, network.train(training)(images), rtol=1e-10, atol=1e-10)


def test_networks_side_by_side_keep_their_weights_and_running_statistics():
    alone = networks()
    together = side_by_side(alone)
    images, _ = random_batch()
    logits = grouped_logits(together.eval(), images, len(alone))
    for own, network in zip(logits, alone, strict=True):
        expected = plain_logits(network.state_dict(), images, "projection")
        torch.testing.assert_close(own, expected, rtol=1e-12, atol=1e-12)


def test_channels_that_a_network_lacks_stay_zero_while_it_trains():
    alone = networks()
    together = side_by_side(alone)
    absent = {name: parameter == 0 for name, parameter in together.named_parameters()}
    present = sum(int((~mask).sum()) for mask in absent.values())
    assert present == sum(parameter.numel() for network in alone for parameter in network.parameters())
    optimizer = torch.optim.SGD(together.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for seed in range(4):
        images, labels = random_batch(7, seed)
        logits = grouped_logits(together, images, len(ARCHS))
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits.flatten(0, 1), labels.repeat(len(ARCHS))).backward()
        optimizer.step()
    for name, parameter in together.named_parameters():
        assert not parameter[absent[name]].any(), name
        assert parameter[~absent[name]].any(), name


@pytest.mark.parametrize(
    "module", [nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1, groups=2, bias=False), nn.PReLU(), nn.LayerNorm(2)], ids=repr
)
def test_modules_that_cannot_run_side_by_side_are_refused(module):
    with pytest.raises(TypeError, match=f"a {type(module).__name__} cannot run side by side with others"):
        side_by_side([nn.Sequential(module), nn.Sequential(module)])


def in_double(module, inputs):
    return (inputs[0].double(),)


def spied(archs, **settings):
    """Train archs with `train_alone` in float64; return each before, all of them after, and their accuracies."""
    made = []

    def watch(networks):
        if not isinstance(networks[0], ChainSpace):
            return side_by_side(networks)
        together = side_by_side([network.double() for network in networks])
        together.register_forward_pre_hook(in_double)
        made.append((networks, together))
        return together

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nni_nas_consistency.training.alone.side_by_side", watch)
        accuracies = train_short(archs, **settings)
    return *made[0], accuracies


def test_networks_and_accuracies_are_those_of_training_every_arch_with_plain_torch():
    networks, together, accuracies = spied(ARCHS, seed=3)
    images, labels = next(iter(EvaluationLoader(digits(train=False).first(150), DIGITS_TEST, 150)))
    logits = grouped_logits(together.eval(), images, len(ARCHS))
    for network, accuracy, own in zip(networks, accuracies, logits, strict=True):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        batches = TrainingLoader(digits(train=True).first(100), DIGITS_TRAIN, batch_size=30, seed=3)
        factors = iter([0, 1 / 3, 2 / 3, 1, *[0.5] * 4])  # linear over 3 steps, then the cosine of the second epoch
        for batch, truth in [*batches, *batches]:
            optimizer.param_groups[0]["lr"] = 0.1 * next(factors)
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(batch.double()), truth).backward()
            optimizer.step()
        expected = network.eval()(images.double())
        torch.testing.assert_close(own, expected, rtol=1e-8, atol=1e-8)
        assert accuracy == float((expected.argmax(1) == labels).double().mean())
    assert len(set(accuracies)) > 2


def resnet48():
    return ResNet48Space(10, 1, 8, "standalone", "nominal", width_divisor=8)


def test_an_arch_of_2022_alone_is_trained_as_published_written_out():
    (arch,) = random_archs(NOMINAL, 1, seed=3)
    plan = Optimization(3, 40, lr=0.05, lr_batch=20, warmup_steps=0, warmup_epochs=1, weight_decay=1e-4, drop_last=True)
    (network,), together, accuracies = spied([arch], space=resnet48(), optimization=plan, seed=3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    batches = TrainingLoader(digits(train=True).first(100), DIGITS_TRAIN, batch_size=40, seed=3, drop_last=True)
    factors = iter([0, 1 / 2, 1, 1, 3 / 4, 3 / 4])  # two batches an epoch: of 100 images, 20 are left out
    for images, labels in [*batches, *batches, *batches]:
        optimizer.param_groups[0]["lr"] = 0.1 * next(factors)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images.double()), labels).backward()
        optimizer.step()
    assert next(factors, None) is None
    images, labels = next(iter(EvaluationLoader(digits(train=False).first(150), DIGITS_TEST, 150)))
    expected = network.eval()(images.double())
    torch.testing.assert_close(together.eval()(images.double()), expected, rtol=1e-6, atol=1e-6)
    assert accuracies == [float((expected.argmax(1) == labels).double().mean())]


def test_both_spellings_of_a_code_of_2022_are_trained_from_the_same_weights():
    (arch,) = random_archs(NOMINAL, 1, seed=4)
    longer = resnet48().codec.parse("1" + arch.code)
    networks = [first_networks([each], space=resnet48())[0] for each in (arch, longer)]
    assert all(torch.equal(*pair) for pair in zip(networks[0].parameters(), networks[1].parameters(), strict=True))


def test_archs_of_2022_of_the_same_modules_train_side_by_side_and_others_one_by_one():
    space = ResNet48Space(10, 1, 8, "standalone", "released", width_divisor=8)
    base = space.smallest.choices
    alike = [space.codec.arch({**base, "s2b1c1": digit}) for digit in (1, 3)]
    assert train_short(alike, space=space) == pytest.approx(
        [train_short([arch], space=space)[0] for arch in alike], abs=1.5 / 150
    )
    deeper = space.codec.arch({**base, "depth1": 3, "s1b3c1": 1})
    with pytest.raises(ValueError, match="archs that differ in their modules cannot train side by side"):
        train_short([*alike, deeper], space=space)


def first_networks(archs, **settings):
    return spied(archs, optimization=replace(SHORT, epochs=0), **settings)[0]


def test_first_weights_depend_on_the_code_and_the_seed_alone():
    together, (second,), (other,) = (
        first_networks(ARCHS),
        first_networks(ARCHS[1:2]),
        first_networks(ARCHS[1:2], seed=1),
    )
    weights = second.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in together[1].state_dict().items())
    assert not torch.equal(other.links[0].conv.conv.weight, second.links[0].conv.conv.weight)
    twin = DIGITS_CODEC.arch({**ARCHS[1].choices, "w20": 5})
    assert not torch.equal(first_networks([twin])[0].links[0].conv.conv.weight, second.links[0].conv.conv.weight)


def test_an_accuracy_does_not_depend_on_what_else_trains():
    whole = train_short(ARCHS)
    assert train_short(ARCHS[::-1]) == pytest.approx(whole[::-1], abs=1.5 / 150)
    assert train_short(ARCHS[2:3]) == pytest.approx(whole[2:3], abs=1.5 / 150)
    assert len(set(whole)) > 2


def test_a_seed_decides_the_accuracies_and_torchs_own_generator_has_no_part():
    space, first = tiny_space(), train_short(ARCHS)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert train_short(ARCHS, space=space) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert train_short(ARCHS, seed=1) != first


def test_training_longer_learns_the_digits_and_tells_its_progress():
    epochs = []
    plan = Optimization(epochs=8, batch_size=30, lr=0.1, warmup_steps=10, weight_decay=5e-4)
    data = {"train": digits(train=True).first(600), "test": digits(train=False)}
    (accuracy,) = train_alone(
        tiny_space(),
        [tiny_space().largest],
        optimization=plan,
        augmentation=DIGITS_TRAIN,
        seed=0,
        progress=epochs.append,
        **data,
    )
    assert epochs == [1, 2, 3, 4, 5, 6, 7, 8]
    assert accuracy > 0.5


def test_archs_with_different_modules_train_one_by_one_only():
    space = tiny_space("standalone")
    with pytest.raises(
        ValueError, match="archs that differ in their modules cannot train side by side; pass one at a time"
    ):
        train_short(ARCHS, space=space)
    assert train_short(ARCHS[3:4], space=space) != train_short(ARCHS[3:4])


NAMED = {f"arch{index}": arch for index, arch in enumerate(ARCHS, 1)}
TINY = replace(SHORT, epochs=1)


def references(folder, *, seeds=2, archs=NAMED, shortcut="projection"):
    return train_references(
        tiny_space(shortcut),
        archs,
        optimization=TINY,
        train=digits(train=True).first(60),
        test=digits(train=False).first(100),
        augmentation=DIGITS_TRAIN,
        seeds=seeds,
        folder=folder,
        about={"data": "digits"},
    )


def test_references_are_the_means_over_the_seeds_with_all_that_made_them(tmp_path):
    path = references(tmp_path, seeds=4)
    assert path == tmp_path / "reference.json"
    data = {"train": digits(train=True).first(60), "test": digits(train=False).first(100)}
    each = [
        train_alone(tiny_space(), ARCHS, optimization=TINY, augmentation=DIGITS_TRAIN, seed=seed, **data)
        for seed in range(4)
    ]
    means = read_released(path, DIGITS_CODEC)
    assert {name: entry.arch for name, entry in means.items()} == NAMED
    assert [entry.acc for entry in means.values()] == pytest.approx([sum(row) / 4 for row in zip(*each, strict=True)])
    about = json.loads((tmp_path / "about.json").read_text())
    rows = [list(row) for row in zip(*each, strict=True)]
    assert about["accuracies"] == dict(zip(NAMED, rows, strict=True))
    assert about["split_half_kendall_tau"] == split_half(rows)
    assert (about["data"], about["seeds"], about["optimization"]["epochs"]) == ("digits", 4, 1)
    assert about["augmentation"]["crop_padding"] == 1


def test_finished_seeds_are_not_trained_again(tmp_path, monkeypatch):
    whole = references(tmp_path / "whole", seeds=3).read_bytes()
    references(tmp_path / "broken", seeds=2)
    trained = []

    def only_the_third(*args, seed, **settings):
        trained.append(seed)
        return train_alone(*args, seed=seed, **settings)

    monkeypatch.setattr(reference, "train_alone", only_the_third)
    assert references(tmp_path / "broken", seeds=3).read_bytes() == whole
    assert trained == [2]
    monkeypatch.setattr(reference, "train_alone", lambda *args, **settings: pytest.fail("trained again"))
    assert references(tmp_path / "broken", seeds=3).read_bytes() == whole


def test_an_interrupted_seed_leaves_no_file_and_is_trained_anew(tmp_path, monkeypatch):
    def interrupted(*args, seed, **settings):
        if seed == 1:
            raise KeyboardInterrupt
        return train_alone(*args, seed=seed, **settings)

    monkeypatch.setattr(reference, "train_alone", interrupted)
    with pytest.raises(KeyboardInterrupt):
        references(tmp_path)
    assert [path.name for path in sorted((tmp_path / "seeds").iterdir())] == ["0.json"]
    assert not (tmp_path / "reference.json").exists()


def test_a_folder_with_seeds_of_other_archs_is_refused(tmp_path):
    references(tmp_path, seeds=1)
    for other in (dict(list(NAMED.items())[:4]), NAMED | {"arch2": random_archs(DIGITS, 1, seed=8)[0]}):
        with pytest.raises(InputError, match="holds a run with archs .*choose another --out, or --overwrite it"):
            references(tmp_path, archs=other)


def test_archs_with_different_modules_get_their_references_one_by_one(tmp_path, monkeypatch):
    groups = []

    def watched(space, archs, **settings):
        groups.append(list(archs))
        return train_alone(space, archs, **settings)

    monkeypatch.setattr(reference, "train_alone", watched)
    references(tmp_path, seeds=1, shortcut="standalone")
    assert groups == [[arch] for arch in ARCHS]


@pytest.mark.parametrize(("archs", "seeds"), [(NAMED, 1), ({"arch1": ARCHS[0]}, 2)])
def test_where_two_halves_cannot_be_compared_there_is_no_reliability(tmp_path, archs, seeds):
    path = references(tmp_path, archs=archs, seeds=seeds)
    assert list(read_released(path, DIGITS_CODEC)) == list(archs)
    assert json.loads((tmp_path / "about.json").read_text())["split_half_kendall_tau"] is None
