"""Hub spaces and NNI's supernet modules: active, frozen and rebuilt subnets agree; refusals; domains."""

import copy
import gc
import random
import weakref
from functools import cache

import nni
import pytest
import torch
from helpers import keep_nni_in
from nni.mutable import Numerical
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.hub.pytorch import DARTS, AutoFormer, MobileNetV3Space, NasBench101
from nni.nas.nn.pytorch import (
    Cell,
    InputChoice,
    LayerChoice,
    ModelSpace,
    MutableBatchNorm2d,
    MutableConv1d,
    MutableConv2d,
    MutableDropout,
    MutableLayerNorm,
    MutableLinear,
    ParametrizedModule,
    Repeat,
)
from nni.nas.nn.pytorch.base import recursive_freeze
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.oneshot.pytorch.supermodule.operation import MixedOperation
from nni.nas.space import model_context
from nni.nas.strategy import RegularizedEvolution
from torch import nn

from nni_nas_consistency.errors import ArchError, InputError
from nni_nas_consistency.nni3.experiment import RetiariiExeConfig, RetiariiExperiment
from nni_nas_consistency.scoring.plain import score_archs, score_network
from nni_nas_consistency.scoring.scoring import Scoring
from nni_nas_consistency.spaces.hub import domain_of, largest_sample, smallest_sample
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.supernet.nni_modules import (
    choices_of,
    exact_freeze,
    frozen_subnet,
    mutate,
    set_sample,
)
from spaces import EVERY_SPACE, Constrained, Depths, Kernels, Nested, Operators, SpaceCase, images, small_autoformer

NNI_SPACES = [case for case in EVERY_SPACE if not case.is_chain]
REBUILT = [case for case in NNI_SPACES if case.name != "mobilenetv3"]  # which drops nn.Identity, so that names shift
WITH_LARGEST = [case for case in NNI_SPACES if case.has_largest]
LARGEST_FIRST = SpaceCase(
    "largest-first",
    lambda: AutoFormer((24, 16), (2.0, 1.0), (2, 1), (2, 1), img_size=32, patch_size=8, num_labels=10),
    images(32),
)
OF_FIXED_SIZE = [case for case in NNI_SPACES if case.name in ("proxylessnas", "shufflenet", "nasbench201", "operators")]
every_space = pytest.mark.parametrize("case", NNI_SPACES, ids=str)


class Single(ModelSpace):
    """One layer under test, at the path `inside.layer`, after one that NNI serves."""

    def __init__(self, layer):
        super().__init__()
        self.first = MutableConv2d(in_channels=3, out_channels=4, kernel_size=nni.choice("first", [1, 3]))
        self.inside = nn.ModuleDict({"layer": layer()})

    def forward(self, x):
        return self.inside["layer"](x)


@cache
def supernet(case):
    """Return a supernet with random weights and statistics, that normalises with the statistics of the batch."""
    torch.manual_seed(0)
    space = case.make().double().eval()
    mutate(space)
    return randomise(space)


def randomise(network):
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5).mul_(torch.where(torch.rand_like(tensor) < 0.3, -1, 1))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            if module.running_var is not None:
                module.running_var.abs_()
    return network


def some_samples(case, count=3, seed=1):
    """Return random samples, and the largest and the smallest where there are any."""
    domain, dice = domain_of(supernet(case)), random.Random(seed)
    samples = [arch.sample for arch in (domain.largest, domain.smallest) if arch is not None]
    while len(samples) < count + 2 * case.has_largest:
        picks = {variable.name: dice.choice(variable.choices) for variable in domain.variables}
        if domain.refusal(picks) is None:
            samples.append(domain.arch(picks).sample)
    return samples


def active_logits(network, sample, x):
    set_sample(network, sample)
    return network(x)


def assert_same(first, second):
    torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-10)


