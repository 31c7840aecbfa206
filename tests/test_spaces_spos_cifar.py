"""SposCifarSpace and the tuned network: published facts, plain torch, NNI's strategies, shrunk domains."""

import copy
import math

import nni
import pytest
import torch
import torch.nn.functional as F
from helpers import keep_nni_in, random_archs, randomize
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.strategy import GridSearch, Random, RegularizedEvolution
from test_spaces import counted

from nni_nas_consistency.archs.cost import Cost
from nni_nas_consistency.archs.domains import DIGITS, RELEASED
from nni_nas_consistency.archs.spos_cifar import BLOCKS, LAYERS, OPERATORS, TUNED
from nni_nas_consistency.errors import ArchError
from nni_nas_consistency.nni3.experiment import RetiariiExeConfig, RetiariiExperiment
from nni_nas_consistency.scoring.plain import score_archs
from nni_nas_consistency.scoring.prefix import score_prefixes
from nni_nas_consistency.scoring.scoring import Scoring
from nni_nas_consistency.spaces.efficient_cifar import EfficientCifarSpace
from nni_nas_consistency.spaces.spos_cifar import SposCifarSpace
from nni_nas_consistency.strategies.sampling import UniformSampler
from nni_nas_consistency.supernet.active import logits_of
from nni_nas_consistency.supernet.extract import sub_state_dict
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.systems import (
    DIGITS_8,
    EFFICIENT_CIFAR,
    SPOS,
    SPOS_BLOCKS,
    SPOS_BLOCKS_OF_DIGITS,
    SPOS_OF_DIGITS,
)

both_variants = pytest.mark.parametrize("variant", ["layers", "blocks"])


def small_space(variant="layers", channels=3, side=16):
    return SposCifarSpace(10, channels, side, 3, 4, 5, 6, variant)


def supernet_of(space, seed=0):
    supernet = make_supernet(space).double().eval()
    randomize(supernet, seed)
    return supernet


