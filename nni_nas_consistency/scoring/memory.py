"""How much the prefix scorer runs at once: chunks of images and bundles of archs that fit the memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import cast

import psutil
import torch
from torch import Tensor, nn

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.scoring.plain import evaluation_mode
from nni_nas_consistency.spaces.chain import ChainSpace, Link, State
from nni_nas_consistency.supernet.active import Run, active_of
from nni_nas_consistency.supernet.statistics import Running

SHARE_OF_FREE_MEMORY = 0.5
OWN_GROUP, CONTROL_GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
CPU_BUNDLE_ELEMENTS = 2**21
"""Most features of one link that a bundle of archs has on a CPU. 64 archs on digits took 1.47 s with one arch per
bundle, 0.74 with 8, 0.68 with 27, which this value gives, and 0.84 with 64; on CIFAR a bundle is one arch."""
GPU_BUNDLE_ELEMENTS = 2**26
"""Most features of one link on a GPU: 128 MiB in half precision, which take 30 µs to read where a launch takes 5."""


@dataclass(frozen=True, eq=False)
class ImageChunk:
    """Batches of one size that run at once.

    Args:
        images: [batches · B, C, H, W], channels-last.
        labels: int64 [batches · B].
        batches: The number of batches; with `bn="batch"` each has its own statistics.
    """

    images: Tensor
    labels: Tensor
    batches: int


@dataclass(frozen=True)
class Layout:
    """What runs at once.

    Args:
        batches: Most batches per chunk.
        bundle: Most archs per bundle, which run side by side; archs that cannot be stacked run alone.
    """

    batches: int = 1
    bundle: int = 1

    def halved(self) -> Layout:
        """Return a layout that needs about half the memory.

        Raises:
            InputError: This is the smallest one.
        """
        if self.batches * self.bundle == 1:
            raise InputError("the memory does not hold one batch of images; use smaller batches")
        return Layout(-(-self.batches // 2), -(-self.bundle // 2))


def image_chunks(batches: Iterable[tuple[Tensor, Tensor]], most: int) -> Iterator[ImageChunk]:
    """Yield batches joined into chunks of at most `most` batches of one size, in order; no more than one is held."""
    for _, alike in groupby(batches, key=lambda batch: len(batch[1])):
        while part := list(islice(alike, most)):
            images = torch.cat([images for images, _ in part]).contiguous(memory_format=torch.channels_last)
            yield ImageChunk(images, torch.cat([labels for _, labels in part]), len(part))


def layout_for(supernet: ChainSpace, archs: Sequence[Arch], images: Tensor, batches: int) -> Layout:
    """Return what to run at once, given the free memory of the device that holds the images.

    A walk holds two states per link (its output, and what was cut from it) and four temporary ones: at most those of
    the largest arch (1.8 MB per image for ResNet20 in float32), times images, times archs side by side.

    Args:
        supernet: A chain space after `make_supernet`.
        archs: The archs that will be scored; needed where the space declares no largest one.
        images: One batch, [B, C, H, W].
        batches: How many batches there are.

    Raises:
        InputError: Not even one batch fits.
    """
    largest = [supernet.domain.largest] if supernet.domain.largest is not None else archs
    per_link = max((features_per_image(supernet, arch, images[:1]) for arch in largest), key=sum)
    needed = (2 * sum(per_link) + 4 * max(per_link)) * images.element_size() * len(images)
    room = int(SHARE_OF_FREE_MEMORY * free_memory(images.device))
    if needed > room:
        raise InputError(
            f"a batch of {len(images)} images needs {needed / 1e9:.1f} GB; of the {2 * room / 1e9:.1f} GB free "
            "half may be used: use smaller batches"
        )
    on_gpu = images.device.type == "cuda"
    joined = min(batches, room // needed) if on_gpu else 1
    filled = joined * len(images) * sum(per_link) // len(per_link)
    wanted = (GPU_BUNDLE_ELEMENTS if on_gpu else CPU_BUNDLE_ELEMENTS) // filled
    return Layout(joined, max(1, min(wanted, room // (needed * joined))))


@torch.no_grad()
def features_per_image(supernet: ChainSpace, arch: Arch, image: Tensor) -> list[int]:
    """Return the number of features that each link of an arch puts out for one image, [1, C, H, W]."""
    active = active_of(supernet)
    before = active.run
    active.run = Run((arch,), Running())
    features = []
    state: State = image
    try:
        with evaluation_mode(cast("nn.Module", supernet)):
            for link in cast("Sequence[Link]", supernet.links):
                if link.key(arch) is not None:
                    state = link(state)
                own = state[0] if isinstance(state, tuple) else state
                features.append(own.numel())
    finally:
        active.run = before
    return features


def free_memory(device: torch.device) -> int:
    """Return the free bytes of a device; on a CPU, no more than the cgroup (version 2) of this process leaves."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    free = int(psutil.virtual_memory().available)
    try:
        (name,) = (line[3:] for line in OWN_GROUP.read_text().splitlines() if line.startswith("0::"))
        return min(free, _left_by(CONTROL_GROUPS / name.lstrip("/")))
    except (OSError, ValueError, KeyError):  # no such group, or one without a limit
        return free


def _left_by(group: Path) -> int:
    """Return the bytes that a cgroup may still use; its page cache counts as free, since it can be dropped."""
    limit = int((group / "memory.max").read_text())
    used = int((group / "memory.current").read_text())
    statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return limit - used + int(statistics["inactive_file"])
