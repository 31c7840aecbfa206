"""How much of the images a fast scorer runs at once: batches joined into blocks that fit the memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import cast

import psutil
import torch
from torch import Tensor

from nni_nas_consistency.archs.cost import CostedStage
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.supernet.active import Space
from nni_nas_consistency.supernet.modules import Stage, width_at

SHARE_OF_FREE_MEMORY = 0.5
OWN_GROUP, CONTROL_GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
CPU_BUNDLE_ELEMENTS = 2**21
"""Features of one stage that archs side by side may have on a CPU. 64 archs on digits took 1.47 s one by one, 0.74 by
eights, 0.68 by 27, which this comes to, and 0.84 all at once; on CIFAR each arch is alone."""
GPU_BUNDLE_ELEMENTS = 2**26
"""Features of one stage that fill a GPU: 128 MiB in half precision, 30 µs to read where a launch takes 5."""


@dataclass(frozen=True, eq=False)
class ImageBlock:
    """Equally large batches that run at once.

    Args:
        images: [batches · B, C, H, W], channels-last.
        labels: int64 [batches · B].
        batches: How many batches these are; with `bn="batch"` each has statistics of its own.
    """

    images: Tensor
    labels: Tensor
    batches: int


@dataclass(frozen=True)
class Layout:
    """What runs at once.

    Args:
        batches: Most batches of a block.
        bundle: Most archs that walk side by side.
        multiple: Channels are computed in multiples of this; on a GPU the matrix units want 8.
    """

    batches: int = 1
    bundle: int = 1
    multiple: int = 1

    def halved(self) -> Layout:
        """Return a layout of about half the memory.

        Raises:
            InputError: This is the smallest one.
        """
        if self.batches * self.bundle == 1:
            raise InputError("the memory does not hold one batch of images; give smaller batches")
        return Layout(-(-self.batches // 2), -(-self.bundle // 2), self.multiple)


def image_blocks(batches: Iterable[tuple[Tensor, Tensor]], most: int) -> list[ImageBlock]:
    """Return batches joined into blocks of at most `most` equally large ones, in order."""
    blocks = []
    for _, alike in groupby(batches, key=lambda batch: len(batch[1])):
        while part := list(islice(alike, most)):
            images = torch.cat([images for images, _ in part]).contiguous(memory_format=torch.channels_last)
            blocks.append(ImageBlock(images, torch.cat([labels for _, labels in part]), len(part)))
    return blocks


def layout_for(supernet: Space, images: Tensor, batches: int) -> Layout:
    """Return what to run at once, from the memory that is free where the images are.

    A walk holds two states a stage (what came out, and what was cut from it) and four temporary ones: at most those of
    the largest net, 1.8 MB an image for ResNet20 in float32, times images, times archs side by side.

    Args:
        supernet: A chain space after `make_supernet`.
        images: One batch, [B, C, H, W].
        batches: How many batches there are.

    Raises:
        InputError: Not even one batch fits.
    """
    per_stage = features_per_image(supernet, images.shape[-1])
    needed = (2 * sum(per_stage) + 4 * max(per_stage)) * images.element_size() * len(images)
    room = int(SHARE_OF_FREE_MEMORY * free_memory(images.device))
    if needed > room:
        raise InputError(
            f"a batch of {len(images)} images needs {needed / 1e9:.1f} GB; of the {2 * room / 1e9:.1f} GB free "
            "half may be used: give smaller batches"
        )
    on_gpu = images.device.type == "cuda"
    joined = min(batches, room // needed) if on_gpu else 1
    filled = joined * len(images) * sum(per_stage) // len(per_stage)
    wanted = (GPU_BUNDLE_ELEMENTS if on_gpu else CPU_BUNDLE_ELEMENTS) // filled
    bundle = max(1, min(wanted, room // (needed * joined))) if supernet.stackable else 1
    return Layout(joined, bundle, 8 if on_gpu and supernet.stackable else 1)


def features_per_image(supernet: Space, side: int) -> list[int]:
    """Return how many numbers each stage of the largest net puts out for one image of `side` × `side` pixels."""
    widths = supernet.sample(supernet.largest)
    features = []
    for stage in cast("list[Stage]", supernet.stages):
        _, side = cast("CostedStage", stage).cost(widths, side)
        features.append(width_at(stage.out, widths) * side * side)
    return features


def free_memory(device: torch.device) -> int:
    """Return the bytes free on a device; on a CPU, no more than the process's control group (version 2) leaves."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    free = int(psutil.virtual_memory().available)
    try:
        (name,) = (line[3:] for line in OWN_GROUP.read_text().splitlines() if line.startswith("0::"))
        return min(free, _left_by(CONTROL_GROUPS / name.lstrip("/")))
    except (OSError, ValueError):  # no such group, or one without a limit
        return free


def _left_by(group: Path) -> int:
    """Return what a control group may still use; files that it has merely read can be dropped."""
    limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
    statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return limit - used + int(statistics["inactive_file"])
