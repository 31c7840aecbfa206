"""Every way to share weights: each arch is one network however its kernels are shared, and stays it when they split."""

import copy
import itertools
import json
from dataclasses import replace
from functools import cache

import nni
import pytest
import torch
import torch.nn.functional as F
from chains import Widening, covering_archs, domain
from command import SHORT_TRAINING, run
from helpers import keep_nni_in, plain_logits, random_archs, randomize, tiny_space
from nni.nas.space import model_context
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scoring_chains import Setting, archs_of, random_batches
from torch import nn
from torch.optim.swa_utils import update_bn

from nni_nas_consistency.errors import CheckpointError, InputError
from nni_nas_consistency.files.checkpoint_header import read_checkpoint_header
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.nni3.trial import score_subnet
from nni_nas_consistency.scoring.memory import Layout
from nni_nas_consistency.scoring.plain import score_archs
from nni_nas_consistency.scoring.prefix import score_prefixes, shares_prefixes
from nni_nas_consistency.scoring.scoring import Scoring
from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.spaces.resnet20 import Head, ResNet20Space, Stem
from nni_nas_consistency.supernet.active import active_subnet, logits_of
from nni_nas_consistency.supernet.checkpoint import load_supernet, save_supernet, supernet_of
from nni_nas_consistency.supernet.extract import sub_state_dict
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.supernet.modules import ConvBN, ElasticBank
from nni_nas_consistency.supernet.sharing import FULL, Bank, Rule, Sharing, sharing_of_checkpoint
from nni_nas_consistency.supernet.statistics import batch_norms, batch_statistics, estimated_statistics
from nni_nas_consistency.supernet.unsharing import unshare
from nni_nas_consistency.training.supernet import initialise
from spaces import EVERY_SPACE, SpaceCase, images

WORDS = ("full", "front", "end", "independent")
PUBLISHED = [
    Sharing(*rules.split())
    for rules in (
        "full full full",
        "independent full full",
        "front full full",
        "end full full",
        "full independent full",
        "full front full",
        "full end full",
        "full full independent",
        "front front full",
        "end end full",
        "independent independent full",
    )
]
"""The eleven combinations of the study of third place, CVPR 2021 NAS track 1."""
GROUPS = [Sharing("end:2", "end:2"), Sharing("front:3", "end:2"), Sharing("independent:2", "independent:4")]
EVERY = [Sharing(*rules) for rules in itertools.product(WORDS, WORDS, ("full", "independent"))]
CHAINS = [case for case in EVERY_SPACE if case.is_chain]
RESNET20 = next(case for case in CHAINS if case.name == "chain-resnet20")
DESCENDING = next(case for case in CHAINS if case.name == "chain-descending")
every_published = pytest.mark.parametrize("sharing", PUBLISHED, ids=str)
SEVERAL = [PUBLISHED[8], PUBLISHED[9], EVERY[-1], GROUPS[0]]
several_sharings = pytest.mark.parametrize("sharing", SEVERAL, ids=str)


class DepthwiseChain(ChainSpace):
    """A nested link with a depthwise conv in it: its input is as wide as its output."""

    def __init__(self):
        super().__init__(domain("depthwise", {"width": (2, 3, 5), "last": (2, 4)}), 8)
        width, last = self.choice("width"), self.choice("last")
        separable = nn.Sequential(ConvBN(4, width, 1), ConvBN(width, width, 3, groups=width), nn.ReLU())
        self.links = nn.ModuleList([Stem(3, 4), Widening(separable, width), Widening(ConvBN(width, last, 1), last)])
        self.links.append(Head(last, 10))


DEPTHWISE = SpaceCase("chain-depthwise", DepthwiseChain, images(8, 5), is_chain=True)
FOLLOW = (
    [
        (case, sharing)
        for case in [*CHAINS, DEPTHWISE]
        for sharing in [*PUBLISHED[1:], *GROUPS]
        if not (case.name == "chain-norms" and Rule.of(sharing.bn).by_input)  # a batch norm apart from its conv
        if not (case.name == "chain-mixed" and sharing.conv != "full")  # a conv that NNI's supernet module serves
        if case.name != "chain-operators"  # no widths
        if "resnet20" not in case.name  # thousands of kernels: it has tests of its own
    ]
    + [(case, sharing) for case in CHAINS if case.name == "chain-resnet20-standalone" for sharing in SEVERAL[1:3]]
)
every_case = pytest.mark.parametrize(("case", "sharing"), FOLLOW, ids=[f"{case}-{sharing}" for case, sharing in FOLLOW])


def supernet_of_case(case, sharing, seed=0, dtype=torch.float64):
    supernet = make_supernet(case.make(), sharing=sharing).to(dtype).eval()
    randomize(supernet, seed)
    return supernet


def rebuilt(case, supernet, arch):
    """Return the space as NNI builds it for a sample, of plain layers, with the weights of the subnet."""
    with model_context(supernet.sample(arch)):
        network = case.make().double()
    network.load_state_dict(sub_state_dict(supernet, arch), strict=True)
    return network.eval()


