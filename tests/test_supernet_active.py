"""Making a supernet, setting its active subnet, and taking the weights of one out."""

import copy

import nni
import pytest
import torch
from chains import DescendingChain, MixedChain, Part, domain
from helpers import random_archs, random_batch, tiny_space, tiny_supernet
from nni.mutable import MutableExpression
from nni.nas.nn.pytorch import (
    InputChoice,
    MutableBatchNorm2d,
    MutableConv2d,
    MutableDropout,
    MutableLayerNorm,
    MutableLinear,
)
from torch import nn

from nni_nas_consistency.errors import ArchError, InputError
from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.supernet.active import active_subnet, logits_of
from nni_nas_consistency.supernet.extract import copy_into, sub_state_dict
from nni_nas_consistency.supernet.make import make_supernet
from spaces import EVERY_SPACE

every_chain = pytest.mark.parametrize("case", [case for case in EVERY_SPACE if case.is_chain], ids=str)


class OneLink(ChainSpace):
    """A chain of one link, which a function makes from a choice between 2 and 4 channels."""

    def __init__(self, link):
        super().__init__(domain("one-link", {"width": (2, 4)}, {"width": 4}, {"width": 2}), 8)
        self.links = nn.ModuleList([Part(link(self.choice("width")))])


def test_a_supernet_runs_as_its_largest_subnet_until_another_is_set():
    supernet = tiny_supernet().eval()
    images, _ = random_batch()
    assert torch.equal(supernet(images), logits_of(supernet, images, supernet.largest))
    assert not torch.equal(supernet(images), logits_of(supernet, images, supernet.smallest))


def test_an_arch_can_be_given_as_nnis_sample():
    supernet = tiny_supernet().eval()
    (arch,), (images, _) = random_archs(supernet.domain, 1), random_batch()
    sample = supernet.sample(arch)
    assert torch.equal(logits_of(supernet, images, sample), logits_of(supernet, images, arch))
    weights = sub_state_dict(supernet, arch)
    assert not [name for name, t in sub_state_dict(supernet, sample).items() if not torch.equal(t, weights[name])]
    with pytest.raises(ArchError, match="layer 3 of arch '.*' asks for width 5; digits allows 1, 2, 3, 4"):
        logits_of(supernet, images, sample | {"w3": 5})
    del sample["w3"]
    with pytest.raises(ArchError, match="arch has no choice for w3"):
        sub_state_dict(supernet, sample)


def test_the_active_subnet_is_put_back_after_nesting_and_after_an_exception():
    supernet = tiny_supernet().train()
    small, (other, third) = supernet.smallest, random_archs(supernet.domain, 2)
    images, _ = random_batch()
    expected = {arch: supernet.freeze(supernet.sample(arch))(images) for arch in (supernet.largest, small, other)}

    def runs(arch):
        return torch.equal(supernet(images), expected[arch])

    with active_subnet(supernet, small):
        assert runs(small)
        with active_subnet(supernet, other):
            with pytest.raises(KeyError), active_subnet(supernet, [small, third]):
                raise KeyError
            assert runs(other)
        assert runs(small)
        with pytest.raises(ArchError), active_subnet(supernet, {"w1": 1}):
            pytest.fail("the sample is not complete")
        assert runs(small)
    assert runs(supernet.largest)


def test_nnis_modules_in_a_chain_are_put_back_too():
    supernet = make_supernet(MixedChain()).eval()
    first, second = (supernet.codec.arch({"width": 4, "kernel": kernel, "size": (3, 3)}) for kernel in (1, 3))
    images = torch.randn(2, 3, 8, 8)
    with active_subnet(supernet, first):
        expected = supernet(images)
        assert not torch.allclose(logits_of(supernet, images, second), expected)
        assert torch.equal(supernet(images), expected)


def test_a_space_that_is_no_supernet_has_no_active_subnet_and_no_weights_to_extract():
    space = tiny_space()
    message = "the space is not a supernet: train it with SandwichStrategy, or call make_supernet first"
    with pytest.raises(ValueError, match=message), active_subnet(space, space.largest):
        pytest.fail("there is nothing to activate")
    with pytest.raises(ValueError, match=message):
        sub_state_dict(space, space.largest)


