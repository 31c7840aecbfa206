"""What an arch costs where its space has no closed form, and what it costs in time: of the frozen network itself."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from nni.mutable.annotation import Constraint
from nni.nas.nn.pytorch import ModelSpace
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.archs.cost import Cost
from nni_nas_consistency.files.latencies import LatencySetup, add_latency, read_latencies
from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.supernet.nni_modules import frozen_subnet, nni_choice

WARM_UP = 5
RUNS = 31
"""Runs of a network that are timed; the latency is their median."""


def nni_sample(space: ModelSpace, arch: Arch) -> dict[str, object]:
    """Return NNI's sample of an arch: label → choice, for the labels that the network reads."""
    mutables = {label: each for label, each in space.simplify().items() if not isinstance(each, Constraint)}
    return {label: nni_choice(mutable, arch.choices[label]) for label, mutable in mutables.items()}


def frozen_network(space: ModelSpace, arch: Arch) -> nn.Module:
    """Return the network of an arch, in evaluation mode; torch's generator does not move.

    Args:
        space: The model space; one that is no chain becomes a supernet, since NNI's own `freeze` takes 30 times as long
            and fails where constraints were added.
        arch: The arch.
    """
    with torch.random.fork_rng(devices=[]):
        if isinstance(space, ChainSpace):
            return cast("nn.Module", space.freeze(space.sample(arch))).eval()
        if getattr(space, "active", None) is None:
            make_supernet(space)
        return frozen_subnet(space, arch.choices).eval()


@torch.no_grad()
def network_cost(network: nn.Module, shape: tuple[int, int, int]) -> Cost:
    """Return the trained parameters of a network, and its MACs for one image: those of all matrix products.

    Counted by torch's `FlopCounterMode` in a forward pass, attention by its matrix products. Convolutions and
    classifiers come to what `archs.cost` counts.

    Args:
        network: A network in evaluation mode, on the CPU.
        shape: Classes, channels and side of the images.
    """
    _, channels, side = shape
    like = next(network.parameters())
    image = torch.zeros(1, channels, side, side, dtype=like.dtype)
    counter = FlopCounterMode(display=False)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its kernel is not counted
    try:
        with counter, sdpa_kernel(SDPBackend.MATH):
            network(image)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return Cost(sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() // 2)


@torch.inference_mode()
def measured_latency(network: nn.Module, shape: tuple[int, int, int], *, batch_size: int, device: str) -> float:
    """Return the median of 31 forward passes in milliseconds, after 5 to warm up.

    Args:
        network: A network in evaluation mode.
        shape: Classes, channels and side of the images.
        batch_size: Images per batch.
        device: `cpu` or `cuda`, where it runs.
    """
    _, channels, side = shape
    network = network.to(device)
    images = torch.zeros(batch_size, channels, side, side, device=device)
    seconds = []
    for _ in range(WARM_UP + RUNS):
        _synchronize(device)
        begun = time.perf_counter()
        network(images)
        _synchronize(device)
        seconds.append(time.perf_counter() - begun)
    return 1000 * statistics.median(seconds[WARM_UP:])


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def latency_setup(network: str, *, batch_size: int, device: str) -> LatencySetup:
    """Return what latencies depend on besides the arch: this machine, torch, its threads.

    Args:
        network: Space and size of the images.
        batch_size: Images per batch.
        device: `cpu` or `cuda`.
    """
    name = torch.cuda.get_device_name() if device == "cuda" else device
    return LatencySetup(
        machine=platform.node(),
        device=name,
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        batch_size=batch_size,
        network=network,
    )


def cached_latency(
    path: Path, setup: LatencySetup, measure: Callable[[Arch], float], canonical: Callable[[str], str]
) -> Callable[[Arch], float]:
    """Return a function that measures the latency of an arch, unless a file has it for this machine and settings.

    Args:
        path: The file; made if missing, measured latencies are added.
        setup: The machine and settings.
        measure: Returns the latency of an arch, in milliseconds.
        canonical: Returns the text that all spellings of a code share.

    Raises:
        FileError: The file cannot be read, or holds something else; later, that it cannot be written.
    """
    known = dict(read_latencies(path).get(setup, {})) if path.exists() else {}

    def latency(arch: Arch) -> float:
        code = canonical(arch.code)
        if code not in known:
            known[code] = measure(arch)
            add_latency(path, setup, code, known[code])
        return known[code]

    return latency