def by_batch(network, x):
    with batch_statistics(network):
        return network(x)


@cache
def resnet20_of(sharing):
    """Return a supernet of ResNet20 that no test changes; one with a kernel for each pair of widths takes 2 s."""
    return supernet_of_case(RESNET20, sharing)


def banks_of(network):
    return {name: module for name, module in network.named_modules() if isinstance(module, ElasticBank)}


# which pairs of widths have a kernel in common


@pytest.mark.parametrize("sharing", [*EVERY, *GROUPS], ids=str)
def test_a_sharing_is_read_back_from_its_text(sharing):
    assert Sharing.parse(str(sharing)) == sharing


def test_what_a_text_does_not_name_is_full():
    assert Sharing.parse("bn=end:4") == Sharing(bn="end:4") != Sharing() == FULL
    assert str(Sharing.parse("bn=end:4")) == "conv=full,bn=end:4,fc=full"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "sharing '' cannot be read; give conv=RULE,bn=RULE,fc=RULE, such as conv=end,bn=end, or conv=end:4"),
        ("end", "sharing 'end' cannot be read"),
        ("conv=end,conv=full", "sharing 'conv=end,conv=full' cannot be read"),
        ("linear=full", "sharing 'linear=full' cannot be read"),
        (
            "conv=ende",
            "sharing conv=ende: there is no such rule; allowed are full, front, end, independent, and front:N",
        ),
        ("conv=full:2", "sharing conv=full:2: there is no such rule"),
        ("bn=end:1", "bn=end:1: there is no such rule; .* for groups of N neighbouring widths, N at least 2"),
        ("bn=end:0", "bn=end:0: there is no such rule"),
        (
            "fc=end",
            "sharing fc=end: there is no such rule; allowed are full, independent, and independent:N for groups",
        ),
    ],
)
def test_a_text_that_is_no_sharing_is_refused_in_one_line(text, message):
    with pytest.raises(InputError, match=message) as error:
        Sharing.parse(text)
    assert "\n" not in str(error.value)


PAIRS = list(itertools.product((4, 8, 12), (4, 8)))


@pytest.mark.parametrize(
    ("rule", "sizes", "nested"),
    [
        ("full", {"": (12, 8)}, True),
        ("front", {"in4": (4, 8), "in8": (8, 8), "in12": (12, 8)}, True),
        ("end", {"out4": (12, 4), "out8": (12, 8)}, False),
        (
            "independent",
            {f"in{width_in}_out{width_out}": (width_in, width_out) for width_in, width_out in PAIRS},
            False,
        ),
        ("front:2", {"in8": (8, 8), "in12": (12, 8)}, True),
        ("end:2", {"out8": (12, 8)}, True),
        ("independent:2", {"in8_out8": (8, 8), "in12_out8": (12, 8)}, False),
    ],
)
def test_a_kernel_has_the_size_of_the_largest_widths_it_serves(rule, sizes, nested):
    bank = Bank.of(Rule.of(rule), PAIRS)
    assert bank.sizes == sizes
    assert bank.nested == nested
    assert list(bank.keys) == sorted(PAIRS)


def test_where_one_choice_decides_both_widths_only_one_kernel_for_all_is_nested():
    pairs = [(4, 4), (8, 8)]
    assert [Bank.of(Rule.of(word), pairs, tied=True).nested for word in WORDS] == [True, False, False, False]
    assert Bank.of(Rule.of("front"), pairs, tied=True).sizes == {"in4": (4, 4), "in8": (8, 8)}


@pytest.mark.parametrize(
    ("finer", "coarser", "can"),
    [
        ("end", "full", True),
        ("independent", "front", True),
        ("end:4", "end:8", True),
        ("end:4", "end:4", True),
        ("independent:2", "end:4", True),
        ("full", "end", False),
        ("end", "front", False),
        ("end", "independent", False),
        ("end:8", "end:4", False),
        ("end:2", "end:3", False),
    ],
)
def test_a_sharing_refines_another_if_no_kernels_have_to_become_one(finer, coarser, can):
    assert Sharing(conv=finer).refines(Sharing(conv=coarser)) == can
    assert Sharing(bn=finer).refines(Sharing(bn=coarser)) == can
    for first, second in itertools.product(WORDS, WORDS):
        apart, together = (Bank.of(Rule.of(word), PAIRS).keys for word in (first, second))
        splits = all(together[a] == together[b] for a in PAIRS for b in PAIRS if apart[a] == apart[b])
        assert Rule.of(first).refines(Rule.of(second)) == splits


# sizes and first weights


def outputs_of(widths, rule):
    """Return (input, output) channels of every kernel of a layer, in closed form."""
    ins, outs = widths
    return {
        "full": [(max(ins), max(outs))],
        "front": [(i, max(outs)) for i in ins],
        "end": [(max(ins), o) for o in outs],
        "independent": [(i, o) for i in ins for o in outs],
    }[rule]