@every_chain
def test_a_copied_supernet_has_an_active_subnet_of_its_own(case):
    supernet = make_supernet(case.make()).double().eval()
    first, second = random_archs(supernet.domain, 2, seed=1)
    images = case.images()
    twin = copy.deepcopy(supernet)
    with active_subnet(supernet, first):
        expected = supernet(images)
        with active_subnet(twin, second):
            assert torch.equal(supernet(images), expected)
            assert not torch.equal(twin(images), expected)
            assert torch.equal(logits_of(twin, images, first), expected)


@every_chain
def test_a_supernet_keeps_the_choices_and_the_names_of_the_weights_of_its_space(case):
    space = case.make()
    names, labels = list(space.state_dict()), list(space.simplify())
    supernet = make_supernet(space)
    assert supernet is space
    assert list(supernet.state_dict()) == names
    assert list(supernet.simplify()) == labels


def test_a_supernet_is_made_once():
    with pytest.raises(ValueError, match="the space is a supernet already"):
        make_supernet(tiny_supernet())


def test_a_supernet_has_type_mode_settings_and_the_weights_of_the_largest_size_of_its_space():
    space = DescendingChain().double().eval()
    space.links[0].conv.bn.eps, space.links[0].conv.bn.momentum = 0.5, 0.3
    before = {name: tensor.clone() for name, tensor in space.state_dict().items()}
    supernet = make_supernet(space)
    assert not [name for name, tensor in supernet.state_dict().items() if not torch.equal(tensor, before[name])]
    assert not any(module.training for module in supernet.modules())
    norm = supernet.links[0].conv.bn
    assert (norm.eps, norm.momentum, norm.weight.dtype) == (0.5, 0.3, torch.float64)


def test_fixed_layers_are_left_as_they_are():
    grouped, reflected = MutableConv2d(4, 4, 1, groups=2), MutableConv2d(4, 4, 3, padding_mode="reflect", padding=1)
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    supernet = make_supernet(OneLink(lambda width: nn.Sequential(MutableConv2d(3, width, 1), grouped, reflected, norm)))
    _, *layers = supernet.links[0].module
    assert [type(layer) for layer in layers] == [nn.Conv2d, nn.Conv2d, nn.BatchNorm2d]
    assert layers == [grouped, reflected, norm]


class OwnConv(MutableConv2d):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("link", "message"),
    [
        (
            lambda width: MutableConv2d(3, width * nni.choice("r", [1, 1.5]), 1),
            r"\(MutableConv2d\): .* is not a choice of widths; give integ",
        ),
        (
            lambda width: MutableLinear(8, nni.choice("f", [2, 2.5])),
            r"\(MutableLinear\): .* is not a choice of width",
        ),
        (lambda width: OwnConv(in_channels=3, out_channels=width, kernel_size=1), r"\(OwnConv\): NNI has no supernet"),
        (lambda width: MutableDropout(nni.choice("p", [0.1, 0.5])), r"\(MutableDropout\): NNI has no supernet module"),
        (
            lambda width: MutableLayerNorm(8, bias=nni.choice("b", [True, False])),
            r"\(MutableLayerNorm\): NNI says .*bias",
        ),
        (lambda width: InputChoice(3, None, label="any"), r"\(InputChoice\): n_chosen=None .* give a number"),
        (lambda width: InputChoice(3, 1, "none", label="any"), r"\(InputChoice\): reduction='none' .* give 'sum'"),
    ],
)
def test_choices_that_no_supernet_module_serves_are_refused_by_path_and_the_space_stays_as_it_was(link, message):
    space = OneLink(link)
    modules = list(space.modules())
    with pytest.raises(InputError, match=rf"^links\.0\.module {message}") as error:
        make_supernet(space)
    assert "\n" not in str(error.value)
    assert list(space.modules()) == modules
    assert space.active is None


def test_widths_can_be_expressions_that_are_integers():
    link = make_supernet(OneLink(lambda width: MutableConv2d(3, MutableExpression.to_int(width * 0.5), 1)))
    weights = sub_state_dict(link, link.smallest)
    assert weights["links.0.module.weight"].shape == (1, 3, 1, 1)