@every_space
def test_active_frozen_and_reloaded_subnets_have_the_same_logits(case):
    network, x = supernet(case), case.images()
    outputs = []
    for sample in some_samples(case):
        frozen = frozen_subnet(network, sample)
        reloaded = randomise(frozen_subnet(network, sample))
        reloaded.load_state_dict(frozen.state_dict(), strict=True)
        logits = active_logits(network, sample, x)
        assert logits.shape == (len(x), case.num_classes)
        assert_same(frozen(x), logits)
        assert_same(reloaded(x), logits)
        outputs.append(logits)
    assert not all(torch.allclose(outputs[0], other) for other in outputs[1:])


@pytest.mark.parametrize("case", REBUILT, ids=str)
def test_frozen_weights_load_into_the_space_rebuilt_for_the_sample(case):
    for sample in some_samples(case, count=1):
        chosen = sample | ({"size": tuple(sample["size"])} if "size" in sample else {})
        with model_context(chosen):
            rebuilt = case.make().double()
        frozen = frozen_subnet(supernet(case), sample)
        rebuilt.load_state_dict(frozen.state_dict(), strict=True)
        for module, like in zip(rebuilt.modules(), frozen.modules(), strict=True):
            module.training = like.training
        assert_same(rebuilt(case.images()), frozen(case.images()))


@every_space
def test_a_frozen_subnet_is_made_of_plain_layers_with_copies_in_the_mode_of_the_supernet(case):
    network = copy.deepcopy(supernet(case))
    network.requires_grad_(True)
    sample = some_samples(case, count=1)[0]
    before = torch.random.get_rng_state()
    frozen = frozen_subnet(network, sample)
    assert torch.equal(torch.random.get_rng_state(), before)
    shared = {tensor.data_ptr() for tensor in network.state_dict().values()}
    assert not shared & {tensor.data_ptr() for tensor in frozen.state_dict().values()}
    assert {parameter.dtype for parameter in frozen.parameters()} == {torch.float64}
    for module in frozen.modules():
        assert not isinstance(module, (BaseSuperNetModule, LayerChoice, Repeat, MutableConv2d, MutableBatchNorm2d))
        assert module.training == isinstance(module, nn.BatchNorm2d)


@pytest.mark.parametrize("case", WITH_LARGEST, ids=str)
def test_the_largest_subnet_has_all_weights_of_the_others_and_these_all_of_the_smallest(case):
    network = supernet(case)
    largest, smallest, *others = some_samples(case)
    for inner, outer in [(smallest, others[0]), *((other, largest) for other in others)]:
        assert torch.isin(weights(network, inner), weights(network, outer)).all()
    assert len(weights(network, smallest)) < len(weights(network, largest))


def weights(network, sample):
    return torch.cat([parameter.flatten() for parameter in frozen_subnet(network, sample).parameters()])


def test_spaces_of_operators_have_no_largest_subnet():
    with_largest = {case.name for case in NNI_SPACES if largest_sample(supernet(case)) is not None}
    assert with_largest == {case.name for case in WITH_LARGEST}
    assert {case.name for case in NNI_SPACES if smallest_sample(supernet(case)) is not None} == with_largest


def test_the_order_of_choices_does_not_say_which_is_largest():
    space = AutoFormer((24, 16), (2.0, 1.0), (1, 2), (2, 1), img_size=32, patch_size=8)
    assert largest_sample(space)["embed_dim"] == 24
    assert smallest_sample(space)["mlp_ratio_0"] == 1.0


def test_a_subclass_of_a_hub_space_with_operators_of_its_own_has_no_largest_subnet():
    class WithOperators(MobileNetV3Space):
        def __init__(self):
            super().__init__(depth_range=(1, 1), width_multipliers=1.0)
            self.extra = LayerChoice({"pool": nn.MaxPool2d(2), "conv": nn.Conv2d(3, 3, 2, 2)}, label="extra")

    assert largest_sample(WithOperators()) is None