def layers_of_resnet20():
    """Return input widths, output widths and kernel side of all convs of the released space, projections everywhere."""
    steps = [(3,), *[range(4, 17, 4)] * 7, *[range(4, 33, 4)] * 6, *[range(4, 65, 4)] * 6]
    inner = [(steps[layer], steps[layer + 1], 3) for layer in range(19)]
    return inner + [(steps[2 * block + 1], steps[2 * block + 3], 1) for block in range(9)]


@pytest.mark.parametrize("word", WORDS)
def test_parameters_of_resnet20_are_those_of_the_closed_form(word):
    fc = "full" if word == "full" else "independent"
    supernet = make_supernet(ResNet20Space(), sharing=Sharing(word, word, fc))
    convs, norms = 0, 0
    for ins, outs, side in layers_of_resnet20():
        kernels = outputs_of((ins, outs), word)
        convs += sum(i * o * side * side for i, o in kernels)
        norms += sum(2 * o for _, o in kernels)
    classifiers = [64] if fc == "full" else list(range(4, 65, 4))
    counted = [parameters_of(supernet, kind) for kind in (nn.Conv2d, nn.BatchNorm2d, nn.Linear, nn.Module)]
    linear = sum((width + 1) * 100 for width in classifiers)
    assert counted == [convs, norms, linear, convs + norms + linear]


def parameters_of(network, kind):
    modules = [module for module in network.modules() if isinstance(module, kind)]
    return sum(parameter.numel() for module in modules for parameter in module.parameters(recurse=False))


def test_one_kernel_for_each_layer_is_what_a_supernet_has_by_default():
    names = make_supernet(ResNet20Space(width_unit=1)).state_dict().keys()
    assert make_supernet(ResNet20Space(width_unit=1), sharing=Sharing(conv="front")).state_dict().keys() != names
    assert make_supernet(ResNet20Space(width_unit=1), sharing=FULL).state_dict().keys() == names
    assert make_supernet(ResNet20Space(width_unit=1), sharing=Sharing(conv="end:16")).state_dict().keys() == names


@pytest.mark.parametrize("sharing", [PUBLISHED[2], PUBLISHED[3], EVERY[-1], Sharing("end:4")], ids=str)
def test_fresh_kernels_are_drawn_by_their_own_fan_out(sharing):
    supernet = make_supernet(ResNet20Space(), sharing=sharing)
    initialise(supernet, "kaiming-fan-out", torch.Generator().manual_seed(0))
    seen = set()
    for module in supernet.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.weight.numel() > 2000:
            fan_out = module.weight.shape[0] * module.weight[0, 0].numel()
            assert float(module.weight.detach().abs().max()) == pytest.approx((6 / fan_out) ** 0.5, rel=0.01)
            seen.add(fan_out)
    assert len(seen) > 2
    weights = [module.weight for module in supernet.modules() if isinstance(module, nn.Conv2d)]
    assert not [pair for pair in itertools.pairwise(weights) if torch.equal(pair[0][:1, :1], pair[1][:1, :1])]


def test_kernels_have_type_device_and_settings_of_the_layer_in_whose_place_they_are():
    space = ResNet20Space(10, 3, 8, width_unit=1).double().eval()
    space.links[1].conv1.bn.eps, space.links[1].conv1.bn.momentum = 1e-2, 0.3
    supernet = make_supernet(space, sharing=EVERY[-1])
    assert {parameter.dtype for parameter in supernet.parameters()} == {torch.float64}
    assert not [module for module in supernet.modules() if module.training]
    norms = batch_norms(supernet.links[1].conv1)
    assert len(norms) == 16 and {(norm.eps, norm.momentum) for norm in norms} == {(1e-2, 0.3)}


@pytest.mark.parametrize(
    ("case", "sharing", "message"),
    [
        ("chain-norms", Sharing(bn="front"), r"links.0.module.1 \(BatchNorm2d\): bn=front asks for the input width of"),
        ("chain-norms", Sharing(bn="independent"), "put both into a ConvBN, or give bn=full or bn=end"),
        (
            "chain-mixed",
            Sharing(conv="end"),
            r"links.1.module \(ConvBN\): NNI's supernet module serves its choices, and",
        ),
        ("mobilenetv3", Sharing(conv="end"), "MobileNetV3Space is no chain space, and NNI's supernet modules share by"),
    ],
)
def test_a_rule_that_a_layer_cannot_follow_is_refused_and_the_space_stays_as_it_was(case, sharing, message):
    space = next(each for each in EVERY_SPACE if each.name == case).make()
    before = dict(space.named_modules())
    with pytest.raises(InputError, match=message) as error:
        make_supernet(space, sharing=sharing)
    assert "\n" not in str(error.value)
    assert dict(space.named_modules()) == before
    make_supernet(space)


# one arch is one network


def assert_is_one_network(case, supernet, archs):
    x, seen = case.images(), []
    for arch in archs:
        networks = supernet.freeze(supernet.sample(arch)), rebuilt(case, supernet, arch)
        with active_subnet(supernet, arch):
            running, of_batch = supernet(x), by_batch(supernet, x)
        for network in networks:
            assert torch.equal(network(x), running), arch.code
            assert torch.equal(by_batch(network, x), of_batch), arch.code
        seen.append(running)
    assert not [other for other in seen[1:] if torch.allclose(seen[0], other, atol=1e-3)]


