"""Chain spaces: samples and archs; ResNet20Space: released constants, frozen networks, NNI's own strategies on it."""

import math
import subprocess
import sys

import nni
import pytest
import torch
from chains import DepthChain, DescendingChain, InputChain, MixedChain, OperatorChain
from codes import shared_data
from helpers import (
    BOTH_SHORTCUTS,
    keep_nni_in,
    plain_logits,
    random_archs,
    random_batch,
    randomize,
    tiny_space,
)
from nni.mutable import ExpressionConstraint, SampleValidationError
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.strategy import Random, RandomOneShot, RegularizedEvolution
from torch import nn

from nni_nas_consistency.archs.codecs import RESNET20_CODEC
from nni_nas_consistency.archs.cost import Cost
from nni_nas_consistency.archs.domains import RESNET20
from nni_nas_consistency.errors import ArchError
from nni_nas_consistency.files.arch_lists import read_released
from nni_nas_consistency.nni3.experiment import RetiariiExeConfig, RetiariiExperiment
from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.systems import CVPR2021, EMBEDDED_BENCHMARK


def counted(network, images):
    """Count the parameters of a real network, and the MACs of the convolutions and linear layers that run."""
    macs = []

    def count(module, inputs, output):
        macs.append(module.weight.numel() * output[0, 0].numel())

    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    network.eval()(images)
    return Cost(sum(parameter.numel() for parameter in network.parameters()), sum(macs))


def test_the_largest_and_the_smallest_arch_cost_what_the_released_space_says():
    space = ResNet20Space(shortcut="standalone")
    assert space.complexity(space.largest) == Cost(params=278_612, macs=41_081_088)
    smallest = space.complexity(space.smallest)
    assert (smallest.params, round(smallest.macs / 1e6, 2)) == (3_424, 1.29)


def test_the_space_has_as_many_archs_as_the_released_one():
    space = ResNet20Space()
    assert space.domain == RESNET20
    assert math.prod(map(len, space.allowed.values())) == 4**7 * 8**6 * 16**6
    assert math.prod(len(variable.choices) for variable in space.domain.variables) == 4**7 * 8**6 * 16**7


@BOTH_SHORTCUTS
def test_complexity_is_what_a_frozen_network_holds_and_runs(shortcut):
    space = ResNet20Space(shortcut=shortcut)
    for arch in [space.largest, space.smallest, *random_archs(space.domain, 6, seed=1)]:
        frozen = space.freeze(space.sample(arch))
        assert space.complexity(arch) == counted(frozen, torch.zeros(1, 3, 32, 32)), arch.code


@BOTH_SHORTCUTS
def test_complexity_follows_image_size_channels_and_classes(shortcut):
    space = ResNet20Space(7, 2, 9, shortcut, width_unit=2)
    for arch in random_archs(space.domain, 3, seed=2):
        assert space.complexity(arch) == counted(space.freeze(space.sample(arch)), torch.zeros(1, 2, 9, 9))


@pytest.mark.parametrize("system", [CVPR2021, EMBEDDED_BENCHMARK], ids=lambda system: system.space)
@pytest.mark.parametrize("shape", [(100, 3, 32), (10, 1, 8), (7, 2, 9)])
def test_costs_that_a_system_counts_without_a_network_are_those_of_its_network(system, shape):
    space = system.make_space(shape, standalone=True)
    equal_widths = system.domain.arch({variable.name: variable.choices[1] for variable in system.domain.variables})
    for arch in [space.largest, space.smallest, equal_widths, *random_archs(space.domain, 20, seed=3)]:
        assert system.cost(arch, shape) == space.complexity(arch), arch.code


def test_the_released_list_spans_the_published_params_and_macs():
    path = shared_data("cvpr2021", "Track1_final_archs.json")
    space = ResNet20Space(shortcut="standalone")
    costs = [space.complexity(entry.arch) for entry in read_released(path, space.codec).values()]
    macs, params = ([cost.macs for cost in costs], [cost.params for cost in costs])
    assert [round(value / 1e4) for value in (min(macs), max(macs))] == [406, 3059]
    assert sum(macs) / len(macs) == pytest.approx(14.23e6, abs=0.01e6)
    assert [round(value / 100) for value in (min(params), max(params))] == [163, 2220]
    assert sum(params) / len(params) == pytest.approx(87.5e3, abs=50)


