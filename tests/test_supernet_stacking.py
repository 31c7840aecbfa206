"""Several archs in one stacked batch are the same archs one by one; which of them can be stacked."""

import copy

import pytest
import torch
import torch.nn.functional as F
from chains import AbsentLinksChain, DepthChain, InputChain, MixedChain, OperatorChain, TokenChain, stackable_archs
from helpers import randomize

from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.supernet.active import active_subnet, logits_of, stack, unstack
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.supernet.statistics import batch_norms, batch_statistics
from spaces import EVERY_SPACE

STACKED = [case for case in EVERY_SPACE if case.is_chain and case.name not in ("chain-mixed", "chain-inputs-joined")]
every_stacked_chain = pytest.mark.parametrize("case", STACKED, ids=str)


def supernet_of(case):
    supernet = make_supernet(case.make()).double().train()
    randomize(supernet, seed=0)
    return supernet


def some_stack(case, least=2):
    """Return archs of different widths that share all modules; the first arch of a domain is what they share."""
    space = case.make()
    picks = {variable.name: variable.choices[-1] for variable in space.domain.variables}
    archs = list(dict.fromkeys(stackable_archs(space, space.domain.arch(picks))))
    if case.name in ("chain-operators", "chain-spos-cifar", "chain-spos-cifar-blocks"):
        archs = archs * 2  # no widths: a stack of one network twice
    assert len(archs) >= least
    return archs


def gradients_of(network):
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in network.named_parameters()}


def assert_close(left, right):
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(
            left[name], right[name], rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )


def assert_stacked_is_one_by_one(case, archs, images):
    one_by_one, stacked = supernet_of(case), supernet_of(case)
    weights = torch.linspace(0.5, 1.5, len(archs), dtype=torch.float64)  # so that swapped archs show in the gradients
    expected = torch.stack([logits_of(one_by_one, images, arch) for arch in archs])
    logits = logits_of(stacked, images, archs)
    for outputs in (expected, logits):
        losses = [F.cross_entropy(output, torch.arange(len(images))) for output in outputs]
        (torch.stack(losses) * weights).sum().backward()
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    assert_close(gradients_of(stacked), gradients_of(one_by_one))
    assert_close(dict(stacked.named_buffers()), dict(one_by_one.named_buffers()))


@every_stacked_chain
def test_outputs_gradients_and_running_statistics_of_a_stacked_batch_are_those_of_its_archs_one_by_one(case):
    assert_stacked_is_one_by_one(case, some_stack(case), case.images())


@pytest.mark.parametrize(("n", "images"), [(1, 5), (6, 3), (2, 1)])
def test_stacks_and_batches_of_any_size_are_the_same_one_by_one(n, images):
    case = next(case for case in STACKED if case.name == "chain-resnet20")
    assert_stacked_is_one_by_one(case, some_stack(case, n)[:n], case.images()[:images])


def test_projections_of_a_stack_stay_projections_where_the_widest_input_is_as_wide_as_the_widest_output():
    case = next(case for case in STACKED if case.name == "chain-resnet20-standalone")
    domain = case.make().domain
    widths = [{"w3": 2, "w5": 3}, {"w3": 3, "w5": 2}]
    archs = [domain.arch({**domain.largest.choices, **changed}) for changed in widths]
    assert case.make().can_stack(archs)
    assert_stacked_is_one_by_one(case, archs, case.images())


@every_stacked_chain
def test_with_the_statistics_of_each_batch_a_stack_leaves_the_running_ones_alone(case):
    supernet, archs, images = supernet_of(case).eval(), some_stack(case), case.images()
    before = {name: tensor.clone() for name, tensor in supernet.named_buffers()}
    with batch_statistics(supernet):
        expected = torch.stack([logits_of(supernet, images, arch) for arch in archs])
        torch.testing.assert_close(logits_of(supernet, images, archs), expected, rtol=1e-10, atol=1e-10)
    assert not [name for name, tensor in supernet.named_buffers() if not torch.equal(tensor, before[name])]