@pytest.mark.parametrize("sharing", EVERY, ids=str)
def test_for_all_32_sharings_an_arch_is_its_frozen_subnet_and_plain_layers_with_its_kernels(sharing):
    supernet = supernet_of_case(DESCENDING, sharing)
    widths = itertools.product(*(variable.choices for variable in supernet.domain.variables))
    archs = [supernet.codec.arch({"w1": first, "w2": second}) for first, second in widths]
    assert_is_one_network(DESCENDING, supernet, archs)


@every_case
def test_in_every_chain_an_arch_is_its_frozen_subnet_and_plain_layers_with_its_kernels(case, sharing):
    supernet = supernet_of_case(case, sharing)
    assert_is_one_network(case, supernet, covering_archs(supernet.domain)[:5])


def kernels_by_hand(tensors, arch, sharing):
    """Return the weights of an arch of ResNet20 from a supernet's state dict, kernels named and cut by hand."""
    widths = list(arch.choices.values())
    weights = {}

    def key(rule, width_in, width_out, varies):
        names = {"full": "", "front": f"in{width_in}.", "end": f"out{width_out}."}
        key = names.get(rule, f"in{width_in}_out{width_out}.")
        return key if varies or rule in ("end", "independent") else ""  # the stem has one input width

    def take(name, width_in, width_out, varies=True):
        conv = tensors[f"{name}conv.{key(sharing.conv, width_in, width_out, varies)}weight"]
        weights[f"{name}conv.weight"] = conv[:width_out, :width_in]
        for what in ("weight", "bias", "running_mean", "running_var"):
            norm = tensors[f"{name}bn.{key(sharing.bn, width_in, width_out, varies)}{what}"]
            weights[f"{name}bn.{what}"] = norm[:width_out]

    take("links.0.conv.", 3, widths[0], varies=False)
    for block in range(9):
        width_in, width_mid, width_out = widths[2 * block : 2 * block + 3]
        take(f"links.{2 * block + 1}.conv1.", width_in, width_mid)
        take(f"links.{2 * block + 2}.conv2.", width_mid, width_out)
        take(f"links.{2 * block + 2}.shortcut.project.", width_in, width_out)
    linear = "links.19.linear." + ("" if sharing.fc == "full" else f"in{widths[18]}_out10.")
    weights["links.19.linear.weight"] = tensors[f"{linear}weight"][:, : widths[18]]
    weights["links.19.linear.bias"] = tensors[f"{linear}bias"]
    return weights


@pytest.mark.parametrize("sharing", [*PUBLISHED, EVERY[-1]], ids=str)
def test_resnet20_is_the_network_written_out_with_kernels_chosen_by_hand(sharing):
    supernet, x = resnet20_of(sharing), RESNET20.images()
    archs, tensors = covering_archs(supernet.domain)[:4], supernet.state_dict()
    for arch in archs:
        by_hand = kernels_by_hand(tensors, arch, sharing)
        assert torch.equal(logits_of(supernet, x, arch), plain_logits(by_hand, x, "projection")), arch.code
    assert_is_one_network(RESNET20, supernet, archs[:2])


# training


def used_names(supernet, arch):
    """Return the names of the parameters that an arch uses: those whose memory its weights are in."""
    memory = {memory_of(tensor) for tensor in sub_state_dict(supernet, arch).values()}
    return {name for name, parameter in supernet.named_parameters() if memory_of(parameter) in memory}


@several_sharings
def test_only_the_kernels_of_an_arch_have_gradients_and_they_are_those_of_the_frozen_subnet(sharing):
    supernet, x = supernet_of_case(RESNET20, sharing).train(), RESNET20.images()
    kernels = dict(supernet.named_parameters())
    for arch in covering_archs(supernet.domain)[:2]:
        supernet.zero_grad()
        frozen = supernet.freeze(supernet.sample(arch))
        before = {name: tensor.clone() for name, tensor in supernet.named_buffers()}
        for logits in (logits_of(supernet, x, arch), frozen(x)):
            F.cross_entropy(logits, torch.arange(5)).backward()
        used = used_names(supernet, arch)
        assert 86 == len(used) < len(kernels)
        assert {name for name, kernel in kernels.items() if kernel.grad is not None} == used
        views = sub_state_dict(supernet, arch)
        gradient_at = {memory_of(kernels[name]): kernels[name].grad for name in used}
        for name, parameter in frozen.named_parameters():
            gradient = gradient_at[memory_of(views[name])]
            assert torch.equal(gradient[tuple(map(slice, parameter.shape))], parameter.grad), name
        running = {memory_of(view) for view in views.values()}
        for name, tensor in supernet.named_buffers():
            assert torch.equal(tensor, before[name]) == (memory_of(tensor) not in running), name
        for name, tensor in frozen.named_buffers():
            assert torch.equal(views[name], tensor), name


