"""ResNet48Space: published constants, both shortcut rules, frozen networks in plain torch, NNI's strategies on it."""

import copy
import json

import nni
import pytest
import torch
import torch.nn.functional as F
from codes import shared_data
from helpers import keep_nni_in, random_archs, randomize
from nni.mutable import SampleValidationError
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.strategy import GridSearch, Random, RegularizedEvolution
from test_spaces import counted

from nni_nas_consistency.archs.codecs import RESNET48_CODEC
from nni_nas_consistency.archs.cost import Cost
from nni_nas_consistency.archs.domains import DEMO, NOMINAL, RELEASED
from nni_nas_consistency.archs.resnet48 import BASE_WIDTHS, channels
from nni_nas_consistency.errors import ArchError
from nni_nas_consistency.nni3.experiment import RetiariiExeConfig, RetiariiExperiment
from nni_nas_consistency.nni3.trial import score_subnet
from nni_nas_consistency.scoring.plain import score_archs
from nni_nas_consistency.scoring.scoring import Scoring
from nni_nas_consistency.spaces.resnet48 import ResNet48Space
from nni_nas_consistency.strategies.multitrial import ReleasedArchs
from nni_nas_consistency.supernet.active import active_subnet, logits_of
from nni_nas_consistency.supernet.extract import sub_state_dict
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.systems import CVPR2022

DEPTHS = (5, 5, 8, 5)
UNTIED = RESNET48_CODEC.parse("3242" + "1" + "1112220000" + "2122000000" + "1152212100000000" + "7176000000")
"""A code with second digits of its own in every block."""


def small_space(shortcut="supernet", domain="released", activation="relu"):
    return ResNet48Space(10, 3, 32, shortcut, domain, activation, width_divisor=8)