def test_a_stack_that_ran_without_gradients_in_inference_mode_can_be_trained_afterwards():
    case = next(case for case in STACKED if case.name == "chain-descending")
    supernet, archs = supernet_of(case).float(), some_stack(case) * 3  # a stack that no other test runs
    images = case.images().float()
    with torch.inference_mode():
        logits_of(supernet, images, archs)
    logits_of(supernet, images, archs).sum().backward()
    assert gradients_of(supernet)["links.0.conv.bn.bias"].abs().sum() > 0


def both(space):
    """Return a space and a supernet of it."""
    return space, make_supernet(copy.deepcopy(space))


@pytest.mark.parametrize(
    ("make", "changed", "can"),
    [
        (OperatorChain, {"op": "pool"}, False),
        (OperatorChain, {"last": 0}, False),
        (lambda: InputChain("mean"), {"one": (0,)}, False),
        (lambda: InputChain("mean"), {"two": (0, 2)}, False),
        (lambda: InputChain("mean"), {"width": 2}, True),
        (lambda: InputChain("concat"), {"width": 2}, False),
        (DepthChain, {"depth": 2}, False),
        (DepthChain, {"tail": 0}, False),
        (DepthChain, {"half": 1}, False),
        (DepthChain, {"op2": 0}, False),
        (DepthChain, {"hidden": 2}, True),
        (AbsentLinksChain, {"depth": 2}, False),
        (AbsentLinksChain, {"width": 2}, True),
        (TokenChain, {"dimension": 4}, False),
        (TokenChain, {"ratio": 1, "last": 3}, True),
        (MixedChain, {"kernel": 1}, False),
        (lambda: ResNet20Space(width_unit=1), {"w3": 2, "w5": 2}, True),
        (lambda: ResNet20Space(shortcut="standalone", width_unit=1), {"w3": 2, "w5": 3}, True),
        (lambda: ResNet20Space(shortcut="standalone", width_unit=1), {"w3": 3}, False),
    ],
)
def test_archs_can_be_stacked_if_they_differ_by_width_alone(make, changed, can):
    for space in both(make()):
        arch = space.domain.arch({variable.name: variable.choices[-1] for variable in space.domain.variables})
        base = {"w3": 4, "w5": 3, "w7": 4} if "w1" in arch.choices else {}  # projections in the first three blocks
        arch = space.domain.arch({**arch.choices, **base})
        assert space.can_stack([arch, space.domain.arch({**arch.choices, **changed})]) == can


def test_archs_with_different_modules_are_refused_and_the_active_subnet_stays():
    supernet = make_supernet(OperatorChain()).eval()
    first, second = (supernet.codec.arch({"op": op, "last": 0}) for op in ("conv3", "pool"))
    images = torch.randn(2, 3, 8, 8)
    with active_subnet(supernet, second):
        expected = supernet(images)
        with pytest.raises(ValueError, match="do not use the same modules and cannot be stacked; run them one by one"):
            logits_of(supernet, images, [first, second])
        assert torch.equal(supernet(images), expected)
    with pytest.raises(ValueError, match="the list of archs is empty; give at least one"):
        logits_of(supernet, images, [])


def test_a_stacked_batch_is_refused_where_its_archs_have_no_statistics_of_their_own():
    case = next(case for case in STACKED if case.name == "chain-resnet20")
    supernet, archs, images = supernet_of(case).eval(), some_stack(case)[:2], case.images()
    with pytest.raises(RuntimeError, match="put the batch norms into training mode"):
        logits_of(supernet, images, archs)
    supernet.train()
    for norm in batch_norms(supernet):
        norm.momentum = None
    with pytest.raises(RuntimeError, match="cannot update cumulative statistics .*; run the archs one by one"):
        logits_of(supernet, images, archs)


def test_stacking_puts_all_images_of_an_arch_side_by_side():
    x = torch.arange(6.0).view(3, 2, 1, 1)
    assert stack(x, 2).flatten(1).tolist() == [[0, 1], [2, 3], [4, 5]] * 2
    assert unstack(stack(x, 4).flatten(1), 4).tolist() == [[[0, 1], [2, 3], [4, 5]]] * 4