def memory_of(tensor):
    return tensor.untyped_storage().data_ptr()


def test_kernels_that_no_arch_of_a_step_used_are_left_alone_by_momentum_and_weight_decay():
    supernet, x = supernet_of_case(DESCENDING, Sharing("end", "end", "independent")).train(), DESCENDING.images()
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    wide, narrow = supernet.domain.largest, supernet.domain.smallest
    for arch in (wide, wide, narrow):
        before = {name: parameter.detach().clone() for name, parameter in supernet.named_parameters()}
        optimizer.zero_grad()
        logits_of(supernet, x, arch).square().sum().backward()
        optimizer.step()
        changed = {name for name, p in supernet.named_parameters() if not torch.equal(p, before[name])}
        assert changed == used_names(supernet, arch)


@several_sharings
def test_statistics_of_an_arch_are_estimated_in_its_own_batch_norms(sharing):
    supernet, x = resnet20_of(sharing), RESNET20.images()
    batches = [x * 0.5, x * 2, x[:3]]
    for arch in covering_archs(supernet.domain)[:3]:
        alone = supernet.freeze(supernet.sample(arch))
        before = {name: tensor.clone() for name, tensor in supernet.named_buffers()}
        running = alone(x)
        update_bn(batches, alone)
        expected = alone.eval()(x)
        with active_subnet(supernet, arch), estimated_statistics(supernet, supernet, batches):
            assert torch.equal(supernet(x), expected)
        assert not torch.equal(running, expected)
        assert not [name for name, tensor in supernet.named_buffers() if not torch.equal(tensor, before[name])]


# stacking


def archs_with(space, *changes):
    """Return archs that differ from the largest in some widths."""
    return [space.domain.arch({**space.domain.largest.choices, **changed}) for changed in changes]


@pytest.mark.parametrize(
    ("sharing", "changes", "can"),
    [
        (Sharing(), ({"w3": 2}, {"w9": 5}), True),
        (Sharing("front", "front"), ({"w3": 2}, {"w3": 3}), False),
        (Sharing("end"), ({"w3": 2}, {"w3": 3}), False),
        (Sharing(bn="end"), ({"w3": 2}, {"w3": 3}), False),
        (Sharing(fc="independent"), ({"w3": 2}, {"w9": 3}), True),
        (Sharing(fc="independent"), ({"w19": 2}, {"w19": 3}), False),
        (Sharing("end", "end", "independent"), ({"w3": 2}, {"w3": 2, "w20": 1}), True),
        (Sharing("end:2", "end:2"), ({"w3": 1, "w9": 8}, {"w3": 2, "w9": 7}), True),
        (Sharing("end:2", "end:2"), ({"w3": 2}, {"w3": 3}), False),
    ],
)
def test_archs_can_be_stacked_where_they_use_the_same_kernels(sharing, changes, can):
    supernet, x = supernet_of_case(RESNET20, sharing).train(), RESNET20.images()
    archs = archs_with(supernet, *changes)
    assert supernet.can_stack(archs) == can
    if not can:
        with pytest.raises(ValueError, match="cannot be stacked; run them one by one"):
            logits_of(supernet, x, archs)
        return
    other = copy.deepcopy(supernet)
    stacked, alone = logits_of(supernet, x, archs), torch.stack([logits_of(other, x, arch) for arch in archs])
    torch.testing.assert_close(stacked, alone, rtol=1e-10, atol=1e-10)
    for outputs in (stacked, alone):
        outputs.square().sum().backward()
    for (name, p), q in zip(supernet.named_parameters(), other.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-8, atol=1e-8, msg=name)
    for (name, tensor), expected in zip(supernet.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-10, atol=1e-10, msg=name)


# scoring


def setting_of(case, sharing):
    supernet = resnet20_of(sharing) if case is RESNET20 else supernet_of_case(case, sharing)
    shape = case.images().shape[1:]
    return Setting(supernet, random_batches(shape, (8, 8, 5), seed=1), random_batches(shape, (6, 6, 3), seed=2))


def prefix_scores(given, archs, how, **settings):
    return next(score_prefixes(given.supernet, [archs], how, **settings))


def losses(scores):
    return [score.loss for score in scores]


SHARING_PREFIXES = {case.name for case in [*CHAINS, DEPTHWISE] if shares_prefixes(make_supernet(case.make()))}
SCORED = [
    (case, sharing)
    for case, sharing in [*FOLLOW, *((RESNET20, sharing) for sharing in PUBLISHED)]
    if case.name in SHARING_PREFIXES and sharing in [Sharing("end"), Sharing(bn="end"), *PUBLISHED[7:], GROUPS[2]]
]


@pytest.mark.parametrize(("case", "sharing"), SCORED, ids=[f"{case}-{sharing}" for case, sharing in SCORED])
def test_prefix_and_plain_scorer_agree_in_every_chain(case, sharing):
    given = setting_of(case, sharing)
    archs = archs_of(given.supernet.domain, 6)
    for bn, layout in [("batch", Layout(2, 3)), ("train", None)][: 1 if "resnet20" in case.name else 2]:
        plain = losses(score_archs(given.supernet, archs, given.scoring(bn=bn)))
        fast = losses(prefix_scores(given, archs, given.scoring(bn=bn), layout=layout))
        assert fast == pytest.approx(plain, rel=1e-10)
        assert len(set(plain)) > 1


