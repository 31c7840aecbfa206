"""Train archs alone, which gives the reference accuracies that a supernet's ranking is measured against.

Many small networks train side by side as one: full-width weights with a leading dimension of archs, through
`torch.func.vmap`, the channels that an arch lacks held at zero by its batch norms' scale and shift. It is the same
arithmetic as one by one (a test compares them in float64), at 64 digits nets in 8 s an epoch instead of 20 s.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from nni_nas_consistency.arch import Arch
from nni_nas_consistency.augmentation import Augmentation
from nni_nas_consistency.datasets import Batches, Images, test_batches
from nni_nas_consistency.recipes import Optimization
from nni_nas_consistency.spaces.chain import ChainSpace


@dataclass(frozen=True)
class Population:
    """Networks side by side.

    Args:
        network: The largest of them, which runs each with its own weights.
        weights: Parameter name → [N, …], zero where a network is narrower.
        statistics: Buffer name → [N, …]: the running statistics of the batch norms.
        masks: Name of a batch norm's scale or shift → [N, C], 0 where a network lacks the channel.
    """

    network: nn.Module
    weights: dict[str, Tensor]
    statistics: dict[str, Tensor]
    masks: dict[str, Tensor]

    def logits(self, images: Tensor) -> Tensor:
        """Return what every network makes of the same images: [N, B, K] from [B, C, H, W]."""

        def run(weights: dict[str, Tensor], statistics: dict[str, Tensor]) -> Tensor:
            output: Tensor = functional_call(self.network, (weights, statistics), (images,))
            return output

        masked = {name: weight * self.masks.get(name, 1) for name, weight in self.weights.items()}
        return vmap(run)(masked, self.statistics)


def train_alone(
    space: ChainSpace,
    archs: Sequence[Arch],
    *,
    optimization: Optimization,
    train: Images,
    test: Images,
    augmentation: Augmentation,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> list[float]:
    """Train every arch from scratch and return its top-1 accuracy on the test images, in [0, 1].

    All see the same batches in the same order. An arch's first weights depend on its code and the seed alone.

    Args:
        space: The search space, not a supernet. Where its archs differ in their modules (`shortcut="standalone"`),
            pass one arch at a time.
        archs: The archs to train side by side.
        optimization: Optimizer and schedule; nothing is clipped.
        train: Training images.
        test: Test images, which are normalised only; batch norms use their running statistics.
        augmentation: Of the training images.
        seed: Decides first weights, order and augmentation.
        progress: Is told the number of epochs done after each.

    Raises:
        ValueError: Several archs of a space whose archs differ in their modules.
    """
    if not space.stackable and len(archs) > 1:
        raise ValueError("archs with identity shortcuts cannot train side by side; pass one at a time")
    population = populate(space, archs, seed, train.x.device)
    optimizer = torch.optim.SGD(
        population.weights.values(),
        lr=optimization.lr,
        momentum=optimization.momentum,
        weight_decay=optimization.weight_decay,
    )
    batches = Batches(train, augmentation, batch_size=optimization.batch_size, seed=seed, drop_last=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: optimization.lr_factor(step, len(batches)))
    population.network.train()
    for epoch in range(1, optimization.epochs + 1):
        for images, labels in batches:
            logits = population.logits(images)
            optimizer.zero_grad()
            # the sum over networks: each gets the gradient of its own mean loss
            (F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(archs))) * len(archs)).backward()
            optimizer.step()
            schedule.step()
        if progress is not None:
            progress(epoch)
    return accuracies(population, test, augmentation)


def populate(space: ChainSpace, archs: Sequence[Arch], seed: int, device: torch.device) -> Population:
    """Return freshly initialised networks, each as the frozen space initialises it."""
    width = space.largest if space.stackable else archs[0]
    network = space.freeze(space.sample(width)).to(device)
    weights = {name: weight.new_zeros(len(archs), *weight.shape) for name, weight in network.named_parameters()}
    masks = {name: torch.zeros_like(weights[name]) for name in weights if ".bn." in name}
    for index, arch in enumerate(archs):
        for name, weight in _fresh(space, arch, seed).named_parameters():
            corner = (index, *(slice(size) for size in weight.shape))
            weights[name].data[corner] = weight.data.to(device)
            if name in masks:
                masks[name][corner] = 1
    statistics = {name: buffer.repeat(len(archs), *[1] * buffer.dim()) for name, buffer in network.named_buffers()}
    return Population(network, {name: nn.Parameter(weight) for name, weight in weights.items()}, statistics, masks)


def _fresh(space: ChainSpace, arch: Arch, seed: int) -> ChainSpace:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(f"{seed} {arch.code}".encode()))
        return space.freeze(space.sample(arch))


@torch.no_grad()
def accuracies(population: Population, test: Images, augmentation: Augmentation) -> list[float]:
    """Return the top-1 accuracy of every network, in [0, 1]."""
    population.network.eval()
    right: Tensor | int = 0
    for images, labels in test_batches(test, augmentation, 512):
        right = right + (population.logits(images).argmax(-1) == labels).sum(-1)
    assert isinstance(right, Tensor)
    return [float(count) / len(test) for count in right]
