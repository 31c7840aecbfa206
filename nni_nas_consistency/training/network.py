"""One network: trained through Lightning, which can be gone on with at any epoch, and its accuracy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor, nn

from nni_nas_consistency.errors import Terminated
from nni_nas_consistency.files.atomic import cannot_be_written
from nni_nas_consistency.files.progress import Progress
from nni_nas_consistency.images.augmentation import Augmentation
from nni_nas_consistency.images.datasets import Images
from nni_nas_consistency.images.loader import TrainingImages
from nni_nas_consistency.nni3.workarounds import lightning_interrupts
from nni_nas_consistency.scoring.plain import evaluation_mode
from nni_nas_consistency.training.lightning import training_evaluator
from nni_nas_consistency.training.recipes import Optimization
from nni_nas_consistency.training.run import TrainingRun

MADE_BY_FITTING = ("network.safetensors", "checkpoints", "metrics")
"""What the training of one network writes into its folder."""

RESULTS_OF_FITTING = ("network.safetensors", "checkpoints/last.ckpt")
"""What of that can be gone on from."""


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of a network.

    Args:
        top1: Share of the images whose class has the largest logit, 0–1.
        top5: Share of the images whose class is among the five largest logits.
        images: How many images.
    """

    top1: float
    top5: float
    images: int


class Resized(nn.Module):
    """A network on images of another size, which are resized first: bicubic, antialiased.

    Args:
        network: The network.
        side: The side of its images, in pixels.
    """

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__()
        self.network, self.side = network, side

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, K] of images [B, C, H, W]."""
        if images.shape[-1] != self.side:
            size = (self.side, self.side)
            images = nn.functional.interpolate(images, size, mode="bicubic", antialias=True)
        logits: Tensor = self.network(images)
        return logits


@torch.no_grad()
def with_new_head(fresh: nn.Module, trained: nn.Module) -> nn.Module:
    """Return a fresh network with the weights of a trained one, all but those of its last linear layer.

    Args:
        fresh: Gets the weights; it may have another number of classes.
        trained: A network of the same arch.

    Raises:
        RuntimeError: The networks differ in more than that layer.
    """
    head = [name for name, module in fresh.named_modules() if isinstance(module, nn.Linear)][-1]
    weights = dict(trained.state_dict())
    own = fresh.state_dict()
    weights |= {f"{head}.{name}": own[f"{head}.{name}"] for name in ("weight", "bias") if f"{head}.{name}" in own}
    fresh.load_state_dict(weights, strict=True)
    return fresh


def fit_network(
    network: nn.Module,
    optimization: Optimization,
    augmentation: Augmentation,
    train: TrainingImages,
    val: Images,
    *,
    seed: int,
    run: TrainingRun,
) -> None:
    """Train a network in place; a run that was killed goes on from its last checkpoint.

    Args:
        network: The network.
        optimization: Optimizer and schedule, and how images are mixed.
        augmentation: Of the training images.
        train: Training images, on the device that trains.
        val: Images that validation looks at after every epoch.
        seed: Of the order of the images, augmentation, and drop path.
        run: Where checkpoints go, and how.

    Raises:
        CheckpointError: A checkpoint cannot be gone on from.
        InputError: The warm-up is not shorter than the training.
        KeyboardInterrupt: The training was interrupted by Ctrl-C.
        Terminated: The process was asked to end by SIGTERM.
    """
    evaluator = training_evaluator(optimization, train, augmentation, val, seed=seed, run=run)
    try:
        with lightning_interrupts():
            evaluator.evaluate(network)
    except SIGTERMException as end:
        raise Terminated from end
    except OSError as error:  # Lightning's metrics
        raise cannot_be_written(run.folder, error) from error
    if evaluator.trainer.received_sigterm:
        raise Terminated


@torch.no_grad()
def accuracy_of(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], progress: Progress) -> Accuracy:
    """Return the accuracy of a network in evaluation mode.

    Args:
        network: The network, on the device of the images.
        batches: Images [B, C, H, W] and labels [B].
        progress: Progress callback, counted in images.
    """
    first, five, images_seen = 0, 0, 0
    with evaluation_mode(network):
        for images, labels in batches:
            logits = network(images)
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
            first, five = first + int(best[:, 0].sum()), five + int(best.sum())
            images_seen += len(labels)
            progress(len(labels))
    return Accuracy(first / images_seen, five / images_seen, images_seen)