def some_images(space, count=3):
    channels, side = space.args["in_channels"], space.args["image_size"]
    return torch.randn(count, channels, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def conv_bn_relu(weights, name, x, stride=1):
    """Return what convolution, batch norm and ReLU make of x with the weights of a subnet, written out."""
    kernel = weights[f"{name}conv.weight"]
    x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
    norm = [weights.get(f"{name}bn.{key}") for key in ("running_mean", "running_var", "weight", "bias")]
    return F.relu(F.batch_norm(x, *norm))


def plain_layers(weights, arch, x):
    x = conv_bn_relu(weights, "links.0.conv.", x)
    for index, operator in enumerate(arch.choices.values(), 1):
        halves, pools = index in (1, 4, 5), operator.endswith("_pool")
        x = conv_bn_relu(weights, f"links.{index}.choice.conv.", x, stride=2 if halves and not pools else 1)
        x = F.max_pool2d(x, 2) if halves and pools else x
    return F.linear(x.amax((2, 3)), weights["links.8.linear.weight"])


def plain_blocks(weights, arch, x):
    x = conv_bn_relu(weights, "links.0.conv.", x)
    for first in (1, 5, 9):
        h1 = F.max_pool2d(conv_bn_relu(weights, f"links.{first}.conv.", x), 2)
        h2 = conv_bn_relu(weights, f"links.{first + 1}.choice.conv.", h1)
        h3 = conv_bn_relu(weights, f"links.{first + 2}.layer.choice.conv.", h2)
        h4 = conv_bn_relu(weights, f"links.{first + 3}.layer.choice.conv.", h3)
        x = h4 + [0, h2, h3, h4][arch.choices["skip"][0]]
    return F.linear(x.amax((2, 3)), weights["links.13.linear.weight"])


def plain_tuned(weights, x):
    def residual(link, x):
        return x + conv_bn_relu(weights, f"{link}.conv2.", conv_bn_relu(weights, f"{link}.conv1.", x))

    x = conv_bn_relu(weights, "links.0.conv.", x)
    x = residual("links.2", F.max_pool2d(conv_bn_relu(weights, "links.1.conv.", x), 2))
    x = F.max_pool2d(conv_bn_relu(weights, "links.3.conv.", x), 2)
    x = residual("links.5", F.max_pool2d(conv_bn_relu(weights, "links.4.conv.", x), 2))
    return F.linear(x.amax((2, 3)), weights["links.6.linear.weight"])


def test_the_space_has_as_many_archs_and_costs_what_is_published():
    space = SposCifarSpace()
    assert math.prod(map(len, space.allowed.values())) == 4**7 == 16_384
    assert list(space.allowed.values()) == [tuple(OPERATORS)] * 7
    assert [label.rsplit("_")[0] for label in space.allowed] == ["layer1"] * 3 + ["layer2"] + ["layer3"] * 3
    assert math.prod(map(len, SposCifarSpace(variant="blocks").allowed.values())) == 2**9 * 4
    cheapest = space.codec.arch(dict.fromkeys(LAYERS.codec.allowed, "conv3"))
    assert space.complexity(cheapest).macs == 209_438_720  # far below the bounds of 330e6 and 360e6
    assert space.domain.largest is None and space.domain.smallest is None


@pytest.mark.parametrize("system", [SPOS, SPOS_BLOCKS, SPOS_OF_DIGITS, SPOS_BLOCKS_OF_DIGITS], ids=lambda s: s.space)
def test_costs_without_a_network_are_those_of_the_network(system):
    space = system.make_space(system.data.shape)
    for arch in random_archs(system.domain, 5, seed=1):
        assert system.cost(arch, system.data.shape) == space.complexity(arch)


@both_variants
def test_complexity_is_what_a_frozen_network_holds_and_runs(variant):
    space = small_space(variant, channels=1, side=8)
    for arch in random_archs(space.domain, 3, seed=2):
        images = some_images(space, 1).float()
        assert space.complexity(arch) == counted(space.freeze(space.sample(arch)), images)


@both_variants
@pytest.mark.parametrize(("channels", "side"), [(3, 32), (1, 8)])
def test_an_active_subnet_is_plain_torch_written_out(variant, channels, side):
    supernet = supernet_of(small_space(variant, channels, side))
    written_out = plain_blocks if variant == "blocks" else plain_layers
    images = some_images(supernet)
    outputs = []
    for arch in random_archs(supernet.domain, 4, seed=3):
        outputs.append(logits_of(supernet, images, arch))
        expected = written_out(sub_state_dict(supernet, arch), arch, images)
        torch.testing.assert_close(outputs[-1], expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(outputs[0], outputs[1])


def test_where_the_size_stays_candidates_with_and_without_pool_differ_in_weights_alone():
    supernet = supernet_of(small_space())
    for label in ("layer1_2", "layer1_3", "layer3_2", "layer3_3"):
        pooled = supernet.codec.arch({**dict.fromkeys(supernet.allowed, "conv3"), label: "conv3_pool"})
        plain = supernet.codec.arch(dict.fromkeys(supernet.allowed, "conv3"))
        shapes = [{n: t.shape for n, t in sub_state_dict(supernet, arch).items()} for arch in (pooled, plain)]
        assert shapes[0] == shapes[1] and supernet.complexity(pooled) == supernet.complexity(plain)
        images = some_images(supernet)
        assert not torch.equal(logits_of(supernet, images, pooled), logits_of(supernet, images, plain))


def test_prep_has_neither_scale_nor_shift():
    weights = sub_state_dict(supernet_of(small_space()), random_archs(LAYERS, 1)[0])
    assert {name for name in weights if name.startswith("links.0.")} == {
        "links.0.conv.conv.weight",
        *(f"links.0.conv.bn.{buffer}" for buffer in ("running_mean", "running_var", "num_batches_tracked")),
    }


def test_the_tuned_network_is_plain_torch_and_costs_what_is_published():
    space = EfficientCifarSpace()
    assert space.largest.code == "64-128-256-512"
    assert space.complexity(space.largest) == Cost(params=6_619_200, macs=379_308_032)
    assert EFFICIENT_CIFAR.cost(space.largest, (100, 3, 32)) == space.complexity(space.largest)
    small = EfficientCifarSpace(10, 3, 16, "any")
    arch = small.codec.parse("4-8-12-8")
    network = small.freeze(small.sample(arch)).double().eval()
    randomize(network, seed=4)
    images = some_images(small)
    torch.testing.assert_close(network(images), plain_tuned(network.state_dict(), images))
    assert counted(network, images[:1]) == small.complexity(arch) == EFFICIENT_CIFAR.cost(arch, (10, 3, 16))


def test_widths_of_the_tuned_network_share_one_supernet():
    supernet = supernet_of(EfficientCifarSpace(10, 1, 8))
    images = some_images(supernet)
    archs = [supernet.smallest, supernet.codec.parse("32-80-160-256"), supernet.codec.parse("16-80-128-320")]
    for arch in archs:
        assert torch.equal(logits_of(supernet, images, arch), supernet.freeze(supernet.sample(arch))(images))
    scoring = Scoring("loss", "batch", lambda: [(images, torch.arange(3))])
    prefix = [score.loss for scores in score_prefixes(supernet, [archs], scoring) for score in scores]
    assert prefix == pytest.approx([score.loss for score in score_archs(supernet, archs, scoring)], rel=1e-10)
    stacked = logits_of(supernet.train(), images, archs[:2])
    alone = [logits_of(supernet, images, arch) for arch in archs[:2]]
    torch.testing.assert_close(stacked, torch.stack(alone))


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (SposCifarSpace, {"variant": "cells"}, "variant is 'cells'; SposCifarSpace allows 'layers', 'blocks'"),
        (SposCifarSpace, {"image_size": 12}, "image_size is 12; .* three times: give a multiple of 8"),
        (SposCifarSpace, {"layer2": 0}, "all widths must be at least 1"),
        (EfficientCifarSpace, {"domain": "all"}, "domain is 'all'; EfficientCifarSpace allows 'tuned', 'any'"),
        (EfficientCifarSpace, {"image_size": 4}, "image_size is 4; EfficientCifarSpace halves it"),
        (EfficientCifarSpace, {"num_classes": 0}, "must be at least 1"),
    ],
)
def test_arguments_that_make_no_network_are_refused(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def count_parameters(model):
    model(torch.zeros(1, 3, 16, 16))
    nni.report_final_result(float(sum(parameter.numel() for parameter in model.parameters())))


@both_variants
@pytest.mark.parametrize(
    "strategy",
    [Random(seed=1), GridSearch(seed=1), RegularizedEvolution(population_size=2, sample_size=2, seed=1)],
    ids=repr,
)
def test_nnis_multi_trial_strategies_run_the_frozen_networks(variant, strategy, tmp_path, monkeypatch):
    keep_nni_in(tmp_path, monkeypatch)
    strategy = copy.deepcopy(strategy)
    space = small_space(variant)
    config = RetiariiExeConfig(execution_engine="sequential", max_trial_number=4, experiment_working_directory=tmp_path)
    assert RetiariiExperiment(space, FunctionalEvaluator(count_parameters), strategy).run(config)
    models = list(strategy.list_models(sort=False))
    assert len({space.arch(model.sample) for model in models}) == 4
    for model in models:
        assert model.metric == space.complexity(space.arch(model.sample)).params


def test_a_domain_without_a_choice_draws_it_no_more():
    shrunk = LAYERS.without("layer1_1", "conv5").without("layer1_1", "conv3").without("layer3_3", "conv3_pool")
    drawn = UniformSampler(shrunk, torch.Generator().manual_seed(0)).draw(200)
    seen = {label: {arch.choices[label] for arch in drawn} for label in LAYERS.codec.allowed}
    assert seen["layer1_1"] == {"conv3_pool", "conv5_pool"}
    assert seen["layer3_3"] == {"conv5_pool", "conv3", "conv5"}
    assert seen["layer1_2"] == set(OPERATORS)
    assert len(LAYERS.variables[0].choices) == 4
    shrunk.codec.arch(dict.fromkeys(LAYERS.codec.allowed, "conv5"))  # is a code of the space all the same
    with pytest.raises(ArchError, match="layer1_1 of arch .* is 'conv5'; .* drawn with conv3_pool, conv5_pool there"):
        shrunk.check(LAYERS.codec.arch(dict.fromkeys(LAYERS.codec.allowed, "conv5")))


def test_a_domain_without_a_width_of_its_largest_arch_declares_none():
    assert DIGITS.without("w3", 4).largest is None and DIGITS.without("w3", 4).smallest == DIGITS.smallest
    assert TUNED.without("w1", 16).largest == TUNED.largest and TUNED.without("w1", 16).smallest is None
    tied = RELEASED.without("s1b2c2", 2)  # one of the labels of variable stem
    assert next(variable for variable in tied.variables if variable.name == "stem").choices == (1, 3)


@pytest.mark.parametrize(
    ("domain", "label", "choice", "message"),
    [
        (LAYERS, "layer4_1", "conv3", "spos-cifar has no label 'layer4_1'; its labels are layer1_1, "),
        (LAYERS, "layer1_1", "conv7", "layer1_1 has no choice 'conv7'; it has 'conv3_pool', 'conv5_pool', 'conv3',"),
        (
            BLOCKS.without("layer1_conv2", "conv3"),
            "layer1_conv2",
            "conv5",
            "'conv5' is the last choice of layer1_conv2",
        ),
    ],
)
def test_a_choice_that_cannot_be_taken_away_is_refused(domain, label, choice, message):
    with pytest.raises(ArchError, match=message):
        domain.without(label, choice)


def test_the_members_of_digits_run_on_digits():
    images = DIGITS_8.images(None, train=False).first(4).x.float()
    for system in (SPOS_OF_DIGITS, SPOS_BLOCKS_OF_DIGITS, EFFICIENT_CIFAR):
        space = system.make_space(DIGITS_8.shape)
        arch = random_archs(system.domain, 1)[0]
        assert space.freeze(space.sample(arch)).eval()(images).shape == (4, 10)