@pytest.mark.parametrize("bn", ["supernet", "train"])
@several_sharings
def test_prefix_and_plain_scorer_agree_with_statistics_of_each_kernel(sharing, bn):
    given = setting_of(RESNET20, sharing)
    archs = archs_of(given.supernet.domain, 5)
    plain = losses(score_archs(given.supernet, archs, given.scoring(bn=bn)))
    assert losses(prefix_scores(given, archs, given.scoring(bn=bn))) == pytest.approx(plain, rel=1e-10)


def widths_run(given, archs):
    """Return the channels that the stem put out in each of its runs, for one batch, and the scores."""
    widths = []
    handle = given.supernet.links[0].register_forward_hook(lambda link, inputs, x: widths.append(x.shape[1]))
    one_batch = Scoring("loss", "batch", lambda: given.test[:1])
    scores = losses(prefix_scores(given, archs, one_batch, layout=Layout()))
    handle.remove()
    return widths, scores, losses(score_archs(given.supernet, archs, one_batch))


@pytest.mark.parametrize(
    ("sharing", "ran"),
    [
        (Sharing(), [4]),
        (Sharing("front", "front"), [4]),
        (Sharing("end"), [2, 3, 4]),
        (Sharing(bn="end"), [2, 3, 4]),
        (Sharing("independent", "independent", "independent"), [2, 3, 4]),
        (Sharing("end:2", "end:2"), [2, 3, 4]),
    ],
    ids=str,
)
def test_a_link_is_cut_from_its_widest_run_only_where_narrower_outputs_are_in_the_wider_ones(sharing, ran):
    given = setting_of(RESNET20, sharing)
    archs = archs_with(given.supernet, {"w1": 2}, {"w1": 3}, {"w1": 4})
    widths, scores, plain = widths_run(given, archs)
    assert sorted(widths) == ran
    assert scores == pytest.approx(plain, rel=1e-10)


@pytest.mark.parametrize("sharing", [Sharing("end"), Sharing(bn="end")], ids=str)
def test_a_cut_from_a_bank_that_is_not_nested_would_change_the_scores(sharing):
    given = setting_of(RESNET20, FULL)
    given = replace(given, supernet=supernet_of_case(RESNET20, sharing))
    archs = archs_with(given.supernet, {"w1": 2}, {"w1": 3}, {"w1": 4})
    for bank in banks_of(given.supernet.links[0]).values():
        assert not bank.bank.nested
        bank.bank = replace(bank.bank, nested=True)  # as if it were
    widths, cut, plain = widths_run(given, archs)
    assert widths == [4]
    assert cut[2] == pytest.approx(plain[2], rel=1e-10)
    assert cut[0] != pytest.approx(plain[0], rel=1e-6)


# checkpoints


@pytest.mark.parametrize("sharing", [*PUBLISHED, *GROUPS], ids=str)
def test_a_checkpoint_says_how_its_supernet_shares_and_comes_back_bit_for_bit(sharing, tmp_path):
    saved = supernet_of_case(DESCENDING, sharing, dtype=torch.float32)
    save_supernet(tmp_path / "a", saved, {"seed": 1})
    assert sharing_of_checkpoint(tmp_path / "a") == sharing
    loaded, about = supernet_of(tmp_path / "a", DESCENDING.make())
    assert about == {"seed": 1} and loaded.active.sharing == sharing
    assert loaded.state_dict().keys() == saved.state_dict().keys()
    assert not [n for n, tensor in loaded.state_dict().items() if not torch.equal(tensor, saved.state_dict()[n])]
    with safe_open(tmp_path / "a", framework="pt") as file:
        assert file.metadata().get("sharing") == (None if sharing == FULL else str(sharing))


def test_a_checkpoint_that_does_not_say_is_fully_shared(tmp_path):
    save_supernet(tmp_path / "a", supernet_of_case(DESCENDING, FULL), {})
    assert read_checkpoint_header(tmp_path / "a").sharing is None
    assert supernet_of(tmp_path / "a", DESCENDING.make())[0].active.sharing == FULL


def test_a_supernet_of_another_sharing_is_refused_and_stays_as_it_was(tmp_path):
    save_supernet(tmp_path / "a", supernet_of_case(DESCENDING, Sharing("end", "end")), {})
    supernet = supernet_of_case(DESCENDING, Sharing("front"))
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    message = (
        "a: shares weights by conv=end,bn=end,fc=full instead of conv=front,bn=full,fc=full; make the supernet with "
        r"make_supernet\(space, sharing=Sharing.parse\('conv=end,bn=end,fc=full'\)\)$"
    )
    with pytest.raises(CheckpointError, match=message):
        load_supernet(tmp_path / "a", supernet)
    assert not [n for n, tensor in supernet.state_dict().items() if not torch.equal(tensor, before[n])]


