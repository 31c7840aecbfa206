"""One sandwich step of this project, with its archs one by one, and with NNI's modules in the same loop, side by side.

    python benchmarks/training.py --size cifar100 --data-root data
    python benchmarks/training.py --size digits --random-images

n archs on one batch, forward and backward: the largest on the labels, then the others on its softmax. `--step` is
compared with the archs one by one (plain) and with NNI's Mixed modules (nni); `auto` is what training chooses here. The
gradients are compared in float64: in float32, ReLUs near zero flip.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from side_by_side import (
    add_image_options,
    add_options,
    batch_of,
    finish,
    nni_supernet,
    read_images,
    resample,
)
from timing import interleaved
from torch import Tensor, nn

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.strategies.oneshot import stacked_is_faster
from nni_nas_consistency.strategies.sampling import strict_fair_sampler
from nni_nas_consistency.strategies.steps import sandwich_step
from nni_nas_consistency.strategies.threads import MOST_THREADS, ArchThreads
from nni_nas_consistency.supernet.make import make_supernet

EXACT = 8  # images that the gradients are compared on


def main() -> None:
    options = read_options()
    device = torch.device(options.device)
    torch.manual_seed(0)
    supernet = make_supernet(space_of(options.size)).to(device).train()
    theirs = nni_supernet(space_of(options.size)).to(device).train()
    theirs.load_state_dict(supernet.state_dict())
    images, labels = batch_of(read_images(options, train=True), options.device)
    if options.size == "digits":
        images, labels = F.adaptive_avg_pool2d(images.mean(1, keepdim=True), 8), labels % 10
    sampler = strict_fair_sampler(supernet.domain, torch.Generator().manual_seed(0))
    archs = [supernet.largest, supernet.smallest, *sampler.draw(options.n - 2)]
    stacked = stacked_is_faster(supernet, device) if options.step == "auto" else options.step == "stacked"
    bundles = [archs[0], archs[1:]] if stacked else archs
    side_by_side = options.step == "threads" or (options.step == "auto" and not stacked and torch.get_num_threads() > 1)
    print(f"{options.step}: {'stacked' if stacked else 'threads' if side_by_side else 'sliced'}")

    def ways(images: Tensor, labels: Tensor) -> dict[str, Callable[[], Tensor]]:
        threads = ArchThreads(supernet, min(torch.get_num_threads(), MOST_THREADS)) if side_by_side else None
        return {
            "fast": lambda: gradients(
                supernet, lambda: sandwich_step(supernet, images, labels, bundles, threads=threads)
            ),
            "plain": lambda: gradients(supernet, lambda: sandwich_step(supernet, images, labels, archs)),
            "nni": lambda: gradients(theirs, lambda: nni_sandwich_step(theirs, images, labels, archs, supernet)),
        }

    supernet.double()
    theirs.double()
    exact = {name: way() for name, way in ways(images[:EXACT].double(), labels[:EXACT]).items()}
    supernet.float()
    theirs.float()
    timed = {name: under_autocast(way, device, options.bf16) for name, way in ways(images, labels).items()}
    for way in timed.values():
        way()
    seconds, _ = interleaved(timed, options.repeats, options.device)
    figures = {f"speedup_vs_{name}": median(seconds[name]) / median(seconds["fast"]) for name in ("plain", "nni")}
    figures["max_rel_diff"] = max(
        float((exact["fast"] - exact[name]).norm() / exact[name].norm()) for name in ("plain", "nni")
    )
    finish(options, seconds, figures)


def gradients(network: nn.Module, step: Callable[[], object]) -> Tensor:
    network.zero_grad()
    step()
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


def under_autocast(way: Callable[[], Tensor], device: torch.device, bf16: bool) -> Callable[[], Tensor]:
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)(way)


def nni_sandwich_step(theirs, images, labels, archs: list[Arch], space: ResNet20Space) -> None:
    resample(theirs, space.sample(archs[0]))
    teacher = theirs(images)
    torch.autograd.backward(F.cross_entropy(teacher, labels) / len(archs))
    target = teacher.detach().softmax(-1)
    for arch in archs[1:]:
        resample(theirs, space.sample(arch))
        torch.autograd.backward(F.cross_entropy(theirs(images), target) / len(archs))


def space_of(size: str) -> ResNet20Space:
    return ResNet20Space(100) if size == "cifar100" else ResNet20Space(10, 1, 8, width_unit=1)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["cifar100", "digits"], default="cifar100", help="3×32×32 or 1×8×8")
    parser.add_argument("--n", type=int, default=18, help="archs per step")
    parser.add_argument("--step", choices=["auto", "stacked", "sliced", "threads"], default="auto")
    parser.add_argument("--bf16", action="store_true", help="under autocast, as `--precision bf16-mixed` trains")
    add_image_options(parser, images=128)
    add_options(parser, repeats=9)
    return parser.parse_args()


if __name__ == "__main__":
    main()
