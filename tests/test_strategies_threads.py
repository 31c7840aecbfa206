"""Archs of a step on threads of their own: the same gradients, to the last bit, as one arch after the other.

Running statistics differ by rounding where torch's own batch norm runs, as it does on features of one channel.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import random_archs, randomize, tiny_supernet
from pytorch_lightning.callbacks import Callback
from test_strategies_oneshot import evaluator_for, refusal_of_run, small_batch, trained, weights_of
from torch import nn

from nni_nas_consistency import InputError, SandwichStrategy, make_supernet
from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.spaces.spos_cifar import SposCifarSpace
from nni_nas_consistency.strategies.oneshot import FrozenTeacher
from nni_nas_consistency.strategies.steps import (
    RankLoss,
    frozen_teacher_step,
    label_step,
    multi_path_step,
    pool_distillation_step,
    sandwich_step,
)
from nni_nas_consistency.strategies.threads import ArchThreads, can_run_on_threads
from nni_nas_consistency.supernet.sharing import Sharing


def teacher(x):
    return x.flatten(1)[:, :10]


def frozen(*arguments, **how):
    return frozen_teacher_step(*arguments, **how, teacher=teacher, weights=[0.5, 0.25, 1.0, 1.0, 1.0, 1.0])


def ordered(supernet, *arguments, **how):
    rank = RankLoss(2.0, lambda arch: supernet.complexity(arch).macs)
    return frozen_teacher_step(supernet, *arguments, **how, teacher=teacher, rank=rank)


STEPS = [sandwich_step, multi_path_step, label_step, pool_distillation_step, frozen, ordered]


@pytest.fixture(autouse=True)
def one_thread_an_arch():
    """Convolutions take their sums in another order on more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


def supernet(channels=3, dtype=torch.float32, sharing=None):
    space = ResNet20Space(10, channels, 8, width_unit=1)
    made = make_supernet(space, **({} if sharing is None else {"sharing": sharing})).to(dtype)
    randomize(made, seed=0)
    return made.train()


def outcome(step, network, threads, mixed=False, steps=2):
    """Return losses, gradients and buffers after some steps on six archs."""
    kernel = next(network.parameters())
    images = torch.randn(8, kernel.shape[1], 8, 8, generator=torch.Generator().manual_seed(0)).to(kernel.dtype)
    archs = [network.largest, network.smallest, *random_archs(network.domain, 4)]
    losses = []
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16, mixed):
            losses.append(step(network, images, torch.arange(8), archs, threads=threads))
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    return torch.stack(losses), gradients, dict(network.named_buffers())


def assert_same(one, other):
    (losses, gradients, buffers), (others, of_others, buffers_of_others) = one, other
    assert torch.equal(losses, others)
    assert gradients.keys() == of_others.keys()
    for name, gradient in gradients.items():
        assert (gradient is None) == (of_others[name] is None), name
        assert gradient is None or torch.equal(gradient, of_others[name]), name
    torch.testing.assert_close(buffers, buffers_of_others, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("count", [2, 3])
def test_losses_gradients_and_running_statistics_are_those_of_archs_one_by_one_to_the_last_bit(step, count):
    network = supernet()
    assert_same(outcome(step, network, ArchThreads(network, count)), outcome(step, supernet(), None))


@pytest.mark.parametrize(
    "how", [{"mixed": True}, {"dtype": torch.float64}, {"channels": 1}, {"sharing": "conv=end,bn=end"}]
)
def test_so_they_are_in_mixed_and_double_precision_for_other_layouts_and_with_kernels_of_their_own(how):
    mixed, sharing = how.pop("mixed", False), how.pop("sharing", None)
    made = {**how, "sharing": sharing and Sharing(conv="end", bn="end")}
    network = supernet(**made)
    threaded = outcome(sandwich_step, network, ArchThreads(network, 2), mixed)
    assert_same(threaded, outcome(sandwich_step, supernet(**made), None, mixed))


def test_an_arch_that_fails_fails_the_step_and_leaves_gradients_and_threads_as_they_were():
    network = supernet()
    threads = ArchThreads(network, 2)

    def step(network):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        threads.run([lambda each: (each(torch.zeros(2, 3, 8, 8)).sum(), torch.zeros(1)), step])
    assert all(parameter.grad is None for parameter in network.parameters())
    assert_same(outcome(sandwich_step, network, threads), outcome(sandwich_step, supernet(), None))


def test_a_strategy_trains_the_same_supernet_on_threads():
    x, y = small_batch()
    weights = [
        weights_of(trained(SandwichStrategy(4, stacking=way), evaluator_for(x, y, lr=0.1, max_epochs=2)))
        for way in ("sliced", "threads")
    ]
    learnt = [{name: w for name, w in each.items() if "running" not in name} for each in weights]
    assert not [name for name, weight in learnt[0].items() if not torch.equal(weight, learnt[1][name])]
    torch.testing.assert_close(*weights, rtol=1e-6, atol=1e-7)


class ThreadsOfSteps(Callback):
    """Notes whether a step has left threads for archs, and how many torch has in a thread that begins afterwards."""

    def on_train_batch_end(self, trainer, module, *arguments):
        self.module = module  # which is kept, as a script may keep it
        with ThreadPoolExecutor(1) as other:
            self.torch = other.submit(torch.get_num_threads).result()
        self.archs = any(thread.name.startswith("arch") for thread in threading.enumerate())


@pytest.mark.parametrize(("threads", "used"), [(1, False), (2, True)])
def test_archs_that_are_too_large_to_stack_have_threads_where_torch_has_two(threads, used):
    torch.set_num_threads(threads)
    x, y, seen = torch.randn(2, 3, 32, 32), torch.arange(2), ThreadsOfSteps()
    trained(SandwichStrategy(3, watched=0), evaluator_for(x, y, callbacks=[seen]), ResNet20Space(10))
    torch.set_num_threads(1)
    assert (seen.torch, seen.archs) == (threads, used)


def test_the_threads_of_a_training_end_with_it():
    before, seen = threading.active_count(), ThreadsOfSteps()
    trained(SandwichStrategy(3, stacking="threads"), evaluator_for(*small_batch(), callbacks=[seen]))
    assert seen.archs
    assert threading.active_count() == before


def test_a_rank_loss_is_refused_on_threads():
    teacher = FrozenTeacher(nn.Identity(), rank_weight=1.0)
    with pytest.raises(InputError, match="a rank loss needs the losses before it: use stacking='auto'"):
        SandwichStrategy(3, rule="frozen-teacher", teacher=teacher, stacking="threads")


def test_spaces_that_cannot_run_side_by_side_are_refused_or_run_one_by_one():
    class WithDropout(SposCifarSpace):
        def __init__(self):
            super().__init__(10, 1, 8)
            self.links.append(nn.Dropout(0.1))

    assert not can_run_on_threads(make_supernet(WithDropout()))
    assert can_run_on_threads(tiny_supernet())
    assert refusal_of_run(SandwichStrategy(2, rule="multi-path", stacking="threads"), space=WithDropout()) == (
        "stacking is 'threads', but archs of WithDropout run one by one: threads need a CPU and a chain space of "
        "elastic modules without dropout; use stacking='auto'"
    )