@every_space
def test_mutating_keeps_the_weights_of_every_layer_that_keeps_its_size(case):
    torch.manual_seed(0)
    space = randomise(case.make().double())
    before = layers({name: tensor.clone() for name, tensor in space.state_dict().items()})
    mutate(space)
    after = layers(space.state_dict())
    assert before.keys() == after.keys()
    kept = [name for name in before if sizes(before[name]) == sizes(after[name])]
    for name in kept:
        for tensor, like in zip(before[name], after[name], strict=True):
            assert torch.equal(tensor, like)


def layers(state):
    """Return the tensors of a state dict by layer."""
    by_layer = {}
    for name, tensor in state.items():
        by_layer.setdefault(name.rpartition(".")[0], []).append(tensor)
    return by_layer


def sizes(tensors):
    return [tensor.shape for tensor in tensors]


@pytest.mark.parametrize("case", [*OF_FIXED_SIZE, LARGEST_FIRST], ids=str)
def test_mutating_keeps_the_function_of_a_space_whose_layers_keep_their_size(case):
    torch.manual_seed(0)
    space = randomise(case.make().double().eval())
    before = space(case.images())  # NNI runs the first choices of a space that is no supernet
    mutate(space)
    first = {label: choices[0] for label, choices in choices_of(space).items()}
    assert_same(active_logits(space, first, case.images()), before)


@pytest.mark.parametrize("momentum", [0.1, 0.3])
def test_eps_and_momentum_set_after_the_layers_were_made_are_carried_over(momentum):
    space = Kernels().double()
    for norm in (space.norm, space.last_norm):
        norm.eps, norm.momentum = 0.5, momentum
    mutate(space)
    randomise(space)
    space.norm.num_batches_tracked.fill_(7)
    frozen = frozen_subnet(space, space.smallest_sample())
    assert frozen.norm.num_batches_tracked == 7
    assert [(norm.eps, norm.momentum) for norm in (frozen.norm, frozen.last_norm)] == [(0.5, momentum)] * 2
    x = images(16)()
    assert_same(active_logits(space, space.smallest_sample(), x), frozen(x))
    assert_same(space.norm.running_mean[:4], frozen.norm.running_mean)


def test_mutating_keeps_type_mode_and_the_weights_of_layers_that_keep_their_size():
    space = Nested().double().eval()
    head, inner = space.head.weight, space.outer["deep"].blocks[1]["conv"].weight
    mutate(space)
    assert space.head.weight is head
    assert space.outer["deep"].blocks[1]["conv"].weight is inner
    assert {parameter.dtype for parameter in space.parameters()} == {torch.float64}
    assert not any(module.training for module in space.modules() if isinstance(module, (MixedOperation, nn.ReLU)))


def test_layers_without_choices_become_plain_layers_with_their_weights():
    space = Operators()
    kernel = space.stem.weight
    mutate(space)
    assert type(space.stem) is nn.Conv2d
    assert space.stem.weight is kernel


def test_a_layer_of_your_own_without_choices_keeps_its_weights():
    class Scale(ParametrizedModule):
        def __init__(self, start):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(float(start)))
            self.choice = LayerChoice([nn.Identity(), nn.ReLU()], label="act")

        def forward(self, x):
            return self.choice(x) * self.scale

    space = Single(lambda: Scale(2))
    mutate(space)
    space.inside["layer"].scale.data.fill_(5)
    assert frozen_subnet(space, {"act": 0, "first": 1})(torch.ones(1)).item() == 5


def doubled(layer):
    """Return a supernet module, as a hook of ours would."""

    class Doubled(BaseSuperNetModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 10)
            self.add_mutable(layer.trace_kwargs["in_features"])
            self.seen = None

        def resample(self, memo):
            self.seen = memo["width"]
            return {}

        def freeze(self, sample):
            return self.layer

        def forward(self, x):
            return self.layer(x[:, :8])

    return Doubled()