@BOTH_SHORTCUTS
@pytest.mark.parametrize("training", [False, True])
def test_a_frozen_space_is_the_network_written_out_in_plain_torch(shortcut, training):
    space = tiny_space(shortcut)
    images, _ = random_batch()
    for seed, arch in enumerate([space.smallest, *random_archs(space.domain, 4, seed=3)]):
        frozen = space.freeze(space.sample(arch)).double()
        randomize(frozen, seed)
        weights = {name: tensor.clone() for name, tensor in frozen.state_dict().items()}
        assert torch.equal(frozen.train(training)(images), plain_logits(weights, images, shortcut, training=training))
        moved = {name: tensor for name, tensor in frozen.state_dict().items() if name.endswith(("_mean", "_var"))}
        assert all(torch.equal(weights[name], tensor) for name, tensor in moved.items())


def test_the_released_network_is_the_one_written_out_in_plain_torch():
    space = ResNet20Space(shortcut="standalone")
    (arch,) = random_archs(space.domain, 1, seed=4)
    frozen = space.freeze(space.sample(arch)).double().eval()
    randomize(frozen, seed=4)
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    assert torch.equal(frozen(images), plain_logits(frozen.state_dict(), images, "standalone"))


def test_the_shortcut_rules_differ_only_in_blocks_that_keep_their_width():
    def projections(shortcut, code):
        space = tiny_space(shortcut)
        frozen = space.freeze(space.sample(space.codec.parse(code)))
        return {int(name.split(".")[1]) // 2 - 1 for name in frozen.state_dict() if "shortcut.project" in name}

    code = "2-1-2-1-3-1-3-5-3-1-3-1-4-1-4-1-4-1-9-1"  # stage 2 begins at equal widths, 3 to 3
    assert projections("projection", code) == set(range(9))
    assert projections("standalone", code) == {0, 1, 3, 5, 6, 8}


def test_the_last_width_of_a_code_changes_nothing():
    space = tiny_space()
    first, *others = [space.codec.parse("-".join(["3"] * 19 + [str(last)])) for last in (1, 7, 16)]
    shapes = {name: tensor.shape for name, tensor in space.freeze(space.sample(first)).state_dict().items()}
    for arch in others:
        assert space.sample(arch) == space.sample(first)
        assert space.complexity(arch) == space.complexity(first)
        frozen = space.freeze(space.sample(arch))
        assert {name: tensor.shape for name, tensor in frozen.state_dict().items()} == shapes
        assert frozen.frozen_arch == first


def test_a_sample_and_its_arch_are_each_others_inverse():
    space = tiny_space()
    for arch in random_archs(space.domain, 20, seed=5):
        sample = space.sample(arch)
        assert list(sample.items()) == [(f"w{i}", arch.choices[f"w{i}"]) for i in range(1, 20)]
        assert space.arch({**sample, "w20": arch.choices["w20"]}) == arch
        assert space.arch(sample).choices["w20"] == 1


def test_a_sample_has_the_sequences_that_nni_has():
    space = InputChain("mean")
    arch = space.codec.arch({"width": 2, "one": (1,), "two": (0, 2)})
    assert space.sample(arch) == {"width": 2, "one": [1], "two": [0, 2]}
    space = MixedChain()
    arch = space.codec.arch({"width": 4, "kernel": 3, "size": (1, 3)})
    assert space.sample(arch) == {"width": 4, "kernel": 3, "size": (1, 3)}
    as_read_from_json = {"width": 4, "kernel": 3, "size": [1, 3]}
    assert space.arch(as_read_from_json) == arch
    assert space.freeze(as_read_from_json).links[2].module[0].kernel_size == (1, 3)


@pytest.mark.parametrize(
    ("make", "sample", "message"),
    [
        (OperatorChain, {"op": "conv7", "last": 0}, "op is conv7; operators allows conv3, conv5, pool, skip$"),
        (OperatorChain, {"op": "conv3"}, "last is None; operators allows 0, 1$"),
        (lambda: InputChain("sum"), {"width": 2, "one": [0, 1], "two": [0, 1]}, r"one is \[0, 1\]; inputs-sum allows"),
        (DepthChain, {"depth": 4}, "depth is 4; depths allows 1, 2, 3$"),
        (DescendingChain, {"w1": 5, "w2": 3}, "w1 is 5; descending allows 6, 4, 2$"),
    ],
)
def test_choices_of_any_kind_that_are_not_allowed_are_refused(make, sample, message):
    for space in (make(), make_supernet(make())):
        with pytest.raises(SampleValidationError, match=message):
            space.freeze(sample)


def test_the_largest_arch_is_declared_and_has_nothing_to_do_with_the_order_of_choices():
    space = DescendingChain()
    assert (space.largest.code, space.smallest.code) == ("6-5", "2-1")
    for extreme in ("largest", "smallest"):
        with pytest.raises(ValueError, match=f"declares no {extreme} arch; pass one with its domain"):
            getattr(OperatorChain(), extreme)


def test_a_choice_that_the_domain_does_not_have_is_refused():
    with pytest.raises(ValueError, match="descending has no variable that sets 'w3'; add it to the domain"):
        DescendingChain().choice("w3")


class Budget(DescendingChain):
    """A chain whose widths may not both be large."""

    def __init__(self):
        super().__init__()
        self.add_mutable(ExpressionConstraint(self.choice("w1") + self.choice("w2") <= 8, label="budget"))


def test_a_constraint_holds_for_freezing_and_for_what_is_drawn():
    space = make_supernet(Budget())
    assert space.freeze({"w1": 6, "w2": 1}).links[0].conv.conv.out_channels == 6
    with pytest.raises(SampleValidationError, match="<= 8 is not satisfied"):
        space.freeze({"w1": 6, "w2": 3})
    with pytest.raises(ArchError, match="descending: .* <= 8 is not satisfied"):
        space.domain.arch({"w1": 6, "w2": 3})


def test_a_sample_with_a_bad_width_or_without_a_label_is_refused():
    space = ResNet20Space()
    sample = space.sample(space.smallest)
    with pytest.raises(SampleValidationError, match="w3 is 5; resnet20 allows 4, 8, 12, 16$"):
        space.freeze({**sample, "w3": 5})
    with pytest.raises(SampleValidationError, match="w19 is None; resnet20 allows 4, 8, .*, 60, 64$"):
        space.freeze({label: width for label, width in sample.items() if label != "w19"})
    with pytest.raises(ArchError, match="layer 3 of arch '4-4-5-4-.*' asks for width 5; resnet20 allows 4, 8, 12, 16"):
        space.arch({**sample, "w3": 5})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shortcut": "identity"}, "shortcut is 'identity'; ResNet20Space allows 'projection', 'standalone'"),
        ({"num_classes": 0}, "num_classes, in_channels, image_size and width_unit must be at least 1"),
        ({"in_channels": 0}, "must be at least 1"),
        ({"image_size": -8}, "must be at least 1"),
        ({"width_unit": 0}, "must be at least 1"),
    ],
)
def test_arguments_that_make_no_network_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNet20Space(**arguments)


