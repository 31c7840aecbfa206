"""Train archs alone, which gives the reference accuracies that a supernet's ranking is measured against.

Many small networks train side by side as one whose convolutions have a group a network, each as wide as the widest of
them. Channels that a network lacks are zero and stay zero: their batch norm's scale is zero, so nothing flows through
them in either direction. It is the same arithmetic as one by one (a test compares them in float64).
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.space import model_context
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.images.augmentation import Augmentation
from nni_nas_consistency.images.datasets import Images
from nni_nas_consistency.images.loader import EvaluationLoader, TrainingImages, TrainingLoader
from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.supernet.active import can_stack
from nni_nas_consistency.supernet.make import codec_of
from nni_nas_consistency.training.initialise import initialise
from nni_nas_consistency.training.lightning import optimizer_of
from nni_nas_consistency.training.recipes import CROSS_ENTROPY, AlonePrecision, Init, Loss, Optimization


def train_alone(
    space: ModelSpace,
    archs: Sequence[Arch],
    *,
    optimization: Optimization,
    train: TrainingImages,
    test: Images,
    augmentation: Augmentation,
    seed: int,
    init: Init = "torch",
    loss: Loss = CROSS_ENTROPY,
    precision: AlonePrecision = "32-true",
    progress: Callable[[int], None] | None = None,
    report: Callable[[list[float]], None] | None = None,
) -> list[float]:
    """Train every arch from scratch and return its top-1 accuracy on the test images, in [0, 1].

    All see the same batches in the same order. An arch's first weights depend on its code and the seed alone.

    Args:
        space: The search space, not a supernet. Where its archs differ in their modules (depths, operators,
            `shortcut="standalone"`), pass one arch at a time.
        archs: The archs to train side by side.
        optimization: Optimizer and schedule; nothing is clipped.
        train: Training images.
        test: Test images, which are normalised only; batch norms use their running statistics.
        augmentation: Of the training images.
        seed: Decides first weights, order and augmentation.
        init: How first weights are drawn; see `Recipe`.
        loss: What is minimised.
        precision: `32-true`; or `bf16-mixed` or `16-mixed`, torch's own mixed precision, the latter with scaled
            gradients, for a GPU.
        progress: Progress callback; called after every epoch with the number of epochs done.
        report: Called after every epoch but the last with the accuracies so far.

    Raises:
        InputError: Precision `16-mixed` without a GPU.
        ValueError: Several archs of a space whose archs differ in their modules.
    """
    mixed = MixedPrecision.of(precision, train.y.device)
    n = len(archs)
    if n > 1 and not can_stack(space, archs):
        raise ValueError("archs that differ in their modules cannot train side by side; pass one at a time")
    together = _together(space, archs, init, seed).to(train.y.device)
    optimizer = optimizer_of(optimization, together.parameters())
    batches = TrainingLoader(
        train,
        augmentation,
        batch_size=optimization.batch_size,
        seed=seed,
        drop_last=optimization.drop_last,
        mixing=optimization.mixing,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: optimization.lr_factor(step, len(batches)))
    together.train()
    with torch.random.fork_rng(devices=[]):  # of drop path and dropout
        torch.manual_seed(seed)
        for epoch in range(1, optimization.epochs + 1):
            for images, labels in batches:
                with mixed.autocast():
                    logits = _logits(together, images, n, mixed)
                optimizer.zero_grad()
                mixed.step(mean_loss(logits, labels, loss) * n, optimizer)  # each network gets the gradient of its own
                schedule.step()
            if report is not None and epoch < optimization.epochs:
                report(_accuracies(together, test, augmentation, n, mixed))
                together.train()
            if progress is not None:
                progress(epoch)
    return _accuracies(together, test, augmentation, n, mixed)


@dataclass(frozen=True)
class MixedPrecision:
    """Torch's automatic mixed precision, or none.

    Args:
        device: Kind of the device, `cpu` or `cuda`.
        dtype: Type of the convolutions; None: none is changed.
        scaler: Scales the gradients of float16, which would underflow.
    """

    device: str
    dtype: torch.dtype | None
    scaler: GradScaler

    @classmethod
    def of(cls, precision: AlonePrecision, device: torch.device) -> MixedPrecision:
        """Return that of a precision.

        Raises:
            InputError: float16 is asked for without a GPU.
        """
        if precision == "16-mixed" and device.type != "cuda":
            raise InputError("precision '16-mixed' is for a GPU; give '32-true' or 'bf16-mixed'")
        dtype = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}[precision]
        return cls(device.type, dtype, GradScaler(device.type, enabled=precision == "16-mixed"))

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context in which convolutions run in the type."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device, self.dtype)

    def laid_out(self, images: Tensor) -> Tensor:
        """Return images in the memory layout that half precision is fast in: channels last, 1.8 times on a CPU."""
        return images if self.dtype is None else images.contiguous(memory_format=torch.channels_last)

    def step(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Run backward, and take a step of the optimizer."""
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.step(optimizer)
        self.scaler.update()