@pytest.mark.parametrize(
    "layers",
    [
        lambda width: MutableConv2d(3, 2 * width, nni.choice("width", [2, 4]) - 1, padding="same"),
        lambda width: nn.Sequential(MutableConv2d(3, width, 1), MutableConv2d(width, 2 * width, 1, groups=width)),
        lambda width: nn.Sequential(MutableConv2d(3, width, 1), MutableBatchNorm2d(width, track_running_stats=False)),
    ],
)
def test_what_elastic_layers_do_not_serve_is_left_to_nnis_supernet_modules(layers):
    supernet = make_supernet(OneLink(layers)).double()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    for arch in (supernet.largest, supernet.smallest):
        frozen = supernet.freeze(supernet.sample(arch))
        torch.testing.assert_close(logits_of(supernet, images, arch), frozen(images), rtol=1e-12, atol=1e-12)
    assert not supernet.can_stack([supernet.largest, supernet.smallest])


def test_extracted_weights_are_views_of_the_shared_ones():
    supernet = tiny_supernet()
    (arch,) = random_archs(supernet.domain, 1)
    shared = supernet.state_dict()
    for name, tensor in sub_state_dict(supernet, arch).items():
        assert tensor.untyped_storage().data_ptr() == shared[name].untyped_storage().data_ptr(), name
        assert not tensor.requires_grad
    sub_state_dict(supernet, arch)["links.0.conv.conv.weight"].fill_(3)
    assert (supernet.links[0].conv.conv.weight[: arch.choices["w1"]] == 3).all()


@every_chain
def test_changing_a_frozen_subnet_leaves_the_supernet_alone(case):
    supernet = make_supernet(case.make())
    (arch,) = random_archs(supernet.domain, 1)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    frozen = supernet.freeze(supernet.sample(arch))
    with torch.no_grad():
        for tensor in frozen.state_dict().values():
            tensor.fill_(5)
    assert not [name for name, tensor in supernet.state_dict().items() if not torch.equal(tensor, before[name])]


def test_freezing_a_subnet_does_not_move_torchs_generator():
    supernet = tiny_supernet()
    before = torch.get_rng_state()
    supernet.freeze(supernet.sample(supernet.largest))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("training", [False, True])
@every_chain
def test_a_frozen_subnet_is_trainable_and_in_the_mode_of_its_supernet(case, training):
    supernet = make_supernet(case.make()).train(training)
    (arch,) = random_archs(supernet.domain, 1)
    frozen = supernet.freeze(supernet.sample(arch))
    assert {module.training for module in frozen.modules()} == {training}
    assert all(parameter.requires_grad for parameter in frozen.parameters())
    assert not [label for label in supernet.allowed if frozen.frozen_arch.choices[label] != arch.choices[label]]
    assert frozen.active is None


def test_a_module_in_two_places_of_a_subnet_has_its_weights_under_both_names():
    conv = nn.Conv2d(4, 4, 1)
    space = OneLink(lambda width: nn.Sequential(MutableConv2d(3, width, 1), MutableConv2d(width, 4, 1), conv, conv))
    supernet = make_supernet(space)
    images = torch.randn(2, 3, 8, 8)
    frozen = supernet.freeze(supernet.sample(supernet.smallest))
    assert torch.equal(frozen(images), logits_of(supernet, images, supernet.smallest))


def test_copies_go_only_into_networks_that_have_exactly_their_names():
    supernet = tiny_supernet()
    small, large = (supernet.freeze(supernet.sample(arch)) for arch in (supernet.smallest, supernet.largest))
    weights = dict(large.state_dict())
    copy_into(small, weights)
    assert not [name for name, tensor in small.state_dict().items() if not torch.equal(tensor, weights[name])]
    with pytest.raises(KeyError, match="links.20.weight"):
        copy_into(small, weights | {"links.20.weight": torch.ones(1)})
    del weights["links.19.linear.bias"]
    with pytest.raises(KeyError, match="links.19.linear.bias"):
        copy_into(small, weights)