def test_a_sharing_that_is_not_known_here_is_refused_in_one_line(tmp_path):
    save_supernet(tmp_path / "a", supernet_of_case(DESCENDING, Sharing("end")), {})
    with safe_open(tmp_path / "a", framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(tmp_path / "a"), tmp_path / "a", {**metadata, "sharing": "conv=low-rank"})
    with pytest.raises(
        CheckpointError, match=r"a: sharing conv=low-rank: .*; use the version that it was trained with"
    ):
        supernet_of(tmp_path / "a", DESCENDING.make())


def test_a_copied_supernet_has_kernels_of_its_own():
    supernet = supernet_of_case(DESCENDING, Sharing("end", "end"))
    copied = copy.deepcopy(supernet)
    x, arch = DESCENDING.images(), supernet.domain.smallest
    before = logits_of(supernet, x, arch)
    randomize(copied, seed=5)
    assert torch.equal(logits_of(supernet, x, arch), before)
    assert not torch.allclose(logits_of(copied, x, arch), before)


# unsharing


def all_logits(supernet, archs, x):
    """Return the logits of archs, with running statistics and with those of the batch."""
    logits = [logits_of(supernet, x, arch) for arch in archs]
    with batch_statistics(supernet):
        return torch.stack([*logits, *(logits_of(supernet, x, arch) for arch in archs)])


@pytest.mark.parametrize(
    "steps",
    [
        [FULL, PUBLISHED[8]],
        [FULL, EVERY[-1]],
        [FULL, Sharing("end:8", "end:8"), Sharing("end:4", "end:4"), Sharing("end:2", "end"), Sharing("end", "end")],
        [FULL, Sharing("front:4"), Sharing("independent:2", "end:8"), Sharing("independent", "end", "independent")],
    ],
    ids=lambda steps: "→".join(map(str, steps)),
)
def test_unsharing_changes_the_logits_of_no_arch_in_any_bit(steps):
    shared = supernet = supernet_of_case(RESNET20, steps[0])
    archs, x = random_archs(supernet.domain, 12), RESNET20.images()
    expected = all_logits(shared, archs, x)
    for sharing in steps[1:]:
        finer = supernet_of_case(RESNET20, sharing, seed=7)
        assert not torch.allclose(all_logits(finer, archs, x), expected)
        unshare(supernet, finer)
        assert torch.equal(all_logits(finer, archs, x), expected)
        supernet = finer
    x = x.float()
    assert torch.equal(all_logits(supernet.float(), archs, x), all_logits(shared.float(), archs, x))


@every_case
def test_every_chain_can_be_unshared(case, sharing):
    shared, finer = supernet_of_case(case, FULL), supernet_of_case(case, sharing, seed=7)
    archs, x = covering_archs(shared.domain)[:5], case.images()
    unshare(shared, finer)
    assert torch.equal(all_logits(finer, archs, x), all_logits(shared, archs, x))
    with torch.no_grad():  # copies, which training on does not write back
        for parameter in finer.parameters():
            parameter.add_(1)
    assert not torch.equal(all_logits(finer, archs, x), all_logits(shared, archs, x))


def test_weights_that_would_have_to_become_one_are_refused_in_one_line():
    before = supernet_of_case(DESCENDING, Sharing("end", "end"))
    after = supernet_of_case(DESCENDING, Sharing("end:2", "end"))
    kept = {name: tensor.clone() for name, tensor in after.state_dict().items()}
    message = (
        "^a supernet of conv=end,bn=end,fc=full cannot start one of conv=end:2,bn=end,fc=full: kernels that differ "
        "would have to become one, and archs would change; give a sharing that only splits kernels"
    )
    with pytest.raises(InputError, match=message) as error:
        unshare(before, after)
    assert "\n" not in str(error.value)
    assert not [name for name, tensor in after.state_dict().items() if not torch.equal(tensor, kept[name])]


def test_a_supernet_of_a_different_space_is_no_start():
    shared = make_supernet(ResNet20Space(10, 3, 8, width_unit=1))
    for other in (ResNet20Space(11, 3, 8, width_unit=1), DESCENDING.make()):
        supernet = make_supernet(other, sharing=Sharing("end"))
        with pytest.raises(InputError, match="cannot start from a different space; give both the same arguments"):
            unshare(shared, supernet)
    with pytest.raises(ValueError, match="the space is not a supernet"):
        unshare(shared, ResNet20Space(10, 3, 8, width_unit=1))


# the command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Digits supernets, one of them fully shared, one not; and a list of archs."""
    folder = tmp_path_factory.mktemp("sharing")
    with pytest.MonkeyPatch.context() as patch:
        keep_nni_in(folder, patch)
        run("archs", "sample", "--space", "digits", "--count", 6, "--out", folder / "list.json")
        run(*SHORT_TRAINING, "--out", folder / "full")
        run(*SHORT_TRAINING, "--sharing", "conv=end,bn=end,fc=independent", "--out", folder / "end")
        yield folder


