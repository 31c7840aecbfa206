"""One training step on several processes: what they agree on, and how their gradients become those of the whole batch.

Each process runs the same archs on its part of the batch. Gradients and running statistics are averaged once a step,
in one collective, after the last backward pass (docs/decisions/0030-processes.md).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.supernet.modules import ElasticBatchNorm2d
from nni_nas_consistency.supernet.statistics import batch_norms


def shares_of_batch(archs: Sequence[Arch], images: int, device: torch.device) -> Tensor:
    """Return the share of the batch that each process has, float64 [processes], which sum to 1.

    Args:
        archs: What this process is about to run, the n archs of a step.
        images: Images of this process.
        device: Where the processes exchange tensors.

    Raises:
        RuntimeError: The processes are about to run different archs.
    """
    drawn = zlib.crc32("\n".join(arch.code for arch in archs).encode())
    head = torch.tensor([drawn, len(archs), images], dtype=torch.float64, device=device)
    heads = _gathered(head)
    if not bool((heads[:, :2] == head[:2]).all()):
        raise RuntimeError("the processes draw different archs; give every process a sampler with the same seed")
    return heads[:, 2] / heads[:, 2].sum()


def gather_losses(losses: Tensor) -> Tensor:
    """Return the losses of all processes, float64 [processes, n], of those of this one, [n]."""
    return _gathered(losses.double())


@contextmanager
def statistics_over_processes(network: nn.Module) -> Iterator[None]:
    """Normalise with the statistics of the images of all processes inside the block, in training mode.

    Args:
        network: A supernet whose batch norms all are elastic.
    """
    norms = [norm for norm in batch_norms(network) if isinstance(norm, ElasticBatchNorm2d)]
    for norm in norms:
        norm.over_processes = True
    try:
        yield
    finally:
        for norm in norms:
            norm.over_processes = False


def average_over_processes(network: nn.Module, share: Tensor) -> None:
    """Make gradients and running statistics their averages over all processes, in one collective for each dtype.

    Args:
        network: The supernet; parameters without a gradient are left alone, and are the same ones in every process.
        share: The share of the batch that this process has, a number in (0, 1).
    """
    tensors = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    for norm in batch_norms(network):
        tensors += [each for each in (norm.running_mean, norm.running_var) if each is not None]
    for dtype in sorted({tensor.dtype for tensor in tensors}, key=str):
        _average([tensor for tensor in tensors if tensor.dtype == dtype], share)


def _average(tensors: Sequence[Tensor], share: Tensor) -> None:
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors]) * share.to(tensors[0].dtype)
    dist.all_reduce(flat)
    averages = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, average in zip(tensors, averages, strict=True):
        tensor.copy_(average.view_as(tensor))


def _gathered(values: Tensor) -> Tensor:
    """Return the values of all processes: [processes, …]."""
    everyones = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(everyones, values)
    return torch.stack(everyones)
