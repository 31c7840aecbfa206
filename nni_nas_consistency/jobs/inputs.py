"""What jobs begin with: archs, a trained supernet, costs, the device; torch and NNI, imported once they are needed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.arch_lists import read_released
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.systems import System

if TYPE_CHECKING:
    from nni.nas.nn.pytorch import ModelSpace

    from nni_nas_consistency.archs.arch import Arch
    from nni_nas_consistency.archs.cost import Cost

Precision = Literal["float32", "bf16", "float64"]
Metric = Literal["loss", "acc"]
BNWord = Literal["supernet", "train", "test", "batch"]


def load_trained(system: System, checkpoint: Path, shape: tuple[int, int, int]) -> tuple[ModelSpace, dict[str, Json]]:
    """Return the supernet of a checkpoint, for images of this shape, and what made it.

    Raises:
        CheckpointError: The checkpoint cannot be used, or was trained for a different space.
    """
    from nni_nas_consistency.supernet.checkpoint import supernet_of

    return supernet_of(checkpoint, system.make_space(shape))


def first_archs(path: Path, system: System, limit: int | None) -> dict[str, Arch]:
    """Return the first archs of a list by name, or all of them."""
    entries = read_released(path, system.codec)
    return {name: entry.arch for name, entry in list(entries.items())[:limit]}


def costs_of(system: System, shape: tuple[int, int, int]) -> Callable[[Arch], Cost]:
    """Return what counts parameters and MACs of an arch that is trained alone on images of this shape.

    By the system's formula or, where it has none, on the network, which takes torch and NNI.
    """
    formula = system.cost
    if formula is not None:
        return cache(lambda arch: formula(arch, shape))

    with importing():
        from nni_nas_consistency.search.costs import frozen_network, network_cost

    space = system.make_space(shape, standalone=True)
    return cache(lambda arch: network_cost(frozen_network(space, arch), shape))


def dropped_of(system: System) -> dict[str, Json]:
    """Return what the space of a system was shrunk by, as it stands in settings; nothing for a whole space."""
    return {"dropped": [f"{label} {choice}" for label, choice in system.dropped]} if system.dropped else {}


@contextmanager
def importing() -> Iterator[None]:
    """Import without garbage collections: of 4.4 s of processor time for torch and NNI they took 0.9."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def device_of(device: str, devices: int = 1, rank: int = 0) -> str:
    """Return `cpu` or `cuda`, or of several devices one such as `cuda:1`.

    Args:
        device: `cpu`, `cuda` or `auto`.
        devices: How many are asked for.
        rank: Which of them this process has, from 0.

    Raises:
        InputError: There is no such device here, or there are not so many.
    """
    import torch

    found = torch.cuda.is_available()
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not found):
        raise InputError(f"device {device!r} is not here; allowed are auto, cpu{', cuda' if found else ''}")
    chosen = ("cuda" if found else "cpu") if device == "auto" else device
    if chosen == "cpu" or devices == 1:
        return chosen
    if devices > torch.cuda.device_count():
        raise InputError(f"--devices {devices}: there are {torch.cuda.device_count()} GPUs here; ask for fewer")
    return f"cuda:{rank}"


def dtype_of(precision: Precision) -> Any:
    """Return torch's type of a precision."""
    import torch

    return {"float32": torch.float32, "bf16": torch.bfloat16, "float64": torch.float64}[precision]
