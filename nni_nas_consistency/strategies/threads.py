"""The passes of a training step on threads of their own: one arch on each core, not one arch after the other on all.

The layers of a narrow arch are too small for several cores. Gradients and running statistics come out as if the passes
had run one after the other, whichever thread took which (docs/decisions/0032-arch-threads.md).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeAlias, cast

import torch
from nni.nas.hub.pytorch.utils.nn import DropPath
from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor, nn

from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.supernet.active import active_of
from nni_nas_consistency.supernet.modules import BatchMoments, ElasticBatchNorm2d
from nni_nas_consistency.supernet.statistics import batch_norms

Pass: TypeAlias = "Callable[[ModelSpace], tuple[Tensor, Tensor]]"
"""Runs some archs of a supernet, and returns what to differentiate, a scalar, and the losses to report."""

MOST_THREADS = 4
"""Each thread holds the features of an arch for its backward pass."""

DRAWS = (nn.modules.dropout._DropoutNd, DropPath, nn.RReLU, nn.MultiheadAttention)
"""Modules that may draw random numbers in training mode."""


@dataclass(frozen=True)
class _Outcome:
    """What a pass leaves: its losses, a gradient for each parameter, and what each batch norm would have kept."""

    losses: Tensor
    gradients: tuple[Tensor | None, ...]
    moments: list[list[BatchMoments]]


class ArchThreads:
    """Threads that run the passes of training steps of one supernet.

    Each thread has modules of its own, with an active subnet of its own, over the parameters and buffers of the
    supernet.

    Args:
        supernet: A chain space after `make_supernet`, on a CPU, in training mode; see `can_run_on_threads`.
        count: Number of threads. They share the threads that torch is set to. Modules stay in the mode that they have
            now.
    """

    def __init__(self, supernet: ModelSpace, count: int) -> None:
        network = cast("nn.Module", supernet)
        self.count = count
        self._parameters = list(network.parameters())
        self._norms = cast("list[ElasticBatchNorm2d]", batch_norms(network))
        self._copies: SimpleQueue[tuple[ModelSpace, list[ElasticBatchNorm2d]]] = SimpleQueue()
        for _ in range(count):
            modules = _with_same_tensors(network)
            self._copies.put((modules, cast("list[ElasticBatchNorm2d]", batch_norms(modules))))
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="arch")

    def run(self, passes: Sequence[Pass]) -> list[Tensor]:
        """Run passes, add their gradients to `.grad`, update the running statistics, and return their losses."""
        threads, learnt = torch.get_num_threads(), [each for each in self._parameters if each.requires_grad]
        mixed, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

        def outcome_of(each: Pass) -> _Outcome:
            torch.set_num_threads(max(1, threads // self.count))
            with torch.autocast("cpu", dtype, mixed):
                return self._outcome(each, learnt)

        try:
            outcomes = list(self._pool.map(outcome_of, passes))
        finally:
            torch.set_num_threads(threads)  # of this process: a thread that sets its own sets that of later ones too
        for outcome in outcomes:
            self._keep(outcome, learnt)
        return [outcome.losses for outcome in outcomes]

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _outcome(self, each: Pass, learnt: Sequence[Tensor]) -> _Outcome:
        network, norms = self._copies.get()
        try:
            for norm in norms:
                norm.put_off = []
            total, losses = each(network)
            gradients = torch.autograd.grad(total, learnt, allow_unused=True)
            return _Outcome(losses.detach(), gradients, [norm.put_off or [] for norm in norms])
        finally:
            self._copies.put((network, norms))

    @torch.no_grad()
    def _keep(self, outcome: _Outcome, learnt: Sequence[Tensor]) -> None:
        for parameter, gradient in zip(learnt, outcome.gradients, strict=True):
            if gradient is None:
                continue
            if parameter.grad is None:
                parameter.grad = gradient.clone()  # which may be that of another parameter too
            else:
                parameter.grad.add_(gradient)
        for norm, moments in zip(self._norms, outcome.moments, strict=True):
            for of_batch in moments:
                norm.update_running(of_batch)


def can_run_on_threads(supernet: ModelSpace) -> bool:
    """Return whether passes of a supernet can run side by side: on a CPU, a chain space of elastic batch norms alone.

    Modules that draw random numbers, in an order that would change, are refused as far as they are known: dropout, drop
    path, RReLU, attention. A link that draws in its own forward pass is not seen: train it with `stacking="sliced"`.
    """
    network = cast("nn.Module", supernet)
    return (
        isinstance(supernet, ChainSpace)
        and not active_of(supernet).nni_modules
        and all(isinstance(norm, ElasticBatchNorm2d) and norm.momentum is not None for norm in batch_norms(network))
        and not any(isinstance(module, DRAWS) for module in network.modules())
        and all(each.device.type == "cpu" for each in network.parameters())
    )


def _with_same_tensors(network: nn.Module) -> Any:
    """Return a copy of a network that has the parameters and buffers of the network itself."""
    tensors = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
