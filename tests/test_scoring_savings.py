"""How much sharing prefixes saves: what is counted is what the prefix scorer runs."""

import json
import math

import pytest
import torch
from codes import shared_data
from helpers import random_archs, randomize, tiny_space
from scoring_chains import CHAINS, archs_of, case_of
from torch import nn

from nni_nas_consistency.archs.domains import DIGITS, RELEASED
from nni_nas_consistency.scoring.arch_list import segments_of
from nni_nas_consistency.scoring.memory import Layout
from nni_nas_consistency.scoring.prefix import score_prefixes
from nni_nas_consistency.scoring.savings import macs_of_walk, saved_share
from nni_nas_consistency.scoring.scoring import Scoring
from nni_nas_consistency.scoring.trie import keys_of
from nni_nas_consistency.spaces.resnet48 import ResNet48Space
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.supernet.modules import ElasticConvBN, ElasticLinear
from nni_nas_consistency.supernet.sharing import FULL, Sharing

SHARINGS = [FULL, Sharing(conv="end", bn="end"), Sharing(conv="front", bn="front")]
"""With kernels of their own for outputs, or inputs, links run at each width, or still at the widest."""

COSTED = [case_of(name) for name in ("chain-resnet20", "chain-resnet20-standalone", "chain-resnet48")]


def macs_run(supernet, archs, images):
    """Return the MACs for one image of all layers that run while archs are scored, by the shapes that go through."""
    macs = []

    def count(module, inputs, output):
        kernels = [layer.kernel_size for layer in module.modules() if isinstance(layer, nn.Conv2d)] or [(1,)]
        macs.append(inputs[0].shape[1] * math.prod(kernels[0]) * math.prod(output.shape[1:]))

    for module in supernet.modules():
        if isinstance(module, (ElasticConvBN, ElasticLinear)):
            module.register_forward_hook(count)
    next(score_prefixes(supernet, [archs], Scoring("loss", "batch", lambda: images), layout=Layout()))
    return sum(macs)


@pytest.mark.parametrize("case", COSTED, ids=str)
@pytest.mark.parametrize("sharing", SHARINGS, ids=str)
def test_the_macs_that_are_counted_are_those_that_run(case, sharing):
    supernet = make_supernet(case.make(), sharing=sharing).double()
    randomize(supernet, seed=0)
    archs = archs_of(supernet.domain)
    counted = macs_of_walk(supernet, archs)
    images = case.images()
    assert counted == macs_run(supernet, archs, [(images, torch.arange(len(images)))])
    one_by_one = sum(supernet.complexity(arch).macs for arch in archs)
    assert saved_share(supernet, [archs]) == 1 - counted / one_by_one > 0.05
    assert saved_share(supernet, [[arch] for arch in archs]) == 0


def test_a_kernel_for_each_output_width_saves_less_than_one_for_all():
    shares = []
    for sharing in SHARINGS[:2]:
        supernet = make_supernet(COSTED[0].make(), sharing=sharing)
        shares.append(saved_share(supernet, [archs_of(supernet.domain)]))
    assert shares[0] > shares[1]


def test_archs_that_differ_in_digits_of_one_width_share_all_of_it():
    space = ResNet48Space(10, 3, 32, width_divisor=8)
    aliases = [space.codec.arch({**space.smallest.choices, "s1b2c1": digit}) for digit in (1, 2)]
    assert aliases[0] != aliases[1]
    assert saved_share(space, [aliases]) == 0.5


def test_a_space_whose_links_do_not_know_their_cost_has_no_share():
    case = next(case for case in CHAINS if case.name == "chain-operators")
    space = case.make()
    assert saved_share(space, [[space.domain.arch({"op": "pool", "last": 0})]]) is None


def test_segments_are_neighbours_by_what_links_depend_on_and_in_resnet20_by_their_widths_as_before():
    supernet = make_supernet(ResNet48Space(10, 3, 32, width_divisor=8))
    archs = {f"arch{index}": arch for index, arch in enumerate(random_archs(RELEASED, 300))}
    by_keys, by_code = segments_of(archs, supernet), segments_of(archs)
    assert sorted(map(len, by_keys)) == sorted(map(len, by_code)) and by_keys != by_code
    shares = [
        saved_share(supernet, [[archs[name] for name in names] for names in segments])
        for segments in (by_keys, by_code)
    ]
    assert shares[0] > shares[1] + 0.05
    ordered = [keys_of(supernet, archs[name]) for names in by_keys for name in names]
    assert (
        len({keys[:9] for keys in ordered})
        == sum(a[:9] != b[:9] for a, b in zip(ordered, ordered[1:], strict=False)) + 1
    )

    digits = {f"arch{index}": arch for index, arch in enumerate(random_archs(DIGITS, 300))}
    assert segments_of(digits, make_supernet(tiny_space())) == segments_of(digits)


@pytest.mark.slow
def test_of_the_macs_of_the_45000_released_archs_about_half_are_saved():
    released = json.loads(shared_data("cvpr2022", "CVPR_2022_NAS_Track1_test.json").read_text())
    supernet = make_supernet(ResNet48Space())
    archs = {name: supernet.codec.parse(entry["arch"], name) for name, entry in released.items()}
    segments = [[archs[name] for name in names] for names in segments_of(archs, supernet)]
    assert saved_share(supernet, segments) == pytest.approx(0.486, abs=5e-4)
    for link in supernet.links:
        link.nested = False  # a trie of convolutions
    assert saved_share(supernet, [list(archs.values())]) == pytest.approx(0.469, abs=5e-4)