def mean_loss(logits: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    """Return the mean loss of all networks, from logits [B, n, K] and labels [B], or probabilities [B, K]."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = logits if loss.logits_scale == 1 else logits * loss.logits_scale
    of_networks = labels.repeat_interleave(logits.shape[1], 0)
    return F.cross_entropy(logits.flatten(0, 1), of_networks, label_smoothing=loss.label_smoothing)


def _together(space: ModelSpace, archs: Sequence[Arch], init: Init, seed: int) -> nn.Module:
    """Return fresh networks side by side, or the one of a space that is no chain."""
    with torch.random.fork_rng(devices=[]):  # layers draw first values, which are replaced at once
        networks = [fresh_network(space, arch, init=init, seed=seed) for arch in archs]
        return side_by_side(networks) if isinstance(space, ChainSpace) else networks[0]


def fresh_network(space: ModelSpace, arch: Arch, *, init: Init, seed: int) -> nn.Module:
    """Return the network of an arch with first weights, which depend on its code, the rule and the seed alone.

    Args:
        space: The search space, not a supernet.
        arch: The arch.
        init: How first weights are drawn; see `Recipe`.
        seed: Of the first weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(f"{seed} {codec_of(space).canonical(arch.code)}".encode()))
        network = plain_network(space, arch)
        initialise(network, init, torch.default_generator)
    return network


def plain_network(space: ModelSpace, arch: Arch) -> nn.Module:
    """Return the network of an arch in plain layers, with the first weights that these draw.

    Args:
        space: The search space, not a supernet.
        arch: The arch.
    """
    if isinstance(space, ChainSpace):
        return space.freeze(space.sample(arch))
    with model_context(arch.sample):  # NNI's `freeze` would share layers that do not vary
        network: nn.Module = type(space)(**space.args)
    return network


def _logits(together: nn.Module, images: Tensor, n: int, mixed: MixedPrecision) -> Tensor:
    """Return [B, n, K] from images [B, C, H, W] that all n networks see."""
    logits: Tensor = together(mixed.laid_out(images.repeat(1, n, 1, 1)))
    return logits.view(len(images), n, -1)


@torch.no_grad()
def _accuracies(
    together: nn.Module, test: Images, augmentation: Augmentation, n: int, mixed: MixedPrecision
) -> list[float]:
    together.eval()
    device = next(together.parameters()).device
    right = torch.zeros(n, dtype=torch.long, device=device)
    for images, labels in EvaluationLoader(test, augmentation, 512):
        with mixed.autocast():
            logits = _logits(together, images.to(device), n, mixed)
        right += (logits.argmax(-1) == labels.to(device)[:, None]).sum(0)
    return [int(count) / len(test) for count in right]


def side_by_side(networks: Sequence[nn.Module]) -> nn.Module:
    """Return one network that is all of them: [B, n·C, H, W] → [B, n·K], network i in the i-th of n groups.

    Args:
        networks: Networks of the same modules in plain torch, of any widths.

    Raises:
        TypeError: A module has weights and is no plain convolution without bias, 2-d batch norm or linear layer.
    """
    first = networks[0]
    if isinstance(first, nn.Conv2d) and first.bias is None and first.groups == 1 and first.dilation == (1, 1):
        return _grouped_conv(networks)  # type: ignore[arg-type]
    if isinstance(first, nn.BatchNorm2d):
        return _wide_batch_norm(networks)  # type: ignore[arg-type]
    if isinstance(first, nn.Linear):
        return GroupedLinear(networks)  # type: ignore[arg-type]
    if any(True for _ in first.parameters(recurse=False)):
        raise TypeError(f"a {type(first).__name__} cannot run side by side with others; train one arch at a time")
    together = copy.copy(first)
    together._modules = {
        name: side_by_side([network.get_submodule(name) for network in networks]) for name, _ in first.named_children()
    }
    return together


@torch.no_grad()
def _grouped_conv(convs: Sequence[nn.Conv2d]) -> nn.Conv2d:
    n, wide_in, wide_out = len(convs), max(c.in_channels for c in convs), max(c.out_channels for c in convs)
    kernel, stride, padding = convs[0].kernel_size, convs[0].stride, convs[0].padding
    grouped = nn.Conv2d(n * wide_in, n * wide_out, kernel, stride, padding, groups=n, bias=False)  # type: ignore[arg-type]
    grouped.to(convs[0].weight.dtype)
    weight = grouped.weight.zero_().view(n, wide_out, wide_in, *grouped.kernel_size)
    for own, conv in zip(weight, convs, strict=True):
        own[: conv.out_channels, : conv.in_channels] = conv.weight
    return grouped


@torch.no_grad()
def _wide_batch_norm(norms: Sequence[nn.BatchNorm2d]) -> nn.BatchNorm2d:
    n, wide = len(norms), max(norm.num_features for norm in norms)
    affine = norms[0].affine
    together = nn.BatchNorm2d(n * wide, eps=norms[0].eps, momentum=norms[0].momentum, affine=affine)
    together.to(next(iter(norms[0].state_dict().values())).dtype)
    if affine:
        together.weight.zero_()
    for name in together.state_dict().keys() - {"num_batches_tracked"}:
        for own, norm in zip(together.state_dict()[name].view(n, wide), norms, strict=True):
            own[: norm.num_features] = norm.state_dict()[name]
    return together


class GroupedLinear(nn.Module):
    """Linear layers side by side: [B, n·C] → [B, n·K]."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        wide = max(layer.in_features for layer in layers)
        weight = [F.pad(layer.weight.detach(), (0, wide - layer.in_features)) for layer in layers]
        self.weight = nn.Parameter(torch.stack(weight))
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        self.bias = nn.Parameter(torch.stack(biases)) if biases else None

    def forward(self, x: Tensor) -> Tensor:
        """Return what every layer makes of its group."""
        own = x.view(len(x), len(self.weight), -1).transpose(0, 1)
        weight = self.weight.transpose(1, 2)
        y = torch.bmm(own, weight) if self.bias is None else torch.baddbmm(self.bias[:, None], own, weight)
        return y.transpose(0, 1).flatten(1)