def scored(folder, checkpoint, out, *options):
    run("score", "--checkpoint", checkpoint, "--archs", folder / "list.json", "--images", 64, "--out", out, *options)
    return {name: score for name, (_, score) in read_scores(out, tiny_space().codec).scores.items()}


def test_a_training_names_its_sharing_and_another_one_is_refused(folder):
    settings = json.loads((folder / "end" / "settings.json").read_text())
    assert settings["sharing"] == "conv=end,bn=end,fc=independent"
    assert "sharing" not in json.loads((folder / "full" / "settings.json").read_text())
    header = read_checkpoint_header(folder / "end" / "supernet.safetensors")
    assert header.sharing == header.about["sharing"] == settings["sharing"]
    error = run(*SHORT_TRAINING, "--sharing", "conv=end", "--out", folder / "end", code=2).error
    assert "holds a run with sharing 'conv=end,bn=end,fc=independent', not 'conv=end,bn=full,fc=full'" in error
    assert (
        "is trained already"
        in run(*SHORT_TRAINING, "--sharing", "fc=independent,bn=end,conv=end", "--out", folder / "end").err
    )


def test_scoring_takes_the_sharing_from_the_checkpoint(folder, tmp_path):
    checkpoint = folder / "end" / "supernet.safetensors"
    fast = scored(folder, checkpoint, tmp_path / "fast.json")
    plain = scored(folder, checkpoint, tmp_path / "plain.json", "--scorer", "plain")
    assert fast == pytest.approx(plain, rel=1e-4)
    supernet, _ = supernet_of(checkpoint, tiny_space())
    assert len(banks_of(supernet)) > 20


def test_an_nni_trial_takes_the_sharing_from_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(nni, "report_intermediate_result", lambda score: None)
    monkeypatch.setattr(nni, "report_final_result", lambda score: None)
    supernet = supernet_of_case(DESCENDING, Sharing("end", "front", "independent"), dtype=torch.float32)
    save_supernet(tmp_path / "a", supernet, {})
    batches = [(images.float(), labels) for images, labels in random_batches((3, 8, 8), (8, 5), seed=1)]
    scoring = Scoring("loss", "batch", lambda: batches)
    for arch in archs_of(supernet.domain, 5):
        with model_context(supernet.sample(arch)):
            model = DESCENDING.make()
        (expected,) = score_archs(supernet, [arch], scoring)
        assert score_subnet(model, scoring=lambda: scoring, checkpoint=str(tmp_path / "a")) == expected.loss


def test_a_training_can_start_from_a_shared_supernet_whose_archs_it_does_not_change(folder, tmp_path):
    weights = ("--weights", folder / "full" / "supernet.safetensors")
    groups = (*weights, "--sharing", "conv=end:8,bn=end:8", "--set", "lr=0", "--out", tmp_path / "groups")
    run(*SHORT_TRAINING, *groups)
    still = ("--weights", tmp_path / "groups" / "supernet.safetensors", "--sharing", "conv=end,bn=end", "--set", "lr=0")
    run(*SHORT_TRAINING, *still, "--out", tmp_path / "still")
    on = (*still[:-2], "--out", tmp_path / "on")
    run(*SHORT_TRAINING, *on)
    expected = scored(folder, weights[1], tmp_path / "full.json")
    for name in ("groups", "still"):
        assert scored(folder, tmp_path / name / "supernet.safetensors", tmp_path / f"{name}.json") == expected
    trained = scored(folder, tmp_path / "on" / "supernet.safetensors", tmp_path / "on.json")
    assert trained != expected
    header = read_checkpoint_header(tmp_path / "on" / "supernet.safetensors")
    assert header.sharing == "conv=end,bn=end,fc=full"
    assert header.about["trained_on_from"]["sharing"] == "conv=end:8,bn=end:8,fc=full"


def test_without_a_word_a_training_shares_as_the_weights_that_it_starts_from(folder, tmp_path):
    run(*SHORT_TRAINING, "--weights", folder / "end" / "supernet.safetensors", "--out", tmp_path)
    assert sharing_of_checkpoint(tmp_path / "supernet.safetensors") == Sharing("end", "end", "independent")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--sharing", "conv=ends"), "sharing conv=ends: there is no such rule; allowed are full, front, end, indep"),
        (
            ("--sharing", "conv=full"),
            "cannot start one of conv=full,bn=full,fc=full: kernels that differ would have to",
        ),
        (("--sharing", "conv=end:2,bn=end"), "cannot start one of conv=end:2,bn=end,fc=full: kernels that differ"),
        (("--data", "cifar10", "--recipe", "short", "--data-root", "nowhere"), "was trained on digits, whose classes"),
    ],
)
def test_a_start_that_would_change_archs_is_one_line_and_exit_2(folder, tmp_path, words, message):
    weights = folder / "end" / "supernet.safetensors"
    error = run(*SHORT_TRAINING, "--weights", weights, *words, "--out", tmp_path / "no", code=2).error
    assert message in error
    assert not (tmp_path / "no").exists()