def test_hooks_come_first_and_their_modules_are_left_alone():
    made = []

    def hook(module, name, memo, arguments):
        if name == "head":
            made.append(doubled(module))
            return made[-1]
        return None

    space = Kernels()
    mutate(space, [hook])
    assert space.head is made[0]
    assert isinstance(space.stem, MixedOperation)
    before = space.head.layer.weight.clone()
    mutate(space)
    assert space.head is made[0]
    assert torch.equal(space.head.layer.weight, before)
    sample = {"width": 4, "ratio": 1, "kernel": 3, "size": (1, 1)}
    x = images(16)().float()
    logits = active_logits(space, sample, x)
    assert space.head.seen == 4
    torch.testing.assert_close(frozen_subnet(space, sample)(x), logits)


class Custom(ParametrizedModule):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(4, width, 1)

    def forward(self, x):
        return self.conv(x)


class OwnConv(MutableConv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def width():
    return nni.choice("width", [2, 4])


def kernel():
    return nni.choice("kernel", [3, 5])


def convs():
    return [nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)]


REFUSED = {
    "cell with a factory": (lambda: Cell([lambda *where: nn.Conv2d(4, 4, 1)], 2, label="c"), "Cell", "as modules"),
    "loose ends": (lambda: Cell(convs(), 2, merge_op="loose_end", label="c"), "Cell", "give 'all'"),
    "depth 0": (lambda: Repeat(nn.Conv2d(4, 4, 1), (0, 2), label="d"), "Repeat", "start from depth 1"),
    "any inputs": (lambda: InputChoice(3, None, label="i"), "InputChoice", "n_chosen=None .* give a number"),
    "no reduction": (lambda: InputChoice(3, 1, "none", label="i"), "InputChoice", "give 'sum', 'mean' or 'concat'"),
    "no affine": (lambda: MutableBatchNorm2d(width(), affine=False), "MutableBatchNorm2d", "give affine=True"),
    "no momentum": (
        lambda: MutableBatchNorm2d(width(), momentum=None),
        "MutableBatchNorm2d",
        "momentum=None .* number",
    ),
    "padding mode": (
        lambda: MutableConv2d(4, 4, kernel(), padding=kernel() // 2, padding_mode="reflect"),
        "MutableConv2d",
        "give padding_mode='zeros'",
    ),
    "crossed kernels": (
        lambda: MutableConv2d(4, 4, nni.choice("kernel", [(3, 5), (5, 3)])),
        "MutableConv2d",
        r"\(3, 5\), \(5, 3\).* add one",
    ),
    "dropout": (lambda: MutableDropout(nni.choice("p", [0.1, 0.5])), "MutableDropout", "give mutate a hook"),
    "conv of sequences": (lambda: MutableConv1d(4, width(), 1), "MutableConv1d", "give mutate a hook"),
    "layer of your own": (lambda: Custom(width()), "Custom", r"\[2, 4\].* give mutate a hook"),
    "subclass": (lambda: OwnConv(4, width(), 1), "OwnConv", "give mutate a hook"),
    "choice of bias": (
        lambda: MutableConv2d(4, 4, 3, bias=nni.choice("b", [True, False])),
        "MutableConv2d",
        "NNI says .*bias",
    ),
    "choice of eps": (
        lambda: MutableLayerNorm(8, eps=nni.choice("e", [1e-3, 1e-5])),
        "MutableLayerNorm",
        "NNI says .*eps",
    ),
    "continuous": (
        lambda: MutableLinear(8, Numerical(2, 8, label="n").int()),
        "MutableLinear",
        "n is continuous.*list its values with nni.choice",
    ),
}


@pytest.mark.parametrize("refused", REFUSED)
def test_what_nni_cannot_do_is_refused_by_path_and_type_with_the_way_out(refused):
    layer, kind, way_out = REFUSED[refused]
    space = Single(layer)
    modules = dict(space.named_modules())
    with pytest.raises(InputError, match=rf"^inside.layer \({kind}\): .*{way_out}") as error:
        mutate(space)
    assert "\n" not in str(error.value)
    assert dict(space.named_modules()) == modules


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DARTS(4, 3, "cifar"), r"^stages\.0\.blocks\.0 \(Cell\): .*multi-trial"),
        (lambda: NasBench101(8, 1, 1), r"^features\.0 \(NasBench101Cell\): .*multi-trial"),
    ],
)
def test_hub_spaces_whose_cells_lose_their_weights_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        mutate(make())