def test_nni_sees_nineteen_choices_with_the_widths_of_the_released_space():
    choices = ResNet20Space().simplify()
    assert list(choices) == [f"w{i}" for i in range(1, 20)]
    for index, choice in enumerate(choices.values()):
        assert choice.values == list(RESNET20_CODEC.widths[index])


def test_nnis_one_shot_strategies_are_there_if_a_space_is_imported_first():
    program = "import nni_nas_consistency.spaces.resnet20; from nni.nas.strategy import DARTS; print(DARTS)"
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "nni.nas.oneshot.pytorch.strategy.DARTS" in run.stdout


@BOTH_SHORTCUTS
def test_nnis_random_one_shot_runs_the_space_and_hands_its_weights_on(shortcut):
    supernet = RandomOneShot().mutate_model(tiny_space(shortcut)).eval()
    randomize(supernet, seed=6)
    images, _ = random_batch(dtype=torch.float32)
    logits = []
    for _ in range(3):
        sample = {}
        for module in supernet.modules():
            if isinstance(module, BaseSuperNetModule):
                sample |= module.resample(sample)
        frozen = supernet.freeze(sample)
        assert not any(module.training for module in frozen.modules())
        assert frozen.links[1].conv1.conv.bias is None
        torch.testing.assert_close(frozen(images), supernet(images))
        logits.append(frozen(images))
    assert not torch.equal(logits[0], logits[1])


def count_parameters(model):
    model(torch.zeros(1, 1, 8, 8))
    nni.report_final_result(float(sum(parameter.numel() for parameter in model.parameters())))


@pytest.mark.parametrize(
    "strategy", [Random(seed=1), RegularizedEvolution(population_size=2, sample_size=2, seed=1)], ids=repr
)
def test_nnis_multi_trial_strategies_run_the_frozen_networks(strategy, tmp_path, monkeypatch):
    keep_nni_in(tmp_path, monkeypatch)
    space = tiny_space("standalone")
    config = RetiariiExeConfig(
        execution_engine="sequential",
        model_format="simplified",
        max_trial_number=4,
        experiment_working_directory=tmp_path,
    )
    assert RetiariiExperiment(space, FunctionalEvaluator(count_parameters), strategy).run(config)
    models = list(strategy.list_models(sort=False))
    assert len({space.arch(model.sample) for model in models}) == 4
    for model in models:
        assert model.metric == space.complexity(space.arch(model.sample)).params