def some_images(count=3, side=32):
    return torch.randn(count, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_the_full_network_costs_what_is_published():
    for shortcut in ("supernet", "standalone"):
        space = ResNet48Space(shortcut=shortcut)
        assert space.complexity(space.largest) == Cost(params=34_043_688, macs=5_282_238_464)
    assert space.complexity(space.smallest) == Cost(params=6_539_984, macs=1_255_133_184)


def test_the_released_archs_cost_on_average_what_is_published():
    released = json.loads(shared_data("cvpr2022", "CVPR_2022_NAS_Track1_test.json").read_text())
    space = ResNet48Space()
    costs = [space.complexity(space.codec.parse(entry["arch"])) for entry in list(released.values())[::5]]
    assert len(costs) == 9_000  # all 45,000 have 2.972 GMACs and 17.369 M parameters
    assert sum(cost.macs for cost in costs) / len(costs) == pytest.approx(2.97e9, abs=0.01e9)
    assert sum(cost.params for cost in costs) / len(costs) == pytest.approx(17.4e6, abs=0.05e6)


@pytest.mark.parametrize("shape", [(1000, 3, 224), (100, 3, 64), (10, 1, 32), (10, 1, 9)])
def test_costs_without_a_network_are_those_of_the_network_that_is_trained_alone(shape):
    space = CVPR2022.make_space(shape, standalone=True)
    for arch in [space.largest, space.smallest, UNTIED, *random_archs(NOMINAL, 5, seed=12)]:
        assert CVPR2022.cost(arch, shape) == space.complexity(arch)


def test_ratio_digits_round_to_the_published_channels():
    assert {base: [channels(base, digit) for digit in range(1, 8)] for base in BASE_WIDTHS} == {
        64: [64, 64, 56, 56, 48, 48, 48],
        128: [128, 120, 112, 112, 104, 96, 88],
        256: [256, 240, 232, 216, 208, 192, 176],
        512: [512, 488, 464, 432, 408, 384, 360],
    }


@pytest.mark.parametrize(("domain", "drawn"), [("released", RELEASED), ("demo", DEMO), ("nominal", NOMINAL)])
def test_complexity_is_what_a_frozen_network_holds_and_runs(domain, drawn):
    space = small_space("standalone", domain)
    assert space.domain == drawn
    for arch in [space.largest, space.smallest, *random_archs(space.domain, 3, seed=1)]:
        frozen = space.freeze(space.sample(arch))
        assert space.complexity(arch) == counted(frozen, torch.zeros(1, 3, 32, 32)), arch.code


def test_complexity_follows_image_size_channels_classes_and_divisor_and_large_images_are_pooled():
    for space in (ResNet48Space(7, 2, 65, width_divisor=4), ResNet48Space(5, 1, 130, width_divisor=2)):
        images = torch.zeros(1, space.args["in_channels"], space.image_size, space.image_size)
        (arch,) = random_archs(space.domain, 1, seed=2)
        frozen = space.freeze(space.sample(arch))
        assert space.complexity(arch) == counted(frozen, images)
        sides = []
        frozen.links[1].register_forward_pre_hook(lambda module, inputs, sides=sides: sides.append(inputs[0].shape[2]))
        frozen(images)
        assert sides == [33]


def test_a_smaller_member_has_the_same_widths_divided():
    def widths(space, arch):
        names = space.freeze(space.sample(arch)).state_dict().items()
        return [tensor.shape[0] for name, tensor in names if name.endswith("conv.weight")]

    (arch,) = random_archs(RELEASED, 1, seed=3)
    full = widths(ResNet48Space(10, 3, 32), arch)
    for divisor in (2, 4, 8):
        assert [divisor * width for width in widths(ResNet48Space(10, 3, 32, width_divisor=divisor), arch)] == full


def plain_logits(space, arch, weights, images, *, training=False):
    """Return the logits of an arch with these weights, written out; in training, running statistics move in place."""
    after_addition = {
        "relu": lambda x, link: F.relu(x),
        "prelu": lambda x, link: F.prelu(x, weights[f"{link}activation.weight"]),
        "mish": lambda x, link: x * torch.tanh(F.softplus(x)),
    }[space.args["activation"]]

    def conv_bn(name, x, width, stride=1):
        kernel = weights[f"{name}.conv.weight"]
        assert kernel.shape[:2] == (width, x.shape[1])
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        mean, var, scale, shift = (
            weights[f"{name}.bn.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, scale, shift, training, 0.1, 1e-5)

    def width(base, label):
        return channels(base, arch.choices[label]) // 8

    x = F.relu(conv_bn("links.0.conv", images, width(64, "stem"), 2))
    link = 1
    for stage, base in enumerate(BASE_WIDTHS, 1):
        for block in range(1, DEPTHS[stage - 1] + 1):
            if block <= arch.choices[f"depth{stage}"]:
                inside = "" if block <= 2 else "repeat.0."
                first, second = f"links.{link}.{inside}", f"links.{link + 1}.{inside}"
                stride = 2 if stage > 1 and block == 1 else 1
                y = F.relu(conv_bn(f"{first}conv1", x, width(base, f"s{stage}b{block}c1"), stride))
                y = conv_bn(f"{second}conv2", y, width(base, f"s{stage}b{block}c2"))
                if stride == 2 or x.shape[1] != y.shape[1]:
                    x = conv_bn(f"{second}shortcut.project", x, y.shape[1], stride)
                x = after_addition(x + y, second)
            link += 2
    return F.linear(x.mean((2, 3)), weights["links.47.linear.weight"], weights["links.47.linear.bias"])


def double_copies(tensors):
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@pytest.mark.parametrize("activation", ["relu", "prelu", "mish"])
@pytest.mark.parametrize("training", [False, True])
def test_a_frozen_space_is_the_network_written_out_in_plain_torch(activation, training):
    space, images = small_space(activation=activation), some_images()
    for seed, arch in enumerate([space.smallest, *random_archs(space.domain, 2, seed=3)]):
        frozen = space.freeze(space.sample(arch)).double()
        randomize(frozen, seed)
        weights = double_copies(frozen.state_dict())
        logits = frozen.train(training)(images)
        torch.testing.assert_close(
            logits, plain_logits(space, arch, weights, images, training=training), rtol=1e-10, atol=1e-10
        )
        moved = {name: tensor for name, tensor in frozen.state_dict().items() if name.endswith(("_mean", "_var"))}
        torch.testing.assert_close(moved, {name: weights[name] for name in moved}, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("activation", ["relu", "prelu", "mish"])
def test_a_subnet_of_a_supernet_is_the_network_written_out_with_slices_of_its_weights(activation):
    assert_written_out(make_supernet(small_space(activation=activation)))


def test_a_supernet_of_untied_widths_has_the_projections_that_an_arch_needs():
    assert_written_out(make_supernet(small_space("standalone", "nominal")))


def assert_written_out(supernet):
    images = some_images()
    randomize(supernet.double().eval(), seed=5)
    for arch in [supernet.largest, *random_archs(supernet.domain, 3, seed=5)]:
        weights = sub_state_dict(supernet, arch)
        expected = plain_logits(supernet, arch, weights, images)
        torch.testing.assert_close(logits_of(supernet, images, arch), expected, rtol=1e-10, atol=1e-10)
        shared = supernet.state_dict()
        for name, tensor in weights.items():
            whole = shared[name.replace("repeat.0.", "repeat.blocks.0.")]
            assert torch.equal(tensor, whole[tuple(slice(size) for size in tensor.shape)]), name


def names(space, arch):
    return {name: tensor.shape for name, tensor in space.freeze(space.sample(arch)).state_dict().items()}


def test_both_shortcut_rules_give_the_same_network_where_widths_are_tied():
    spaces = [small_space(shortcut, "demo") for shortcut in ("supernet", "standalone")]
    for arch in [spaces[0].largest, *random_archs(DEMO, 3, seed=6)]:
        shapes = [names(space, arch) for space in spaces]
        assert shapes[0] == shapes[1]
        projections = [name for name in shapes[0] if name.endswith("project.conv.weight")]
        assert projections == [f"links.{link}.shortcut.project.conv.weight" for link in (12, 22, 38)]


def test_alone_a_code_of_untied_widths_has_projections_where_they_differ():
    space, images = small_space("standalone", "nominal"), some_images()
    frozen = space.freeze(space.sample(UNTIED)).double().eval()
    randomize(frozen, seed=7)
    weights = frozen.state_dict()
    assert torch.equal(frozen(images), plain_logits(space, UNTIED, weights, images))
    # digits 1 and 2 are both 64 channels in stage 1, so that its blocks keep their identities
    projected = {int(name.split(".")[1]) for name in weights if "project.conv" in name}
    assert projected == {12, 14, 22, 24, 26, 38, 40}


def test_nni_sees_one_choice_for_each_digit_that_is_drawn():
    choices = small_space().simplify()
    assert set(choices) == {variable.name for variable in RELEASED.variables}
    assert len(choices) == 31
    assert choices["depth3"].values == [2, 3, 4, 5, 6, 7, 8]
    assert choices["stem"].values == [1, 2, 3] and choices["s4b5c1"].values == [1, 2, 3, 4, 5, 6, 7]
    assert set(small_space("standalone", "nominal").simplify()) == set(RESNET48_CODEC.labels)


@pytest.mark.parametrize("domain", ["released", "demo", "nominal"])
def test_a_sample_and_its_arch_are_each_others_inverse(domain):
    space = small_space("standalone", domain)
    for arch in random_archs(space.domain, 20, seed=8):
        sample = space.sample(arch)
        assert set(sample) == set(space.simplify())
        space.validate(sample)
        assert space.arch(sample) == arch


def test_what_a_sample_of_nni_says_of_absent_blocks_changes_nothing():
    space = small_space()
    (arch,) = random_archs(RELEASED, 1, seed=9)
    sample = space.sample(arch)
    for stage, depth in enumerate(DEPTHS, 1):
        sample |= {f"s{stage}b{block}c1": 3 for block in range(arch.choices[f"depth{stage}"] + 1, depth + 1)}
    assert sample != space.sample(arch)
    assert space.arch(sample) == arch
    frozen = space.freeze(sample)
    assert frozen.frozen_arch == arch
    assert {name: tensor.shape for name, tensor in frozen.state_dict().items()} == names(space, arch)


def test_digits_that_round_to_one_width_are_one_network():
    space = small_space()
    archs = [space.codec.arch({**space.smallest.choices, "s1b1c1": digit}) for digit in (1, 2, 3)]
    keys = [[link.key(arch) for link in space.links] for arch in archs]
    assert keys[0] == keys[1] != keys[2]
    assert names(space, archs[0]) == names(space, archs[1])


def test_links_of_blocks_that_an_arch_lacks_are_absent():
    space = small_space()
    for arch in random_archs(RELEASED, 5, seed=10):
        blocks = sum(arch.choices[f"depth{stage}"] for stage in (1, 2, 3, 4))
        keys = [link.key(arch) for link in space.links]
        assert (len(keys), keys.count(None)) == (48, 2 * (23 - blocks))
        absent = [f"links.{index}." for index, key in enumerate(keys) if key is None]
        assert not [name for name in names(space, arch) if name.startswith(tuple(absent))]


def test_an_arch_whose_widths_are_not_tied_is_refused_wherever_a_network_would_be_another_one():
    space, supernet = small_space(), make_supernet(small_space())
    message = r"s1b2c2 of arch '3242.*' is 2, stem is 1; the networks of resnet48 have one choice for both"
    for refused in (
        lambda: space.sample(UNTIED),
        lambda: space.complexity(UNTIED),
        lambda: space.can_stack([space.smallest, UNTIED]),
        lambda: sub_state_dict(supernet, UNTIED),
        lambda: logits_of(supernet, some_images().float(), UNTIED),
        lambda: logits_of(supernet, some_images().float(), [UNTIED, UNTIED]),
    ):
        with pytest.raises(ArchError, match=message):
            refused()
    with active_subnet(supernet, supernet.smallest), pytest.raises(SampleValidationError, match="s1b1c1 is 7"):
        supernet.freeze({**supernet.sample(supernet.smallest), "s1b1c1": 7})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shortcut": "identity"}, "shortcut is 'identity'; ResNet48Space allows 'supernet', 'standalone'"),
        ({"domain": "all"}, "domain is 'all'; ResNet48Space allows 'released', 'demo', 'nominal'"),
        ({"activation": "swish"}, "activation is 'swish'; ResNet48Space allows 'relu', 'prelu', 'mish'"),
        ({"domain": "nominal"}, "identities do not fit; use shortcut='standalone', or domain 'released' or 'demo'"),
        ({"width_divisor": 3}, "width_divisor is 3; ResNet48Space allows 1, 2, 4, 8"),
        ({"num_classes": 0}, "num_classes, in_channels and image_size must be at least 1"),
        ({"image_size": -8}, "must be at least 1"),
    ],
)
def test_arguments_that_make_no_network_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNet48Space(**arguments)


def count_parameters(model):
    model(torch.zeros(1, 3, 32, 32))
    nni.report_final_result(float(sum(parameter.numel() for parameter in model.parameters())))


@pytest.mark.parametrize(
    "strategy",
    [Random(seed=1), GridSearch(seed=1), RegularizedEvolution(population_size=2, sample_size=2, seed=1)],
    ids=repr,
)
@pytest.mark.parametrize("model_format", ["simplified", "raw"])
def test_nnis_multi_trial_strategies_run_the_frozen_networks(strategy, model_format, tmp_path, monkeypatch):
    keep_nni_in(tmp_path, monkeypatch)
    strategy = copy.deepcopy(strategy)
    space = small_space()
    config = RetiariiExeConfig(
        execution_engine="sequential",
        model_format=model_format,
        max_trial_number=4,
        experiment_working_directory=tmp_path,
    )
    assert RetiariiExperiment(space, FunctionalEvaluator(count_parameters), strategy).run(config)
    models = list(strategy.list_models(sort=False))
    assert len(models) == 4
    for model in models:
        assert model.metric == space.complexity(space.arch(model.sample)).params


def test_a_released_list_runs_as_trials_of_nni_with_the_score_of_each_arch(tmp_path, monkeypatch):
    keep_nni_in(tmp_path, monkeypatch)
    supernet = make_supernet(small_space()).double()
    randomize(supernet, seed=11)
    images = some_images(4)
    scoring = Scoring("loss", "batch", lambda: [(images, torch.arange(4))])
    archs = {f"arch{index}": arch for index, arch in enumerate(random_archs(RELEASED, 3, seed=11), 1)}
    strategy = ReleasedArchs(archs)
    evaluator = FunctionalEvaluator(score_subnet, scoring=lambda: scoring)
    assert RetiariiExperiment(supernet, evaluator, strategy).run()
    expected = [score.loss for score in score_archs(supernet, archs.values(), scoring)]
    assert list(strategy.scores().values()) == pytest.approx(expected, rel=1e-10)