def test_a_choice_of_the_space_itself_is_refused():
    class Own(Single):
        def __init__(self):
            super().__init__(nn.ReLU)
            self.add_mutable(width())

    with pytest.raises(InputError, match=r"the space itself \(Own\): .*\[2, 4\], label='width'"):
        mutate(Own())


@pytest.mark.parametrize("second", ["again", "inside.again"])
def test_a_module_with_choices_in_two_places_is_refused(second):
    class Shared(Single):
        def __init__(self):
            super().__init__(nn.ReLU)
            (self.inside if "." in second else self).add_module("again", self.first)

    with pytest.raises(InputError, match=rf"^{second} \(MutableConv2d\): is also first"):
        mutate(Shared())


@every_space
@pytest.mark.parametrize("use", [set_sample, frozen_subnet])
def test_a_missing_label_is_refused_not_drawn(case, use):
    network, sample = supernet(case), some_samples(case, count=1)[0]
    for label in sample:
        less = {other: choice for other, choice in sample.items() if other != label}
        with pytest.raises(ArchError, match=f"no choice for '{label}'"):
            use(network, less)


@pytest.mark.parametrize("use", [set_sample, frozen_subnet])
def test_a_choice_that_is_not_allowed_is_refused_with_those_that_are(use):
    space = Depths()
    mutate(space)
    with pytest.raises(ArchError, match=r"hidden1 is 5; Depths allows .*\[2, 4, 6\]"):
        use(space, space.largest_sample() | {"hidden1": 5})


@pytest.mark.parametrize("use", [set_sample, frozen_subnet])
def test_constraints_of_the_space_hold(use):
    space = Constrained()
    mutate(space)
    use(space, {"first": 8, "second": 2})
    with pytest.raises(ArchError, match="Constrained: .*<= 10 is not satisfied"):
        use(space, {"first": 8, "second": 4})


def test_a_check_of_the_spaces_own_holds():
    class Even(Depths):
        def check_contains(self, sample):
            odd = sample["depth"] % 2
            return nni.mutable.exception.SampleValidationError("depth must be even") if odd else None

    space = Even()
    domain = domain_of(space)
    assert domain.refusal(space.smallest_sample()) == "depth must be even"
    assert domain.refusal(space.smallest_sample() | {"depth": 2}) is None
    mutate(space)
    with pytest.raises(ArchError, match="Even: depth must be even"):
        set_sample(space, space.smallest_sample())


def test_labels_that_the_space_does_not_have_are_ignored_and_tuples_stand_for_lists():
    space = Operators()
    mutate(space)
    sample = {"eps": 1e-5, "op": "conv", "listed": 1, "summed": [0, 2], "joined": [1, 2]}
    x = images(16)().float()
    expected = active_logits(space.eval(), sample, x)
    other = sample | {"summed": (0, 2), "joined": (1, 2), "w20": 4}
    assert torch.equal(active_logits(space, other, x), expected)
    assert torch.equal(frozen_subnet(space, other)(x), expected)


def test_a_deep_copy_has_an_active_subnet_of_its_own():
    first = Depths().double()
    mutate(first)
    largest, smallest, x = first.largest_sample(), first.smallest_sample(), images(16)()
    expected = active_logits(first, largest, x)
    second = copy.deepcopy(first)
    assert_same(active_logits(second, largest, x), expected)
    other = active_logits(second, smallest, x)
    assert_same(first(x), expected)
    assert not torch.allclose(second(x), expected)
    assert_same(second(x), other)


def test_a_supernet_that_was_set_and_frozen_is_freed():
    space = Depths()
    mutate(space)
    set_sample(space, space.largest_sample())
    frozen_subnet(space.blocks, space.largest_sample())
    gone = [weakref.ref(space), weakref.ref(space.blocks)]
    del space
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


def test_a_module_of_a_supernet_is_frozen_alone():
    space = Kernels().double()
    mutate(space)
    conv = frozen_subnet(space.expand, {"width": 4, "ratio": 2, "size": [1, 1]})
    assert torch.equal(conv.weight, space.expand.weight[:8, :4, 1:2, 1:2])


def test_a_supernet_that_is_mutated_further_is_set_as_a_whole():
    space = Depths().double()
    space.head = Kernels().head  # with a choice of its own
    mutate(space, [lambda module, name, memo, arguments: name == "head"])
    samples = {**Kernels().smallest_sample(), **space.smallest_sample()}
    set_sample(space, samples)
    mutate(space)
    set_sample(space, samples)
    assert space.head.double()(torch.ones(1, 8, dtype=torch.float64)).shape == (1, 10)


def test_nnis_freeze_is_repaired_only_inside():
    freeze = MixedOperation.freeze
    space = Kernels().double()
    mutate(space)
    with exact_freeze():
        inside = space.freeze(space.largest_sample())
    assert MixedOperation.freeze is freeze
    assert nni.nas.nn.pytorch.base.recursive_freeze is recursive_freeze
    assert inside.stem.weight.dtype == torch.float64
    with pytest.raises(RuntimeError, match="bias"):  # NNI no longer needs the repair when this fails
        space.freeze(space.largest_sample())


@every_space
def test_archs_of_every_space_have_a_code_that_reads_back(case):
    network = supernet(case)
    domain = domain_of(network)
    for sample in some_samples(case):
        arch = domain.codec.arch(sample)
        assert domain.codec.parse(arch.code) == arch
        assert domain.refusal(arch.choices) is None
        set_sample(network, domain.codec.parse(arch.code).sample)


def test_the_domain_of_a_supernet_is_that_of_its_space():
    for case in NNI_SPACES:
        assert choices_of(supernet(case)) == choices_of(case.make())
    assert domain_of(small_autoformer()).largest.choices["depth"] == 3
    assert choices_of(Operators())["summed"] == ((0, 1), (0, 2), (1, 2))


def test_the_domain_honours_nnis_constraints():
    domain = domain_of(Constrained())
    assert domain.refusal({"first": 8, "second": 2}) is None
    assert "is not satisfied" in domain.refusal({"first": 8, "second": 4})
    with pytest.raises(ArchError, match="not satisfied"):
        domain.arch({"first": 4, "second": 8})


def test_continuous_choices_are_refused_with_the_way_out():
    space = Single(lambda: MutableDropout(Numerical(0, 0.5, label="rate")))
    with pytest.raises(InputError, match=r"rate is a continuous choice.*list its values with nni.choice"):
        domain_of(space)


def test_choices_that_have_no_text_are_refused():
    space = Single(lambda: MutableLayerNorm(8, bias=nni.choice("bias", [None, True])))
    with pytest.raises(InputError, match="bias can be None; give nni.choice numbers"):
        domain_of(space)


@pytest.mark.parametrize("case", [case for case in EVERY_SPACE if not case.is_chain], ids=str)
def test_nnis_evolution_scores_the_subnets_of_a_supernet_as_they_are_in_it(case, tmp_path, monkeypatch):
    keep_nni_in(tmp_path, monkeypatch)
    supernet = make_supernet(case.make()).double()
    images = case.images()
    batch = images, torch.arange(len(images)) % case.num_classes
    scoring = Scoring("loss", "batch", lambda: [batch])

    def evaluate(subnet):
        nni.report_final_result(score_network(subnet, scoring).loss)

    strategy = RegularizedEvolution(population_size=2, sample_size=2, seed=0)
    config = RetiariiExeConfig(execution_engine="sequential", model_format="raw", max_trial_number=3)
    assert RetiariiExperiment(supernet, FunctionalEvaluator(evaluate), strategy, config).run()
    models = list(strategy.list_models(sort=False))
    assert len(models) == 3
    expected = [score.loss for score in score_archs(supernet, [model.sample for model in models], scoring)]
    assert [float(model.metric) for model in models] == pytest.approx(expected, rel=1e-12)
